//! Tests of the tracker: kernel record sequences and the expected state changes.

pub(crate) mod any_stream;
mod handovers;
mod handshakes;
mod healing;
mod identity;
mod limits;
mod resets;
mod roles;
mod seeds;
mod sockets;
mod sweeps;
mod time_wait;

use std::fmt::Write as _;

use tcptrace_common::{
    filter::{KernelFilter, Term, test},
    record::{self as raw, Kind, flag},
};

use super::{Bound, Counters, Event, Observer, OwnerKind, Processes, Role, Socket, Tracker, TrackerLimits};
use crate::model::{
    Addr, HookRecord, Nanos, NetnsId, Record, SeedSocket, SocketId, TcpState, Tuple,
    record::{HostFacts, Listing, Process, SeedObject, Sweep, SweepEnd},
};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
/// Jiffies per second in these records.
const HZ: u64 = 250;
const CLIENT: u16 = 40_000;
const SERVER: u16 = 80;

/// Every event, a line each: `id FROM>TO dwell reason`.
#[derive(Default)]
struct EventLog {
    lines: Vec<String>,
    counts: [i64; TcpState::COUNT],
    orphans: i64,
}

impl EventLog {
    fn count(&mut self, state: TcpState, by: i64) {
        if state != TcpState::Close {
            self.counts[state.index()] += by;
        }
    }
}

impl Observer for EventLog {
    fn appeared(&mut self, _: SocketId, socket: &mut Socket, _: &Processes) {
        self.count(socket.state, 1);
    }

    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, _: &Processes) {
        if !event.begins {
            self.count(event.from, -1);
        }
        self.count(event.to, 1);
        assert_eq!(socket.state, event.to);
        let id = if event.id.kind() == crate::model::IdKind::Handshake {
            "h".into()
        } else {
            event.id.to_string()
        };
        let mut line = format!("{id} {}>{}", event.from.name(), event.to.name());
        if let Some(dwell) = event.dwell {
            let sign = match dwell.bound {
                Bound::Exact => "",
                Bound::AtLeast => ">=",
                Bound::Inferred => "~",
            };
            let _ = write!(line, " {sign}{}ms", dwell.length.0 / MS);
        }
        if let Some(search) = event.search.filter(|_| event.to == TcpState::Established) {
            let _ = write!(line, " search {}us", search.0 / 1_000);
        }
        if event.orphan == Some(true) {
            line.push_str(" orphan");
        }
        if event.extended {
            line.push_str(" extended");
        }
        if let Some(reason) = event.end_reason {
            let sign = if event.reason_inferred { "~" } else { "" };
            let _ = write!(line, " {sign}{}", reason.name());
        }
        self.lines.push(line);
    }

    fn corrected(&mut self, from: TcpState, socket: &mut Socket, _: &Processes) {
        self.count(from, -1);
        self.count(socket.state, 1);
    }

    fn identified(&mut self, _: &mut Socket, _: &Processes) {}

    fn orphaned(&mut self, _: &mut Socket) {
        self.orphans += 1;
    }
}

/// A tracker and its events.
struct TrackerRun {
    tracker: Tracker,
    log: EventLog,
}

impl TrackerRun {
    /// A run whose seed is complete and empty.
    fn new() -> Self {
        let mut run = Self::seeding();
        run.take(Record::SeedEnd { ts: Nanos(1), began: Nanos(0) });
        run
    }

    fn seeding() -> Self {
        let mut run = Self { tracker: Tracker::new(TrackerLimits::default()), log: EventLog::default() };
        let facts = HostFacts { segments: true, ..HostFacts::default() };
        run.take(Record::Host(Box::new(facts)));
        run.take(Record::Tick { ts: Nanos(0) });
        // The seed visits this namespace.
        run.take(Record::NetnsSettings { ts: Nanos(0), netns: NetnsId(1), sysctls: <_>::default() });
        run
    }

    #[expect(clippy::needless_pass_by_value, reason = "records are made where they are taken")]
    fn take(&mut self, record: Record) -> &mut Self {
        self.tracker.take(&record, &mut self.log);
        self
    }

    /// A transition of the client's socket.
    fn client(&mut self, ms: u64, cookie: u64, old: TcpState, new: TcpState) -> &mut Self {
        self.take(full(ms, cookie, old, new, 0, 0))
    }

    /// A sweep that begins at `ms` and takes a millisecond lists `sockets`.
    fn sweep(&mut self, sweep: Sweep, ms: u64, sockets: &[SeedSocket]) -> &mut Self {
        let ts = Nanos((ms + 1) * MS);
        let sockets = sockets.iter().map(|socket| SeedSocket { ts, ..*socket }).collect();
        let end = SweepEnd { ts, began: Nanos(ms * MS), netns: vec![NetnsId(1)] };
        for record in self.tracker.compare(&Listing { sweep, sockets, end: Some(end) }) {
            self.take(record);
        }
        self
    }

    fn time(&mut self, ms: u64) -> &mut Self {
        self.take(Record::Tick { ts: Nanos(ms * MS) })
    }

    fn lines(&self) -> Vec<&str> {
        self.log.lines.iter().map(String::as_str).collect()
    }

    fn count(&self, state: TcpState) -> i64 {
        self.log.counts[state.index()]
    }

    /// From here on the hooks report RSTs and errors of full sockets.
    fn sees_ends(&mut self) -> &mut Self {
        self.take(Record::Host(Box::new(HostFacts { segments: true, ends: true, ..HostFacts::default() })))
    }

    fn reach_established(&mut self, cookie: u64) -> &mut Self {
        use TcpState as T;
        self.client(0, cookie, T::Close, T::SynSent).client(10, cookie, T::SynSent, T::Established)
    }

    fn reach_fin_wait2(&mut self, cookie: u64) -> &mut Self {
        use TcpState as T;
        self.client(0, cookie, T::Close, T::SynSent)
            .client(10, cookie, T::SynSent, T::Established)
            .client(20, cookie, T::Established, T::FinWait1)
            .client(30, cookie, T::FinWait1, T::FinWait2)
    }

    /// Like `reach_fin_wait2`, then in TIME_WAIT as a timewait socket at 40 ms.
    fn reach_time_wait(&mut self, cookie: u64) -> &mut Self {
        use TcpState as T;
        self.reach_fin_wait2(cookie)
            .take(kernel(timewait(40, Kind::TimewaitArmed, cookie, T::TimeWait)))
            .client(40, cookie, T::FinWait2, T::Close)
    }
}

fn addr(last: u8) -> Addr {
    std::net::IpAddr::from([10, 0, 0, last]).into()
}

fn record(ms: u64, kind: Kind) -> raw::RawRecord {
    raw::RawRecord {
        ts_ns: ms * MS,
        cookie: 0,
        object: 0xabc0,
        arg0: 0,
        arg1: 0,
        saddr: addr(1).0,
        daddr: addr(2).0,
        netns: 1,
        ifindex: 0,
        sport: CLIENT,
        dport: SERVER,
        kind: kind as u8,
        old: 0,
        new: 0,
        flags: 0,
    }
}

pub(crate) fn kernel(raw: raw::RawRecord) -> Record {
    let task = (raw.flags & flag::TASK != 0).then_some(raw::Task {
        cgroup: 1,
        tgid: 70,
        tid: 71,
        comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
    });
    Record::Kernel(HookRecord { raw, task })
}

pub(crate) fn full(ms: u64, cookie: u64, old: TcpState, new: TcpState, sk_err: u64, flags: u8) -> Record {
    let task = if matches!(new, TcpState::SynSent | TcpState::FinWait1) { flag::TASK } else { 0 };
    let raw = record(ms, Kind::Transition);
    kernel(raw::RawRecord {
        cookie,
        old: old as u8,
        new: new as u8,
        arg0: sk_err,
        flags: flags | task,
        ..raw
    })
}

pub(crate) fn timewait(ms: u64, kind: Kind, cookie: u64, substate: TcpState) -> raw::RawRecord {
    raw::RawRecord { cookie, new: substate as u8, arg0: 60 * HZ, ..record(ms, kind) }
}

fn segment(ms: u64, cookie: u64, substate: TcpState, tcp_flags: u64) -> Record {
    kernel(raw::RawRecord { arg0: tcp_flags, ..timewait(ms, Kind::Segment, cookie, substate) })
}

fn request(ms: u64, kind: Kind) -> raw::RawRecord {
    // The server's tuple: the client's ports, swapped.
    let (saddr, daddr) = (addr(2).0, addr(1).0);
    raw::RawRecord { saddr, daddr, sport: SERVER, dport: CLIENT, new: 12, ..record(ms, kind) }
}

fn server(ms: u64, cookie: u64, old: TcpState, new: TcpState) -> Record {
    let raw = request(ms, Kind::Transition);
    kernel(raw::RawRecord { cookie, old: old as u8, new: new as u8, ..raw })
}

fn seed(cookie: u64, state: TcpState, object: SeedObject) -> SeedSocket {
    SeedSocket {
        ts: Nanos(5 * MS),
        id: SocketId(cookie),
        netns: NetnsId(1),
        tuple: Tuple { saddr: addr(1), daddr: addr(2), sport: CLIENT, dport: SERVER, ifindex: 0 },
        state,
        object,
        inode: 9,
        uid: 0,
        rqueue: 0,
        wqueue: 0,
    }
}

/// Number of entries in the side table `name`.
fn entries(tracker: &Tracker, name: &str) -> usize {
    let tables = tracker.side_tables();
    tables.iter().find(|(table, _)| *table == name).map_or_else(|| panic!("no table {name}"), |(_, n)| *n)
}

const FIN_ACK: u64 = 0x11;
const RST: u64 = 0x04;
const PSH_ACK: u64 = 0x18;
