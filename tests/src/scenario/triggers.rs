//! A recorder that triggers itself: incidents, and nothing for ordinary traffic.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tcptrace_common::state::TcpState::{CloseWait, TimeWait};

use super::recording::{RecorderProcess, TempFolder};
use crate::clock::{hold, soon, wait_for};
use crate::event::EventLine;
use crate::lab::Lab;
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
    netns::sysctl("tcp_tw_reuse", "0")?;
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

    let failures = use_up_ports()?;
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

    let (ports, leak) = ("client_ports_exhausted", "close_wait_leak");
    is_about(lab, &folder.file(&first), ports, leak)?;
    is_about(lab, &folder.file(&second), leak, ports)?;
    let went = |file: &str, to| -> Result<usize> {
        let output = run(lab, &folder.file(file), &["events", "--json"])?;
        let events: Vec<EventLine> = output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(events.iter().filter(|event| event.to == to).count())
    };
    // The connections that used up the ports began before the finding.
    ensure!(went(&first, TimeWait)? >= PORTS - LEAKED - 1, "the beginning is missing");
    ensure!(went(&second, CloseWait)? >= LEAKED, "the beginning is missing");
    Ok(())
}

/// Connects until no port is left; returns how many connects failed.
fn use_up_ports() -> Result<usize> {
    let listener = TestSocket::listen((IpFamily::V4.loopback(), 7_000).into())?;
    let mut failures = 0;
    for _ in 0..PORTS + 10 {
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
