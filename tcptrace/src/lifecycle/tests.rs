//! Tests of the tracker: kernel record sequences and the expected state changes.

pub(crate) mod any_stream;
mod handovers;
mod identity;
mod seeds;
mod sockets;
mod sweeps;

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

/// Test case of a timewait timer cancelled by a task, by the idle task, or with its namespace.
type Steps = fn(&mut TrackerRun, Record, Record, Record);

/// A tracker and its events.
struct TrackerRun {
    tracker: Tracker,
    told: EventLog,
}

impl TrackerRun {
    /// A run whose seed is complete and empty.
    fn new() -> Self {
        let mut run = Self::seeding();
        run.take(Record::SeedEnd { ts: Nanos(1), began: Nanos(0) });
        run
    }

    fn seeding() -> Self {
        let mut run = Self { tracker: Tracker::new(TrackerLimits::default()), told: EventLog::default() };
        let facts = HostFacts { segments: true, ..HostFacts::default() };
        run.take(Record::Host(Box::new(facts)));
        run.take(Record::Tick { ts: Nanos(0) });
        // The seed visits this namespace.
        run.take(Record::NetnsSettings { ts: Nanos(0), netns: NetnsId(1), sysctls: <_>::default() });
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
    Record::Kernel(HookRecord { raw, task })
}

pub(crate) fn full(ms: u64, cookie: u64, old: TcpState, new: TcpState, sk_err: u64, flags: u8) -> Record {
    let task = if matches!(new, TcpState::SynSent | TcpState::FinWait1) { flag::TASK } else { 0 };
    let raw = record(ms, Kind::Transition);
    kernel(raw::Record { cookie, old: old as u8, new: new as u8, arg0: sk_err, flags: flags | task, ..raw })
}

pub(crate) fn timewait(ms: u64, kind: Kind, cookie: u64, substate: TcpState) -> raw::Record {
    raw::Record { cookie, new: substate as u8, arg0: 60 * HZ, ..record(ms, kind) }
}

fn segment(ms: u64, cookie: u64, substate: TcpState, tcp_flags: u64) -> Record {
    kernel(raw::Record { arg0: tcp_flags, ..timewait(ms, Kind::Segment, cookie, substate) })
}

fn request(ms: u64, kind: Kind) -> raw::Record {
    // The server's tuple: the client's ports, swapped.
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
    let mut run = TrackerRun::new();
    run.reach_time_wait(7).take(kernel(timewait(60_840, Kind::TimewaitCancelled, 7, T::TimeWait)));
    assert_eq!(run.count(T::TimeWait), 1, "pending until the reason is known");
    run.take(kernel(timewait(60_840, Kind::TimewaitExpired, 7, T::TimeWait)));
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
fn late_fin_within_the_timer_bucket_shows_as_a_segment() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .client(30, 7, T::FinWait2, T::Close)
        .take(segment(130, 7, T::TimeWait, FIN_ACK))
        .take(segment(140, 7, T::TimeWait, FIN_ACK))
        .take(kernel(timewait(60_840, Kind::TimewaitExpired, 7, T::TimeWait)));
    assert_eq!(
        run.lines()[4..],
        ["7 FIN_WAIT2>TIME_WAIT 100ms orphan", "7 TIME_WAIT>CLOSE 60710ms extended expired"],
        "the second FIN restarts the timer without a timer record"
    );
    assert_eq!(run.told.orphans, 1);
}

#[test]
fn late_fin_across_buckets_begins_time_wait_once() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .take(kernel(timewait(3_030, Kind::TimewaitCancelled, 7, T::TimeWait)))
        .take(kernel(timewait(3_030, Kind::TimewaitArmed, 7, T::TimeWait)))
        .take(segment(3_030, 7, T::TimeWait, FIN_ACK))
        .time(4_000)
        .take(kernel(timewait(63_030, Kind::TimewaitExpired, 7, T::TimeWait)));
    let lines = run.lines();
    assert!(lines[4].starts_with("7 FIN_WAIT2>TIME_WAIT") && lines[4].contains("3000ms"), "{lines:?}");
    assert_eq!(lines[5], "7 TIME_WAIT>CLOSE 60000ms expired");
}

#[test]
fn without_segments_the_entry_is_inferred_at_the_end() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let stamp = |ms: u64| raw::Record { arg1: 2_030, ..timewait(ms, Kind::TimewaitExpired, 7, T::TimeWait) };
    run.reach_fin_wait2(7)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .take(kernel(stamp(62_030)));
    assert_eq!(
        run.lines()[4..],
        ["7 FIN_WAIT2>TIME_WAIT ~2000ms orphan", "7 TIME_WAIT>CLOSE ~60000ms expired"]
    );
    // Without a stamp, the timer shows when it was last set, once the tick is known.
    let mut run = TrackerRun::new();
    let end = raw::Record { arg0: 0, ..timewait(62_030, Kind::TimewaitExpired, 8, T::TimeWait) };
    run.take(kernel(timewait(0, Kind::TimewaitArmed, 6, T::TimeWait)))
        .reach_fin_wait2(8)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 8, T::FinWait2)))
        .take(kernel(end));
    assert_eq!(
        run.lines()[4..],
        ["8 FIN_WAIT2>TIME_WAIT ~2000ms orphan", "8 TIME_WAIT>CLOSE ~60000ms expired"]
    );
}

#[test]
fn without_segments_a_fin_wait2_sweep_infers_time_wait() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(Record::Host(Box::default()));
    for cookie in [7, 8] {
        run.reach_fin_wait2(cookie).take(kernel(timewait(30, Kind::TimewaitArmed, cookie, T::FinWait2)));
    }
    let still = seed(8, T::FinWait2, SeedObject::Timewait { left: Nanos(S) });
    run.sweep(Sweep::FinWait2, 990, &[still]);
    assert_eq!(run.lines()[8..], ["7 FIN_WAIT2>TIME_WAIT ~961ms orphan"]);
    assert_eq!((run.count(T::TimeWait), run.count(T::FinWait2)), (1, 1));
    // A socket orphaned after the FIN_WAIT2 sweep began can't be missing from it.
    run.sweep(Sweep::FinWait2, 10, &[]);
    assert_eq!(run.count(T::FinWait2), 1);
}

#[test]
fn without_segments_the_end_refines_a_swept_entry() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(Record::Host(Box::default()))
        .take(kernel(timewait(0, Kind::TimewaitArmed, 6, T::TimeWait)))
        .reach_fin_wait2(8)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 8, T::FinWait2)))
        .sweep(Sweep::FinWait2, 2_999, &[])
        .take(kernel(raw::Record { arg0: 0, ..timewait(62_030, Kind::TimewaitExpired, 8, T::TimeWait) }));
    assert_eq!(
        run.lines()[4..],
        ["8 FIN_WAIT2>TIME_WAIT ~2970ms orphan", "8 TIME_WAIT>CLOSE ~60000ms expired"]
    );
}

#[test]
fn without_segments_a_rearmed_timer_gives_an_inferred_entry() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(Record::Host(Box::default()))
        .reach_fin_wait2(7)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .take(kernel(timewait(3_030, Kind::TimewaitCancelled, 7, T::TimeWait)))
        .take(kernel(timewait(3_030, Kind::TimewaitArmed, 7, T::TimeWait)));
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>TIME_WAIT ~3000ms orphan"], "the first set it unseen");
}

#[test]
fn early_timewait_ends_have_distinct_reasons() {
    use TcpState as T;
    let in_time_wait = |run: &mut TrackerRun| {
        run.reach_time_wait(7);
    };
    let cancelled = |tid: u64, flags: u8| {
        let raw = timewait(5_040, Kind::TimewaitCancelled, 7, T::TimeWait);
        kernel(raw::Record { arg1: tid << 32, flags, ..raw })
    };
    let cases: [(&str, Steps); 7] = [
        ("killed", |run, by_task, _, _| {
            run.take(by_task).time(5_300);
        }),
        // A SYN that the listener dropped: any segment that could end the socket otherwise would have been reported.
        ("~reopened", |run, _, by_idle, _| {
            run.take(by_idle).time(5_300);
        }),
        ("unexplained", |run, by_task, _, _| {
            let Record::Kernel(seen) = by_task else { return };
            let by_kernel_thread = raw::Record { arg1: u64::from(raw::KERNEL_THREAD) << 32, ..seen.raw };
            run.take(kernel(by_kernel_thread)).time(5_300);
        }),
        ("purged", |run, _, _, dying| {
            run.take(dying);
        }),
        ("reset", |run, _, by_idle, _| {
            run.take(by_idle).take(segment(5_041, 7, TcpState::TimeWait, RST));
        }),
        ("reused", |run, by_task, _, _| {
            // Thread 71 connects to the same remote end, and its port is not chosen yet.
            let raw = record(5_039, Kind::Transition);
            let connect = raw::Record { cookie: 9, old: 7, new: 2, sport: 0, flags: flag::TASK, ..raw };
            run.take(kernel(connect)).take(by_task);
        }),
        ("reopened", |run, _, by_idle, _| {
            // The peer's SYN arrives for the same tuple, now at a listener.
            run.take(by_idle).take(kernel(record(5_041, Kind::RequestArmed)));
        }),
    ];
    for (reason, steps) in cases {
        let mut run = TrackerRun::new();
        in_time_wait(&mut run);
        steps(&mut run, cancelled(71, 0), cancelled(0, 0), cancelled(0, flag::NETNS_DYING));
        let wanted = format!("7 TIME_WAIT>CLOSE 5000ms {reason}");
        assert!(run.lines().contains(&wanted.as_str()), "{reason}: {:?}", run.lines());
        assert_eq!(run.count(T::TimeWait), 0, "{reason}");
    }
}

#[test]
fn due_timer_with_a_late_expiry_record_counts_as_expired() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let late = |ms, kind| kernel(raw::Record { arg0: 0, ..timewait(ms, kind, 7, T::TimeWait) });
    run.reach_time_wait(7)
        .take(late(60_040, Kind::TimewaitCancelled))
        .time(60_200)
        .take(late(60_040, Kind::TimewaitExpired));
    assert_eq!(run.lines().last(), Some(&"7 TIME_WAIT>CLOSE 60000ms expired"));
    assert_eq!(run.count(T::TimeWait), 0);
}

#[test]
fn data_for_an_orphan_fin_wait2_aborts_it() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .take(kernel(timewait(50, Kind::TimewaitCancelled, 7, T::FinWait2)))
        .take(segment(50, 7, T::FinWait2, PSH_ACK));
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>CLOSE 20ms orphan aborted"]);
}

#[test]
fn missing_timewait_socket_is_an_overflow() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.sees_ends().reach_fin_wait2(7).take(full(40, 7, T::FinWait2, T::Close, 0, flag::ORPHAN));
    assert_eq!(run.lines().len(), 4, "a RST may follow");
    run.time(300);
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>CLOSE 10ms overflow"]);
}

fn ends(ms: u64, kind: Kind, arg0: u64) -> Record {
    kernel(raw::Record { cookie: 7, arg0, ..record(ms, kind) })
}

#[test]
fn rst_after_close_gives_the_reason() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.sees_ends().reach_established(7);
    run.take(full(40, 7, T::Established, T::Close, 0, flag::SHUTDOWN_BOTH));
    assert_eq!(run.count(T::Established), 1, "until the kernel reports why");
    let reset = |ms| ends(ms, Kind::ResetSent, raw::ResetReason::AbortOnClose as u64);
    // Both copies of a program may report it.
    run.take(full(40, 7, T::Established, T::Close, 0, flag::SHUTDOWN_BOTH)).take(reset(41)).take(reset(41));
    assert_eq!(run.lines()[2..], ["7 ESTABLISHED>CLOSE 30ms reset_sent_unread"]);
    assert_eq!((run.count(T::Established), run.tracker.counters().doubles), (0, 1));
    assert_eq!(run.tracker.counters().healed, 0);
}

#[test]
fn rst_before_close_gives_the_reason() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.sees_ends().reach_established(7);
    run.take(ends(39, Kind::ResetReceived, 0)).take(full(40, 7, T::Established, T::Close, 104, 0));
    assert_eq!(run.lines()[2..], ["7 ESTABLISHED>CLOSE 30ms reset_received"]);
}

#[test]
fn data_after_close_is_not_a_received_rst() {
    use TcpState as T;
    let answer = |ms| kernel(raw::Record { cookie: 7, arg0: 1, arg1: 1, ..record(ms, Kind::ResetSent) });
    for (sends, reason) in [(true, "aborted"), (false, "reset_received")] {
        let mut run = TrackerRun::new();
        run.sees_ends().reach_established(7);
        run.take(full(20, 7, T::Established, T::FinWait1, 0, flag::SHUTDOWN_BOTH));
        // tcp_reset() runs for a RST and for data alike; a held socket reports the error first.
        run.take(ends(39, Kind::ResetReceived, 0));
        run.take(full(40, 7, T::FinWait1, T::Close, 104, flag::SHUTDOWN_BOTH)).take(ends(
            40,
            Kind::ErrorReported,
            104,
        ));
        if sends {
            run.take(answer(41));
        }
        run.time(400);
        assert_eq!(run.lines()[3..], [format!("7 FIN_WAIT1>CLOSE 20ms {reason}")]);
    }
}

#[test]
fn rst_that_answers_a_segment_ends_no_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.sees_ends().reach_established(7);
    let answer = kernel(raw::Record { cookie: 7, arg0: 8, arg1: 1, ..record(30, Kind::ResetSent) });
    run.take(answer).take(full(40, 7, T::Established, T::Close, 110, 0)).time(300);
    assert_eq!(run.lines()[2..], ["7 ESTABLISHED>CLOSE 30ms timeout"]);
}

#[test]
fn reconnect_ends_a_pending_close_as_unexplained() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.sees_ends().reach_established(7);
    run.take(full(40, 7, T::Established, T::Close, 0, 0)).take(full(41, 7, T::Close, T::SynSent, 0, 0));
    assert_eq!(run.lines()[2..], ["7 ESTABLISHED>CLOSE 30ms unexplained", "7 CLOSE>SYN_SENT"]);
    assert_eq!((run.count(T::SynSent), run.tracker.counters().healed), (1, 0));
}

#[test]
fn killed_listener_is_recognised_by_its_error() {
    use TcpState as T;
    for (error, reason) in [(103, "killed"), (0, "listener_closed")] {
        let mut run = TrackerRun::new();
        run.sees_ends().take(full(0, 7, T::Close, T::Listen, 0, 0)).take(full(
            10,
            7,
            T::Listen,
            T::Close,
            0,
            0,
        ));
        run.take(ends(10, Kind::ErrorReported, error));
        assert_eq!(run.lines()[1..], [format!("7 LISTEN>CLOSE 10ms {reason}")]);
    }
}

#[test]
fn a_handshake_is_measured_from_its_syn() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(kernel(request(0, Kind::RequestArmed)))
        .take(server(50, 8, T::Listen, T::SynRecv))
        .take(kernel(request(50, Kind::RequestCancelled)))
        .take(server(50, 8, T::SynRecv, T::Established))
        .time(200);
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "8 SYN_RECV>ESTABLISHED 50ms"]);
    assert_eq!((run.count(T::SynRecv), run.count(T::Established)), (0, 1));
}

#[test]
fn before_6_15_a_clone_carries_the_listeners_cookie() {
    use TcpState as T;
    let mut run = TrackerRun::new();
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
fn abandoned_handshake_times_out() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let retransmitted = raw::Record { arg1: 1, ..request(1_000, Kind::RequestArmed) };
    run.take(kernel(request(0, Kind::RequestArmed)))
        .take(kernel(request(1_000, Kind::RequestCancelled)))
        .take(kernel(request(1_000, Kind::RequestExpired)))
        .take(kernel(retransmitted))
        .time(2_000);
    assert_eq!(run.count(T::SynRecv), 1, "the SYN-ACK was retransmitted");
    run.take(kernel(request(3_000, Kind::RequestCancelled)))
        .take(kernel(request(3_000, Kind::RequestExpired)))
        .time(3_300);
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "h SYN_RECV>CLOSE 3000ms timeout"]);
}

#[test]
fn socket_with_a_missed_beginning_gets_a_guessed_role() {
    use TcpState as T;
    let mut run = TrackerRun::new();
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
    assert_eq!(role(9), (Role::Outbound, false), "a socket in SYN_SENT is outbound");
}

#[test]
fn a_missed_transition_is_healed_and_counted() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.client(0, 7, T::Close, T::SynSent).client(20, 7, T::Established, T::FinWait1).client(
        30,
        7,
        T::FinWait1,
        T::FinWait2,
    );
    assert_eq!(
        run.lines(),
        ["7 CLOSE>SYN_SENT", "7 ESTABLISHED>FIN_WAIT1", "7 FIN_WAIT1>FIN_WAIT2 10ms"],
        "a dwell with a missed beginning is unknown"
    );
    assert_eq!(run.tracker.counters().healed, 1);
    assert_eq!(run.told.counts.iter().sum::<i64>(), 1);
}

#[test]
fn duplicate_transition_report_changes_nothing() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.client(0, 7, T::Close, T::SynSent)
        .client(0, 7, T::Close, T::SynSent)
        .client(10, 7, T::SynSent, T::Close)
        .client(10, 7, T::SynSent, T::Close);
    assert_eq!(run.lines().len(), 2);
    assert_eq!((run.tracker.counters().doubles, run.tracker.counters().healed), (2, 0));
}

#[test]
fn hook_records_take_precedence_over_the_seed() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    // Ended before its seed entry is processed.
    run.client(1, 7, T::Established, T::FinWait1)
        .client(2, 7, T::FinWait1, T::Close)
        .take(Record::Seed(seed(7, T::Established, SeedObject::Full)));
    assert_eq!(run.told.counts, [0; TcpState::COUNT]);
    // Reported by a hook before its seed entry is processed.
    run.client(3, 8, T::Established, T::CloseWait).take(Record::Seed(seed(
        8,
        T::Established,
        SeedObject::Full,
    )));
    assert_eq!((run.count(T::CloseWait), run.count(T::Established)), (1, 0));
    // Seeded in the state that a later record announces.
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
    let mut run = TrackerRun::seeding();
    run.take(Record::Seed(seed(7, T::Established, SeedObject::Full)))
        .take(Record::Seed(seed(8, T::TimeWait, SeedObject::Timewait { left: Nanos(20 * S) })))
        .take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) })
        .client(105, 7, T::Established, T::CloseWait)
        .take(kernel(timewait(20_005, Kind::TimewaitExpired, 8, T::TimeWait)));
    // 40 s of the 60 had passed before the trace, which is 5 ms old: computed times are at least 0.
    assert_eq!(run.lines(), ["7 ESTABLISHED>CLOSE_WAIT >=100ms", "8 TIME_WAIT>CLOSE ~20005ms expired"]);
}

#[test]
fn roles_are_guessed_from_listeners_and_marked() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
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
fn reconnecting_cookie_keeps_its_timewait_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
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
    run.take(kernel(timewait(60_040, Kind::TimewaitExpired, 7, T::TimeWait)));
    assert_eq!((run.count(T::TimeWait), run.count(T::SynSent)), (0, 1));
}

#[test]
fn full_table_counts_evictions() {
    use TcpState as T;
    let mut tracker = Tracker::new(TrackerLimits { sockets: 1 });
    let mut told = EventLog::default();
    for cookie in [7, 8] {
        tracker.take(&full(0, cookie, T::Close, T::SynSent, 0, 0), &mut told);
    }
    tracker.take(&kernel(request(0, Kind::RequestArmed)), &mut told);
    assert_eq!((told.lines.len(), tracker.sockets().count()), (1, 1));
    assert_eq!(tracker.counters().evicted, 2);
}

/// Number of entries in the side table `name`.
fn entries(tracker: &Tracker, name: &str) -> usize {
    let tables = tracker.side_tables();
    tables.iter().find(|(table, _)| *table == name).map_or_else(|| panic!("no table {name}"), |(_, n)| *n)
}

#[test]
fn timewait_record_with_a_wrong_substate_is_undecodable() {
    let mut run = TrackerRun::new();
    let mut raw = record(10, Kind::TimewaitArmed);
    (raw.cookie, raw.new) = (7, TcpState::Close as u8);
    run.take(kernel(raw));
    assert_eq!((run.tracker.sockets().count(), run.tracker.counters().undecodable), (0, 1));
}

#[test]
fn full_table_adds_no_handshake_entries() {
    let mut run = TrackerRun::seeding();
    run.tracker = Tracker::new(TrackerLimits { sockets: 1 });
    for cookie in 1..10 {
        let mut request = seed(cookie, TcpState::SynRecv, SeedObject::Request { timeouts: 0 });
        request.tuple.dport = cookie as u16;
        run.take(Record::Seed(request));
    }
    assert_eq!(entries(&run.tracker, "handshakes"), 1);
}

#[test]
fn pending_ends_stay_bounded_while_time_does_not_advance() {
    let mut run = TrackerRun::new();
    run.tracker = Tracker::new(TrackerLimits { sockets: 4 });
    run.take(kernel(request(10, Kind::RequestArmed)));
    for _ in 0..100 {
        run.take(kernel(request(10, Kind::RequestCancelled)));
    }
    assert!(entries(&run.tracker, "pending ends") <= 5);
}

#[test]
fn ends_during_the_seed_are_bounded() {
    let mut run = TrackerRun::seeding();
    run.tracker = Tracker::new(TrackerLimits { sockets: 4 });
    for cookie in 1..100 {
        run.client(10, cookie, TcpState::Close, TcpState::SynSent);
        run.client(10, cookie, TcpState::SynSent, TcpState::Close);
    }
    assert_eq!(entries(&run.tracker, "ended in the seed"), 4);
    assert_eq!(run.tracker.counters().evicted, 95);
}

#[test]
fn handshake_found_in_another_state_is_corrected() {
    let mut run = TrackerRun::seeding();
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
fn socket_out_of_scope_is_dropped_once_its_port_is_known() {
    use TcpState as T;
    let port = u32::from(SERVER);
    let mut scope = KernelFilter::default();
    scope.terms[0] =
        Term { low: port, high: port, test: test::LOCAL_PORT, ends_clause: 1, ..Term::default() };
    let mut run = TrackerRun::seeding();
    run.tracker = run.tracker.scoped(scope);
    run.take(Record::Seed(seed(6, T::Established, SeedObject::Full)));
    run.take(Record::SeedEnd { ts: Nanos(1), began: Nanos(0) });
    assert_eq!(run.tracker.sockets().count(), 0);

    let syn = raw::Record { cookie: 7, old: 7, new: 2, sport: 0, ..record(0, Kind::Transition) };
    run.take(kernel(syn));
    assert_eq!(run.tracker.sockets().count(), 1);
    // Both copies may report it; a kernel side without the filter would report the rest.
    run.client(10, 7, T::SynSent, T::Established).client(10, 7, T::SynSent, T::Established);
    run.client(20, 7, T::Established, T::FinWait1);
    run.take(server(20, 8, T::Listen, T::SynRecv)).take(server(21, 8, T::SynRecv, T::Established));
    let left: Vec<_> = run.tracker.sockets().map(|(id, _)| id).collect();
    assert_eq!(left, [SocketId(8)]);
    assert_eq!(run.tracker.counters(), Counters::default());
    assert_eq!(run.lines().len(), 4);
}

#[test]
fn handshake_dropped_before_its_seed_entry_is_not_added() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    let ends = Tuple { saddr: addr(2), daddr: addr(1), sport: SERVER, dport: CLIENT, ifindex: 0 };
    let listed = SeedSocket { tuple: ends, ..seed(8, T::SynRecv, SeedObject::Request { timeouts: 0 }) };
    run.take(kernel(request(1, Kind::RequestCancelled)))
        .take(Record::Seed(listed))
        .take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) });
    assert_eq!(run.tracker.sockets().count(), 0);
}

#[test]
fn connections_of_a_listener_without_port_inherit_its_owner() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    // inet_csk_listen_start() reports LISTEN before it chooses a port.
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
fn reused_kernel_address_is_a_new_timewait_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
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
    // The end of the rekeyed one is missed, and another socket reuses its address.
    run.take(kernel(timewait(70_000, Kind::TimewaitArmed, 8, T::TimeWait)));
    assert_eq!(run.count(T::TimeWait), 2);
    run.take(kernel(timewait(130_000, Kind::TimewaitExpired, 8, T::TimeWait)));
    assert_eq!(run.count(T::TimeWait), 1);
    assert!(run.lines().contains(&"8 TIME_WAIT>CLOSE 60000ms expired"), "{:?}", run.lines());
}

#[test]
fn role_without_listener_follows_the_local_port_range() {
    let settings = |range: &str| Record::NetnsSettings {
        ts: Nanos(1),
        netns: NetnsId(1),
        sysctls: [("net.ipv4.ip_local_port_range".to_owned(), range.to_owned())].into(),
    };
    let time_wait = |cookie, sport, dport| {
        let timewait = SeedObject::Timewait { left: Nanos(30 * S) };
        let socket = seed(cookie, TcpState::TimeWait, timewait);
        SeedSocket { tuple: Tuple { sport, dport, ..socket.tuple }, ..socket }
    };
    // (local port range, local port, remote port, role)
    let cases = [
        (Some("32768\t60999"), SERVER, CLIENT, Role::Inbound),
        (Some("32768\t60999"), CLIENT, SERVER, Role::Outbound),
        // Both ends or neither may have been chosen: most such connections are outbound.
        (Some("32768\t60999"), CLIENT + 1, CLIENT, Role::Outbound),
        (Some("32768\t60999"), 1000, 2049, Role::Outbound),
        (Some("1024\t65535"), 8080, CLIENT, Role::Outbound),
        (None, SERVER, CLIENT, Role::Outbound),
    ];
    for (range, sport, dport, role) in cases {
        let mut run = TrackerRun::seeding();
        run.take(Record::Seed(time_wait(7, sport, dport)));
        if let Some(range) = range {
            run.take(settings(range));
        }
        run.take(Record::SeedEnd { ts: Nanos(5 * MS), began: Nanos(0) });
        // A sweep that finds one later makes the same guess.
        run.take(Record::Found(time_wait(8, sport, dport)));
        for id in [7, 8] {
            let socket = run.tracker.socket(SocketId(id)).expect("tracked");
            assert_eq!((socket.role, socket.role_guessed), (role, true), "{range:?} {sport} {dport}");
        }
    }
}
