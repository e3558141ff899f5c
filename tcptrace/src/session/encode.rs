//! Encodes records as batches of an Arrow IPC stream.

use std::io;

use tcptrace_common::{
    record::{self as raw, Kind},
    state::TcpState,
};

use super::{
    columns::{Finish, NumberColumn as Column, Texts},
    dictionary::{DictEntry, NumberTable, Objects, Tasks},
    message::Compressor,
    schema::{RowKind, index_of},
};
use crate::model::{
    Addr, HookRecord, Nanos, NetnsId, Record, SeedSocket, SocketId, Tuple,
    checkpoint::SocketCheckpoint,
    hooks::{KernelObject, LastRecord, ReportedKind, reported},
    record::{KernelLosses, Process, SeedObject, Sweep},
    text,
};

/// Row limit of a batch; the next constant limits its bytes of text.
pub const MOST_ROWS: usize = 1 << 16;
const MOST_TEXT_BYTES: usize = 16 << 20;

/// Turns records into rows.
#[derive(Default)]
pub struct Encoder {
    rows: usize,
    /// Rows other than ticks: data that would be lost.
    non_tick_rows: usize,
    columns: Columns,
    /// Definitions of numbers: a batch of its own before the others, so that its columns hold nothing else.
    definitions: Columns,
    definition_rows: usize,
    numbers: NumberTable,
    tasks: Tasks,
    objects: Objects,
    /// Wall-clock time at monotonic 0.
    clock_offset_ns: u64,
}

#[derive(Default)]
struct Columns {
    ts: Column<i64>,
    kind: Column<u8>,
    socket: Column<u32>,
    cookie: Column<u64>,
    object: Column<u32>,
    netns: Column<u32>,
    saddr: Column<[u8; 16]>,
    daddr: Column<[u8; 16]>,
    sport: Column<u16>,
    dport: Column<u16>,
    ifindex: Column<u32>,
    listener: Column<u64>,
    from: Column<u8>,
    to: Column<u8>,
    flags: Column<u8>,
    arg0: Column<i64>,
    arg1: Column<i64>,
    task: Column<u32>,
    pid: Column<u32>,
    tid: Column<u32>,
    comm: Texts,
    cgroup: Column<u64>,
    inode: Column<u32>,
    uid: Column<u32>,
    rqueue: Column<u32>,
    wqueue: Column<u32>,
    name: Texts,
    facts: Texts,
}

impl Columns {
    /// In the order of [`super::schema::Column::ALL`].
    fn all(&mut self) -> [&mut dyn Finish; 28] {
        [
            &mut self.ts,
            &mut self.kind,
            &mut self.socket,
            &mut self.cookie,
            &mut self.object,
            &mut self.netns,
            &mut self.saddr,
            &mut self.daddr,
            &mut self.sport,
            &mut self.dport,
            &mut self.ifindex,
            &mut self.listener,
            &mut self.from,
            &mut self.to,
            &mut self.flags,
            &mut self.arg0,
            &mut self.arg1,
            &mut self.task,
            &mut self.pid,
            &mut self.tid,
            &mut self.comm,
            &mut self.cgroup,
            &mut self.inode,
            &mut self.uid,
            &mut self.rqueue,
            &mut self.wqueue,
            &mut self.name,
            &mut self.facts,
        ]
    }
}

impl Encoder {
    /// Sets the offset added to a record's time.
    pub const fn set_clock_offset(&mut self, clock_offset_ns: u64) {
        self.clock_offset_ns = clock_offset_ns;
    }

    /// The offset added to a record's time.
    pub const fn clock_offset_ns(&self) -> u64 {
        self.clock_offset_ns
    }

    /// Rows waiting, without ticks.
    pub const fn non_tick_rows(&self) -> usize {
        self.non_tick_rows
    }

    /// Whether a batch is due because of its size.
    pub fn is_full(&self) -> bool {
        self.rows >= MOST_ROWS
            || self.numbers.is_full()
            || self.tasks.is_full()
            || self.columns.facts.len_bytes() + self.columns.name.len_bytes() >= MOST_TEXT_BYTES
    }

    /// Starts over: later rows are readable without earlier ones.
    pub fn forget(&mut self) {
        self.numbers.forget();
        self.tasks.forget();
    }

    /// Appends the waiting rows to `out`.
    pub fn take_batch(&mut self, compressor: &mut Compressor, out: &mut Vec<u8>) -> io::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        if self.definition_rows > 0 {
            compressor.batch(self.definition_rows, &mut self.definitions.all(), out)?;
        }
        compressor.batch(self.rows, &mut self.columns.all(), out)?;
        self.definitions.all().into_iter().chain(self.columns.all()).for_each(Finish::clear);
        (self.rows, self.non_tick_rows, self.definition_rows) = (0, 0, 0);
        self.numbers.end_batch();
        if self.tasks.is_full() {
            self.tasks.forget();
        }
        Ok(())
    }

    /// Adds one record.
    pub fn record(&mut self, record: &Record) {
        let ts = record.ts();
        match record {
            Record::Kernel(seen) => self.observation(seen),
            Record::Seed(seed) => {
                self.seed(seed, [RowKind::Seed, RowKind::SeedTimewait, RowKind::SeedRequest]);
            }
            Record::Found(found) => {
                self.seed(found, [RowKind::Found, RowKind::FoundTimewait, RowKind::FoundRequest]);
            }
            Record::Missing { id, netns, tuple, from, .. } => {
                let row = self.begin(RowKind::Missing, ts);
                self.ends(row, *id, netns.0, tuple);
                if *from == Sweep::FinWait2 {
                    self.columns.to.set(row, TcpState::FinWait2 as u8);
                }
            }
            // Their effects on the sockets are recorded instead.
            Record::Listing(_) | Record::Restart { .. } | Record::Stream { .. } => {}
            Record::SeedEnd { began, .. } => {
                let row = self.begin(RowKind::SeedEnd, ts);
                self.columns.arg0.set(row, began.0.cast_signed());
            }
            Record::Owner { id, process, fd, .. } => {
                let row = self.begin(RowKind::Owner, ts);
                self.columns.cookie.set(row, id.0);
                self.process(row, process);
                if let Some(fd) = fd {
                    self.columns.arg0.set(row, i64::from(*fd));
                }
            }
            Record::OwnersEnd { .. } => {
                self.begin(RowKind::OwnersEnd, ts);
            }
            Record::NetnsName { netns, name, .. } => {
                let row = self.begin(RowKind::NetnsName, ts);
                self.columns.netns.set(row, netns.0);
                self.columns.name.set(row, name);
            }
            Record::CgroupPath { cgroup, path, .. } => {
                let row = self.begin(RowKind::CgroupPath, ts);
                self.columns.cgroup.set(row, *cgroup);
                self.columns.name.set(row, path);
            }
            Record::Workload { cgroup, workload, .. } => {
                let row = self.begin(RowKind::Workload, ts);
                self.columns.cgroup.set(row, *cgroup);
                self.facts(row, workload);
            }
            Record::ProcessFacts { pid, comm, facts, .. } => {
                let row = self.begin(RowKind::ProcessFacts, ts);
                self.columns.pid.set(row, *pid);
                self.columns.comm.set(row, &text::sanitise(comm));
                self.facts(row, facts);
            }
            Record::AddressName { origin, prefix, name, .. } => {
                let row = self.begin(RowKind::AddressName, ts);
                self.columns.daddr.set(row, prefix.addr().0);
                self.columns.arg0.set(row, prefix.bits().into());
                self.columns.arg1.set(row, origin.number());
                self.columns.name.set(row, name);
            }
            Record::NetnsSettings { netns, sysctls, .. } => {
                self.netns_facts(RowKind::NetnsSettings, ts, *netns, sysctls);
            }
            Record::NetnsCounters { netns, counters, .. } => {
                self.netns_facts(RowKind::NetnsCounters, ts, *netns, counters);
            }
            Record::Conntrack { netns, conntrack, .. } => {
                self.netns_facts(RowKind::Conntrack, ts, *netns, conntrack);
            }
            Record::BoundPorts { netns, bound, .. } => {
                self.netns_facts(RowKind::BoundPorts, ts, *netns, bound);
            }
            Record::Stack { number, stack, .. } => {
                let row = self.begin(RowKind::Stack, ts);
                self.columns.arg0.set(row, i64::from(*number));
                self.facts(row, stack);
            }
            Record::ClockStep(step) => {
                let row = self.begin(RowKind::ClockStep, ts);
                self.columns.arg0.set(row, step.offset_ns.cast_signed());
            }
            Record::Host(facts) => {
                let row = self.begin(RowKind::Host, None);
                self.facts(row, facts);
            }
            Record::Loss { losses, .. } => {
                let row = self.begin(RowKind::Loss, ts);
                self.facts(row, losses);
            }
            Record::Tick { .. } => {
                self.begin(RowKind::Tick, ts);
                self.non_tick_rows -= 1;
            }
            Record::SocketCheckpoint(carried) => self.carried(carried),
            Record::TrackerCheckpoint(known) => {
                let row = self.begin(RowKind::Continuation, ts);
                self.facts(row, known);
            }
        }
    }

    /// Adds facts about a network namespace.
    fn netns_facts(
        &mut self,
        kind: RowKind,
        ts: Option<Nanos>,
        netns: NetnsId,
        facts: &impl serde::Serialize,
    ) {
        let row = self.begin(kind, ts);
        self.columns.netns.set(row, netns.0);
        self.facts(row, facts);
    }

    /// Adds the losses that occurred before this file.
    pub fn losses_before(&mut self, ts: Nanos, losses: &KernelLosses) {
        let row = self.begin(RowKind::LossBefore, Some(ts));
        self.facts(row, losses);
    }

    /// Begins a row.
    fn begin(&mut self, kind: RowKind, ts: Option<Nanos>) -> usize {
        let row = self.rows;
        if let Some(ts) = ts {
            self.columns.ts.set(row, self.clock_offset_ns.wrapping_add(ts.0).cast_signed());
        }
        // A test ensures that every kind has an index.
        self.columns.kind.set(row, index_of(kind).unwrap_or(u8::MAX));
        self.rows += 1;
        self.non_tick_rows += 1;
        row
    }

    fn observation(&mut self, seen: &HookRecord) {
        let raw = &seen.raw;
        let Some(kind) = Kind::from_raw(raw.kind) else { return };
        let kind = reported(kind);
        let row = self.begin(RowKind::Kernel(kind.kind), Some(Nanos(raw.ts_ns)));
        let listener = self.identity(row, kind, raw);
        let columns = &mut self.columns;
        if raw.old != 0 {
            columns.from.set(row, raw.old);
        }
        if raw.new != 0 {
            columns.to.set(row, raw.new);
        }
        columns.flags.set(row, raw.flags);
        if raw.arg0 != if kind.object == KernelObject::Request { listener } else { 0 } {
            columns.arg0.set(row, raw.arg0.cast_signed());
        }
        if raw.arg1 != 0 {
            columns.arg1.set(row, raw.arg1.cast_signed());
        }
        if let Some(task) = &seen.task {
            let numbered = self.tasks.of(task);
            self.columns.task.set(row, numbered.number);
            if numbered.is_new {
                self.define_task(numbered.number, task);
            }
        }
    }

    fn define_task(&mut self, number: u32, task: &raw::Task) {
        let row = self.begin_definition(RowKind::Task);
        let columns = &mut self.definitions;
        columns.task.set(row, number);
        columns.pid.set(row, task.tgid);
        columns.tid.set(row, task.tid);
        comm(&mut columns.comm, row, &task.comm);
        columns.cgroup.set(row, task.cgroup);
    }

    fn define_socket(&mut self, number: u32, entry: &DictEntry) {
        let row = self.begin_definition(RowKind::Socket);
        let columns = &mut self.definitions;
        columns.socket.set(row, number);
        columns.cookie.set(row, entry.cookie);
        columns.object.set(row, entry.object);
        columns.netns.set(row, entry.netns);
        columns.saddr.set(row, entry.saddr.0);
        columns.daddr.set(row, entry.daddr.0);
        columns.sport.set(row, entry.sport);
        columns.dport.set(row, entry.dport);
        columns.ifindex.set(row, entry.ifindex);
        if entry.listener != 0 {
            columns.listener.set(row, entry.listener);
        }
    }

    /// Begins a row that defines a number.
    fn begin_definition(&mut self, kind: RowKind) -> usize {
        let row = self.definition_rows;
        self.definitions.kind.set(row, index_of(kind).unwrap_or(u8::MAX));
        self.definition_rows += 1;
        row
    }

    /// Writes the socket's number and its changed fields. Returns the listener's cookie of a request socket.
    fn identity(&mut self, row: usize, kind: &ReportedKind, raw: &raw::RawRecord) -> u64 {
        // A cookie counted down from 2^64-1 could equal the address of a request socket. Both would share a
        // number, and the columns would identify the socket of each row.
        let key = if raw.cookie == 0 { raw.object } else { raw.cookie };
        let numbered = self.numbers.of(key);
        let said = self.numbers.entry(numbered.number);
        let now = DictEntry {
            cookie: raw.cookie,
            object: match kind.object {
                // Full sockets are not matched by address.
                KernelObject::Full if numbered.is_new => 0,
                KernelObject::Full => said.object,
                KernelObject::Timewait | KernelObject::Request => self.objects.number(raw.object),
            },
            netns: raw.netns,
            saddr: Addr(raw.saddr),
            daddr: Addr(raw.daddr),
            sport: raw.sport,
            dport: raw.dport,
            ifindex: raw.ifindex,
            // Written with a new number only: what follows about the number leaves it, for the reader does.
            listener: match (numbered.is_new, kind.object) {
                (true, KernelObject::Request) => raw.arg0,
                (true, _) => 0,
                (false, _) => said.listener,
            },
        };
        let before = std::mem::replace(said, now);
        self.columns.socket.set(row, numbered.number);
        if numbered.is_new {
            self.define_socket(numbered.number, &now);
        } else {
            self.changes(row, &before, &now);
        }
        let is_over = match kind.last {
            // A socket with the object of a timewait socket lives on in it.
            LastRecord::InClose => raw.new == TcpState::Close as u8 && now.object == 0,
            LastRecord::Always => true,
            LastRecord::Never => false,
        };
        if is_over {
            self.numbers.release(key);
        }
        now.listener
    }

    fn changes(&mut self, row: usize, before: &DictEntry, now: &DictEntry) {
        let columns = &mut self.columns;
        if before.cookie != now.cookie {
            columns.cookie.set(row, now.cookie);
        }
        if before.object != now.object {
            columns.object.set(row, now.object);
        }
        if before.netns != now.netns {
            columns.netns.set(row, now.netns);
        }
        if before.saddr != now.saddr {
            columns.saddr.set(row, now.saddr.0);
        }
        if before.daddr != now.daddr {
            columns.daddr.set(row, now.daddr.0);
        }
        if before.sport != now.sport {
            columns.sport.set(row, now.sport);
        }
        if before.dport != now.dport {
            columns.dport.set(row, now.dport);
        }
        if before.ifindex != now.ifindex {
            columns.ifindex.set(row, now.ifindex);
        }
    }

    /// Adds a listed socket; the row kind depends on its object: `[full, timewait, request]`.
    fn seed(&mut self, seed: &SeedSocket, [full, timewait, request]: [RowKind; 3]) {
        let (kind, arg0) = match seed.object {
            SeedObject::Full => (full, 0),
            SeedObject::Timewait { left } => (timewait, left.0.cast_signed()),
            SeedObject::Request { timeouts } => (request, i64::from(timeouts)),
        };
        let row = self.begin(kind, Some(seed.ts));
        self.ends(row, seed.id, seed.netns.0, &seed.tuple);
        let columns = &mut self.columns;
        columns.to.set(row, seed.state as u8);
        columns.arg0.set(row, arg0);
        columns.inode.set(row, seed.inode);
        columns.uid.set(row, seed.uid);
        columns.rqueue.set(row, seed.rqueue);
        columns.wqueue.set(row, seed.wqueue);
    }

    fn carried(&mut self, carried: &SocketCheckpoint) {
        let row = self.begin(RowKind::Carried, Some(carried.ts));
        self.ends(row, carried.id, carried.netns.0, &carried.tuple);
        let object = self.objects.number(carried.object);
        self.columns.object.set(row, object);
        self.columns.from.set(row, carried.previous as u8);
        self.columns.to.set(row, carried.state as u8);
        if let Some(process) = &carried.process {
            self.process(row, process);
        }
        self.facts(row, &carried.memory);
    }

    fn ends(&mut self, row: usize, id: SocketId, netns: u32, tuple: &Tuple) {
        let columns = &mut self.columns;
        columns.cookie.set(row, id.0);
        columns.netns.set(row, netns);
        columns.saddr.set(row, tuple.saddr.0);
        columns.daddr.set(row, tuple.daddr.0);
        columns.sport.set(row, tuple.sport);
        columns.dport.set(row, tuple.dport);
        columns.ifindex.set(row, tuple.ifindex);
    }

    fn process(&mut self, row: usize, process: &Process) {
        self.columns.pid.set(row, process.pid);
        self.columns.comm.set(row, &text::sanitise(&process.comm));
        self.columns.cgroup.set(row, process.cgroup);
    }

    fn facts(&mut self, row: usize, facts: &impl serde::Serialize) {
        self.columns.facts.write(row, |bytes| {
            // Plain structures in memory: serialization cannot fail.
            let _ = serde_json::to_writer(bytes, facts);
        });
    }
}

fn comm(column: &mut Texts, row: usize, comm: &[u8; 16]) {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    let plain = comm[..end].iter().all(|byte| matches!(byte, b' '..=b'~'));
    match std::str::from_utf8(&comm[..end]) {
        Ok(text) if plain => column.set(row, text),
        _ => column.set(row, &text::from_kernel(comm)),
    }
}
