//! Both ends of connections between three hosts: network namespaces with recorders of their own, under host names of their
//! own, behind a router.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

use super::hosts::{can_rename_host, read, record};
use super::nat::{NetnsHost, ip};
use super::recording::TempFolder;
use crate::clock::{is_emulated, soon, wait_for};
use crate::hist::HistDocument;
use crate::lab::{Lab, Skip};
use crate::{netns, process};

const HOSTS: [&str; 3] = ["web-0", "web-1", "web-2"];
const PORT: u16 = 7_000;

/// Connections of each client.
fn connections() -> usize {
    if is_emulated() { 20 } else { 3_334 }
}

fn addr(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 81, host as u8, 2)
}

/// A connection by its client's address and port, and who closed it first. Ports are used again.
type MadeConnection = (String, u16, String);

/// The fields of a line of `events --joined --json` that this scenario uses.
#[derive(Debug, Deserialize)]
struct JoinedLine {
    ts_ns: u64,
    status: String,
    closed_first: String,
    client: Option<JoinedEnd>,
    server: Option<JoinedEnd>,
}

#[derive(Debug, Deserialize)]
struct JoinedEnd {
    host: String,
    addr: String,
    port: u16,
    states: Vec<JoinedState>,
}

#[derive(Debug, Deserialize)]
struct JoinedState {
    state: String,
}

/// The joined view names the side that closed first as the programs did, of every connection.
pub fn both_ends(lab: &Lab) -> Result<()> {
    lab.binary()?;
    if !can_rename_host() {
        return Err(Skip("needs unshare and hostname".into()).into());
    }
    let hosts = network()?;
    let folder = TempFolder::new()?;
    let (apart, whole) = (folder.file("hosts"), folder.file("whole.tcptrace"));
    std::fs::create_dir(&apart)?;
    let numbers: Vec<String> =
        hosts.iter().map(|host| Ok(host.netns()?.to_string())).collect::<Result<_>>()?;
    let mut recorders = vec![record(lab, "fleet", &numbers.join(","), &whole)?];
    for (number, name) in numbers.iter().zip(HOSTS) {
        recorders.push(record(lab, name, number, &apart.join(format!("{name}.tcptrace")))?);
    }
    let mut expected = Vec::new();
    for n in 0..HOSTS.len() {
        expected.append(&mut connect(&hosts, n, (n + 1) % HOSTS.len())?);
    }
    for file in [&whole, &apart] {
        wait_for("the end of every connection", 3 * soon(), || {
            let lines = read(lab, file, &["events", "--joined", "--json"])?;
            let closed = lines.lines().filter(|line| line.contains("\"status\":\"closed\"")).count();
            Ok((closed == expected.len()).then_some(()))
        })
        .with_context(|| file.display().to_string())?;
    }
    for recorder in recorders {
        recorder.signal(Signal::TERM)?;
        let (status, stderr) = recorder.wait()?;
        ensure!(status == Some(0), "a recorder ended with {status:?}: {stderr}");
    }
    is_joined(lab, &apart, &expected, &HOSTS)?;
    is_joined(lab, &whole, &expected, &["fleet"])?;
    quantiles_agree(lab, &apart, &whole)
}

/// Three hosts, each with a link to this namespace, which is the router.
fn network() -> Result<Vec<NetnsHost>> {
    let hosts: Vec<NetnsHost> = (0..HOSTS.len()).map(|_| NetnsHost::start()).collect::<Result<_>>()?;
    for (n, host) in hosts.iter().enumerate() {
        let (link, router, pid) = (format!("h{n}"), format!("10.81.{n}.1"), host.pid());
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid])
            .map_err(|error| Skip(format!("this host has no pairs of devices (veth): {error:#}")))?;
        ip(&["addr", "add", &format!("{router}/24"), "dev", &link])?;
        ip(&["link", "set", &link, "up"])?;
        host.inside(|| {
            ip(&["addr", "add", &format!("{}/24", addr(n)), "dev", "eth0"])?;
            ip(&["link", "set", "eth0", "up"])?;
            ip(&["route", "add", "default", "via", &router])?;
            netns::keep_time_wait()
        })?;
    }
    netns::sysctl("ip_forward", "1")?;
    Ok(hosts)
}

/// Makes connections from one host to another; returns who closed each first.
fn connect(hosts: &[NetnsHost], client: usize, server: usize) -> Result<Vec<MadeConnection>> {
    let to = SocketAddr::V4(SocketAddrV4::new(addr(server), PORT));
    let listener = hosts[server].inside(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&to.into())?;
        listener.listen(16)?;
        Ok(listener)
    })?;
    hosts[client].inside(|| {
        let mut expected = Vec::new();
        for n in 0..connections() {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            client.connect_timeout(&to.into(), Duration::from_secs(5))?;
            let (server, _) = listener.accept()?;
            let local = client.local_addr()?.as_socket().context("an address")?;
            let first = ["client", "server", "client", "reset"][n % 4];
            let (closes, waits) = if first == "server" { (server, client) } else { (client, server) };
            if first == "reset" {
                closes.set_linger(Some(Duration::ZERO))?;
            }
            process::close(closes);
            // The other one closes once it knows.
            let read = (&waits).read(&mut [0]);
            ensure!(if first == "reset" { read.is_err() } else { matches!(read, Ok(0)) }, "{read:?}");
            process::close(waits);
            expected.push((local.ip().to_string(), local.port(), first.to_owned()));
        }
        Ok(expected)
    })
}

/// Every connection is joined, with its hosts, its states, and who closed first, in the order in which they were made.
fn is_joined(lab: &Lab, from: &Path, expected: &[MadeConnection], names: &[&str]) -> Result<()> {
    let lines = read(lab, from, &["events", "--joined", "--json"])?;
    let mut lines: Vec<JoinedLine> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    lines.sort_by_key(|line| line.ts_ns);
    let mut found = Vec::new();
    for line in lines {
        let (Some(client), Some(server)) = (&line.client, &line.server) else {
            bail!("an end without the other: {line:?}");
        };
        ensure!(line.status == "closed" && server.port == PORT, "{line:?}");
        ensure!(names.contains(&&*client.host) && names.contains(&&*server.host), "{line:?}");
        ensure!(names.len() == 1 || client.host != server.host, "{line:?}");
        let entered = |end: &JoinedEnd, state: &str| end.states.iter().any(|entered| entered.state == state);
        ensure!(entered(client, "ESTABLISHED") && entered(server, "ESTABLISHED"), "{line:?}");
        let lingers = (entered(client, "TIME_WAIT"), entered(server, "TIME_WAIT"));
        ensure!(lingers == (line.closed_first == "client", line.closed_first == "server"), "{line:?}");
        found.push((client.addr.clone(), client.port, line.closed_first));
    }
    ensure!(found.len() == expected.len(), "{} lines of {}", found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        ensure!(found == expected, "found {found:?}, not {expected:?}");
    }
    Ok(())
}

/// The hosts together have the quantiles of one recorder that saw all; two recorders read the clock one after the other.
fn quantiles_agree(lab: &Lab, apart: &Path, whole: &Path) -> Result<()> {
    let document = |from| -> Result<HistDocument> {
        Ok(serde_json::from_str(&read(lab, from, &["hist", "--json", "--state", "ESTABLISHED"])?)?)
    };
    let (apart, whole) = (document(apart)?, document(whole)?);
    let of = |document: &HistDocument| {
        let all = document.histograms.iter().find(|of| of.state == "ESTABLISHED" && of.split.is_none());
        all.map(|of| (of.count, [of.p50_ns, of.p90_ns, of.p99_ns])).context("ESTABLISHED")
    };
    let ((count, merged), (of_one, single)) = (of(&apart)?, of(&whole)?);
    ensure!(count == of_one && count == 2 * (HOSTS.len() * connections()) as u64, "{count}, {of_one}");
    for (merged, single) in merged.into_iter().zip(single) {
        ensure!(merged.abs_diff(single) <= single / 5, "{merged} ns, by one recorder {single} ns");
    }
    Ok(())
}
