//! A recorder that triggers itself: incidents, and nothing for ordinary traffic.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Signal;
use tcptrace_common::state::TcpState::{CloseWait, TimeWait};

use super::recording::{RecorderProcess, TempFolder};
use crate::clock::{hold, soon, wait_for};
use crate::event::EventLine;
use crate::lab::{Lab, Skip};
use crate::load::LoopbackLoad;
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::{netns, process};

/// Longer than the first seconds, in which no finding triggers.
const WARM_UP: Duration = Duration::from_secs(12);
/// Local ports of the namespace.
const PORTS: usize = 60;
/// Connections that are leaked.
const LEAKED: usize = 3;

/// Ports run out once and CLOSE_WAIT leaks once, beside ordinary traffic: two files, each with the beginning of its incident.
pub fn incidents(lab: &Lab) -> Result<()> {
    lab.binary()?;
    netns::sysctl("ip_local_port_range", &format!("42000 {}", 42_000 + PORTS - 1))?;
    netns::keep_time_wait()?;
    let folder = TempFolder::new()?;
    let file = folder.file("incidents.tcptrace");
    let number = lab.netns().to_string();
    let when = "client_ports_exhausted,close_wait_leak";
    let args = ["--last", "40s", "--when", when, "--after", "1s", "--at-most", "9/1m", "--netns", &number];
    let recorder = RecorderProcess::start(lab, &file, &args)?;
    let mut leaks: Vec<ConnectedPair> =
        (0..LEAKED).map(|_| ConnectedPair::open(IpFamily::V4)).collect::<Result<_>>()?;
    for _ in 0..10 {
        ConnectedPair::open(IpFamily::V4)?.close_client_first()?;
    }
    hold(WARM_UP);
    ensure!(files(&folder.path)?.is_empty(), "ordinary traffic triggered: {}", recorder.stderr());

    let failures = use_up_ports(PORTS)?;
    ensure!(failures > 0, "no connect failed");
    let first = wait_for_file(&folder.path, 1, &recorder)?;
    for pair in &mut leaks {
        pair.client.close();
        pair.server.wait(CloseWait)?;
    }
    let second = wait_for_file(&folder.path, 2, &recorder)?;
    hold(Duration::from_secs(3));
    recorder.signal(Signal::TERM)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0), "it ended with {status:?}: {stderr}");
    ensure!(files(&folder.path)?.len() == 2 && !file.exists(), "{:?}", files(&folder.path)?);

    have_their_beginning(lab, [&folder.file(&first), &folder.file(&second)], PORTS - LEAKED - 1)
}

/// The first file has the connections that used up the ports, which began before the finding, the second one the leak.
fn have_their_beginning(lab: &Lab, [first, second]: [&Path; 2], connections: usize) -> Result<()> {
    let (ports, leak) = ("client_ports_exhausted", "close_wait_leak");
    is_about(lab, first, ports, leak)?;
    is_about(lab, second, leak, ports)?;
    let went = |file: &Path, to| -> Result<usize> {
        let output = run(lab, file, &["events", "--json"])?;
        let events: Vec<EventLine> = output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(events.iter().filter(|event| event.to == to).count())
    };
    ensure!(went(first, TimeWait)? >= connections, "the beginning is missing");
    ensure!(went(second, CloseWait)? >= LEAKED, "the beginning is missing");
    Ok(())
}

/// Ticks of CPU time a second, in `/proc`.
const USER_HZ: f64 = 100.0;
/// Local ports then: ordinary traffic uses a third of them for each destination.
const MANY_PORTS: usize = 10_000;
/// Time between two ordinary connections.
const PACE: Duration = Duration::from_millis(20);

/// `TCPTRACE_RECORDER_SECONDS` (600) beside ordinary traffic: two files for two incidents, none for noise. Prints what the recorder
/// cost.
pub fn beside_traffic(lab: &Lab) -> Result<()> {
    lab.binary()?;
    let seconds = std::env::var("TCPTRACE_RECORDER_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let Some(length) = seconds.map(Duration::from_secs) else {
        return Err(Skip("takes minutes: TCPTRACE_RECORDER_SECONDS=600".into()).into());
    };
    netns::sysctl("ip_local_port_range", &format!("40000 {}", 40_000 + MANY_PORTS - 1))?;
    netns::keep_time_wait()?;
    let folder = TempFolder::new()?;
    let number = lab.netns().to_string();
    let when = "client_ports_exhausted,close_wait_leak";
    let args = ["--last", "2m", "--when", when, "--after", "20s", "--at-most", "9/1m", "--netns", &number];
    let recorder = RecorderProcess::start(lab, &folder.file("incidents.tcptrace"), &args)?;
    let begun = Instant::now();
    let traffic = std::thread::spawn(move || -> Result<u64> {
        let mut load = LoopbackLoad::new(9)?;
        let mut connections = 0;
        while begun.elapsed() < length {
            load.connect_and_close()?;
            connections += 1;
            hold(PACE);
        }
        Ok(connections)
    });
    let mut leaks: Vec<ConnectedPair> =
        (0..LEAKED).map(|_| ConnectedPair::open(IpFamily::V4)).collect::<Result<_>>()?;
    let until = |at: Duration| hold(at.saturating_sub(begun.elapsed()));
    until(length * 3 / 10);
    ensure!(files(&folder.path)?.is_empty(), "ordinary traffic triggered: {}", recorder.stderr());
    ensure!(use_up_ports(MANY_PORTS)? > 0, "no connect failed");
    until(length * 6 / 10);
    ensure!(files(&folder.path)?.len() == 1, "{:?}: {}", files(&folder.path)?, recorder.stderr());
    for pair in &mut leaks {
        pair.client.close();
        pair.server.wait(CloseWait)?;
    }
    until(length);
    let cost = cost(recorder.pid())?;
    recorder.signal(Signal::TERM)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0), "it ended with {status:?}: {stderr}");
    let connections = traffic.join().map_err(|_| anyhow!("the traffic panicked"))??;
    let files = files(&folder.path)?;
    let [first, second] = files.as_slice() else { bail!("{files:?}, not two files: {stderr}") };
    have_their_beginning(lab, [&folder.file(first), &folder.file(second)], MANY_PORTS / 2)?;
    let sizes = [first, second].map(|file| std::fs::metadata(folder.file(file)).map_or(0, |file| file.len()));
    eprintln!(
        "{connections} connections of ordinary traffic in {length:?}; recorder: {cost}; files of {sizes:?} bytes"
    );
    Ok(())
}

/// CPU time and memory of a process.
fn cost(pid: u32) -> Result<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name: the state is the first field, the times are fields 12 and 13.
    let fields: Vec<&str> = stat.rsplit(')').next().context("fields")?.split_whitespace().collect();
    let ticks: u64 =
        fields.get(11..13).context("times")?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    let seconds = ticks as f64 / USER_HZ;
    Ok(format!("{seconds:.2} s of CPU time, {} resident, at most {}", of("VmRSS:"), of("VmHWM:")))
}

/// Connects until no port is left; returns how many connects failed.
fn use_up_ports(ports: usize) -> Result<usize> {
    let listener = TestSocket::listen((IpFamily::V4.loopback(), 7_000).into())?;
    let mut failures = 0;
    for _ in 0..ports + 10 {
        let client = IpFamily::V4.socket()?;
        match client.connect(&listener.local()?.into()) {
            Ok(()) => {
                let (server, _) = listener.socket()?.accept()?;
                process::close(client);
                process::close(server);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => failures += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(failures)
}

/// The recordings in a folder, by name.
fn files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn wait_for_file(folder: &Path, count: usize, recorder: &RecorderProcess) -> Result<String> {
    let found = wait_for("the file of an incident", 4 * soon(), || {
        let files = files(folder)?;
        Ok((files.len() >= count).then(|| files.last().cloned()).flatten())
    });
    found.with_context(|| recorder.stderr())
}

/// Its metadata has one finding, which `doctor` finds in it.
fn is_about(lab: &Lab, file: &Path, finding: &str, other: &str) -> Result<()> {
    let content = std::fs::read(file)?;
    // The schema, which has the metadata, is not compressed.
    let head = String::from_utf8_lossy(&content[..content.len().min(16 << 10)]).into_owned();
    let id = format!("\"finding\":\"{finding}\"");
    ensure!(
        head.contains("tcptrace.incidents") && head.contains(&id),
        "{} is not about {finding}",
        file.display()
    );
    ensure!(!head.contains(&format!("\"finding\":\"{other}\"")), "{} is about {other}, too", file.display());
    let report = lab.run(&["report", "--json", file.to_str().context("a path")?])?;
    let report = String::from_utf8_lossy(&report.stdout);
    ensure!(
        report.contains("\"incidents\":[{") && report.contains(&id),
        "no mark of {finding} in the report"
    );
    let findings = run(lab, file, &["doctor", "--json"])?;
    ensure!(findings.contains(&format!("\"id\":\"{finding}\"")), "{findings}");
    Ok(())
}

fn run(lab: &Lab, from: &Path, args: &[&str]) -> Result<String> {
    let path = from.to_str().context("a path")?;
    let output = lab.run(&[args, &["--from", path]].concat())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?} of {path} ended with {}: {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
