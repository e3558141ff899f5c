//! Local ports that `bind()` takes before `connect()`: one budget for all destinations.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use socket2::Socket;
use tcptrace_common::state::TcpState::Listen;

use super::ports::{ClosingServer, self_test_elsewhere};
use super::recording::TempFolder;
use crate::clock::{soon, wait_for};
use crate::doctor::Doctor;
use crate::kernel;
use crate::lab::{Lab, Skip};
use crate::netns;
use crate::option::{self, IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE};
use crate::pair::IpFamily;
use crate::ports::{self, PortsBinds, PortsDocument};
use crate::process::{KillOnDrop, StartChild as _};

const RANGE: &str = "41000 41019";
const ALL: u64 = 20;
const SOURCE: &str = "127.0.0.2";
const PORT: u16 = 7_000;
/// Ports that `connect()` chooses.
const CHOSEN: u64 = 3;
/// Ports that `bind()` takes and `connect()` uses.
const OPEN: u64 = 10;
const PROXY: u16 = 8_080;
const BACKEND: u16 = 8_081;
/// Ports that the proxy can't have.
const TAKEN: u64 = 2;

/// Sockets that bind to one address until none of its ports is left: `ports` counts what the kernel gave, with a connection and
/// without one, and `doctor` names the process. Another address has its own ports, and `connect()` from any address can have none of
/// these.
pub fn budget(lab: &Lab) -> Result<()> {
    self_test_elsewhere(lab)?;
    netns::sysctl("ip_local_port_range", RANGE)?;
    let server = ClosingServer::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT))?;
    let ports = ports::start(lab)?;
    let doctor = Doctor::start(lab)?;

    let mut held = Vec::new();
    for _ in 0..CHOSEN {
        let socket = IpFamily::V4.socket()?;
        option::set(&socket, IP_BIND_ADDRESS_NO_PORT, 1)?;
        socket.bind(&at(SOURCE)?.into())?;
        socket.connect(&server.address.into())?;
        held.push(socket);
    }
    let mut bound = bind_until_none_is_left(SOURCE)?;
    ensure!(bound.len() as u64 == ALL - CHOSEN, "{} ports, not {}", bound.len(), ALL - CHOSEN);
    for socket in bound.iter().take(OPEN as usize) {
        socket.connect(&server.address.into())?;
    }
    let of = |document: &PortsDocument| document.binds(lab.netns(), SOURCE).cloned();
    let idle = ALL - CHOSEN - OPEN;
    let is_complete = |row: &PortsBinds| row.open == OPEN && row.idle.is_none_or(|seen| seen == idle);
    // The process of a socket without a connection is found when it has lasted.
    let seen = ports
        .wait(|document| of(document).is_some_and(|row| is_complete(&row) && !row.processes.is_empty()))?;
    if let Some(document) = seen {
        let row = of(&document).context("no line for the address")?;
        let listed = if lists_bound_sockets() { idle } else { 0 };
        ensure!(row.idle.is_some() == lists_bound_sockets(), "{row:?}");
        ensure!(
            (row.bound, row.open, row.available, row.connected) == (OPEN + listed, OPEN, Some(ALL), CHOSEN),
            "{row:?}"
        );
        ensure!(row.processes[0].pid == std::process::id(), "{row:?}");
        let netns = document.netns.iter().find(|row| row.netns == lab.netns()).context("no namespace")?;
        ensure!(netns.taken_by_bind == OPEN + listed, "{netns:?}");
        println!("   binds: {} of {ALL} ports, {:?} without a connection", row.bound, row.idle);
    }
    // Ports that bind() took are unavailable to connect(), from any address.
    for n in 0..=CHOSEN {
        let socket = IpFamily::V4.socket()?;
        let result = socket.connect(&server.address.into()).map_err(|error| error.kind());
        let expected = if n < CHOSEN { Ok(()) } else { Err(ErrorKind::AddrNotAvailable) };
        ensure!(result == expected, "connect() number {n}: {result:?}");
        held.push(socket);
    }
    let elsewhere = bind_until_none_is_left("127.0.0.3")?;
    ensure!(elsewhere.len() as u64 == ALL, "{} ports of another address", elsewhere.len());
    ports.wait(|document| {
        document.binds(lab.netns(), "127.0.0.3").is_some_and(|row| row.bound == ALL) || !lists_bound_sockets()
    })?;

    let found = doctor.finish()?;
    if lists_bound_sockets() {
        let found = found.finding("bind_ports_exhausted")?;
        ensure!((found.number("available")?, found.number("bound")?) == (ALL, ALL), "{found:#?}");
        let named: BTreeSet<_> = found.who.iter().map(|who| (who.service.as_str(), who.pid)).collect();
        let pid = Some(std::process::id());
        ensure!(named == BTreeSet::from([(SOURCE, pid), ("127.0.0.3", pid)]), "{found:#?}");
        ensure!(found.fix[0].contains("IP_BIND_ADDRESS_NO_PORT"), "{found:#?}");
    }
    drop((elsewhere, bound.split_off(OPEN as usize)));
    let freed =
        ports.wait(|document| of(document).is_some_and(|row| row.idle.is_none_or(|idle| idle == 0)))?;
    if let Some(document) = freed {
        ensure!(of(&document).is_some_and(|row| row.bound == OPEN), "{:?}", of(&document));
    }
    drop((bound, held));
    server.stop()?;
    ports.finish()
}

/// `connect()` finds no port although most are free, because its sockets have a range of their own, or because connections from
/// another address keep ports that `bind()` held (before 6.18): `ports` says how many were free.
pub fn free_ports(lab: &Lab) -> Result<()> {
    self_test_elsewhere(lab)?;
    netns::sysctl("ip_local_port_range", RANGE)?;
    let server = ClosingServer::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT))?;
    let ports = ports::start(lab)?;
    let mut held = Vec::new();
    let own_range = 41_004 + (41_007 << 16);
    for n in 0..=4 {
        let socket = IpFamily::V4.socket()?;
        option::set(&socket, IP_LOCAL_PORT_RANGE, own_range).map_err(|_| Skip("needs Linux 6.3".into()))?;
        let result = socket.connect(&server.address.into()).map_err(|error| error.kind());
        let expected = if n < 4 { Ok(()) } else { Err(ErrorKind::AddrNotAvailable) };
        ensure!(result == expected, "connect() number {n}: {result:?}");
        held.push(socket);
    }
    let of = |document: &PortsDocument| document.find(lab.netns(), "127.0.0.1", "127.0.0.1", PORT).cloned();
    let seen = ports
        .wait(|document| of(document).is_some_and(|row| row.used == 4 && row.connect_failures == Some(1)))?;
    if let Some(document) = seen {
        let row = of(&document).context("no line for the destination")?;
        ensure!((row.used, row.available, row.free_at_failure) == (4, Some(ALL), Some(ALL - 4)), "{row:?}");
    }
    // Another destination: the ports of these connections are free for it, unless a bind() made them unavailable.
    let other = ClosingServer::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT + 1))?;
    for port in 41_004..41_008 {
        let binder = IpFamily::V4.socket()?;
        binder.bind(&SocketAddr::new(SOURCE.parse()?, port).into())?;
    }
    let socket = IpFamily::V4.socket()?;
    option::set(&socket, IP_LOCAL_PORT_RANGE, own_range)?;
    let result = socket.connect(&other.address.into()).map_err(|error| error.kind());
    let is_released = kernel::version() >= (6, 18);
    let expected = if is_released { Ok(()) } else { Err(ErrorKind::AddrNotAvailable) };
    ensure!(result == expected, "after bind(): {result:?}");
    drop((held, socket));
    server.stop()?;
    other.stop()?;
    ports.finish()
}

/// `haproxy` with a source address and a range of ports binds without `IP_BIND_ADDRESS_NO_PORT`. `doctor` names it when its
/// `bind()` fails with EADDRINUSE, and a connection through it with that.
pub fn haproxy(lab: &Lab) -> Result<()> {
    let version = Command::new("haproxy").arg("-v").finish();
    version.map_err(|_| Skip("needs haproxy: package haproxy".into()))?;
    self_test_elsewhere(lab)?;
    netns::sysctl("ip_local_port_range", RANGE)?;
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, BACKEND))?;
    backend.set_nonblocking(true)?;
    // Without SO_REUSEADDR, which HAProxy sets.
    let taken: Vec<Socket> = (0..TAKEN)
        .map(|n| {
            let socket = IpFamily::V4.socket()?;
            socket.bind(&SocketAddr::new(SOURCE.parse()?, 41_000 + n as u16).into())?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    let folder = TempFolder::new()?;
    let doctor = Doctor::start(lab)?;
    let mut proxy = start_haproxy(&folder)?;

    let mut held = Vec::new();
    let mut reached = 0;
    for n in 0..=ALL - TAKEN {
        let client = through_proxy(50_000 + n as u16)?;
        let forwarded = wait_for("the proxy to connect or to give up", soon(), || {
            match (backend.accept(), is_closed(&client)?) {
                (Ok((socket, from)), _) => Ok(Some(Some((socket, from)))),
                (Err(_), true) => Ok(Some(None)),
                (Err(_), false) => Ok(None),
            }
        })?;
        if let Some((socket, from)) = forwarded {
            ensure!(from.ip().to_string() == SOURCE, "{from}");
            reached += 1;
            held.push((client, Some(socket)));
        } else {
            held.push((client, None));
        }
    }
    ensure!(reached == ALL - TAKEN, "{reached} connections reached the backend");
    let left = bind_until_none_is_left(SOURCE)?.len();
    ensure!(left == 0, "{left} ports were left");

    let report = doctor.finish()?;
    let found =
        report.finding(if lists_bound_sockets() { "bind_ports_exhausted" } else { "bind_ports_near" })?;
    ensure!(found.number("open")? == ALL - TAKEN, "{found:#?}");
    let who = found.who.iter().find(|who| who.pid == Some(proxy.id())).context("the proxy is not named")?;
    ensure!(who.comm.as_deref() == Some("haproxy") && who.service == SOURCE, "{found:#?}");
    proxy.kill().ok();
    drop((held, taken));
    Ok(())
}

/// `inet_diag` lists sockets that are bound and not connected since 6.8.
fn lists_bound_sockets() -> bool {
    kernel::version() >= (6, 8)
}

fn at(address: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address.parse()?, 0))
}

/// Binds without a port until `EADDRINUSE`.
fn bind_until_none_is_left(address: &str) -> Result<Vec<Socket>> {
    let mut bound = Vec::new();
    loop {
        let socket = IpFamily::V4.socket()?;
        match socket.bind(&at(address)?.into()) {
            Ok(()) => bound.push(socket),
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Ok(bound),
            Err(error) => return Err(error).context("bind"),
        }
    }
}

/// A proxy that keeps its connection to the backend for as long as a client is connected.
fn start_haproxy(folder: &TempFolder) -> Result<KillOnDrop> {
    let config = folder.file("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n maxconn 100\n\
             defaults\n mode tcp\n retries 0\n timeout connect 5s\n timeout client 5m\n timeout server 5m\n\
             listen proxy\n bind 127.0.0.1:{PROXY}\n server backend 127.0.0.1:{BACKEND} source {SOURCE}:41000-41019\n"
        ),
    )?;
    let mut command = Command::new("haproxy");
    command.args(["-db", "-q", "-f"]).arg(&config);
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).start();
    let mut proxy = KillOnDrop(started.context("start haproxy")?);
    wait_for("haproxy to listen", soon(), || {
        ensure!(proxy.try_wait()?.is_none(), "haproxy ended");
        let sockets = kernel::sockets()?;
        Ok(sockets.iter().any(|socket| socket.state == Listen && socket.local.port() == PROXY).then_some(()))
    })?;
    Ok(proxy)
}

/// A connection to the proxy from a port outside the range.
fn through_proxy(port: u16) -> Result<TcpStream> {
    let socket = IpFamily::V4.socket()?;
    socket.bind(&SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).into())?;
    socket.connect(&SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PROXY).into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn is_closed(mut client: &TcpStream) -> Result<bool> {
    match client.read(&mut [0]) {
        Ok(read) => Ok(read == 0),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(true),
        Err(error) => Err(error.into()),
    }
}
