//! The budget of local ports as `ports`, `top`, `serve`, `doctor` and `report` show it at the same moment, against the
//! kernel's table: all agree on used and available ports.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use socket2::Socket;

use super::ports::{ClosingServer, self_test_elsewhere};
use super::recording::{RecorderProcess, TempFolder};
use super::serve::{Exporter, scrape};
use crate::clock::{soon, wait_for};
use crate::doctor::Doctor;
use crate::json_snapshots::decode;
use crate::lab::Lab;
use crate::pair::IpFamily;
use crate::process::{KillOnDrop, StartChild as _};
use crate::{kernel, netns, ports};

const PORT: u16 = 7_000;
/// An odd number of ports: one call of `connect()` leaves out the first or the last.
const RANGE: (u16, u16) = (41_000, 41_100);
const PORTS: u64 = 101;
/// Consecutive failed calls that prove that no port is left.
const IN_VAIN: usize = 40;

/// The fields of a document of `top` or `report` that the scenario uses.
#[derive(Deserialize)]
struct TopDocument {
    groups: Vec<TopGroup>,
}

impl TopDocument {
    /// Ports used and available towards `key`, and in how long none will be left.
    fn ports(&self, key: &str) -> Option<PortNumbers> {
        let is_it = |group: &&TopGroup| group.role == "outbound" && group.key.starts_with(key);
        let ports = self.groups.iter().find(is_it)?.ports.as_ref()?;
        Some((ports.used, ports.available, ports.exhausted_in_ns))
    }
}

#[derive(Deserialize)]
struct TopGroup {
    key: String,
    role: String,
    ports: Option<TopPorts>,
}

#[derive(Debug, Deserialize)]
struct TopPorts {
    used: u64,
    available: Option<u64>,
    exhausted_in_ns: Option<u64>,
}

/// Every port of an odd range that `connect()` can find is in use, one of them by `bind()`, and one that `bind()` took for another address although
/// a connection had it.
pub fn views_agree(lab: &Lab) -> Result<()> {
    self_test_elsewhere(lab)?;
    netns::sysctl("ip_local_port_range", &format!("{} {}", RANGE.0, RANGE.1))?;
    let server = ClosingServer::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT))?;
    let ports = ports::start(lab)?;
    let top = TopProcess::start(lab)?;
    let doctor = Doctor::start(lab)?;
    let exporter = Exporter::start(lab, &[])?;
    let folder = TempFolder::new()?;
    let recording = folder.file("ports.tcptrace");
    let recorder = RecorderProcess::start(lab, &recording, &["--netns", &lab.netns().to_string()])?;

    let mut held = vec![connect_bound("127.0.0.2", RANGE.0 + 10, server.address)?];
    held.extend(connect_until_full(server.address)?);
    let first = held[1].local_addr()?.as_socket().context("an address")?.port();
    held.push(connect_bound("127.0.0.3", first, server.address)?);
    let used = used_by_kernel(server.address)?;
    // A failed call does not move the offset of the next one, which may leave out the same free port each time.
    ensure!((PORTS - 2..PORTS).contains(&used), "{used} ports in use, not all but the one of bind()");

    // The tracers may be a moment late with the last connections.
    let settled = ports.wait(|document| {
        let row = document.find(lab.netns(), "127.0.0.1", "127.0.0.1", PORT);
        row.is_some_and(|row| (row.used, row.available) == (used, Some(used)))
    })?;
    let row =
        settled.and_then(|document| document.find(lab.netns(), "127.0.0.1", "127.0.0.1", PORT).cloned());
    let row = row.context("ports has no line for the destination")?;
    ensure!((row.used, row.available) == (used, Some(used)), "the kernel has {used}: {row:?}");

    let expected = (used, Some(used), Some(0));
    let key = server.address.to_string();
    wait_for("top's numbers", soon(), || Ok(top.ports(&key)?.filter(|seen| *seen == expected)))
        .with_context(|| format!("top: {:?}, not {expected:?}", top.ports(&key)))?;
    recorder.signal(Signal::INT)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0), "record: {status:?}, {stderr}");
    let report = lab.run(&["report", &recording.to_string_lossy(), "--json"])?;
    let reported = decode::<TopDocument>(String::from_utf8_lossy(&report.stdout).trim_end())?.ports(&key);
    ensure!(reported == Some(expected), "report: {reported:?}, not {expected:?}");

    let labels = format!("local=\"127.0.0.1\",destination=\"{}\"", server.address);
    let metric = |name: &str| -> Result<f64> {
        let samples = scrape()?;
        let series = samples.iter().find(|(series, _)| series.starts_with(name) && series.contains(&labels));
        series.map(|(_, value)| *value).with_context(|| format!("no {name} with {labels}: {samples:?}"))
    };
    let all = || -> Result<(f64, f64, f64)> {
        Ok((
            metric("tcptrace_ports_used{")?,
            metric("tcptrace_ports_available{")?,
            metric("tcptrace_ports_exhausted_in_seconds{")?,
        ))
    };
    let wanted = (used as f64, used as f64, 0.0);
    wait_for("the exporter's numbers", soon(), || Ok(all().ok().filter(|seen| *seen == wanted)))
        .with_context(|| format!("serve: {:?}, not {wanted:?}", all()))?;

    let report = doctor.finish()?;
    let found = report.finding("client_ports_exhausted")?;
    ensure!((found.number("used")?, found.number("available")?) == (used, used), "{found:#?}");
    let words = format!("{used} of {used} ports used, {used} of them ESTABLISHED");
    ensure!(found.evidence.iter().any(|line| line.contains(&words)), "no '{words}' in {found:#?}");

    drop(held);
    exporter.stop()?;
    server.stop()?;
    ports.finish()
}

/// Used ports, available ports, nanoseconds until none is left.
type PortNumbers = (u64, Option<u64>, Option<u64>);

/// A running `top` that writes its documents to a file.
struct TopProcess {
    _child: KillOnDrop,
    folder: TempFolder,
}

impl TopProcess {
    fn start(lab: &Lab) -> Result<Self> {
        let folder = TempFolder::new()?;
        let child = Command::new(lab.binary()?)
            .args(["top", "--json", "--interval", "100ms", "--netns", &lab.netns().to_string()])
            .stdin(Stdio::null())
            .stdout(File::create(folder.file("top.json"))?)
            .stderr(Stdio::null())
            .start()?;
        let top = Self { _child: KillOnDrop(child), folder };
        wait_for("the first document of top", 3 * soon(), || Ok(top.last()?.map(drop)))?;
        Ok(top)
    }

    /// The last complete document.
    fn last(&self) -> Result<Option<TopDocument>> {
        let text = std::fs::read_to_string(self.folder.file("top.json"))?;
        let complete = text.rfind('\n').map(|end| &text[..end]);
        complete.and_then(|text| text.lines().next_back()).map(decode).transpose()
    }

    /// As [`TopDocument::ports`], of the last document.
    fn ports(&self, key: &str) -> Result<Option<PortNumbers>> {
        Ok(self.last()?.and_then(|document| document.ports(key)))
    }
}

fn connect_bound(local: &str, port: u16, to: SocketAddr) -> Result<Socket> {
    let socket = IpFamily::V4.socket()?;
    socket.bind(&SocketAddr::new(local.parse::<IpAddr>()?, port).into()).context("bind")?;
    socket.connect(&to.into()).context("connect after bind")?;
    Ok(socket)
}

/// Connections that stay open, until `connect()` finds no port any more.
fn connect_until_full(to: SocketAddr) -> Result<Vec<Socket>> {
    let (mut held, mut in_vain) = (Vec::new(), 0);
    while in_vain < IN_VAIN {
        let socket = IpFamily::V4.socket()?;
        match socket.connect(&to.into()) {
            Ok(()) => {
                held.push(socket);
                in_vain = 0;
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => in_vain += 1,
            Err(error) => return Err(error).context("connect"),
        }
    }
    Ok(held)
}

/// Ports of the range that connections from 127.0.0.1 to `to` hold.
fn used_by_kernel(to: SocketAddr) -> Result<u64> {
    let is_one = |socket: &&kernel::DiagSocket| {
        socket.remote == to
            && socket.local.ip() == IpAddr::from(Ipv4Addr::LOCALHOST)
            && (RANGE.0..=RANGE.1).contains(&socket.local.port())
    };
    Ok(kernel::sockets()?.iter().filter(is_one).count() as u64)
}
