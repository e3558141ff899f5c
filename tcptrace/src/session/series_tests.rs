//! Tests that the files of a series together produce the same events as one file, for any cuts and any records.

use std::io::Cursor;

use proptest::prelude::*;
use tcptrace_common::{
    record::{self as raw, Kind, flag},
    state::TcpState as S,
};

use super::{
    AtEnd, Reader,
    encode::Encoder,
    message::{self, Compressor, END},
    schema::{FORMAT, key},
};
use crate::{
    lifecycle::{Event, Observer, Processes, Socket, Tracker, TrackerLimits},
    model::{
        Addr, Flow, HookRecord, Nanos, NetnsId, Record, SeedSocket, SocketId, Source as _, Tuple,
        record::{HostFacts, Process, ProcessFacts, SeedObject, Sweep},
    },
};

const NETNS: u32 = 4_026_531_840;
const BEGAN: u64 = 5_000_000_000;
const MS: u64 = 1_000_000;
/// Active sockets.
const SLOTS: u8 = 6;
const LISTENER: u64 = 900;

/// Records every event as text.
#[derive(Default)]
struct EventText(Vec<String>);

impl Observer for EventText {
    fn appeared(&mut self, _: SocketId, _: &mut Socket, _: &Processes) {}

    fn changed(&mut self, event: &Event<'_>, _: &mut Socket, _: &Processes) {
        self.0.push(format!("{event:?}"));
    }

    fn corrected(&mut self, _: crate::model::TcpState, _: &mut Socket, _: &Processes) {}

    fn identified(&mut self, _: &mut Socket, _: &Processes) {}

    fn orphaned(&mut self, _: &mut Socket) {}
}

/// One action on one of the sockets: usually a possible one, sometimes an arbitrary one.
#[derive(Clone, Copy, Debug)]
struct ScriptStep {
    slot: u8,
    choice: u8,
    wild: u8,
    /// Milliseconds since the previous step.
    gap: u8,
    twice: bool,
}

fn step() -> impl Strategy<Value = ScriptStep> {
    (0..SLOTS, any::<u8>(), any::<u8>(), 0..60_u8, prop::bool::weighted(0.1)).prop_map(
        |(slot, choice, wild, gap, twice)| ScriptStep {
            slot,
            choice,
            wild,
            gap: gap.saturating_sub(20),
            twice,
        },
    )
}

/// The stage of a socket in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Gone,
    Request,
    Full(S),
    Mini(S),
}

/// A socket of the stream.
#[derive(Clone, Copy, Debug)]
struct SocketSlot {
    number: u8,
    at: At,
    /// How many connections its cookie has begun.
    lives: u16,
    /// The timewait socket of its previous life, which may exist beside the new one.
    old_timewait: Option<u16>,
}

/// A stream of records built from steps.
struct Stream {
    ts: u64,
    slots: Vec<SocketSlot>,
    records: Vec<Record>,
}

impl Stream {
    fn new(segments: bool) -> Self {
        let slots =
            (0..SLOTS).map(|number| SocketSlot { number, at: At::Gone, lives: 0, old_timewait: None });
        let ts = Nanos(BEGAN);
        let mut records = vec![
            Record::Host(Box::new(HostFacts { segments, netns: NETNS, ..HostFacts::default() })),
            Record::Tick { ts },
        ];
        let seed = |id, tuple, state, object| {
            let (netns, id) = (NetnsId(NETNS), SocketId(id));
            let seed =
                SeedSocket { ts, id, netns, tuple, state, object, inode: 9, uid: 0, rqueue: 0, wqueue: 0 };
            Record::Seed(seed)
        };
        let listens = Tuple { saddr: Addr::ANY, daddr: Addr::ANY, sport: 80, dport: 0, ifindex: 0 };
        records.push(seed(LISTENER, listens, S::Listen, SeedObject::Full));
        let left = SeedObject::Timewait { left: Nanos(30_000 * MS) };
        for (n, state) in [S::Established, S::CloseWait, S::FinWait2].into_iter().enumerate() {
            records.push(seed(1_000 + n as u64, tuple(n as u8, 500), state, SeedObject::Full));
        }
        records.push(seed(1_010, tuple(0, 501), S::TimeWait, left));
        records.push(seed(1_011, tuple(1, 501), S::FinWait2, left));
        records.push(Record::SeedEnd { ts, began: ts });
        let process = Process::new(77, "server", 3);
        records.push(Record::Owner { ts, id: SocketId(LISTENER), process, fd: Some(3) });
        let path = "/system.slice/server.service".into();
        records.push(Record::CgroupPath { ts, cgroup: 3, path });
        let facts =
            ProcessFacts { exe: Some("/usr/bin/server".into()), uid: Some(33), ..ProcessFacts::default() };
        let facts = std::sync::Arc::new(facts.labelled());
        records.push(Record::ProcessFacts { ts, pid: 77, comm: "server".into(), facts });
        records.push(Record::OwnersEnd { ts });
        Self { ts: BEGAN, slots: slots.collect(), records }
    }

    fn step(&mut self, step: ScriptStep) {
        self.ts += u64::from(step.gap) * MS + u64::from(step.choice) * 1_000 + 1;
        let slot = self.slots[usize::from(step.slot)];
        let before = self.records.len();
        match step.wild {
            0..10 => self.wild(slot, step),
            10..14 => self.sweep_fin_wait2(step),
            14..16 => self.seeded(step),
            _ => {
                let next = self.usual(slot, step.choice);
                self.slots[usize::from(step.slot)] = next;
            }
        }
        if step.twice {
            self.records.extend_from_within(before..);
        }
        if step.choice.is_multiple_of(3) {
            self.records.push(Record::Tick { ts: Nanos(self.ts) });
        }
    }

    /// Applies a possible next step of a socket's life.
    fn usual(&mut self, slot: SocketSlot, choice: u8) -> SocketSlot {
        let full = |state| SocketSlot { at: At::Full(state), ..slot };
        let is = |n: u8| choice.is_multiple_of(n);
        match slot.at {
            At::Gone | At::Mini(_) if matches!(slot.at, At::Gone) || is(7) => self.begin(slot, choice),
            At::Gone => slot,
            At::Request => self.handshake(slot, choice),
            At::Full(S::SynSent) if is(4) => self.close(slot, S::SynSent, 111, 0),
            At::Full(S::SynSent) => {
                self.transition(slot, S::SynSent, S::Established, 0, 0);
                full(S::Established)
            }
            At::Full(S::Established) => {
                let to = if is(2) { S::FinWait1 } else { S::CloseWait };
                if is(11) {
                    return self.close(slot, S::Established, if is(2) { 104 } else { 0 }, flag::TASK);
                }
                self.transition(slot, S::Established, to, 0, if to == S::FinWait1 { flag::TASK } else { 0 });
                full(to)
            }
            At::Full(S::CloseWait) => {
                self.transition(slot, S::CloseWait, S::LastAck, 0, flag::TASK);
                full(S::LastAck)
            }
            At::Full(S::FinWait1) => {
                let to = if is(5) { S::Closing } else { S::FinWait2 };
                self.transition(slot, S::FinWait1, to, 0, if is(2) { flag::ORPHAN } else { 0 });
                full(to)
            }
            At::Full(S::FinWait2 | S::Closing) if !is(6) => {
                let to = if is(2) { S::TimeWait } else { S::FinWait2 };
                self.timewait(slot, Kind::TimewaitArmed, to, 15_000, 0);
                if let At::Full(from) = slot.at {
                    self.transition(slot, from, S::Close, 0, flag::SHUTDOWN_BOTH | flag::ORPHAN);
                }
                SocketSlot { at: At::Mini(to), ..slot }
            }
            At::Full(state) => self.close(slot, state, 0, flag::SHUTDOWN_BOTH | flag::ORPHAN),
            At::Mini(state) => self.live_on(slot, state, choice),
        }
    }

    fn begin(&mut self, slot: SocketSlot, choice: u8) -> SocketSlot {
        let old_timewait = matches!(slot.at, At::Mini(_)).then_some(slot.lives);
        let slot = SocketSlot { lives: slot.lives + 1, old_timewait, ..slot };
        if choice.is_multiple_of(2) {
            self.transition(slot, S::Close, S::SynSent, 0, flag::TASK);
            SocketSlot { at: At::Full(S::SynSent), ..slot }
        } else {
            self.request(slot, Kind::RequestArmed, 0);
            SocketSlot { at: At::Request, ..slot }
        }
    }

    fn handshake(&mut self, slot: SocketSlot, choice: u8) -> SocketSlot {
        match choice % 5 {
            0 => self.request(slot, Kind::RequestCancelled, 0),
            1 => self.request(slot, Kind::RequestExpired, 1),
            2 => self.request(slot, Kind::RequestArmed, 1),
            _ => {
                self.transition(slot, S::Listen, S::SynRecv, 0, 0);
                self.request(slot, Kind::RequestCancelled, 0);
                self.transition(slot, S::SynRecv, S::Established, 0, 0);
                return SocketSlot { at: At::Full(S::Established), ..slot };
            }
        }
        slot
    }

    fn live_on(&mut self, slot: SocketSlot, state: S, choice: u8) -> SocketSlot {
        if let Some(life) = slot.old_timewait
            && choice.is_multiple_of(4)
        {
            let old = SocketSlot { lives: life, ..slot };
            self.timewait(old, Kind::TimewaitExpired, S::TimeWait, 0, 0);
            return SocketSlot { old_timewait: None, ..slot };
        }
        let gone = SocketSlot { at: At::Gone, ..slot };
        match choice % 8 {
            0 => self.timewait(slot, Kind::TimewaitCancelled, state, 9_000, 42 << 32),
            1 => {
                self.timewait(slot, Kind::TimewaitCancelled, state, 0, 0);
                self.timewait(slot, Kind::TimewaitExpired, state, 0, 0);
                return gone;
            }
            2 => {
                self.timewait(slot, Kind::TimewaitCancelled, state, 9_000, 0);
                self.timewait(slot, Kind::Segment, state, 4, 0);
                return gone;
            }
            3 => {
                self.timewait(slot, Kind::TimewaitArmed, S::TimeWait, 15_000, 0);
                self.timewait(slot, Kind::Segment, S::TimeWait, 1, 0);
                return SocketSlot { at: At::Mini(S::TimeWait), ..slot };
            }
            4 => self.timewait(slot, Kind::Segment, state, 1, 0),
            5 => self.timewait(slot, Kind::TimewaitArmed, S::TimeWait, 15_000, 0),
            6 => {
                self.timewait(slot, Kind::TimewaitExpired, S::TimeWait, 0, BEGAN / MS);
                return gone;
            }
            _ => self.timewait(slot, Kind::TimewaitArmed, state, 14_000, 0),
        }
        slot
    }

    /// Adds a record that need not be possible.
    fn wild(&mut self, slot: SocketSlot, step: ScriptStep) {
        let state = |n: u8| S::from_kernel(n % 11 + 1).unwrap_or(S::Close);
        let (from, to) = (state(step.choice), state(step.choice / 11));
        match step.wild {
            0..4 => self.transition(slot, from, to, 0, step.choice & flag::TASK),
            4 => self.timewait(slot, Kind::TimewaitArmed, to, 15_000, 0),
            5 => self.timewait(slot, Kind::TimewaitCancelled, to, 5, 0),
            6 => self.timewait(slot, Kind::Segment, to, step.choice.into(), 0),
            7 => self.timewait(slot, Kind::TimewaitExpired, to, 0, 0),
            8 => self.request(slot, Kind::RequestCancelled, 0),
            _ => self.request(slot, Kind::RequestArmed, 0),
        }
    }

    fn sweep_fin_wait2(&mut self, step: ScriptStep) {
        let ts = Nanos(self.ts);
        for slot in self.slots.clone() {
            if slot.at == At::Mini(S::FinWait2) && step.choice & (1 << slot.number) != 0 {
                self.records.push(Record::Missing {
                    ts,
                    id: SocketId(u64::from(slot.number) + 1),
                    netns: NetnsId(NETNS),
                    tuple: tuple(slot.number, slot.lives),
                    from: Sweep::FinWait2,
                });
            }
        }
    }

    /// Something happens to a seeded socket.
    fn seeded(&mut self, step: ScriptStep) {
        let n = step.choice % 3;
        let slot = SocketSlot { number: n, at: At::Gone, lives: 500, old_timewait: None };
        let at = self.records.len();
        match step.choice / 3 % 4 {
            0 => self.transition(slot, S::Established, S::FinWait1, 0, flag::TASK),
            1 => self.transition(slot, S::CloseWait, S::LastAck, 0, flag::TASK),
            2 => self.timewait(SocketSlot { lives: 501, ..slot }, Kind::TimewaitExpired, S::TimeWait, 0, 0),
            _ => self.transition(slot, S::FinWait2, S::Close, 0, 0),
        }
        for record in &mut self.records[at..] {
            if let Record::Kernel(seen) = record {
                seen.raw.cookie = 1_000 + u64::from(n) + if seen.raw.kind == 1 { 0 } else { 10 };
            }
        }
    }

    fn close(&mut self, slot: SocketSlot, from: S, sk_err: u64, flags: u8) -> SocketSlot {
        self.transition(slot, from, S::Close, sk_err, flags);
        SocketSlot { at: At::Gone, ..slot }
    }

    fn transition(&mut self, slot: SocketSlot, old: S, new: S, arg0: u64, flags: u8) {
        let object = 0xffff_8880_0000_0000 + u64::from(slot.number);
        let raw = self.raw(slot, Kind::Transition, object);
        self.push(raw::RawRecord { old: old as u8, new: new as u8, arg0, flags, ..raw });
    }

    fn timewait(&mut self, slot: SocketSlot, kind: Kind, substate: S, arg0: u64, arg1: u64) {
        let object = 0xffff_8881_0000_0000 + (u64::from(slot.number) << 16) + u64::from(slot.lives);
        let raw = self.raw(slot, kind, object);
        self.push(raw::RawRecord { new: substate as u8, arg0, arg1, ..raw });
    }

    fn request(&mut self, slot: SocketSlot, kind: Kind, timeouts: u64) {
        let object = 0xffff_8882_0000_0000 + u64::from(slot.number);
        let raw = self.raw(slot, kind, object);
        self.push(raw::RawRecord { cookie: 0, new: 12, arg0: LISTENER, arg1: timeouts, ..raw });
    }

    fn raw(&self, slot: SocketSlot, kind: Kind, object: u64) -> raw::RawRecord {
        let Tuple { saddr, daddr, sport, dport, ifindex } = tuple(slot.number, slot.lives);
        raw::RawRecord {
            ts_ns: self.ts,
            cookie: u64::from(slot.number) + 1,
            object,
            arg0: 0,
            arg1: 0,
            saddr: saddr.0,
            daddr: daddr.0,
            netns: NETNS,
            ifindex,
            sport,
            dport,
            kind: kind as u8,
            old: 0,
            new: 0,
            flags: 0,
        }
    }

    fn push(&mut self, raw: raw::RawRecord) {
        let mut comm = [0; 16];
        comm[..6].copy_from_slice(b"worker");
        let tid = 40 + u32::from(raw.sport % 3);
        let task = (raw.flags & flag::TASK != 0).then_some(raw::Task { cgroup: 3, tgid: 40, tid, comm });
        self.records.push(Record::Kernel(HookRecord { raw, task }));
    }
}

/// Addresses and ports of a connection: even lives use the listener's port, and sockets of the same parity and
/// life share all of them.
fn tuple(slot: u8, life: u16) -> Tuple {
    let addr = |last| Addr::from(std::net::IpAddr::from([10, 0, 0, last]));
    Tuple { saddr: addr(1), daddr: addr(2 + slot % 2), sport: 80 + life % 2, dport: 4_000 + life, ifindex: 0 }
}

/// Writes `records` to a file and reads it back.
fn through_a_file(encoder: &mut Encoder, records: &[Record]) -> Vec<Record> {
    let mut compressor = Compressor::new().expect("memory");
    let metadata = [(key::FORMAT, FORMAT.to_string()), (key::CLOCK_OFFSET_NS, "0".to_owned())];
    let mut file = message::header(&metadata, &mut compressor).expect("memory");
    encoder.forget();
    for record in records {
        encoder.record(record);
    }
    encoder.take_batch(&mut compressor, &mut file).expect("memory");
    file.extend(END);
    let mut reader = Reader::new(Box::new(Cursor::new(file)), AtEnd::Stop).expect("a recording");
    let mut read = Vec::new();
    while reader.fill(&mut |record| read.push(record)).expect("memory can be read") == Flow::Running {}
    read
}

fn follow(tracker: &mut Tracker, text: &mut EventText, records: &[Record]) {
    for record in records {
        tracker.take(record, text);
    }
}

/// The tracker's final state.
fn known(tracker: &Tracker) -> Vec<String> {
    let mut known: Vec<String> = tracker
        .sockets()
        .map(|(id, socket)| {
            let process = socket.process.and_then(|id| tracker.processes().get(id));
            // `closed_before` differs by design: a close in an earlier part precedes this one.
            let socket = Socket { process: None, object: 0, closed_before: false, ..socket.clone() };
            format!("{id} {socket:?} {process:?}")
        })
        .collect();
    known.sort_unstable();
    known
}

/// The head of a file that begins at `ts`.
fn head(tracker: &Tracker, host: &Record, ts: Nanos) -> Vec<Record> {
    let (sockets, rest) = tracker.carry(ts);
    let begin =
        [host.clone(), Record::Tick { ts }, Record::SeedEnd { ts, began: ts }, Record::OwnersEnd { ts }];
    let (workloads, facts) = tracker.names(ts);
    let sockets = sockets.into_iter().map(|carried| Record::SocketCheckpoint(Box::new(carried)));
    let rest = Record::TrackerCheckpoint(Box::new(rest));
    begin.into_iter().chain(workloads).chain(sockets).chain(facts).chain([rest]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_parts_give_the_same_events_as_the_whole(
        steps in prop::collection::vec(step(), 1..300),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        segments: bool,
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(steps.len())).collect();
        cuts.sort_unstable();
        let mut stream = Stream::new(segments);
        let mut bounds = Vec::new();
        for (n, &step) in steps.iter().enumerate() {
            stream.step(step);
            if cuts.contains(&n) {
                stream.records.push(Record::Tick { ts: Nanos(stream.ts) });
                bounds.push(stream.records.len());
            }
        }
        // Lets every pending end find its reason.
        stream.records.push(Record::Tick { ts: Nanos(stream.ts + 1_000 * MS) });
        bounds.push(stream.records.len());

        let host = stream.records[0].clone();
        let mut whole = (Tracker::new(TrackerLimits::default()), EventText::default());
        let mut parts = (Tracker::new(TrackerLimits::default()), EventText::default());
        let mut encoder = Encoder::default();
        let mut begin = 0;
        for end in bounds {
            let mut records = Vec::new();
            if begin > 0 {
                let ts = stream.records[begin - 1].ts().unwrap_or_default();
                records = head(&whole.0, &host, ts);
                parts.0 = Tracker::new(TrackerLimits::default());
            }
            records.extend_from_slice(&stream.records[begin..end]);
            follow(&mut whole.0, &mut whole.1, &stream.records[begin..end]);
            let records = through_a_file(&mut encoder, &records);
            follow(&mut parts.0, &mut parts.1, &records);
            begin = end;
        }
        for (n, (part, whole)) in parts.1.0.iter().zip(&whole.1.0).enumerate() {
            prop_assert_eq!(part, whole, "event {}", n);
        }
        prop_assert_eq!(parts.1.0.get(whole.1.0.len()..), whole.1.0.get(parts.1.0.len()..));
        prop_assert_eq!(known(&parts.0), known(&whole.0));
    }
}
