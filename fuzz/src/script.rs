//! Decodes bytes to records, 16 bytes each, with so few sockets, endpoints and processes that they collide.

use tcptrace::model::{
    Addr, HookRecord, Nanos, NetnsId, Record, SeedSocket, SocketId, TcpState, Tuple,
    record::{HostFacts, Process, ProcessFacts, SeedObject, Sweep},
    workload::Workload,
};
use tcptrace_common::record as raw;

/// Bytes of one record.
const STEP: usize = 16;
/// Argument values with a meaning for hooks; other bytes stand for themselves.
const ARGUMENTS: [u64; 8] = [0, 1, 4, 104, 111, 15_000, u64::MAX, 1 << 63];

/// An iterator over the records.
pub struct Script<'a> {
    rest: &'a [u8],
    now: Nanos,
}

impl<'a> Script<'a> {
    /// A script from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, now: Nanos(1_000_000_000_000) }
    }

    /// Time of the last record.
    pub fn now(&self) -> Nanos {
        self.now
    }
}

impl Iterator for Script<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let (step, rest) = self.rest.split_first_chunk::<STEP>()?;
        self.rest = rest;
        let microseconds = i32::from_le_bytes([step[12], step[13], step[14], step[15]]);
        let moved = self.now.0.checked_add_signed(i64::from(microseconds) * 1_000);
        self.now = Nanos(moved.unwrap_or(self.now.0));
        Some(record(step, self.now))
    }
}

fn record(step: &[u8; STEP], ts: Nanos) -> Record {
    let id = SocketId(u64::from(step[1] % 8));
    let netns = NetnsId(u32::from(step[11] >> 7));
    let process = || Process::new(u32::from(step[6] % 4), "name", u64::from(step[7] % 3));
    match step[0] {
        0..=191 => Record::Kernel(observation(step, ts)),
        192..=215 => Record::Seed(SeedSocket {
            ts,
            id,
            netns,
            tuple: tuple(step),
            state: TcpState::ALL[usize::from(step[3]) % TcpState::COUNT],
            object: match step[5] % 3 {
                0 => SeedObject::Full,
                1 => SeedObject::Timewait { left: Nanos(u64::from(step[6]) << 28) },
                _ => SeedObject::Request { timeouts: step[6] },
            },
            inode: u32::from(step[7]),
            uid: 0,
            rqueue: 0,
            wqueue: 0,
        }),
        216..=219 => Record::SeedEnd { ts, began: ts.minus(Nanos::SECOND) },
        220..=227 => {
            let from = if step[6].is_multiple_of(2) { Sweep::Whole } else { Sweep::FinWait2 };
            let id = SocketId(u64::from(step[5]));
            Record::Missing { ts, id, netns, tuple: tuple(step), from }
        }
        228..=231 => Record::Owner { ts, id, process: process(), fd: None },
        232..=233 => {
            let Process { cgroup, .. } = process();
            let workload = Workload { pod: Some(step[5].to_string().into()), ..Workload::default() };
            Record::Workload { ts, cgroup, workload: workload.labelled().into() }
        }
        234..=235 => {
            let Process { pid, comm, .. } = process();
            let facts = ProcessFacts { uid: Some(step[5].into()), ..ProcessFacts::default() };
            Record::ProcessFacts { ts, pid, comm, facts: facts.labelled().into() }
        }
        236..=239 => Record::OwnersEnd { ts },
        240..=243 => Record::Host(Box::new(HostFacts { segments: step[5] & 1 != 0, ..HostFacts::default() })),
        244..=255 => Record::Tick { ts },
    }
}

fn observation(step: &[u8; STEP], ts: Nanos) -> HookRecord {
    let argument = |byte: u8| ARGUMENTS.get(usize::from(byte)).copied().unwrap_or(u64::from(byte));
    let Tuple { saddr, daddr, sport, dport, ifindex } = tuple(step);
    let raw = raw::RawRecord {
        ts_ns: ts.0,
        cookie: u64::from(step[1] % 8),
        object: u64::from(step[2] % 8),
        arg0: argument(step[6]),
        arg1: argument(step[7]) | u64::from(step[8] % 4) << 32,
        saddr: saddr.0,
        daddr: daddr.0,
        netns: u32::from(step[11] >> 7),
        ifindex,
        sport,
        dport,
        // 0 and 9 are not kinds.
        kind: step[0] % 10,
        old: step[3] % 14,
        new: step[4] % 14,
        flags: step[5],
    };
    let has_task = step[5] & raw::flag::TASK != 0;
    let tid = u32::from(step[8] % 4);
    let task = raw::Task { cgroup: u64::from(step[7] % 3), tgid: tid, tid, comm: [step[8] & 0x5f; 16] };
    HookRecord { raw, task: has_task.then_some(task) }
}

fn tuple(step: &[u8; STEP]) -> Tuple {
    let addr = |byte: u8| match byte % 4 {
        0 => Addr::ANY,
        n => Addr([n; 16]),
    };
    Tuple {
        saddr: addr(step[9] >> 2),
        daddr: addr(step[10] >> 2),
        sport: u16::from(step[9] % 4),
        dport: u16::from(step[10] % 4),
        ifindex: u32::from(step[11] & 1),
    }
}
