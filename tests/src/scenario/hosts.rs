//! Recordings of several hosts, read as one. Network namespaces with recorders of their own, under host names of their own,
//! are the hosts.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;

use super::recording::{RecorderProcess, TempFolder};
use crate::clock::{is_emulated, soon, wait_for};
use crate::hist::HistDocument;
use crate::lab::{Lab, Skip};
use crate::load::LoopbackLoad;
use crate::process::StartChild as _;
use crate::{netns, process};

const HOSTS: [&str; 3] = ["web-0", "web-1", "web-2"];

/// Connections of the `n`-th host.
fn connections(n: usize) -> u64 {
    let many = if is_emulated() { 20 } else { 400 };
    many + 10 * n as u64
}

/// A thread in a network namespace of its own, which makes connections on request.
struct TrafficHost {
    netns: u32,
    start: Sender<()>,
    done: Receiver<()>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl TrafficHost {
    fn start(n: usize) -> Result<Self> {
        let (sender, entered) = channel();
        let (start, started) = channel::<()>();
        let (finished, done) = channel();
        let thread = std::thread::spawn(move || {
            sender.send(netns::enter_new()?)?;
            netns::keep_time_wait()?;
            let mut load = LoopbackLoad::new(0)?;
            if started.recv().is_ok() {
                (0..connections(n)).try_for_each(|_| load.connect_and_close())?;
                finished.send(())?;
            }
            // Its sockets remain until then.
            started.recv().ok();
            process::close(load);
            Ok(())
        });
        let netns = entered.recv().context("no network namespace")?;
        Ok(Self { netns, start, done, thread: Some(thread) })
    }

    fn end(mut self) -> Result<()> {
        drop(self.start);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the thread of a host panicked"))?
    }
}

/// A recorder on a host of this name, of these network namespaces.
pub(super) fn record(lab: &Lab, host: &str, netns: &str, file: &Path) -> Result<RecorderProcess> {
    let mut command = Command::new("unshare");
    command.args(["--uts", "sh", "-c", "hostname \"$0\" && exec \"$@\"", host]).arg(lab.binary()?);
    RecorderProcess::start_as(&mut command, file, &["--netns", netns])
}

/// Whether a recorder can have a host name of its own.
pub(super) fn can_rename_host() -> bool {
    let named = Command::new("unshare").args(["--uts", "hostname", "web-0"]).finish();
    named.is_ok_and(|done| done.status.success())
}

/// Every view of the three recordings has the sockets of all: the sum of the hosts, and what a recorder of all has.
pub fn merged(lab: &Lab) -> Result<()> {
    lab.binary()?;
    if !can_rename_host() {
        return Err(Skip("needs unshare and hostname".into()).into());
    }
    let folder = TempFolder::new()?;
    std::fs::create_dir(folder.file("hosts"))?;
    let hosts: Vec<TrafficHost> = (0..HOSTS.len()).map(TrafficHost::start).collect::<Result<_>>()?;
    let all = hosts.iter().map(|host| host.netns.to_string()).collect::<Vec<_>>().join(",");
    let whole = folder.file("whole.tcptrace");
    let mut recorders = vec![record(lab, "fleet", &all, &whole)?];
    for (host, name) in hosts.iter().zip(HOSTS) {
        let file = folder.file("hosts").join(format!("{name}.tcptrace"));
        recorders.push(record(lab, name, &host.netns.to_string(), &file)?);
    }
    for host in &hosts {
        host.start.send(())?;
    }
    for host in &hosts {
        host.done.recv_timeout(3 * soon()).context("the connections of a host")?;
    }
    // Where segments are not seen, sweeps find TIME_WAIT.
    for file in [&whole, &folder.file("hosts")] {
        let expected: u64 = (0..HOSTS.len()).map(connections).sum();
        wait_for("TIME_WAIT of every connection", 3 * soon(), || {
            let states: Value = serde_json::from_str(&read(lab, file, &["states", "--json"])?)?;
            let time_wait = states["states"].as_array().and_then(|states| {
                states.iter().find(|state| state["state"] == "TIME_WAIT")?["count"].as_u64()
            });
            Ok((time_wait == Some(expected)).then_some(()))
        })
        .with_context(|| file.display().to_string())?;
    }
    for recorder in recorders {
        recorder.signal(Signal::TERM)?;
        let (status, stderr) = recorder.wait()?;
        ensure!(status == Some(0), "a recorder ended with {status:?}: {stderr}");
    }
    for host in hosts {
        host.end()?;
    }
    let folder_of_hosts = folder.file("hosts");
    dwells_add_up(lab, &whole, &folder_of_hosts)?;
    views(lab, &folder_of_hosts)
}

/// Dwells in each state: of all hosts together, of each host with the key, and of a recorder of all.
fn dwells_add_up(lab: &Lab, whole: &Path, hosts: &Path) -> Result<()> {
    let counts = |document: &HistDocument| -> BTreeMap<(String, Option<String>), u64> {
        let all = document.histograms.iter().filter(|histogram| histogram.count > 0);
        all.map(|histogram| ((histogram.state.clone(), histogram.split.clone()), histogram.count)).collect()
    };
    let whole: HistDocument = serde_json::from_str(&read(lab, whole, &["hist", "--json"])?)?;
    let merged: HistDocument = serde_json::from_str(&read(lab, hosts, &["hist", "--json"])?)?;
    // Dwells in FIN_WAIT2 that a sweep ends are no dwells of the histogram.
    let of_both = |document: &HistDocument| {
        let mut counts = counts(document);
        counts.retain(|(state, _), _| state != "FIN_WAIT2");
        counts
    };
    ensure!(of_both(&merged) == of_both(&whole), "{:?}, not {:?}", counts(&merged), counts(&whole));
    let by_host: HistDocument =
        serde_json::from_str(&read(lab, hosts, &["hist", "--json", "--by", "host"])?)?;
    for (n, host) in HOSTS.into_iter().enumerate() {
        let established = by_host.histograms.iter().find(|histogram| {
            histogram.state == "ESTABLISHED"
                && histogram.split.is_none()
                && histogram.key.as_deref() == Some(host)
        });
        // Both ends of each connection.
        let count = established.map(|established| established.count);
        ensure!(count == Some(2 * connections(n)), "{count:?} of {host}");
    }
    let longest = |document: &HistDocument| {
        document.histograms.iter().filter(|of| of.state == "ESTABLISHED").map(|of| of.max_ns).max()
    };
    ensure!(longest(&merged) == longest(&by_host), "the longest of all is the longest of one");
    Ok(())
}

/// Events name their host and are in order of time; `ports` and `doctor` have a document per host.
fn views(lab: &Lab, hosts: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct HostEvent {
        ts_ns: u64,
        host: String,
        to: String,
    }
    let lines = read(lab, hosts, &["events", "--json"])?;
    let events: Vec<HostEvent> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for (n, host) in HOSTS.into_iter().enumerate() {
        let ended =
            events.iter().filter(|event| event.host == host && event.to == "TIME_WAIT").count() as u64;
        ensure!(ended == connections(n), "{ended} of {host}");
    }
    let turns = events.windows(2).filter(|pair| pair[0].host != pair[1].host).count();
    ensure!(turns >= HOSTS.len(), "the hosts made connections at the same time, but take only {turns} turns");
    let (first, last) = (events.first().context("an event")?, events.last().context("an event")?);
    ensure!(first.ts_ns <= last.ts_ns, "the first is after the last");
    for command in ["ports", "doctor"] {
        let documents = read(lab, hosts, &[command, "--json"])?;
        let documents: Vec<Value> = documents.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let mut names: Vec<&str> =
            documents.iter().filter_map(|document| document["host"].as_str()).collect();
        names.sort_unstable();
        ensure!(names == HOSTS, "{command}: {names:?}");
    }
    let text = read(lab, hosts, &["top", "--once", "--by", "host"])?;
    ensure!(HOSTS.iter().all(|host| text.contains(host)), "{text}");
    Ok(())
}

/// What a command prints about recordings.
pub(super) fn read(lab: &Lab, from: &Path, args: &[&str]) -> Result<String> {
    let path = from.to_str().context("a path")?;
    let output = lab.run(&[args, &["--from", path]].concat())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?} of {path} ended with {}: {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
