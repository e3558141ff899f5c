//! `tcptrace serve`: its numbers against the kernel's, and scrapers that are slow or hostile.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tcptrace_common::state::TcpState;

use crate::clock::{soon, wait_for};
use crate::kernel;
use crate::lab::{Lab, run_to_end};
use crate::process::{self, KillOnDrop, StartChild as _};

/// In a namespace of its own every port is free.
pub(super) const PORT: u16 = 9435;
/// Connections, closed by the client.
const CONNECTIONS: usize = 150;
/// Connections that a scraper may have open.
const PLACES: usize = 16;

/// A running exporter, killed on drop.
pub(super) struct Exporter {
    child: KillOnDrop,
}

/// Samples by their name and labels, as written.
pub(super) type MetricSamples = BTreeMap<String, f64>;

impl Exporter {
    /// Starts it in this namespace, about this namespace, its own connections apart, and waits until it is ready.
    pub(super) fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::start_for(lab, &format!("netns {} and not port {PORT}", lab.netns()), args)
    }

    /// The same about all that passes `filter`.
    pub(super) fn start_for(lab: &Lab, filter: &str, args: &[&str]) -> Result<Self> {
        let child = Command::new(lab.binary()?)
            .args(["serve", "--filter", filter])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .start()?;
        let mut exporter = Self { child: KillOnDrop(child) };
        let ready = wait_for("the exporter to be ready", 3 * soon(), || {
            if let Some(status) = exporter.child.try_wait()? {
                bail!("it ended with {status}");
            }
            Ok(get("/healthz").is_ok_and(|answer| answer.ends_with("\r\n\r\nready\n")).then_some(()))
        });
        match ready {
            Err(error) => {
                exporter.child.kill().ok();
                Err(error.context(exporter.stderr()))
            }
            Ok(()) => Ok(exporter),
        }
    }

    /// Its stderr, up to its end.
    fn stderr(&mut self) -> String {
        let lines = self.child.stderr.take().map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok));
        lines.into_iter().flatten().collect::<Vec<_>>().join("\n    ")
    }

    /// Sends SIGTERM; returns stderr.
    pub(super) fn stop(mut self) -> Result<String> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = wait_for("the exporter to end", soon(), || Ok(self.child.try_wait()?))?;
        let stderr = self.stderr();
        ensure!(status.code() == Some(0), "SIGTERM ended it with {status}: {stderr}");
        Ok(stderr)
    }
}

pub(super) fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

fn get(path: &str) -> Result<String> {
    get_as(path, "application/openmetrics-text; version=1.0.0, */*;q=0.1")
}

/// The response, header included, to a request that accepts `accept`.
pub(super) fn get_as(path: &str, accept: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address())?;
    stream.set_read_timeout(Some(soon()))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: tests\r\naccept: {accept}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Every sample of one scrape.
pub(super) fn scrape() -> Result<MetricSamples> {
    let answer = get("/metrics")?;
    let (header, page) = answer.split_once("\r\n\r\n").context("no header")?;
    ensure!(header.starts_with("HTTP/1.1 200 OK"), "{header}");
    ensure!(header.contains("application/openmetrics-text; version=1.0.0"), "{header}");
    ensure!(page.ends_with("# EOF\n"), "the page is cut off");
    let samples = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (series, value) = line.rsplit_once(' ').with_context(|| format!("'{line}'"))?;
        Ok((series.to_owned(), value.parse().with_context(|| format!("'{line}'"))?))
    });
    samples.collect()
}

/// So many connections to a listener of its own, closed by the client first; the listener goes at the end.
pub(super) fn traffic(connections: usize) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:7000")?;
    let target = listener.local_addr()?;
    for _ in 0..connections {
        let client = TcpStream::connect(target)?;
        let (mut server, _) = listener.accept()?;
        process::close(client);
        // Its FIN must be there before ours goes out: else both ends are the first to close.
        ensure!(server.read(&mut [0])? == 0, "no end of the stream");
    }
    Ok(())
}

/// Sockets per state as the kernel lists them, without those of the scrapes.
fn by_kernel() -> Result<BTreeMap<TcpState, usize>> {
    let mut counts = BTreeMap::new();
    for socket in kernel::sockets()? {
        if socket.local.port() != PORT && socket.remote.port() != PORT {
            *counts.entry(socket.state).or_default() += 1;
        }
    }
    Ok(counts)
}

fn number(samples: &MetricSamples, series: &str) -> Result<u64> {
    samples.get(series).map(|value| *value as u64).with_context(|| format!("no {series}"))
}

/// Counters and gauges are the kernel's numbers.
pub fn counters(lab: &Lab) -> Result<()> {
    let exporter = Exporter::start(lab, &[])?;
    kernel::counts("ActiveOpens", CONNECTIONS as u64, || {
        // The scrapes of this scenario begin after it.
        traffic(CONNECTIONS)
    })?;
    // The last segment of the last close() may arrive late.
    let expected = wait_for("a TIME_WAIT of each connection in the kernel", soon(), || {
        Ok(Some(by_kernel()?).filter(|counts| *counts == BTreeMap::from([(TcpState::TimeWait, CONNECTIONS)])))
    })?;
    // The time that sweeps need to repair missed changes.
    wait_for("the kernel's counts", 3 * soon(), || {
        let samples = scrape()?;
        let all = TcpState::ALL.into_iter().all(|state| {
            let now = number(&samples, &format!("tcptrace_sockets{{state=\"{}\"}}", state.name()));
            now.is_ok_and(|now| now as usize == expected.get(&state).copied().unwrap_or_default())
        });
        Ok(all.then_some(()))
    })
    .with_context(|| format!("the kernel has {expected:?}"))?;
    let samples = scrape()?;
    for (series, n) in [
        ("tcptrace_transitions_total{state=\"SYN_SENT\"}", CONNECTIONS),
        ("tcptrace_transitions_total{state=\"ESTABLISHED\"}", 2 * CONNECTIONS),
        ("tcptrace_transitions_total{state=\"TIME_WAIT\"}", CONNECTIONS),
        ("tcptrace_dwell_seconds_count{state=\"ESTABLISHED\",role=\"outbound\"}", CONNECTIONS),
        ("tcptrace_dwell_seconds_bucket{le=\"+Inf\",state=\"LAST_ACK\",role=\"inbound\"}", CONNECTIONS),
        ("tcptrace_closes_total{closer=\"local\"}", CONNECTIONS),
        ("tcptrace_closes_total{closer=\"remote\"}", CONNECTIONS),
        ("tcptrace_lost_total{cause=\"ring_full\"}", 0),
    ] {
        let reported = number(&samples, series)?;
        ensure!(reported as usize == n, "{series} is {reported}, not {n}");
    }
    let (cpu, resident) = ("process_cpu_seconds_total", "process_resident_memory_bytes");
    ensure!(samples[cpu] > 0.0 && number(&samples, resident)? > 1 << 20, "no cost of its own");
    let stderr = exporter.stop()?;
    ensure!(stderr.contains("serving metrics at http://127.0.0.1:9435/metrics"), "{stderr}");
    ensure!(!stderr.contains("warning"), "a warning on loopback: {stderr}");
    Ok(())
}

/// Scrapers that send nothing, read nothing, or send garbage do not keep others out, and nothing is lost.
pub fn slow_scrapers(lab: &Lab) -> Result<()> {
    let exporter = Exporter::start(lab, &[])?;
    // They hold every connection slot but one, and do not read their responses.
    let mut slow = Vec::new();
    for n in 1..PLACES {
        let mut stream = TcpStream::connect(address())?;
        let request: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /metrics HTTP/1.1\r\nx",
            _ => b"GET /metrics HTTP/1.1\r\n",
        };
        stream.write_all(request)?;
        slow.push(stream);
    }
    traffic(CONNECTIONS)?;
    let is_reported = || {
        // A slot that is just being released counts as used.
        let Ok(samples) = scrape() else { return Ok(None) };
        let entered = number(&samples, "tcptrace_transitions_total{state=\"TIME_WAIT\"}")?;
        Ok((entered as usize == CONNECTIONS).then_some(()))
    };
    wait_for("the count beside slow scrapers", soon(), is_reported)?;
    // They are disconnected: their streams end.
    for mut stream in slow {
        stream.set_read_timeout(Some(soon() + Duration::from_secs(10)))?;
        let ended = stream.read_to_end(&mut Vec::new());
        ensure!(
            ended.as_ref().err().is_none_or(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
            "it was not sent away: {ended:?}"
        );
    }
    let stderr = exporter.stop()?;
    ensure!(stderr.contains("nothing lost"), "{stderr}");
    Ok(())
}

/// The pages in each content type, at an address that is a name; and the error for an unusable address.
pub fn formats(lab: &Lab) -> Result<()> {
    let exporter = Exporter::start(lab, &["--listen", &format!("localhost:{PORT}")])?;
    traffic(10)?;
    let index = get("/")?;
    ensure!(
        index.contains("text/html")
            && index.contains("href=\"/metrics\"")
            && index.contains("href=\"/healthz\""),
        "{index}"
    );
    let text = get_as("/metrics", "*/*")?;
    let (header, page) = text.split_once("\r\n\r\n").context("no header")?;
    ensure!(header.contains("text/plain; version=0.0.4"), "{header}");
    ensure!(page.contains("# TYPE tcptrace_records_total counter\n") && !page.contains("# EOF"), "{page}");
    let names = |page: &str| -> BTreeSet<String> {
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| line.split([' ', '{']).next().map(str::to_owned)).collect()
    };
    let open_metrics = get("/metrics")?;
    let (_, other) = open_metrics.split_once("\r\n\r\n").context("no header")?;
    ensure!(other.ends_with("# EOF\n"), "not OpenMetrics");
    let (text, open_metrics) = (names(page), names(other));
    ensure!(text == open_metrics, "{text:?} and {open_metrics:?}");

    for (listen, status, words) in [
        (format!(":{PORT}"), 1, "another program uses this port"),
        ("192.0.2.1:9436".into(), 1, "this host has no such address"),
        ("nonsense".into(), 2, "localhost:9435"),
    ] {
        let mut command = Command::new(lab.binary()?);
        command.args(["serve", "--listen", &listen]);
        let output = run_to_end(command)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(status) && stderr.contains(words),
            "{listen}: {}, {stderr}",
            output.status
        );
    }
    exporter.stop()?;
    // Every address, IPv4 too.
    Exporter::start(lab, &["--listen", &format!(":{PORT}")])?.stop()?;
    Ok(())
}
