//! A real Prometheus that scrapes `tcptrace serve`: no scrape fails, provoked conditions fire the alerts of contrib/, and
//! every panel of the dashboard and every query of docs/metrics.md has data.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use serde_json::Value;

use super::recording::TempFolder;
use super::serve::{Exporter, PORT, get_as, traffic};
use crate::clock::{soon, wait_for};
use crate::lab::{Lab, Skip, run_to_end};
use crate::process::{self, KillOnDrop, StartChild as _};
use crate::{documents, netns};

/// Where Prometheus answers.
const API: u16 = 9090;
/// Ports to connect from: a destination has no more.
const PORTS: [u16; 2] = [40_000, 40_063];
/// Sockets that are never closed.
const LEAKED: usize = 12;
/// Alerts that this scenario provokes; `promtool test rules` covers the others.
const PROVOKED: [&str; 4] =
    ["LocalPortsRunOut", "ConnectsFindNoLocalPort", "CloseWaitLeaks", "TimeWaitOverflows"];
/// Replacements in the rules that make alerts fire within seconds: the duration of a condition, and the age of a CLOSE_WAIT.
const SHORTENED: [(&str, &str); 4] = [
    ("for: 15s", "for: 0s"),
    ("for: 2m", "for: 0s"),
    ("for: 5m", "for: 0s"),
    ("_seconds > 600", "_seconds > 1"),
];

/// Rules and dashboard against a Prometheus with real samples.
pub fn rules_and_panels(lab: &Lab) -> Result<()> {
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib");
    let rules = contrib.join("prometheus/tcptrace.rules.yml");
    promtool(&["check", "rules"], &rules)?;
    promtool(&["test", "rules"], &contrib.join("prometheus/tcptrace.test.yml"))?;

    let [first, last] = PORTS;
    netns::sysctl("ip_local_port_range", &format!("{first} {last}"))?;
    netns::keep_time_wait()?;
    let exporter = Exporter::start(lab, &["--most", "5"])?;
    let folder = TempFolder::new()?;
    let shortened = SHORTENED.into_iter().try_fold(fs::read_to_string(rules)?, |rules, (long, short)| {
        ensure!(rules.contains(long), "no '{long}' in the rules");
        Ok(rules.replace(long, short))
    })?;
    let prometheus = Prometheus::start(&folder, &shortened)?;
    // Growth needs a first sample at 0.
    prometheus.wait_for("a scrape", "min(tcptrace_connects_failed_total)")?;
    prometheus.wait_for("rates", "count_over_time(tcptrace_records_total[1m]) > 2")?;

    let _leaked = leak_close_wait()?;
    run_out_of_ports()?;
    overflow_time_wait()?;
    let provoked: BTreeSet<&str> = PROVOKED.into();
    let mut firing = BTreeSet::new();
    wait_for("the alerts", 3 * soon(), || {
        firing = prometheus.firing()?;
        Ok(provoked.iter().all(|name| firing.contains(*name)).then_some(()))
    })
    .with_context(|| format!("firing are {firing:?}"))?;
    ensure!(firing.iter().all(|name| provoked.contains(name.as_str())), "firing are {firing:?}");

    panels(&prometheus, &fs::read_to_string(contrib.join("grafana/tcptrace.json"))?)?;
    let shown = documents::blocks(&fs::read_to_string(contrib.join("../docs/metrics.md"))?, "promql");
    ensure!(!shown.is_empty(), "no query in docs/metrics.md");
    for query in shown {
        prometheus.wait_for("an answer to a query of docs/metrics.md", &query)?;
    }
    let failed =
        prometheus.query("min_over_time(up[10m]) == 0 or max_over_time(scrape_samples_scraped[10m]) == 0")?;
    ensure!(failed.is_empty(), "scrapes failed: {failed:?}");
    drop(prometheus);
    exporter.stop().map(drop)
}

/// Each of them has an answer with at least one sample.
fn panels(prometheus: &Prometheus, dashboard: &str) -> Result<()> {
    let dashboard: Value = serde_json::from_str(dashboard)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    ensure!(panels.len() > 10, "{} panels", panels.len());
    for panel in panels {
        for target in panel["targets"].as_array().context("no targets")? {
            let query = target["expr"].as_str().context("no query")?;
            let query =
                query.replace("$instance", ".*").replace("$job", ".*").replace("$__rate_interval", "1m");
            ensure!(!query.contains('$'), "an unknown variable in {query}");
            prometheus.wait_for(&format!("data in {}", panel["title"]), &query)?;
        }
    }
    Ok(())
}

/// Connections that the clients have closed and this side has not.
fn leak_close_wait() -> Result<Vec<TcpStream>> {
    let listener = TcpListener::bind("127.0.0.1:7001")?;
    let target = listener.local_addr()?;
    let accept = |_| {
        let client = TcpStream::connect(target)?;
        let (mut server, _) = listener.accept()?;
        process::close(client);
        ensure!(server.read(&mut [0])? == 0, "no end of the stream");
        Ok(server)
    };
    (0..LEAKED).map(accept).collect()
}

/// Connects to one destination until there is no port left.
fn run_out_of_ports() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:7002")?;
    let target = listener.local_addr()?;
    for _ in PORTS[0]..=PORTS[1] + 1 {
        match TcpStream::connect(target) {
            Ok(client) => {
                let (mut server, _) = listener.accept()?;
                process::close(client);
                ensure!(server.read(&mut [0])? == 0, "no end of the stream");
            }
            Err(error) if error.raw_os_error() == Some(Errno::ADDRNOTAVAIL.raw_os_error()) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    bail!("there is always a port")
}

/// Closes that have no room for a TIME_WAIT.
fn overflow_time_wait() -> Result<()> {
    netns::sysctl("tcp_max_tw_buckets", "1")?;
    let before = crate::kernel::counter("TCPTimeWaitOverflow")?;
    traffic(5)?;
    ensure!(crate::kernel::counter("TCPTimeWaitOverflow")? >= before + 5, "the kernel sees no overflow");
    Ok(())
}

fn program(name: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        return Ok(());
    }
    Err(Skip(format!("needs {name}: package prometheus")).into())
}

fn promtool(args: &[&str], file: &Path) -> Result<()> {
    program("promtool")?;
    let mut command = Command::new("promtool");
    command.args(args).arg(file);
    let output = run_to_end(command)?;
    let printed = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&printed));
    Ok(())
}

/// The checker of Prometheus accepts the page: its format, names and help.
pub fn metrics_pass_promtool(lab: &Lab) -> Result<()> {
    program("promtool")?;
    let exporter = Exporter::start(lab, &[])?;
    traffic(10)?;
    let answer = get_as("/metrics", "text/plain")?;
    let (_, page) = answer.split_once("\r\n\r\n").context("no header")?;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .start()?;
    child.stdin.take().context("its stdin")?.write_all(page.as_bytes())?;
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && stderr.is_empty(), "{}: {stderr}", output.status);
    exporter.stop()?;
    Ok(())
}

/// A Prometheus of its own that scrapes the tracer and itself every second; killed on drop.
pub(super) struct Prometheus {
    child: KillOnDrop,
    api: SocketAddr,
}

impl Prometheus {
    pub(super) fn start(folder: &TempFolder, rules: &str) -> Result<Self> {
        program("prometheus")?;
        fs::write(folder.file("rules.yml"), rules)?;
        let config = folder.file("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\nscrape_configs:\n\
             - {{job_name: tcptrace, static_configs: [{{targets: ['127.0.0.1:{PORT}']}}]}}\n\
             - {{job_name: prometheus, static_configs: [{{targets: ['127.0.0.1:{API}']}}]}}\n"
        );
        fs::write(&config, text)?;
        let arg = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        let child = Command::new("prometheus")
            .arg(arg("config.file", config))
            .arg(arg("storage.tsdb.path", folder.file("tsdb")))
            .arg(format!("--web.listen-address=127.0.0.1:{API}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.file("prometheus.log"))?)
            .start()?;
        let mut prometheus = Self { child: KillOnDrop(child), api: (Ipv4Addr::LOCALHOST, API).into() };
        wait_for("Prometheus", 3 * soon(), || {
            let ended = prometheus.child.try_wait()?;
            ensure!(ended.is_none(), "{ended:?}: {}", fs::read_to_string(folder.file("prometheus.log"))?);
            Ok(prometheus.query("vector(1)").ok().filter(|found| !found.is_empty()).map(drop))
        })?;
        Ok(prometheus)
    }

    /// The samples that answer a query.
    pub(super) fn query(&self, query: &str) -> Result<Vec<Value>> {
        let answer = self.get(&format!("query?query={}", percent_encoded(query)))?;
        Ok(answer["data"]["result"].as_array().with_context(|| answer.to_string())?.clone())
    }

    /// The one number that answers a query.
    pub(super) fn number(&self, query: &str) -> Result<f64> {
        let answer = self.query(query)?;
        let [sample] = answer.as_slice() else { bail!("{query}: {answer:?}") };
        let value = sample["value"][1].as_str().with_context(|| sample.to_string())?;
        Ok(value.parse()?)
    }

    /// How many series there have been that a selector names.
    pub(super) fn series(&self, selector: &str) -> Result<usize> {
        let answer = self.get(&format!("series?match[]={}", percent_encoded(selector)))?;
        Ok(answer["data"].as_array().with_context(|| answer.to_string())?.len())
    }

    /// Every value that a label of a metric has had.
    pub(super) fn label_values(&self, metric: &str, label: &str) -> Result<Vec<Value>> {
        let answer = self.get(&format!("label/{label}/values?match[]={metric}"))?;
        Ok(answer["data"].as_array().with_context(|| answer.to_string())?.clone())
    }

    pub(super) fn wait_for(&self, what: &str, query: &str) -> Result<()> {
        let found = wait_for(what, 3 * soon(), || Ok((!self.query(query)?.is_empty()).then_some(())));
        found.with_context(|| query.to_owned())
    }

    /// Alerts that fire.
    fn firing(&self) -> Result<BTreeSet<String>> {
        let answer = self.get("alerts")?;
        let alerts = answer["data"]["alerts"].as_array().context("no alerts")?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Ok(firing.filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned)).collect())
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(self.api)?;
        stream.set_read_timeout(Some(soon()))?;
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        serde_json::from_str(body).with_context(|| body.to_owned())
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02X}"))
}
