//! Cost per event under hostile load from a peer or a local user: each case at two sizes, with the ratio of both, on
//! standard output.
//!
//! `cargo bench -p tcptrace --bench hostile`; docs/benchmarks.md explains the output. A cost linear in the size has a
//! ratio of [`LARGE`] / [`SMALL`]; half of that is an error.

use std::{collections::BTreeMap, net::Ipv4Addr, process::ExitCode, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tcptrace::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    lifecycle::{Event, Observer, Processes, Socket, Tracker, TrackerLimits},
    model::{
        Addr, HookRecord, Nanos, NetnsId, Record, SeedSocket, SocketId, TcpState, Tuple,
        record::{HostFacts, Listing, SeedObject, Sweep, SweepEnd},
    },
    pipeline::Engine,
};
use tcptrace_common::record::{self as raw, Kind, flag};

const SMALL: u32 = 1 << 12;
const LARGE: u32 = 1 << 16;
/// Rounds at the small size: a single one is too short to measure.
const ROUNDS: u32 = LARGE / SMALL;

/// Name of the case, and its cost per event at a size, in nanoseconds.
type Case = (&'static str, fn(u32) -> f64);

const CASES: [Case; 14] = [
    ("timewait sockets that share a cookie", one_cookie),
    ("SYNs while cancelled timers wait", cancelled_timers),
    ("threads that connect at once", connects),
    ("listeners on one port", listeners),
    ("settings of new namespaces", namespaces),
    ("ids that met in one place of an unseeded table", ids),
    ("unknown sockets in sweeps", sweeps),
    ("ends while the seed is read", ends_in_seed),
    ("names of containers that come and go", names),
    ("settings of namespaces that come and go", settings),
    ("counters of namespaces that come and go", counters),
    ("groups of peers that come once", groups),
    ("destinations that are connected to once", destinations),
    ("SYN-ACKs sent again from many ends", synacks_again),
];

fn main() -> ExitCode {
    println!("{:48} {:>12} {:>12} {:>6}", "ns per event, at a size of", SMALL, LARGE, "ratio");
    let mut worst: f64 = 0.0;
    for (name, cost) in CASES {
        let small = (0..ROUNDS).map(|_| cost(SMALL)).fold(f64::MAX, f64::min);
        let large = cost(LARGE).min(cost(LARGE));
        let ratio = large / small;
        println!("{name:48} {small:>12.0} {large:>12.0} {ratio:>6.1}");
        worst = worst.max(ratio);
    }
    if worst < f64::from(ROUNDS) / 2.0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ignores all events, so that only the tracker is measured.
struct IgnoreEvents;

impl Observer for IgnoreEvents {
    fn appeared(&mut self, _: SocketId, _: &mut Socket, _: &Processes) {}
    fn changed(&mut self, _: &Event<'_>, _: &mut Socket, _: &Processes) {}
    fn corrected(&mut self, _: TcpState, _: &mut Socket, _: &Processes) {}
    fn identified(&mut self, _: &mut Socket, _: &Processes) {}
    fn orphaned(&mut self, _: &mut Socket) {}
}

/// A tracker before the end of the seed.
fn seeding() -> Tracker {
    let mut tracker = Tracker::new(TrackerLimits::default());
    let facts = HostFacts { segments: true, ..HostFacts::default() };
    tracker.take(&Record::Host(Box::new(facts)), &mut IgnoreEvents);
    tracker
}

/// A tracker with a complete seed.
fn tracing() -> Tracker {
    let mut tracker = seeding();
    tracker.take(&Record::SeedEnd { ts: Nanos(1), began: Nanos(0) }, &mut IgnoreEvents);
    tracker
}

/// Cost per record in the tracker.
fn cost(tracker: &mut Tracker, records: &[Record]) -> f64 {
    let took = cpu_time(|| records.iter().for_each(|record| tracker.take(record, &mut IgnoreEvents)));
    took / records.len() as f64
}

/// Cost per record in the tracker and the aggregate, grouped by `grouping`.
fn counted(grouping: &str, records: &[Record]) -> f64 {
    let grouping: Grouping = grouping.parse().expect("a grouping");
    let mut engine = Engine::new(Filter::EVERYTHING, grouping, Scope::Roles, "".into());
    let (ts, began) = (Nanos(1), Nanos(0));
    let host = Record::Host(Box::new(HostFacts { segments: true, ..HostFacts::default() }));
    for record in [host, Record::SeedEnd { ts, began }, Record::OwnersEnd { ts }, Record::Tick { ts }] {
        engine.take(&record);
    }
    let took = cpu_time(|| records.iter().for_each(|record| engine.take(record)));
    took / records.len() as f64
}

/// CPU time of this thread, in nanoseconds.
fn cpu_time(run: impl FnOnce()) -> f64 {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
    };
    let began = now();
    run();
    now().saturating_sub(began).as_secs_f64() * 1e9
}

/// The `n`-th remote endpoint that a peer chooses.
fn tuple(n: u32) -> Tuple {
    let addr = |n: u32| Addr::from(std::net::IpAddr::from(Ipv4Addr::from(n)));
    Tuple {
        saddr: addr(0x0a00_0001),
        daddr: addr(0x0b00_0000 + n / 1_000),
        sport: 80,
        dport: (n % 1_000) as u16 + 1,
        ifindex: 0,
    }
}

fn raw(kind: Kind, cookie: u64, n: u32) -> raw::RawRecord {
    let Tuple { saddr, daddr, sport, dport, ifindex } = tuple(n);
    raw::RawRecord {
        ts_ns: 1_000_000,
        cookie,
        object: u64::from(n) + 1,
        arg0: 15_000,
        arg1: 0,
        saddr: saddr.0,
        daddr: daddr.0,
        netns: 1,
        ifindex,
        sport,
        dport,
        kind: kind as u8,
        old: 0,
        new: TcpState::TimeWait as u8,
        flags: 0,
    }
}

fn kernel(raw: raw::RawRecord) -> Record {
    let task = raw::Task { cgroup: 1, tgid: 70, tid: raw.object as u32, comm: [b'x'; 16] };
    Record::Kernel(HookRecord { raw, task: (raw.flags & flag::TASK != 0).then_some(task) })
}

/// One descriptor connects to many endpoints in turn; then all its timewait sockets expire.
fn one_cookie(size: u32) -> f64 {
    let connect = |n| {
        let (old, new) = (TcpState::Close as u8, TcpState::SynSent as u8);
        kernel(raw::RawRecord { old, new, ..raw(Kind::Transition, 7, n) })
    };
    let begun = (0..size).flat_map(|n| [connect(n), kernel(raw(Kind::TimewaitArmed, 7, n))]);
    let ended = (0..size).map(|n| kernel(raw(Kind::TimewaitExpired, 7, n)));
    cost(&mut tracing(), &begun.chain(ended).collect::<Vec<_>>())
}

/// A SYN flood whose handshakes are dropped at once: each request waits a while for its end reason.
fn cancelled_timers(size: u32) -> f64 {
    let records: Vec<_> = (0..size)
        .flat_map(|n| [Kind::RequestArmed, Kind::RequestCancelled].map(|kind| kernel(raw(kind, 0, n))))
        .collect();
    cost(&mut tracing(), &records)
}

fn connects(size: u32) -> f64 {
    let connect = |n| {
        let raw = raw(Kind::Transition, u64::from(n) + 1, n);
        kernel(raw::RawRecord {
            old: TcpState::Close as u8,
            new: TcpState::SynSent as u8,
            flags: flag::TASK,
            ..raw
        })
    };
    cost(&mut tracing(), &(0..size).map(connect).collect::<Vec<_>>())
}

/// A listener on each of many loopback addresses, and a SYN for each.
fn listeners(size: u32) -> f64 {
    let addr = |n: u32| Addr::from(std::net::IpAddr::from(Ipv4Addr::from(0x7f00_0001 + n)));
    let listen = |n| {
        let raw = raw(Kind::Transition, u64::from(n) + 1, n);
        let (old, new) = (TcpState::Close as u8, TcpState::Listen as u8);
        kernel(raw::RawRecord { old, new, saddr: addr(n).0, daddr: [0; 16], dport: 0, ..raw })
    };
    let syn = |n| kernel(raw::RawRecord { saddr: addr(n).0, arg0: 0, ..raw(Kind::RequestArmed, 0, n) });
    let records: Vec<_> = (0..size).map(listen).chain((0..size).map(syn)).collect();
    cost(&mut tracing(), &records)
}

/// As many namespaces as sockets appear within a second.
fn namespaces(size: u32) -> f64 {
    let mut tracker = tracing();
    (0..size).for_each(|n| tracker.take(&kernel(raw(Kind::RequestArmed, 0, n)), &mut IgnoreEvents));
    let tick = Record::Tick { ts: Nanos(2_000_000) };
    let took = cpu_time(|| {
        for n in 0..size {
            tracker.revisit_namespace(NetnsId(n), Nanos(2_000_000), &mut IgnoreEvents);
            tracker.take(&tick, &mut IgnoreEvents);
        }
    });
    took / f64::from(size)
}

/// A recording whose ids share the 12 bits that an unseeded hash table would use first.
fn ids(size: u32) -> f64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let met = |id: &u64| ((id / 16).wrapping_mul(ODD) >> 20).trailing_zeros() >= 12;
    let seed = |(n, id): (u32, u64)| {
        Record::Seed(SeedSocket { tuple: tuple(n), id: SocketId(id), ..listed(n, SeedObject::Full) })
    };
    let records: Vec<_> = (0..size).zip((16..).step_by(16).filter(met)).map(seed).collect();
    cost(&mut seeding(), &records)
}

fn listed(n: u32, object: SeedObject) -> SeedSocket {
    SeedSocket {
        ts: Nanos(1_000_000),
        id: SocketId(7),
        netns: NetnsId(1),
        tuple: tuple(n),
        state: if object == SeedObject::Full { TcpState::Established } else { TcpState::TimeWait },
        object,
        inode: 0,
        uid: 0,
        rqueue: 0,
        wqueue: 0,
    }
}

/// Two sweeps list timewait sockets of one cookie that no record announced; a third finds them gone.
fn sweeps(size: u32) -> f64 {
    let mut tracker = tracing();
    let timewait = SeedObject::Timewait { left: Nanos::SECOND };
    let all: Vec<_> = (0..size).map(|n| listed(n, timewait)).collect();
    let took = cpu_time(|| {
        for sockets in [all.clone(), all.clone(), all, Vec::new(), Vec::new()] {
            let end = SweepEnd { ts: Nanos(2_000_000), began: Nanos(1_500_000), netns: vec![NetnsId(1)] };
            for record in tracker.compare(&Listing { sweep: Sweep::Whole, sockets, end: Some(end) }) {
                tracker.take(&record, &mut IgnoreEvents);
            }
        }
    });
    took / f64::from(5 * size)
}

/// Timewait sockets of one cookie end before the seed that still lists them is read.
fn ends_in_seed(size: u32) -> f64 {
    let ended = (0..size).map(|n| kernel(raw(Kind::TimewaitExpired, 7, n)));
    let timewait = SeedObject::Timewait { left: Nanos::SECOND };
    let seeds = (0..size).map(|n| Record::Seed(listed(n, timewait)));
    cost(&mut seeding(), &ended.chain(seeds).collect::<Vec<_>>())
}

/// Each container has a named namespace and a named cgroup, but no socket.
fn names(size: u32) -> f64 {
    let ts = Nanos(1_000_000);
    let container = |n: u32| {
        [
            Record::NetnsName { ts, netns: NetnsId(n), name: format!("box-{n}").into() },
            Record::CgroupPath { ts, cgroup: n.into(), path: format!("/kubepods/box-{n}").into() },
        ]
    };
    counted("service", &(0..size).flat_map(container).collect::<Vec<_>>())
}

/// Each namespace reports something, and disappears after `AT_ONCE` later ones appeared.
fn namespace_churn(size: u32, report: impl Fn(u32) -> Record) -> f64 {
    const AT_ONCE: u32 = 1 << 10;
    let ts = Nanos(1_000_000);
    let gone = |n| Record::NetnsSettings { ts, netns: NetnsId(n), sysctls: BTreeMap::new() };
    let step = |n: u32| [Some(report(n)), n.checked_sub(AT_ONCE).map(gone)].into_iter().flatten();
    counted("service", &(0..size).flat_map(step).collect::<Vec<_>>())
}

fn settings(size: u32) -> f64 {
    let sysctls: BTreeMap<String, String> =
        [("net.ipv4.ip_local_port_range".to_owned(), "32768 60999".to_owned())].into();
    namespace_churn(size, |n| Record::NetnsSettings {
        ts: Nanos(1_000_000),
        netns: NetnsId(n),
        sysctls: sysctls.clone(),
    })
}

fn counters(size: u32) -> f64 {
    let counters: BTreeMap<String, u64> = [("ListenDrops".to_owned(), 1)].into();
    namespace_churn(size, |n| Record::NetnsCounters {
        ts: Nanos(1_000_000),
        netns: NetnsId(n),
        counters: counters.clone(),
    })
}

/// Peers with different addresses connect to one port, and close.
fn groups(size: u32) -> f64 {
    let addr = |n: u32| Addr::from(std::net::IpAddr::from(Ipv4Addr::from(0x0b00_0000 + n)));
    let step = |n: u32, old: TcpState, new: TcpState| {
        let raw = raw(Kind::Transition, u64::from(n) + 1, n);
        kernel(raw::RawRecord { daddr: addr(n).0, old: old as u8, new: new as u8, ..raw })
    };
    let connection = |n| {
        [
            step(n, TcpState::SynRecv, TcpState::Established),
            step(n, TcpState::Established, TcpState::CloseWait),
            step(n, TcpState::CloseWait, TcpState::LastAck),
            step(n, TcpState::LastAck, TcpState::Close),
        ]
    };
    counted("peer", &(0..size).flat_map(connection).collect::<Vec<_>>())
}

/// A client connects to many endpoints in turn; each refuses.
fn destinations(size: u32) -> f64 {
    let step = |n: u32, old: TcpState, new: TcpState, flags: u8| {
        let Tuple { saddr, daddr, sport, dport, .. } = tuple(n);
        let raw = raw(Kind::Transition, u64::from(n) + 1, n);
        let (old, new) = (old as u8, new as u8);
        kernel(raw::RawRecord {
            saddr: saddr.0,
            daddr: daddr.0,
            sport: 40_000 + sport,
            dport,
            old,
            new,
            flags,
            ..raw
        })
    };
    let connect = |n| {
        [
            step(n, TcpState::Close, TcpState::SynSent, flag::TASK),
            step(n, TcpState::SynSent, TcpState::Close, 0),
        ]
    };
    counted("service", &(0..size).flat_map(connect).collect::<Vec<_>>())
}

/// SYNs to every address of a host, whose handshakes stay open.
fn synacks_again(size: u32) -> f64 {
    let addr = |n: u32| Addr::from(std::net::IpAddr::from(Ipv4Addr::from(0x7f00_0001 + n)));
    let armed = |n: u32, times: u64| {
        kernel(raw::RawRecord { saddr: addr(n).0, arg0: 0, arg1: times, ..raw(Kind::RequestArmed, 0, n) })
    };
    let records: Vec<_> = (0..size).flat_map(|n| [armed(n, 0), armed(n, 1)]).collect();
    counted("service", &records)
}
