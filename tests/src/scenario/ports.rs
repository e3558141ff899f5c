//! Local ports: a client that runs out of them, and which sockets use one.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::Socket;
use tcptrace_common::state::TcpState::TimeWait;

use crate::clock::{WALL_OFFSET_NS, hold, is_emulated, now_ns};
use crate::doctor::Doctor;
use crate::json_snapshots::decode;
use crate::lab::{Lab, run_to_end};
use crate::pair::IpFamily;
use crate::ports::{self, PortsDestination, PortsDocument, PortsRun};
use crate::precision::Precision;
use crate::process::{self, StartChild as _};
use crate::{kernel, netns};

const PORT: u16 = 7_000;
/// 100 ports, of which 5 are reserved.
const RANGE: &str = "41000 41099";
const RESERVED: &str = "41090-41094";
const BUDGET: u64 = 95;
/// Between two connections of the client.
const APART: Duration = Duration::from_millis(80);
const TRIES_IN_VAIN: u64 = 7;
/// `nobody`.
const NOBODY: u32 = 65_534;

/// A client opens and closes connections at a constant rate until it has no port left. `ports` predicts when,
/// counts what failed, names the client, and counts what is reused once `tcp_tw_reuse` is on.
pub fn exhaustion(lab: &Lab) -> Result<()> {
    self_test_elsewhere(lab)?;
    netns::sysctl("ip_local_port_range", RANGE)?;
    netns::sysctl("ip_local_reserved_ports", RESERVED)?;
    netns::keep_time_wait()?;
    let server = ClosingServer::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT))?;
    let ports = ports::start(lab)?;
    let of = |document: &PortsDocument| document.find(lab.netns(), "127.0.0.1", "127.0.0.1", PORT).cloned();

    let began_ns = now_ns();
    let mut opened = Vec::new();
    while let Some(port) = connect_and_close(server.address)? {
        opened.push(port);
        hold(APART);
    }
    let ended_ns = now_ns();
    let distinct = BTreeSet::from_iter(&opened).len() as u64;
    ensure!(distinct == BUDGET, "{distinct} ports, not {BUDGET}: {opened:?}");
    // On an overloaded machine one or two ports were released early, for an unknown reason.
    if opened.len() as u64 > distinct {
        println!("  {} connections from {distinct} ports: {opened:?}", opened.len());
    }
    for _ in 1..TRIES_IN_VAIN {
        ensure!(connect_and_close(server.address)?.is_none(), "a port came back too early");
    }
    let in_time_wait = time_waits(server.address)?;
    let seen = ports.wait(|document| {
        of(document)
            .is_some_and(|row| row.connect_failures == Some(TRIES_IN_VAIN) && row.time_wait == in_time_wait)
    })?;
    if let Some(seen) = seen {
        let row = of(&seen).context("no line for the destination")?;
        ensure!(
            (row.used, row.available, row.time_wait, row.connect_failures, row.exhausted_in_ns)
                == (BUDGET, Some(BUDGET), in_time_wait, Some(TRIES_IN_VAIN), Some(0)),
            "{in_time_wait} in TIME_WAIT, {TRIES_IN_VAIN} in vain: {row:?}"
        );
        let pids: Vec<u32> = row.processes.iter().map(|process| process.pid).collect();
        ensure!(pids == [std::process::id()], "the client is {}: {:?}", std::process::id(), row.processes);
        let documents = ports.documents()?;
        let row = |document| of(document).map(|row| (row.exhausted_in_ns, format!("{row:?}")));
        let rows = documents.iter().map(|document| (document.taken_at.as_str(), row(document)));
        predicted(rows, began_ns, ended_ns, 2 * APART)?;
    }
    reused(&ports, of, &server)?;
    server.stop()?;
    ports.finish()
}

/// The precision comes from a self-test, whose connection leaves a `TIME_WAIT` that holds its port: a port outside the range.
pub(super) fn self_test_elsewhere(lab: &Lab) -> Result<()> {
    netns::sysctl("ip_local_port_range", "20000 20099")?;
    if let Ok(binary) = lab.binary() {
        Precision::of(binary)?;
    }
    Ok(())
}

/// In the last half of the run, the predicted time is within a fifth of the time left, give or take `slack`.
/// A document is its wall-clock time, and of its row for the destination the predicted time and a text.
pub(super) fn predicted<'a>(
    documents: impl Iterator<Item = (&'a str, Option<(Option<u64>, String)>)>,
    began_ns: u64,
    ended_ns: u64,
    slack: Duration,
) -> Result<()> {
    let mut checked = 0;
    for (taken_at, row) in documents {
        let at_ns = wall_ns(taken_at)?.saturating_sub(*WALL_OFFSET_NS);
        if at_ns < began_ns.midpoint(ended_ns) || at_ns >= ended_ns {
            continue;
        }
        let left_ns = ended_ns - at_ns;
        let (in_ns, row) = row.context("the destination is missing on the way")?;
        let reported_ns = in_ns.with_context(|| format!("{left_ns} ns before the end: never"))?;
        let allowed_ns = left_ns / 5 + slack.as_nanos() as u64;
        ensure!(
            reported_ns.abs_diff(left_ns) <= allowed_ns,
            "{reported_ns} ns predicted, {left_ns} ns left: {row}"
        );
        checked += 1;
    }
    ensure!(checked >= 10, "only {checked} documents on the way");
    Ok(())
}

/// From half of the range on `connect()` searches long: `ports` says how long, within what the client's own clock measures, and
/// `doctor` warns there. A destination with two fifths of its ports in use has a short search, and no warning.
pub fn search(lab: &Lab) -> Result<()> {
    self_test_elsewhere(lab)?;
    netns::keep_time_wait()?;
    let all: u64 = if is_emulated() { 3_000 } else { 12_000 };
    netns::sysctl("ip_local_port_range", &format!("20000 {}", 19_999 + all))?;
    let [calm, crowded] = [PORT, PORT + 1].map(|port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    let servers = [ClosingServer::start(calm)?, ClosingServer::start(crowded)?];
    connects(crowded, all * 3 / 5)?;
    connects(calm, all * 2 / 5)?;

    let ports = ports::start(lab)?;
    let mut took = connects(calm, 20)?;
    let doctor = Doctor::start(lab)?;
    // To `doctor` four are never growth (`aggregate::ports::predict::SPREADS`), also where none is known to be in TIME_WAIT yet:
    // without segments that step is found a second late.
    took.extend(connects(calm, 4)?);
    let (calm_ns, crowded_ns) = (median(took), median(connects(crowded, all / 10)?));
    let of = |document: &PortsDocument, to: SocketAddr| {
        document.find(lab.netns(), "127.0.0.1", "127.0.0.1", to.port()).cloned()
    };
    let count = |document: &PortsDocument, to| {
        of(document, to).and_then(|row| row.connect_search_ns).map_or(0, |search| search.count)
    };
    // Some may have left the seconds that the quantiles are of.
    let document = ports.wait(|document| count(document, crowded) > all / 20)?;
    let findings = doctor.finish()?;
    servers.into_iter().try_for_each(ClosingServer::stop)?;
    let Some(document) = document else { return ports.finish() };
    let row = |to| of(&document, to).context("no line for the destination");
    let search_ns = |to| anyhow::Ok(row(to)?.connect_search_ns.context("no search")?.p50);
    let (calm_search_ns, crowded_search_ns) = (search_ns(calm)?, search_ns(crowded)?);
    println!(
        "   ports::search: connect() took {calm_ns} and {crowded_ns} ns, of them {calm_search_ns} and {crowded_search_ns} ns search"
    );
    ensure!(row(calm)?.slow_above.is_some_and(|above| above.abs_diff(all / 2) < 20), "{:?}", row(calm)?);
    // Quantiles are to a quarter.
    for (search_ns, took_ns) in [(calm_search_ns, calm_ns), (crowded_search_ns, crowded_ns)] {
        ensure!(search_ns <= took_ns * 5 / 4, "{search_ns} ns of search, but connect() took {took_ns} ns");
    }
    ensure!(crowded_search_ns >= crowded_ns / 3, "only {crowded_search_ns} of {crowded_ns} ns");
    ensure!(crowded_search_ns > 3 * calm_search_ns, "{crowded_search_ns} and {calm_search_ns} ns");
    let found = findings.finding("client_ports_near")?;
    let named: BTreeSet<_> = found.who.iter().map(|who| who.service.clone()).collect();
    ensure!(named == [crowded.to_string()].into(), "{found:#?}");
    ensure!(found.evidence[0].contains("connect() searches"), "{found:#?}");
    ports.finish()
}

/// Makes so many connections, one after the other; returns how long each `connect()` took, in nanoseconds.
fn connects(to: SocketAddr, count: u64) -> Result<Vec<u64>> {
    let connect = |n| {
        let began_ns = now_ns();
        ensure!(connect_and_close(to)?.is_some(), "connect {n} to {to} found no port");
        Ok(now_ns() - began_ns)
    };
    (0..count).map(connect).collect()
}

fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times[times.len() / 2]
}

/// With `tcp_tw_reuse` the same client continues; tracer and kernel counts agree.
fn reused(
    ports: &PortsRun,
    of: impl Fn(&PortsDocument) -> Option<PortsDestination>,
    server: &ClosingServer,
) -> Result<()> {
    netns::sysctl("tcp_tw_reuse", "1")?;
    let is_on = |document: &PortsDocument| of(document).is_some_and(|row| row.tw_reuse.effect == "on");
    let document = ports.wait(is_on)?;
    ensure!(document.is_none_or(|document| is_on(&document)), "the setting was not seen");
    hold(Duration::from_millis(1_200));
    let before = kernel::counter("TWRecycled")?;
    for n in 0..20 {
        ensure!(connect_and_close(server.address)?.is_some(), "connection {n} found no port");
        hold(APART);
    }
    let recycled = kernel::counter("TWRecycled")? - before;
    // On a slow machine a port may be free again, so that a connection recycles none: the tracer must count as the kernel does.
    ensure!((15..=20).contains(&recycled), "the kernel recycled {recycled}");
    // On a slow machine a TIME_WAIT may be over by now: the kernel knows how many ports are in use.
    // Nor do ports run out, once the last connections are in TIME_WAIT: until then more are opened than closed.
    let is_counted = |row: &PortsDestination| {
        row.tw_reuse.reused == Some(recycled)
            && ports_in_use(server.address).is_ok_and(|in_use| in_use == row.used)
            && row.exhausted_in_ns.is_none()
    };
    let document = ports.wait(|document| of(document).is_some_and(|row| is_counted(&row)))?;
    if let Some(document) = document {
        let row = of(&document).context("no line for the destination")?;
        ensure!(
            is_counted(&row),
            "{recycled} recycled, {} ports in use: {row:?}",
            ports_in_use(server.address)?
        );
    }
    Ok(())
}

/// Local ports of the connections to a server, by the kernel.
fn ports_in_use(to: SocketAddr) -> Result<u64> {
    let sockets = kernel::sockets()?;
    let ports = sockets.iter().filter(|socket| socket.remote == to).map(|socket| socket.local.port());
    Ok(ports.collect::<BTreeSet<_>>().len() as u64)
}

/// The use of the budgets of destinations: two of them at once, two local addresses, IPv6, IPv4 on an IPv6 socket,
/// ports of `bind()` inside and outside the range, listeners, and another namespace with other settings.
pub fn budgets(lab: &Lab) -> Result<()> {
    self_test_elsewhere(lab)?;
    netns::sysctl("ip_local_port_range", RANGE)?;
    let ports = ports::start(lab)?;
    let first = ClosingServer::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT))?;
    let second = ClosingServer::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT + 1))?;
    let six = ClosingServer::start(SocketAddr::new(IpFamily::V6.loopback(), PORT))?;
    let _listener_in_range = TcpListener::bind((Ipv4Addr::LOCALHOST, 41_050))?;

    let mut held = Vec::new();
    let mut open = |server: &ClosingServer, local: Option<(&str, u16)>| -> Result<()> {
        let socket = if server.address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }.socket()?;
        if let Some((local, port)) = local {
            socket.bind(&SocketAddr::new(local.parse()?, port).into())?;
        }
        socket.connect(&server.address.into())?;
        held.push(socket);
        Ok(())
    };
    for _ in 0..3 {
        open(&first, None)?;
    }
    open(&second, None)?;
    open(&second, None)?;
    open(&first, Some(("127.0.0.2", 41_060)))?;
    open(&first, Some(("127.0.0.2", 6_000)))?;
    for _ in 0..4 {
        open(&six, None)?;
    }
    let mapped = IpFamily::V6.socket()?;
    mapped.connect(&SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), PORT).into())?;
    held.push(mapped);
    let elsewhere = Elsewhere::start()?;

    // Listener and bind() in the range; 98 are left for everybody.
    let expected = [
        (lab.netns(), "127.0.0.1", "127.0.0.1", PORT, (4, 0, 0, Some(98))),
        (lab.netns(), "127.0.0.1", "127.0.0.1", PORT + 1, (2, 0, 0, Some(98))),
        (lab.netns(), "127.0.0.2", "127.0.0.1", PORT, (0, 1, 1, Some(98))),
        (lab.netns(), "::1", "::1", PORT, (4, 0, 0, Some(98))),
        (elsewhere.netns, "127.0.0.1", "127.0.0.1", PORT, (1, 0, 0, Some(10))),
    ];
    let row = |document: &PortsDocument, netns, saddr: &str, daddr: &str, dport| {
        let row = document.find(netns, saddr, daddr, dport)?;
        Some((row.used, row.bound, row.outside_range, row.available))
    };
    let document = ports.wait(|document| {
        expected.iter().all(|&(netns, saddr, daddr, dport, wanted)| {
            row(document, netns, saddr, daddr, dport) == Some(wanted)
        })
    })?;
    if let Some(document) = document {
        for (netns, saddr, daddr, dport, wanted) in expected {
            let seen = row(&document, netns, saddr, daddr, dport);
            ensure!(seen == Some(wanted), "{saddr} -> {daddr}:{dport} in {netns}: {seen:?}, not {wanted:?}");
        }
        let budget = document.netns.iter().find(|budget| budget.netns == lab.netns());
        ensure!(budget.is_some_and(|budget| budget.taken_by_bind == 2), "{budget:?}");
    }
    drop(held);
    elsewhere.stop()?;
    for server in [first, second, six] {
        server.stop()?;
    }
    ports.finish()
}

/// Without privilege: levels and budget, and what is missing.
pub fn single_snapshot(lab: &Lab) -> Result<()> {
    netns::sysctl("ip_local_port_range", RANGE)?;
    let binary = lab.public_copy()?;
    let server = ClosingServer::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT))?;
    let held: Vec<Socket> = (0..3)
        .map(|_| {
            let socket = IpFamily::V4.socket()?;
            socket.connect(&server.address.into())?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    let mut command = Command::new(&binary.0);
    command.args(["ports", "--json"]).uid(NOBODY).gid(NOBODY);
    let output = run_to_end(command).context("as nobody")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "it ended with {}: {stderr}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let document = decode::<PortsDocument>(&text)?;
    let row = document.find(lab.netns(), "127.0.0.1", "127.0.0.1", PORT).context("no line")?;
    ensure!(
        (row.used, row.available, row.entered_per_s, row.connect_failures) == (3, Some(100), None, None),
        "{row:?}"
    );
    ensure!(text.contains("CAP_BPF"), "it does not say what is missing: {text}");
    drop(held);
    server.stop()
}

/// Connects and closes first; the other side closes then. Returns the local port, `None` if none was left.
fn connect_and_close(to: SocketAddr) -> Result<Option<u16>> {
    let socket = if to.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }.socket()?;
    match socket.connect(&to.into()) {
        Ok(()) => {
            let port = socket.local_addr()?.as_socket().map(|local| local.port());
            // Else a child of another scenario may close it, and be its owner from then on.
            process::close(socket);
            Ok(port)
        }
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Ok(None),
        Err(error) => bail!("connect to {to}: {error}"),
    }
}

/// The kernel's count.
fn time_waits(to: SocketAddr) -> Result<u64> {
    let sockets = kernel::sockets()?;
    Ok(sockets.iter().filter(|socket| socket.state == TimeWait && socket.remote == to).count() as u64)
}

fn wall_ns(text: &str) -> Result<u64> {
    let clock = text.strip_suffix('Z').and_then(|text| text.split_once('T')).context("a time")?;
    let days = days_since_epoch(clock.0)?;
    let mut parts = clock.1.split(':');
    let mut next = || parts.next().context("a time of day");
    let (hours, minutes, seconds): (u64, u64, f64) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
    Ok(((days * 24 + hours) * 60 + minutes) * 60_000_000_000 + (seconds * 1e9) as u64)
}

/// Of a date of the Gregorian calendar.
fn days_since_epoch(date: &str) -> Result<u64> {
    let mut parts = date.split('-').map(str::parse::<u64>);
    let mut next = || anyhow::Ok(parts.next().context("a date")??);
    let (year, month, day) = (next()?, next()?, next()?);
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    Ok(year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468)
}

/// Accepts, waits for the peer's close and closes.
pub(super) struct ClosingServer {
    pub(super) address: SocketAddr,
    stopped: std::sync::Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl ClosingServer {
    pub(super) fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let stopped = std::sync::Arc::new(AtomicBool::new(false));
        let stop = std::sync::Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            let mut open = Vec::new();
            while let Ok((socket, _)) = listener.accept() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                socket.set_nonblocking(true).ok();
                open.push(socket);
                open.retain(|socket| !matches!(socket.peek(&mut [0]), Ok(0)));
            }
        });
        Ok(Self { address, stopped, thread })
    }

    pub(super) fn stop(self) -> Result<()> {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes it up, from a port outside the range.
        let socket = if self.address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }.socket()?;
        let ip: IpAddr = self.address.ip();
        socket.bind(&SocketAddr::new(ip, 900).into()).ok();
        socket.connect(&self.address.into()).context("wake the server")?;
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(())
    }
}

/// A namespace with ten ports, one of them in use, that a process stays in.
struct Elsewhere {
    netns: u32,
    process: Child,
    _held: (TcpListener, Socket),
}

impl Elsewhere {
    fn start() -> Result<Self> {
        let thread = std::thread::spawn(|| -> Result<Self> {
            let netns = netns::enter_new()?;
            netns::sysctl("ip_local_port_range", "50000 50009")?;
            let process = Command::new("sleep").arg("300").stdin(Stdio::null()).start().context("sleep")?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))?;
            let socket = IpFamily::V4.socket()?;
            socket.connect(&listener.local_addr()?.into())?;
            Ok(Self { netns, process, _held: (listener, socket) })
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn stop(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}
