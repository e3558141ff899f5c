//! Filters: of two connections each filter shows the events of an unfiltered tracer that match it, and counts the matching
//! sockets of the kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use tcptrace_common::state::TcpState;

use crate::event::{EventLine, EventRole};
use crate::kernel;
use crate::lab::Lab;
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::tracer::TracerFormat;

const PORTS: [(IpFamily, u16); 2] = [(IpFamily::V4, 8080), (IpFamily::V6, 8081)];
/// Changes of state of one connection that the client closes first, and of its listener.
const CHANGES: usize = 5 + 5 + 2;

type EventFilter<T> = fn(&T) -> bool;

const EVENTS: &[(&[&str], EventFilter<EventLine>)] = &[
    (&["--peer", "127.0.0.0/8"], |event| event.daddr == IpAddr::V4(Ipv4Addr::LOCALHOST)),
    (&["--state", "time-wait"], |event| is_in(event, &[TcpState::TimeWait])),
    (&["--state", "syn-recv,fin-wait2"], |event| is_in(event, &[TcpState::SynRecv, TcpState::FinWait2])),
    (&["--role", "inbound"], |event| event.role == EventRole::Inbound),
    (&["--role", "listener"], |event| event.role == EventRole::Listener),
    (&["-4"], |event| event.saddr.is_ipv4()),
    (&["-6"], |event| event.saddr.is_ipv6()),
    (&["--lport", "8080"], |event| event.sport == 8080),
    (&["--filter", "not lport 8080 and not role listener"], |event| {
        event.sport != 8080 && event.role != EventRole::Listener
    }),
    (&["--rport", "8081", "--role", "outbound", "-6"], |event| event.dport == 8081),
    (&["--pid", "1"], |_| false),
];

fn is_in(event: &EventLine, states: &[TcpState]) -> bool {
    // An inbound connection was never in LISTEN itself, but this filter does not ask for that.
    states.contains(&event.from) || states.contains(&event.to)
}

/// `events` with each filter, against `events` without one.
pub fn events(lab: &Lab) -> Result<()> {
    let pid = std::process::id().to_string();
    let netns = lab.netns().to_string();
    let own_pid: (&[&str], EventFilter<EventLine>) =
        (&["--pid", &pid], |event| event.pid == Some(std::process::id()));
    let own_netns: (&[&str], EventFilter<EventLine>) = (&["--netns", &netns], |_| true);
    let other_netns: (&[&str], EventFilter<EventLine>) = (&["--filter", "netns 1"], |_| false);
    let cases = EVENTS.iter().copied().chain([own_pid, own_netns, other_netns]);

    let everything = lab.trace()?;
    let mut filtered = Vec::new();
    for (args, wanted) in cases {
        let args = [&["events", "--json"], args].concat();
        filtered.push((lab.trace_with(&args, TracerFormat::Json)?, args.join(" "), wanted));
    }
    for (family, port) in PORTS {
        let listener = TestSocket::listen(SocketAddr::new(family.loopback(), port))?;
        ConnectedPair::open_to(listener, family.socket()?)?.close_client_first()?;
    }

    // With so many tracers on a slow machine the first TIME_WAIT may be over by now.
    let is_ours = |event: &EventLine| event.netns == lab.netns() && event.from != TcpState::TimeWait;
    let all = everything.events(PORTS.len() * CHANGES, is_ours)?;
    ensure!(all.len() == PORTS.len() * CHANGES || !everything.is_present(), "without a filter: {all:#?}");
    for (tracer, args, wanted) in filtered {
        let expected = changes(all.iter().filter(|event| wanted(event)));
        let seen = changes(tracer.events(expected.len(), is_ours)?.iter());
        ensure!(seen == expected || !tracer.is_present(), "{args}: {seen:#?}, not {expected:#?}");
    }
    everything.finish()
}

/// Sorted by socket: each tracer emits the sockets of one sweep in an order of its own.
fn changes<'a>(events: impl Iterator<Item = &'a EventLine>) -> Vec<(u16, u16, &'static str, &'static str)> {
    let mut changes: Vec<_> = events.map(change).collect();
    changes.sort_by_key(|&(sport, dport, ..)| (sport, dport));
    changes
}

/// Without the id: while a handshake lasts each tracer makes one up.
fn change(event: &EventLine) -> (u16, u16, &'static str, &'static str) {
    (event.sport, event.dport, event.from.name(), event.to.name())
}

const COUNTS: &[(&[&str], EventFilter<kernel::DiagSocket>)] = &[
    (&["--rport", "8080"], |socket| socket.remote.port() == 8080),
    (&["--lport", "8080-8081", "--state", "established,listen"], |socket| {
        [8080, 8081].contains(&socket.local.port())
            && [TcpState::Established, TcpState::Listen].contains(&socket.state)
    }),
    (&["--filter", "state time-wait or lport 8081"], |socket| {
        socket.state == TcpState::TimeWait || socket.local.port() == 8081
    }),
    (&["--role", "listener"], |socket| socket.state == TcpState::Listen),
    (&["--state", "time-wait", "--peer", "::1"], |socket| {
        socket.state == TcpState::TimeWait && socket.remote.ip().is_ipv6()
    }),
];

/// `top` and `states` with each filter, against `sock_diag`.
pub fn counts(lab: &Lab) -> Result<()> {
    let netns = lab.netns().to_string();
    let mut pairs = Vec::new();
    for (family, port) in PORTS {
        let listener = TestSocket::listen(SocketAddr::new(family.loopback(), port))?;
        let mut closed = ConnectedPair::open_to(listener, family.socket()?)?;
        closed.close_client_first()?;
        pairs.push(ConnectedPair::open_to(closed.listener, family.socket()?)?);
    }
    let top = ["top", "--once", "--json", "--interval", "100ms", "--netns", &netns];
    let states = ["states", "--json", "--netns", &netns];
    for (args, wanted) in COUNTS {
        let mut expected = BTreeMap::new();
        for socket in kernel::sockets()?.iter().filter(|socket| wanted(socket)) {
            *expected.entry(socket.state.name().to_owned()).or_insert(0) += 1;
        }
        for command in [&top[..], &states] {
            let output = lab.run(&[command, args].concat())?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{} {args:?}: {stderr}", command[0]);
            let seen = by_state(&output.stdout)?;
            ensure!(seen == expected, "{} {args:?}: {seen:?}, not {expected:?}", command[0]);
        }
    }
    Ok(())
}

/// The counts in a document of `top` or `states`, zeros left out.
fn by_state(document: &[u8]) -> Result<BTreeMap<String, u64>> {
    let document: serde_json::Value = serde_json::from_slice(document)?;
    let rows = document["states"].as_array().context("a list of states")?;
    let count = |row: &serde_json::Value| Some((row["state"].as_str()?.to_owned(), row["count"].as_u64()?));
    let counts = rows.iter().map(|row| count(row).context("a state and its count"));
    let counts: Vec<_> = counts.collect::<Result<_>>()?;
    Ok(counts.into_iter().filter(|&(_, count)| count > 0).collect())
}
