//! Tables of records in, changes of state out: the sequences are those that the kernel was seen to make.

pub(crate) mod any_stream;
mod sweeps;

use std::fmt::Write as _;

use tcptrace_common::{
    filter::{KernelFilter, Term, test},
    record::{self as raw, Kind, flag},
};

use super::{Bound, Counters, Event, Limits, Observer, OwnerKind, Processes, Role, Socket, Tracker};
use crate::model::{
    Addr, Nanos, NetnsId, Observation, Record, SeedSocket, SocketId, TcpState, Tuple,
    record::{HostFacts, Listing, Process, SeedObject, Sweep, SweepEnd},
};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
/// Jiffies per second in these records.
const HZ: u64 = 250;
const CLIENT: u16 = 40_000;
const SERVER: u16 = 80;

/// Everything the tracker told, a line each: `id FROM>TO dwell reason`.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
    counts: [i64; TcpState::COUNT],
    orphans: i64,
}

impl Told {
    fn count(&mut self, state: TcpState, by: i64) {
        if state != TcpState::Close {
            self.counts[state.index()] += by;
        }
    }
}

impl Observer for Told {
    fn appeared(&mut self, _: SocketId, socket: &mut Socket, _: &Processes) {
        self.count(socket.state, 1);
    }

    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, _: &Processes) {
        if !event.begins {
            self.count(event.from, -1);
        }
        self.count(event.to, 1);
        assert_eq!(socket.state, event.to);
        let id = if event.id.is_handshake() { "h".into() } else { event.id.to_string() };
        let mut line = format!("{id} {}>{}", event.from.name(), event.to.name());
        if let Some(dwell) = event.dwell {
            let sign = match dwell.bound {
                Bound::Exact => "",
                Bound::AtLeast => ">=",
                Bound::Inferred => "~",
            };
            let _ = write!(line, " {sign}{}ms", dwell.length.0 / MS);
        }
        if event.orphan == Some(true) {
            line.push_str(" orphan");
        }
        if event.extended {
            line.push_str(" extended");
        }
        if let Some(reason) = event.end_reason {
            let _ = write!(line, " {}", reason.name());
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

/// What happens to a minisocket whose timer is cancelled by a task, by the idle task, or with its namespace.
type Steps = fn(&mut Run, Record, Record, Record);

/// A tracker and what it told.
struct Run {
    tracker: Tracker,
    told: Told,
}

impl Run {
    /// A run whose seed is complete and empty.
    fn new() -> Self {
        let mut run = Self::seeding();
        run.take(Record::SeedEnd { ts: Nanos(1), began: Nanos(0) });
        run
    }

    fn seeding() -> Self {
        let mut run = Self { tracker: Tracker::new(Limits::default()), told: Told::default() };
        let facts = HostFacts { segments: true, ..HostFacts::default() };
        run.take(Record::Host(Box::new(facts)));
        run.take(Record::Tick { ts: Nanos(0) });
        run
    }

    #[expect(clippy::needless_pass_by_value, reason = "records are made where they are taken")]
    fn take(&mut self, record: Record) -> &mut Self {
        self.tracker.take(&record, &mut self.told);
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
        self.told.lines.iter().map(String::as_str).collect()
    }

    fn count(&self, state: TcpState) -> i64 {
        self.told.counts[state.index()]
    }

    /// The client connects and is in FIN_WAIT2 at 30 ms.
    fn reach_fin_wait2(&mut self, cookie: u64) -> &mut Self {
        use TcpState as T;
        self.client(0, cookie, T::Close, T::SynSent)
            .client(10, cookie, T::SynSent, T::Established)
            .client(20, cookie, T::Established, T::FinWait1)
            .client(30, cookie, T::FinWait1, T::FinWait2)
    }

    /// The same, and in TIME_WAIT as a minisocket at 40 ms.
    fn reach_time_wait(&mut self, cookie: u64) -> &mut Self {
        use TcpState as T;
        self.reach_fin_wait2(cookie)
            .take(kernel(minisocket(40, Kind::MinisocketArmed, cookie, T::TimeWait)))
            .client(40, cookie, T::FinWait2, T::Close)
    }
}

fn addr(last: u8) -> Addr {
    std::net::IpAddr::from([10, 0, 0, last]).into()
}

fn record(ms: u64, kind: Kind) -> raw::Record {
    raw::Record {
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

pub(crate) fn kernel(raw: raw::Record) -> Record {
    let task = (raw.flags & flag::TASK != 0).then_some(raw::Task {
        cgroup: 1,
        tgid: 70,
        tid: 71,
        comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
    });
    Record::Kernel(Observation { raw, task })
}

pub(crate) fn full(ms: u64, cookie: u64, old: TcpState, new: TcpState, sk_err: u64, flags: u8) -> Record {
    let task = if matches!(new, TcpState::SynSent | TcpState::FinWait1) { flag::TASK } else { 0 };
    let raw = record(ms, Kind::Transition);
    kernel(raw::Record { cookie, old: old as u8, new: new as u8, arg0: sk_err, flags: flags | task, ..raw })
}

pub(crate) fn minisocket(ms: u64, kind: Kind, cookie: u64, substate: TcpState) -> raw::Record {
    raw::Record { cookie, new: substate as u8, arg0: 60 * HZ, ..record(ms, kind) }
}

fn segment(ms: u64, cookie: u64, substate: TcpState, tcp_flags: u64) -> Record {
    kernel(raw::Record { arg0: tcp_flags, ..minisocket(ms, Kind::Segment, cookie, substate) })
}

fn request(ms: u64, kind: Kind) -> raw::Record {
    // The server's end: its ports are the client's, swapped.
    let (saddr, daddr) = (addr(2).0, addr(1).0);
    raw::Record { saddr, daddr, sport: SERVER, dport: CLIENT, new: 12, ..record(ms, kind) }
}

fn server(ms: u64, cookie: u64, old: TcpState, new: TcpState) -> Record {
    let raw = request(ms, Kind::Transition);
    kernel(raw::Record { cookie, old: old as u8, new: new as u8, ..raw })
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

const FIN_ACK: u64 = 0x11;
const RST: u64 = 0x04;
const PSH_ACK: u64 = 0x18;

#[test]
fn an_active_close_ends_in_time_wait_that_expires() {
    use TcpState as T;
    let mut run = Run::new();
    run.reach_time_wait(7).take(kernel(minisocket(60_840, Kind::MinisocketCancelled, 7, T::TimeWait)));
    assert_eq!(run.count(T::TimeWait), 1, "not over before it is known why");
    run.take(kernel(minisocket(60_840, Kind::MinisocketExpired, 7, T::TimeWait)));
    assert_eq!(
        run.lines(),
        [
            "7 CLOSE>SYN_SENT",
            "7 SYN_SENT>ESTABLISHED 10ms",
            "7 ESTABLISHED>FIN_WAIT1 10ms",
            "7 FIN_WAIT1>FIN_WAIT2 10ms",
            "7 FIN_WAIT2>TIME_WAIT 10ms",
            "7 TIME_WAIT>CLOSE 60800ms expired",
        ]
    );
    assert_eq!(run.told.counts, [0; TcpState::COUNT]);
    assert_eq!(run.tracker.sockets().count(), 0);
    assert_eq!(run.tracker.counters(), super::Counters::default());
}

#[test]
fn a_late_fin_within_the_timers_bucket_shows_as_a_segment() {
    use TcpState as T;
    let mut run = Run::new();
    run.reach_fin_wait2(7)
        .take(kernel(minisocket(30, Kind::MinisocketArmed, 7, T::FinWait2)))
        .client(30, 7, T::FinWait2, T::Close)
        .take(segment(130, 7, T::TimeWait, FIN_ACK))
        .take(segment(140, 7, T::TimeWait, FIN_ACK))
        .take(kernel(minisocket(60_840, Kind::MinisocketExpired, 7, T::TimeWait)));
    assert_eq!(
        run.lines()[4..],
        ["7 FIN_WAIT2>TIME_WAIT 100ms orphan", "7 TIME_WAIT>CLOSE 60710ms extended expired"],
        "the second FIN sets the timer anew, silently"
    );
    assert_eq!(run.told.orphans, 1);
}

#[test]
fn a_late_fin_across_buckets_shows_as_a_timer_and_its_own_segment_extends_nothing() {
    use TcpState as T;
    let mut run = Run::new();
    run.reach_fin_wait2(7)
        .take(kernel(minisocket(30, Kind::MinisocketArmed, 7, T::FinWait2)))
        .take(kernel(minisocket(3_030, Kind::MinisocketCancelled, 7, T::TimeWait)))
        .take(kernel(minisocket(3_030, Kind::MinisocketArmed, 7, T::TimeWait)))
        .take(segment(3_030, 7, T::TimeWait, FIN_ACK))
        .time(4_000)
        .take(kernel(minisocket(63_030, Kind::MinisocketExpired, 7, T::TimeWait)));
    let lines = run.lines();
    assert!(lines[4].starts_with("7 FIN_WAIT2>TIME_WAIT") && lines[4].contains("3000ms"), "{lines:?}");
    assert_eq!(lines[5], "7 TIME_WAIT>CLOSE 60000ms expired");
}

#[test]
fn without_segments_the_entry_is_inferred_at_the_end() {
    use TcpState as T;
    let mut run = Run::new();
    let stamp =
        |ms: u64| raw::Record { arg1: 2_030, ..minisocket(ms, Kind::MinisocketExpired, 7, T::TimeWait) };
    run.reach_fin_wait2(7)
        .take(kernel(minisocket(30, Kind::MinisocketArmed, 7, T::FinWait2)))
        .take(kernel(stamp(62_030)));
    assert_eq!(
        run.lines()[4..],
        ["7 FIN_WAIT2>TIME_WAIT ~2000ms orphan", "7 TIME_WAIT>CLOSE ~60000ms expired"]
    );
    // No stamp either: the timer says when it was last set, once its tick is known.
    let mut run = Run::new();
    let end = raw::Record { arg0: 0, ..minisocket(62_030, Kind::MinisocketExpired, 8, T::TimeWait) };
    run.take(kernel(minisocket(0, Kind::MinisocketArmed, 6, T::TimeWait)))
        .reach_fin_wait2(8)
        .take(kernel(minisocket(30, Kind::MinisocketArmed, 8, T::FinWait2)))
        .take(kernel(end));
    assert_eq!(
        run.lines()[4..],
        ["8 FIN_WAIT2>TIME_WAIT ~2000ms orphan", "8 TIME_WAIT>CLOSE ~60000ms expired"]
    );
}

#[test]
fn without_segments_a_look_at_fin_wait2_finds_who_left_it() {
    use TcpState as T;
    let mut run = Run::new();
    run.take(Record::Host(Box::default()));
    for cookie in [7, 8] {
        run.reach_fin_wait2(cookie).take(kernel(minisocket(30, Kind::MinisocketArmed, cookie, T::FinWait2)));
    }
    let still = seed(8, T::FinWait2, SeedObject::Minisocket { left: Nanos(S) });
    run.sweep(Sweep::FinWait2, 990, &[still]);
    assert_eq!(run.lines()[8..], ["7 FIN_WAIT2>TIME_WAIT ~961ms orphan"]);
    assert_eq!((run.count(T::TimeWait), run.count(T::FinWait2)), (1, 1));
    // What became an orphan after the look began can't be missing from it.
    run.sweep(Sweep::FinWait2, 10, &[]);
    assert_eq!(run.count(T::FinWait2), 1);
}

#[test]
fn without_segments_the_end_tells_more_exactly_what_a_look_has_found() {
    use TcpState as T;
    let mut run = Run::new();
    run.take(Record::Host(Box::default()))
        .take(kernel(minisocket(0, Kind::MinisocketArmed, 6, T::TimeWait)))
        .reach_fin_wait2(8)
        .take(kernel(minisocket(30, Kind::MinisocketArmed, 8, T::FinWait2)))
        .sweep(Sweep::FinWait2, 2_999, &[])
        .take(kernel(raw::Record { arg0: 0, ..minisocket(62_030, Kind::MinisocketExpired, 8, T::TimeWait) }));
    assert_eq!(
        run.lines()[4..],
        ["8 FIN_WAIT2>TIME_WAIT ~2970ms orphan", "8 TIME_WAIT>CLOSE ~60000ms expired"]
    );
}

#[test]
fn without_segments_a_timer_set_again_may_be_a_second_fin() {
    use TcpState as T;
    let mut run = Run::new();
    run.take(Record::Host(Box::default()))
        .reach_fin_wait2(7)
        .take(kernel(minisocket(30, Kind::MinisocketArmed, 7, T::FinWait2)))
        .take(kernel(minisocket(3_030, Kind::MinisocketCancelled, 7, T::TimeWait)))
        .take(kernel(minisocket(3_030, Kind::MinisocketArmed, 7, T::TimeWait)));
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>TIME_WAIT ~3000ms orphan"], "the first set it unseen");
}

#[test]
fn what_ends_a_minisocket_early_is_told_apart() {
    use TcpState as T;
    let in_time_wait = |run: &mut Run| {
        run.reach_time_wait(7);
    };
    let cancelled = |tid: u64, flags: u8| {
        let raw = minisocket(5_040, Kind::MinisocketCancelled, 7, T::TimeWait);
        kernel(raw::Record { arg1: tid << 32, flags, ..raw })
    };
    let cases: [(&str, Steps); 6] = [
        ("killed", |run, by_task, _, _| {
            run.take(by_task).time(5_100);
        }),
        ("unexplained", |run, _, by_idle, _| {
            run.take(by_idle).time(5_100);
        }),
        ("purged", |run, _, _, dying| {
            run.take(dying);
        }),
        ("reset", |run, _, by_idle, _| {
            run.take(by_idle).take(segment(5_041, 7, TcpState::TimeWait, RST));
        }),
        ("reused", |run, by_task, _, _| {
            // Thread 71 connects to the same end, and its port is not chosen yet.
            let raw = record(5_039, Kind::Transition);
            let connect = raw::Record { cookie: 9, old: 7, new: 2, sport: 0, flags: flag::TASK, ..raw };
            run.take(kernel(connect)).take(by_task);
        }),
        ("reopened", |run, _, by_idle, _| {
            // The peer's SYN comes for the same ends, which are then a listener's.
            run.take(by_idle).take(kernel(record(5_041, Kind::RequestArmed)));
        }),
    ];
    for (reason, steps) in cases {
        let mut run = Run::new();
        in_time_wait(&mut run);
        steps(&mut run, cancelled(71, 0), cancelled(0, 0), cancelled(0, flag::NETNS_DYING));
        let wanted = format!("7 TIME_WAIT>CLOSE 5000ms {reason}");
        assert!(run.lines().contains(&wanted.as_str()), "{reason}: {:?}", run.lines());
        assert_eq!(run.count(T::TimeWait), 0, "{reason}");
    }
}

#[test]
fn one_whose_time_was_up_expired_though_it_is_told_late() {
    use TcpState as T;
    let mut run = Run::new();
    let late = |ms, kind| kernel(raw::Record { arg0: 0, ..minisocket(ms, kind, 7, T::TimeWait) });
    run.reach_time_wait(7)
        .take(late(60_040, Kind::MinisocketCancelled))
        .time(60_200)
        .take(late(60_040, Kind::MinisocketExpired));
    assert_eq!(run.lines().last(), Some(&"7 TIME_WAIT>CLOSE 60000ms expired"));
    assert_eq!(run.count(T::TimeWait), 0);
}

#[test]
fn data_for_an_orphan_fin_wait2_aborts_it() {
    use TcpState as T;
    let mut run = Run::new();
    run.reach_fin_wait2(7)
        .take(kernel(minisocket(30, Kind::MinisocketArmed, 7, T::FinWait2)))
        .take(kernel(minisocket(50, Kind::MinisocketCancelled, 7, T::FinWait2)))
        .take(segment(50, 7, T::FinWait2, PSH_ACK));
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>CLOSE 20ms orphan aborted"]);
}

#[test]
fn no_room_for_a_minisocket_is_an_overflow() {
    use TcpState as T;
    let mut run = Run::new();
    run.reach_fin_wait2(7).take(full(40, 7, T::FinWait2, T::Close, 0, flag::ORPHAN | flag::NO_ROOM));
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>CLOSE 10ms overflow"]);
}

#[test]
fn a_handshake_is_measured_from_its_syn() {
    use TcpState as T;
    let mut run = Run::new();
    run.take(kernel(request(0, Kind::RequestArmed)))
        .take(server(50, 8, T::Listen, T::SynRecv))
        .take(kernel(request(50, Kind::RequestCancelled)))
        .take(server(50, 8, T::SynRecv, T::Established))
        .time(200);
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "8 SYN_RECV>ESTABLISHED 50ms"]);
    assert_eq!((run.count(T::SynRecv), run.count(T::Established)), (0, 1));
}

#[test]
fn before_6_15_the_clone_has_the_listeners_name() {
    use TcpState as T;
    let mut run = Run::new();
    let listener = |ms, old: T, new: T| {
        let raw = request(ms, Kind::Transition);
        kernel(raw::Record { cookie: 3, old: old as u8, new: new as u8, dport: 0, daddr: [0; 16], ..raw })
    };
    run.take(listener(0, T::Close, T::Listen))
        .take(kernel(request(10, Kind::RequestArmed)))
        .take(listener(60, T::Listen, T::SynRecv))
        .take(kernel(request(60, Kind::RequestCancelled)))
        .take(server(60, 8, T::SynRecv, T::Established))
        .time(200);
    assert_eq!(run.lines(), ["3 CLOSE>LISTEN", "h LISTEN>SYN_RECV", "8 SYN_RECV>ESTABLISHED 50ms"]);
    assert_eq!((run.count(T::Listen), run.count(T::Established)), (1, 1));
}

#[test]
fn a_handshake_that_never_ends_times_out() {
    use TcpState as T;
    let mut run = Run::new();
    let retransmitted = raw::Record { arg1: 1, ..request(1_000, Kind::RequestArmed) };
    run.take(kernel(request(0, Kind::RequestArmed)))
        .take(kernel(request(1_000, Kind::RequestCancelled)))
        .take(kernel(request(1_000, Kind::RequestExpired)))
        .take(kernel(retransmitted))
        .time(2_000);
    assert_eq!(run.count(T::SynRecv), 1, "the SYN-ACK was sent again");
    run.take(kernel(request(3_000, Kind::RequestCancelled)))
        .take(kernel(request(3_000, Kind::RequestExpired)))
        .time(3_100);
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "h SYN_RECV>CLOSE 3000ms timeout"]);
}

#[test]
fn a_socket_whose_beginning_was_missed_has_a_guessed_role() {
    use TcpState as T;
    let mut run = Run::new();
    let change = |cookie, old: T, new: T, sport, dport| {
        let raw = record(10, Kind::Transition);
        kernel(raw::Record { cookie, old: old as u8, new: new as u8, sport, dport, ..raw })
    };
    run.take(change(1, T::Close, T::Listen, 8080, 0));
    run.take(change(7, T::Established, T::CloseWait, 8080, 50_000));
    run.take(change(8, T::Established, T::CloseWait, 40_000, 5432));
    run.take(change(9, T::SynSent, T::Established, 40_001, 5432));
    let role = |id: u64| {
        let socket = run.tracker.socket(SocketId(id)).expect("tracked");
        (socket.role, socket.role_guessed)
    };
    assert_eq!(role(7), (Role::Inbound, true));
    assert_eq!(role(8), (Role::Outbound, true));
    assert_eq!(role(9), (Role::Outbound, false), "who was in SYN_SENT has connected");
}

#[test]
fn a_missed_transition_is_healed_and_counted() {
    use TcpState as T;
    let mut run = Run::new();
    run.client(0, 7, T::Close, T::SynSent).client(20, 7, T::Established, T::FinWait1).client(
        30,
        7,
        T::FinWait1,
        T::FinWait2,
    );
    assert_eq!(
        run.lines(),
        ["7 CLOSE>SYN_SENT", "7 ESTABLISHED>FIN_WAIT1", "7 FIN_WAIT1>FIN_WAIT2 10ms"],
        "a dwell whose beginning was missed is not known"
    );
    assert_eq!(run.tracker.counters().healed, 1);
    assert_eq!(run.told.counts.iter().sum::<i64>(), 1);
}

#[test]
fn both_copies_reporting_one_transition_is_no_change() {
    use TcpState as T;
    let mut run = Run::new();
    run.client(0, 7, T::Close, T::SynSent)
        .client(0, 7, T::Close, T::SynSent)
        .client(10, 7, T::SynSent, T::Close)
        .client(10, 7, T::SynSent, T::Close);
    assert_eq!(run.lines().len(), 2);
    assert_eq!((run.tracker.counters().doubles, run.tracker.counters().healed), (2, 0));
}

#[test]
fn the_stream_wins_over_the_seed() {
    use TcpState as T;
    let mut run = Run::seeding();
    // Ended before the seed that still has it is taken in.
    run.client(1, 7, T::Established, T::FinWait1)
        .client(2, 7, T::FinWait1, T::Close)
        .take(Record::Seed(seed(7, T::Established, SeedObject::Full)));
    assert_eq!(run.told.counts, [0; TcpState::COUNT]);
    // Spoken of before the seed is taken in.
    run.client(3, 8, T::Established, T::CloseWait).take(Record::Seed(seed(
        8,
        T::Established,
        SeedObject::Full,
    )));
    assert_eq!((run.count(T::CloseWait), run.count(T::Established)), (1, 0));
    // Read in the state that a record still under way announces.
    run.take(Record::Seed(seed(9, T::FinWait1, SeedObject::Full)))
        .client(4, 9, T::Established, T::FinWait1)
        .client(9, 9, T::FinWait1, T::FinWait2)
        .take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) });
    assert_eq!(run.lines()[3..], ["9 ESTABLISHED>FIN_WAIT1 >=4ms", "9 FIN_WAIT1>FIN_WAIT2 5ms"]);
    assert_eq!((run.count(T::FinWait2), run.told.counts.iter().sum::<i64>()), (1, 2));
    assert_eq!(run.tracker.counters().healed, 0, "nothing was lost");
}

#[test]
fn seeded_dwells_are_bounds() {
    use TcpState as T;
    let mut run = Run::seeding();
    run.take(Record::Seed(seed(7, T::Established, SeedObject::Full)))
        .take(Record::Seed(seed(8, T::TimeWait, SeedObject::Minisocket { left: Nanos(20 * S) })))
        .take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) })
        .client(105, 7, T::Established, T::CloseWait)
        .take(kernel(minisocket(20_005, Kind::MinisocketExpired, 8, T::TimeWait)));
    // 40 s of the 60 had passed before the trace, which is 5 ms old: computed times begin at 0.
    assert_eq!(run.lines(), ["7 ESTABLISHED>CLOSE_WAIT >=100ms", "8 TIME_WAIT>CLOSE ~20005ms expired"]);
}

#[test]
fn roles_are_guessed_from_listeners_and_marked() {
    use TcpState as T;
    let mut run = Run::seeding();
    let listener = SeedSocket {
        tuple: Tuple { daddr: Addr::ANY, dport: 0, ..seed(1, T::Listen, SeedObject::Full).tuple },
        ..seed(1, T::Listen, SeedObject::Full)
    };
    let process = Process { pid: 70, comm: "nginx".into(), cgroup: 1 };
    run.take(Record::Seed(listener))
        .take(Record::Seed(seed(7, T::Established, SeedObject::Full)))
        .take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) })
        .take(Record::Owner { ts: Nanos(11 * MS), id: SocketId(1), process, fd: None })
        .take(Record::OwnersEnd { ts: Nanos(12 * MS) });
    let (_, socket) = run.tracker.sockets().find(|(id, _)| *id == SocketId(7)).expect("tracked");
    assert_eq!((socket.role, socket.role_guessed, socket.owner), (Role::Inbound, true, OwnerKind::Listener));
}

#[test]
fn a_cookie_that_connects_again_leaves_its_minisocket_in_place() {
    use TcpState as T;
    let mut run = Run::new();
    run.reach_time_wait(7);
    let again = raw::Record {
        object: 1,
        cookie: 7,
        old: 7,
        new: 2,
        sport: 0,
        dport: 99,
        ..record(50, Kind::Transition)
    };
    run.take(kernel(again));
    assert_eq!((run.count(T::TimeWait), run.count(T::SynSent)), (1, 1));
    run.take(kernel(minisocket(60_040, Kind::MinisocketExpired, 7, T::TimeWait)));
    assert_eq!((run.count(T::TimeWait), run.count(T::SynSent)), (0, 1));
}

#[test]
fn a_full_table_counts_what_it_can_not_hold() {
    use TcpState as T;
    let mut tracker = Tracker::new(Limits { sockets: 1 });
    let mut told = Told::default();
    for cookie in [7, 8] {
        tracker.take(&full(0, cookie, T::Close, T::SynSent, 0, 0), &mut told);
    }
    tracker.take(&kernel(request(0, Kind::RequestArmed)), &mut told);
    assert_eq!((told.lines.len(), tracker.sockets().count()), (1, 1));
    assert_eq!(tracker.counters().evicted, 2);
}

/// How many entries the table `name` beside that of the sockets has.
fn entries(tracker: &Tracker, name: &str) -> usize {
    let tables = tracker.side_tables();
    tables.iter().find(|(table, _)| *table == name).map_or_else(|| panic!("no table {name}"), |(_, n)| *n)
}

#[test]
fn a_minisocket_in_no_state_of_a_minisocket_is_no_socket() {
    let mut run = Run::new();
    let mut raw = record(10, Kind::MinisocketArmed);
    (raw.cookie, raw.new) = (7, TcpState::Close as u8);
    run.take(kernel(raw));
    assert_eq!((run.tracker.sockets().count(), run.tracker.counters().undecodable), (0, 1));
}

#[test]
fn a_full_table_has_no_handshakes_beside_it() {
    let mut run = Run::seeding();
    run.tracker = Tracker::new(Limits { sockets: 1 });
    for cookie in 1..10 {
        let mut request = seed(cookie, TcpState::SynRecv, SeedObject::Request { timeouts: 0 });
        request.tuple.dport = cookie as u16;
        run.take(Record::Seed(request));
    }
    assert_eq!(entries(&run.tracker, "handshakes"), 1);
}

#[test]
fn cancelled_timers_do_not_pile_up_while_time_stands_still() {
    let mut run = Run::new();
    run.tracker = Tracker::new(Limits { sockets: 4 });
    run.take(kernel(request(10, Kind::RequestArmed)));
    for _ in 0..100 {
        run.take(kernel(request(10, Kind::RequestCancelled)));
    }
    assert!(entries(&run.tracker, "pending ends") <= 5);
}

#[test]
fn what_ends_while_the_seed_is_read_is_remembered_up_to_a_bound() {
    let mut run = Run::seeding();
    run.tracker = Tracker::new(Limits { sockets: 4 });
    for cookie in 1..100 {
        run.client(10, cookie, TcpState::Close, TcpState::SynSent);
        run.client(10, cookie, TcpState::SynSent, TcpState::Close);
    }
    assert_eq!(entries(&run.tracker, "ended in the seed"), 4);
    assert_eq!(run.tracker.counters().evicted, 95);
}

#[test]
fn a_handshake_said_to_be_in_another_state_is_corrected_before_it_goes_on() {
    let mut run = Run::seeding();
    run.take(Record::Seed(seed(1, TcpState::FinWait2, SeedObject::Request { timeouts: 0 })));
    run.take(full(10, 1, TcpState::SynRecv, TcpState::FinWait2, 0, flag::ORPHAN));
    let orphans = run.tracker.sockets().filter(|(_, socket)| socket.is_orphan_fin_wait2()).count();
    assert_eq!(orphans, 1);
    assert_eq!(run.told.counts[TcpState::FinWait2.index()], 1);
    assert!(
        run.told.lines.iter().any(|line| line.starts_with("1 SYN_RECV>FIN_WAIT2")),
        "{:?}",
        run.told.lines
    );
}

#[test]
fn a_socket_out_of_scope_is_forgotten_once_its_port_is_known() {
    use TcpState as T;
    let port = u32::from(SERVER);
    let mut scope = KernelFilter::default();
    scope.terms[0] =
        Term { low: port, high: port, test: test::LOCAL_PORT, ends_clause: 1, ..Term::default() };
    let mut run = Run::seeding();
    run.tracker = run.tracker.scoped(scope);
    run.take(Record::Seed(seed(6, T::Established, SeedObject::Full)));
    run.take(Record::SeedEnd { ts: Nanos(1), began: Nanos(0) });
    assert_eq!(run.tracker.sockets().count(), 0);

    let syn = raw::Record { cookie: 7, old: 7, new: 2, sport: 0, ..record(0, Kind::Transition) };
    run.take(kernel(syn));
    assert_eq!(run.tracker.sockets().count(), 1);
    // Both copies may tell it; a kernel side without the filter would tell the rest.
    run.client(10, 7, T::SynSent, T::Established).client(10, 7, T::SynSent, T::Established);
    run.client(20, 7, T::Established, T::FinWait1);
    run.take(server(20, 8, T::Listen, T::SynRecv)).take(server(21, 8, T::SynRecv, T::Established));
    let left: Vec<_> = run.tracker.sockets().map(|(id, _)| id).collect();
    assert_eq!(left, [SocketId(8)]);
    assert_eq!(run.tracker.counters(), Counters::default());
    assert_eq!(run.lines().len(), 4);
}

#[test]
fn a_handshake_dropped_before_its_seed_is_read_leaves_no_ghost() {
    use TcpState as T;
    let mut run = Run::seeding();
    let ends = Tuple { saddr: addr(2), daddr: addr(1), sport: SERVER, dport: CLIENT, ifindex: 0 };
    let listed = SeedSocket { tuple: ends, ..seed(8, T::SynRecv, SeedObject::Request { timeouts: 0 }) };
    run.take(kernel(request(1, Kind::RequestCancelled)))
        .take(Record::Seed(listed))
        .take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) });
    assert_eq!(run.tracker.sockets().count(), 0);
}

#[test]
fn connections_of_a_listener_without_a_port_of_its_own_have_its_owner() {
    use TcpState as T;
    let mut run = Run::new();
    // inet_csk_listen_start() tells LISTEN before it chooses a port.
    let raw = raw::Record { cookie: 3, old: 7, new: 10, sport: 0, dport: 0, ..request(0, Kind::Transition) };
    let listener = raw::Record { saddr: [0; 16], daddr: [0; 16], flags: flag::TASK, ..raw };
    run.take(kernel(listener))
        .take(kernel(raw::Record { arg0: 3, ..request(10, Kind::RequestArmed) }))
        .take(server(20, 8, T::Listen, T::SynRecv))
        .take(server(20, 8, T::SynRecv, T::Established));
    let socket = |id| run.tracker.sockets().find(|(known, _)| *known == SocketId(id)).expect("tracked").1;
    assert_eq!((socket(8).owner, socket(8).listener_is_any), (OwnerKind::Listener, true));
    assert_eq!(socket(3).tuple.sport, SERVER);
}

#[test]
fn an_address_used_again_is_another_minisocket() {
    use TcpState as T;
    let mut run = Run::new();
    run.reach_time_wait(7);
    let again = raw::Record {
        object: 1,
        sport: 0,
        dport: 99,
        cookie: 7,
        old: 7,
        new: 2,
        ..record(50, Kind::Transition)
    };
    run.take(kernel(again));
    // The end of the one set aside is missed, and its place used for another socket's.
    run.take(kernel(minisocket(70_000, Kind::MinisocketArmed, 8, T::TimeWait)));
    assert_eq!(run.count(T::TimeWait), 2);
    run.take(kernel(minisocket(130_000, Kind::MinisocketExpired, 8, T::TimeWait)));
    assert_eq!(run.count(T::TimeWait), 1);
    assert!(run.lines().contains(&"8 TIME_WAIT>CLOSE 60000ms expired"), "{:?}", run.lines());
}
