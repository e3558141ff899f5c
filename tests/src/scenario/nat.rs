//! A gateway that translates the sources of two clients' connections to 100 ports.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

use crate::clock::{hold, now_ns};
use crate::doctor::Doctor;
use crate::json_snapshots::JsonSnapshots;
use crate::lab::{Lab, Skip};
use crate::ports::{self, PortsBackend, PortsDocument};
use crate::process::{KillOnDrop, StartChild as _};
use crate::scenario::ports::{ClosingServer, predicted};
use crate::{kernel, netns};

const CLIENTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 71, 0, 2), Ipv4Addr::new(10, 71, 0, 3)];
const GATEWAY: &str = "10.72.0.1";
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 2);
/// Connections to it are closed at once.
const PORT: u16 = 7_000;
/// Connections to it stay open.
const HELD_PORT: u16 = PORT + 1;
const RANGE: &str = "40000-40099";
const PORTS: u64 = 100;
/// The address of a service, which nobody has.
const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 1), 80);
/// Connections to it.
const BEHIND: u64 = 5;
/// Between two connections that stay open.
const APART: Duration = Duration::from_millis(200);
/// Connections beyond the range.
const IN_VAIN: u64 = 10;

/// The fields of a `tcptrace.ports.v1` document that this scenario uses.
#[derive(Clone, Debug, Deserialize)]
struct NatDocument {
    taken_at: String,
    conntrack: Vec<NatTable>,
    nat: Vec<NatRow>,
}

#[derive(Clone, Debug, Deserialize)]
struct NatTable {
    netns: u32,
    insert_failed: Option<u64>,
    drop: Option<u64>,
    evicts_time_wait: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct NatRow {
    netns: u32,
    snat_addr: String,
    daddr: String,
    dport: u16,
    used: u64,
    time_wait: u64,
    reclaimable: u64,
    held: u64,
    available: u64,
    exhausted_in_ns: Option<u64>,
    workloads: Vec<NatWorkload>,
}

#[derive(Clone, Debug, Deserialize)]
struct NatWorkload {
    saddr: String,
    used: u64,
}

impl NatDocument {
    fn row(&self, netns: u32, dport: u16) -> Option<&NatRow> {
        self.nat.iter().find(|row| {
            (row.netns, &*row.snat_addr, &*row.daddr, row.dport)
                == (netns, GATEWAY, &*SERVER.to_string(), dport)
        })
    }

    fn table(&self, netns: u32) -> Option<&NatTable> {
        self.conntrack.iter().find(|table| table.netns == netns)
    }
}

/// First 110 connections that are closed at once, one after the other; then 100 that stay open, and 10 beyond.
pub fn masquerade(lab: &Lab) -> Result<()> {
    let gateway = Gateway::start()?;
    let ports =
        JsonSnapshots::<NatDocument>::start(lab, &["ports", "--nat", "--json", "--interval", "100ms"])?;
    passing(lab, &gateway, &ports)?;
    staying(lab, &gateway, &ports)?;
    ports.finish()
}

/// A client connects to an address that the gateway translates to that of the server, as a Service does: `ports` shows the
/// server beside it, with the connections that the server accepted.
pub fn backends(lab: &Lab) -> Result<()> {
    let gateway = Gateway::start()?;
    let to = format!("{SERVER}:{PORT}");
    let service = SERVICE.ip().to_string();
    let port = SERVICE.port().to_string();
    command(
        "iptables",
        &[
            "-t",
            "nat",
            "-A",
            "PREROUTING",
            "-p",
            "tcp",
            "-d",
            &service,
            "--dport",
            &port,
            "-j",
            "DNAT",
            "--to",
            &to,
        ],
    )
    .map_err(|error| Skip(format!("this host translates no destinations: {error:#}")))?;
    let listener = gateway.server.inside(|| Ok(TcpListener::bind((SERVER, PORT))?))?;
    let ports = ports::start(lab)?;
    let mut held = Vec::new();
    for _ in 0..BEHIND {
        held.push(gateway.client.inside(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.connect_timeout(&SocketAddr::V4(SERVICE).into(), Duration::from_secs(3))?;
            Ok(socket)
        })?);
        listener.accept()?;
    }
    let client = gateway.client.netns()?;
    let of = |document: &PortsDocument| {
        let row = document.destinations.iter().find(|row| (row.netns, &row.daddr) == (client, &service))?;
        Some((row.dport, row.used, row.backends.clone()))
    };
    let backend = PortsBackend { daddr: SERVER.to_string(), dport: PORT, used: BEHIND };
    let expected = (SERVICE.port(), BEHIND, vec![backend]);
    let seen = ports.wait(|document| of(document).as_ref() == Some(&expected))?;
    if let Some(document) = seen {
        ensure!(of(&document).as_ref() == Some(&expected), "{:?}", of(&document));
    }
    drop(held);
    ports.finish()
}

/// Connections that are closed leave ports in TIME_WAIT, which are reclaimable where the kernel evicts them.
fn passing(lab: &Lab, gateway: &Gateway, ports: &JsonSnapshots<NatDocument>) -> Result<()> {
    let server = gateway.server.inside(|| ClosingServer::start((SERVER, PORT).into()))?;
    let doctor = Doctor::start(lab)?;
    let first = ports.next()?;
    let evicts = gateway.evicts;
    // Before Linux 6.5 the 101st would find no port.
    let count = if evicts { PORTS + 10 } else { PORTS / 2 };
    for n in 0..count {
        let client = CLIENTS[usize::from(n % 2 == 1)];
        gateway
            .client
            .inside(|| connect(client, PORT, Duration::from_secs(3)).map(drop))
            .with_context(|| format!("connection {n}"))?;
    }
    let entries = || table(PORT);
    let is_counted = |row: &NatRow| {
        entries().is_ok_and(|entries| {
            let in_states = |states: &[&str]| {
                entries.iter().filter(|entry| states.contains(&&*entry.state)).count() as u64
            };
            let reclaimable = if evicts { in_states(&["TIME_WAIT", "CLOSE"]) } else { 0 };
            (row.used, row.time_wait, row.reclaimable)
                == (entries.len() as u64, in_states(&["TIME_WAIT"]), reclaimable)
        })
    };
    let document = ports.wait(|document| document.row(lab.netns(), PORT).is_some_and(is_counted))?;
    if let Some(document) = document {
        let row = document.row(lab.netns(), PORT).context("no line for the destination")?;
        ensure!(is_counted(row), "{row:?}, not {:#?}", entries()?);
        let is_known = document.table(lab.netns()).is_some_and(|table| table.evicts_time_wait == evicts);
        ensure!(is_known, "{:?}, but the kernel evicts: {evicts}", document.conntrack);
        ensure!(row.available == PORTS, "{row:?}");
        for document in ports.documents()? {
            let row = document.row(lab.netns(), PORT);
            ensure!(row.is_none_or(|row| row.exhausted_in_ns.is_none()), "exhaustion is predicted: {row:?}");
        }
        ensure!(
            first.is_none_or(|first| first.row(lab.netns(), PORT).is_none()),
            "a line before any connection"
        );
        let report = doctor.finish()?;
        let warnings = report.findings.iter().filter(|found| found.id.starts_with("nat_"));
        ensure!(warnings.count() == 0, "{:#?}", report.findings);
    }
    gateway.server.inside(|| server.stop())
}

/// Connections that stay open hold their ports until none is left; the time of it is predicted.
fn staying(lab: &Lab, gateway: &Gateway, ports: &JsonSnapshots<NatDocument>) -> Result<()> {
    let port = HELD_PORT;
    let doctor = Doctor::start(lab)?;
    let before = counters()?;
    let first = ports.next()?;
    let began_ns = now_ns();
    let held = gateway.hold_all_ports(APART)?;
    let ended_ns = now_ns();
    connect_in_vain(gateway)?;
    let grown = || -> Result<[u64; 2]> {
        let now = counters()?;
        Ok([now[0] - before[0], now[1] - before[1]])
    };
    ensure!(grown()?[0] >= IN_VAIN, "the kernel counts {:?} of {IN_VAIN} SYNs", grown()?);
    let table_of = |document: &NatDocument| {
        let table = document.table(lab.netns())?;
        Some([table.insert_failed?, table.drop?])
    };
    let base = first.as_ref().and_then(table_of).unwrap_or_default();
    let is_complete = |document: &NatDocument| {
        let counted = table_of(document).map(|now| [now[0] - base[0], now[1] - base[1]]);
        document.row(lab.netns(), port).is_some_and(|row| row.exhausted_in_ns == Some(0) && row.held == PORTS)
            && counted == grown().ok()
    };
    let Some(document) = ports.wait(is_complete)? else { return Ok(()) };
    ensure!(is_complete(&document), "the kernel counts {:?} beyond {base:?}: {document:#?}", grown()?);
    let row = document.row(lab.netns(), port).context("no line for the destination")?;
    let reported: BTreeMap<String, u64> =
        row.workloads.iter().map(|workload| (workload.saddr.clone(), workload.used)).collect();
    let mut listed = BTreeMap::new();
    for entry in table(port)? {
        *listed.entry(entry.source).or_default() += 1;
    }
    ensure!(reported == listed, "{reported:?}, the kernel has {listed:?}");
    let expected = [(CLIENTS[0].to_string(), 60), (CLIENTS[1].to_string(), 40)];
    ensure!(reported == BTreeMap::from(expected), "{reported:?}");
    ensure!((row.used, row.available, row.reclaimable) == (PORTS, PORTS, 0), "{row:?}");
    let documents = ports.documents()?;
    let row = |document: &NatDocument| {
        document.row(lab.netns(), port).map(|row| (row.exhausted_in_ns, format!("{row:?}")))
    };
    let rows = documents.iter().map(|document| (document.taken_at.as_str(), row(document)));
    predicted(rows, began_ns, ended_ns, 3 * APART)?;

    let report = doctor.finish()?;
    let found = report.finding("nat_ports_exhausted")?;
    ensure!(found.severity == "critical" && found.number("held")? == PORTS, "{found:#?}");
    ensure!(found.number("insert_failed")? >= IN_VAIN, "{found:#?}");
    let names_client = |client: Ipv4Addr, count| {
        found.who.iter().any(|who| who.service.starts_with(&format!("{client} to ")) && who.count == count)
    };
    ensure!(names_client(CLIENTS[0], 60) && names_client(CLIENTS[1], 40), "{found:#?}");
    ensure!(found.fix.iter().any(|line| line.contains("--to-ports 1024-65535")), "{found:#?}");
    drop(held);
    Ok(())
}

/// Connections beyond the range.
pub(super) fn connect_in_vain(gateway: &Gateway) -> Result<()> {
    for n in 0..IN_VAIN {
        let more = gateway.client.inside(|| connect(CLIENTS[0], HELD_PORT, Duration::from_millis(300)));
        ensure!(more.is_err(), "connection {n} beyond the range succeeded");
    }
    Ok(())
}

/// Connects from a port that the kernel chooses.
fn connect(from: Ipv4Addr, port: u16, time_out: Duration) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&SocketAddrV4::new(SERVER, port).into(), time_out)?;
    Ok(socket)
}

/// One entry of the kernel's table.
#[derive(Debug)]
struct TableEntry {
    state: String,
    /// Original source address.
    source: String,
}

/// The entries for connections to a port, in this thread's namespace.
fn table(port: u16) -> Result<Vec<TableEntry>> {
    let text = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").context("nf_conntrack")?;
    let to = format!("dport={port}");
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let source = words.iter().find_map(|word| word.strip_prefix("src="))?;
        Some(TableEntry { state: (*words.get(5)?).into(), source: source.into() })
    };
    Ok(text.lines().filter(|line| line.split_whitespace().any(|word| word == to)).filter_map(entry).collect())
}

/// `insert_failed` and `drop` of this thread's namespace.
fn counters() -> Result<[u64; 2]> {
    let text =
        std::fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack").context("stat/nf_conntrack")?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let mut sums = [0; 2];
    for line in lines {
        for (sum, name) in sums.iter_mut().zip(["insert_failed", "drop"]) {
            let column = names.iter().position(|known| *known == name).context("a column")?;
            let value = line.split_whitespace().nth(column).context("a value")?;
            *sum += u64::from_str_radix(value, 16)?;
        }
    }
    Ok(sums)
}

/// This thread's namespace, between those of the clients and the server.
pub(super) struct Gateway {
    client: NetnsHost,
    server: NetnsHost,
    /// Whether the kernel evicts entries in TIME_WAIT (Linux 6.5).
    evicts: bool,
}

impl Gateway {
    /// One connection for each port, this far apart: 60 from the first client and 40 from the second.
    pub(super) fn hold_all_ports(&self, apart: Duration) -> Result<(TcpListener, Vec<Socket>)> {
        let listener = self.server.inside(|| Ok(TcpListener::bind((SERVER, HELD_PORT))?))?;
        let mut held = Vec::new();
        for n in 0..PORTS {
            let client = CLIENTS[usize::from(n % 5 >= 3)];
            held.push(self.client.inside(|| connect(client, HELD_PORT, Duration::from_secs(3)))?);
            hold(apart);
        }
        Ok((listener, held))
    }

    pub(super) fn start() -> Result<Self> {
        let (client, server) = (NetnsHost::start()?, NetnsHost::start()?);
        for (link, host, addr) in [("c0", &client, "10.71.0.1/24"), ("s0", &server, "10.72.0.1/24")] {
            let pid = host.pid();
            ip(&["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", &pid])
                .map_err(|error| Skip(format!("this host has no pairs of devices (veth): {error:#}")))?;
            ip(&["addr", "add", addr, "dev", link])?;
            ip(&["link", "set", link, "up"])?;
        }
        client.inside(|| {
            for addr in CLIENTS {
                ip(&["addr", "add", &format!("{addr}/24"), "dev", "eth0"])?;
            }
            ip(&["link", "set", "eth0", "up"])?;
            ip(&["route", "add", "default", "via", "10.71.0.1"])
        })?;
        server.inside(|| {
            ip(&["addr", "add", &format!("{SERVER}/24"), "dev", "eth0"])?;
            ip(&["link", "set", "eth0", "up"])
        })?;
        netns::sysctl("ip_forward", "1")?;
        let rule = [
            "-t",
            "nat",
            "-A",
            "POSTROUTING",
            "-o",
            "s0",
            "-p",
            "tcp",
            "-j",
            "MASQUERADE",
            "--to-ports",
            RANGE,
        ];
        let skip = |why: String| Skip(format!("this host translates no addresses: {why}"));
        command("iptables", &rule).map_err(|error| skip(format!("{error:#}")))?;
        table(PORT).map_err(|error| skip(format!("{error:#}")))?;
        Ok(Self { client, server, evicts: kernel::version() >= (6, 5) })
    }
}

/// A network namespace that a process stays in.
pub(super) struct NetnsHost {
    process: KillOnDrop,
}

impl NetnsHost {
    pub(super) fn start() -> Result<Self> {
        let thread = std::thread::spawn(|| -> Result<Self> {
            netns::enter_new()?;
            let process = Command::new("sleep").arg("300").stdin(Stdio::null()).start().context("sleep")?;
            Ok(Self { process: KillOnDrop(process) })
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The process that keeps it.
    pub(super) fn pid(&self) -> String {
        self.process.id().to_string()
    }

    /// Its inode number.
    pub(super) fn netns(&self) -> Result<u32> {
        Ok(std::fs::metadata(format!("/proc/{}/ns/net", self.process.id()))?.ino() as u32)
    }

    /// Runs `work` on a thread in this namespace, and waits for its result.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/proc/{}/ns/net", self.process.id());
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let link = File::open(&path).context("the namespace")?;
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&link), Some(LinkNameSpaceType::Network))?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Runs `ip` in this thread's namespace.
pub(super) fn ip(args: &[&str]) -> Result<()> {
    command("ip", args)
}

fn command(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).finish().with_context(|| program.to_owned())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {}", stderr.trim());
    Ok(())
}
