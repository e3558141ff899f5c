//! Builds records from the columns of a batch.

use std::sync::Arc;

use tcptrace_common::record::{self as raw, Kind, flag};

use super::{Decoder, MAX_FACTS_BYTES, MAX_STACK_BYTES, MOST_TEXT_BYTES, Wrong};
use crate::{
    model::{
        Addr, ClockStep, HookRecord, Nanos, NetnsId, Record, SeedSocket, SocketId, TcpState, Tuple,
        checkpoint::{SocketCheckpoint, TrackerCheckpoint},
        hooks::{KernelObject, reported},
        peer_names::{NameOrigin, Prefix},
        record::{HostFacts, KernelLosses, Process, ProcessFacts, SeedObject, Sweep},
        text,
        workload::Workload,
    },
    session::{
        dictionary::{DictEntry, MAX_SOCKET_NUMBERS, MAX_TASK_NUMBERS},
        schema::{Column, RowKind},
    },
};

/// Longest facts of a workload or a process: each is kept in memory.
const MAX_NAMES_BYTES: usize = 16 << 10;

impl Decoder {
    /// The record of a row; `None` for definitions and for kinds that this version does not know.
    pub(super) fn row(&mut self, row: usize) -> Result<Option<Record>, Wrong> {
        let kind = self.column(Column::Kind).u8(row).ok_or("a row of no kind")?;
        let Some(kind) = self.kinds.get(kind as usize).copied().flatten() else {
            self.unknown_rows += 1;
            return Ok(None);
        };
        let ts = self.ts(row);
        Ok(Some(match kind {
            RowKind::Kernel(kind) => Record::Kernel(self.observation(row, kind, ts)?),
            RowKind::Socket => {
                self.define_socket(row)?;
                return Ok(None);
            }
            RowKind::Task => {
                self.define_task(row)?;
                return Ok(None);
            }
            RowKind::Seed | RowKind::SeedTimewait | RowKind::SeedRequest => {
                Record::Seed(self.seed(row, kind, ts)?)
            }
            RowKind::SeedEnd => Record::SeedEnd { ts, began: Nanos(self.arg(Column::Arg0, row)) },
            RowKind::Found | RowKind::FoundTimewait | RowKind::FoundRequest => {
                Record::Found(self.seed(row, kind, ts)?)
            }
            RowKind::Missing => Record::Missing {
                ts,
                id: SocketId(self.column(Column::Cookie).u64(row).unwrap_or_default()),
                netns: self.netns(row),
                tuple: self.tuple(row),
                from: match self.column(Column::To).u8(row) {
                    None => Sweep::Whole,
                    Some(_) => Sweep::FinWait2,
                },
            },
            RowKind::Owner => Record::Owner {
                ts,
                id: SocketId(self.column(Column::Cookie).u64(row).unwrap_or_default()),
                process: self.process(row)?.ok_or("an owner without a process")?,
                fd: self.column(Column::Arg0).u64(row).and_then(|fd| u32::try_from(fd).ok()),
            },
            RowKind::OwnersEnd => Record::OwnersEnd { ts },
            RowKind::NetnsName => {
                Record::NetnsName { ts, netns: self.netns(row), name: self.text(Column::Name, row)? }
            }
            RowKind::CgroupPath => Record::CgroupPath {
                ts,
                cgroup: self.column(Column::Cgroup).u64(row).unwrap_or_default(),
                path: self.text(Column::Name, row)?,
            },
            RowKind::Workload => Record::Workload {
                ts,
                cgroup: self.column(Column::Cgroup).u64(row).unwrap_or_default(),
                workload: Arc::new(self.facts_within::<Workload>(row, MAX_NAMES_BYTES)?.bounded()),
            },
            RowKind::ProcessFacts => Record::ProcessFacts {
                ts,
                pid: self.column(Column::Pid).u32(row).ok_or("facts about no process")?,
                comm: self.text(Column::Comm, row)?,
                facts: Arc::new(self.facts_within::<ProcessFacts>(row, MAX_NAMES_BYTES)?.bounded()),
            },
            RowKind::AddressName => self.address_name(row, ts)?,
            RowKind::NetnsSettings => {
                Record::NetnsSettings { ts, netns: self.netns(row), sysctls: self.facts(row)? }
            }
            RowKind::NetnsCounters => {
                Record::NetnsCounters { ts, netns: self.netns(row), counters: self.facts(row)? }
            }
            RowKind::Conntrack => {
                Record::Conntrack { ts, netns: self.netns(row), conntrack: Box::new(self.facts(row)?) }
            }
            RowKind::BoundPorts => {
                Record::BoundPorts { ts, netns: self.netns(row), bound: Box::new(self.facts(row)?) }
            }
            RowKind::Stack => Record::Stack {
                ts,
                number: u32::try_from(self.arg(Column::Arg0, row))
                    .map_err(|_| "a stack without its number")?,
                stack: self.facts_within(row, MAX_STACK_BYTES)?,
            },
            RowKind::ClockStep => {
                let offset_ns =
                    self.column(Column::Arg0).u64(row).ok_or("a step of the clock without its offset")?;
                Record::ClockStep(ClockStep { ts, offset_ns })
            }
            RowKind::Host => Record::Host(Box::new(self.facts::<HostFacts>(row)?.with_steps_in_order())),
            RowKind::Loss => {
                let losses = self.facts::<KernelLosses>(row)?;
                Record::Loss { ts, losses: losses.since(&self.before) }
            }
            RowKind::LossBefore => {
                self.before = self.facts(row)?;
                return Ok(None);
            }
            RowKind::Tick => Record::Tick { ts },
            RowKind::Carried => Record::SocketCheckpoint(Box::new(self.carried(row, ts)?)),
            RowKind::Continuation => {
                let mut known = self.facts_within::<TrackerCheckpoint>(row, MOST_TEXT_BYTES)?;
                known.ts = ts;
                Record::TrackerCheckpoint(Box::new(known))
            }
        }))
    }

    fn address_name(&self, row: usize, ts: Nanos) -> Result<Record, Wrong> {
        let origin = NameOrigin::from_number(self.arg(Column::Arg1, row));
        let bits = u8::try_from(self.arg(Column::Arg0, row)).ok().filter(|&bits| bits <= 128);
        let (Some(origin), Some(bits)) = (origin, bits) else {
            return Err("a name of no address");
        };
        let addr = self.addr(Column::Daddr, row).ok_or("a name of no address")?;
        let name = text::bounded(&self.text(Column::Name, row)?);
        Ok(Record::AddressName { ts, origin, prefix: Prefix::new(addr, bits), name })
    }

    fn ts(&self, row: usize) -> Nanos {
        let wall = self.column(Column::Ts).u64(row).unwrap_or_default();
        Nanos(wall.wrapping_sub(self.layout.clock_offset_ns))
    }

    fn netns(&self, row: usize) -> NetnsId {
        NetnsId(self.column(Column::Netns).u32(row).unwrap_or_default())
    }

    fn arg(&self, column: Column, row: usize) -> u64 {
        self.column(column).u64(row).unwrap_or_default()
    }

    fn text(&self, column: Column, row: usize) -> Result<Arc<str>, Wrong> {
        Ok(self.column(column).text(row)?.unwrap_or_default().into())
    }

    fn facts<T: serde::de::DeserializeOwned>(&self, row: usize) -> Result<T, Wrong> {
        self.facts_within(row, MAX_FACTS_BYTES)
    }

    fn facts_within<T: serde::de::DeserializeOwned>(
        &self,
        row: usize,
        most_bytes: usize,
    ) -> Result<T, Wrong> {
        let text = self.column(Column::Facts).text(row)?.ok_or("a row without its facts")?;
        if text.len() > most_bytes {
            return Err("facts longer than any");
        }
        serde_json::from_str(text).map_err(|_| "facts that can't be made out")
    }

    fn state(&self, column: Column, row: usize) -> Result<u8, Wrong> {
        let names = if column == Column::From { &self.from } else { &self.to };
        match self.column(column).u8(row) {
            None => Ok(0),
            Some(index) => names.get(index as usize).copied().flatten().ok_or("a state TCP does not have"),
        }
    }

    fn tcp_state(&self, column: Column, row: usize) -> Result<TcpState, Wrong> {
        TcpState::from_kernel(self.state(column, row)?).ok_or("a state TCP does not have")
    }

    fn observation(&mut self, row: usize, kind: Kind, ts: Nanos) -> Result<HookRecord, Wrong> {
        let said = self.identity(row)?;
        let task = self.task(row)?;
        let mut flags = self.column(Column::Flags).u8(row).unwrap_or_default() & !flag::TASK;
        if task.is_some() {
            flags |= flag::TASK;
        }
        if !SocketId::is_cookie(said.cookie) {
            return Err("a cookie that no socket has");
        }
        let raw = raw::RawRecord {
            ts_ns: ts.0,
            cookie: said.cookie,
            object: u64::from(said.object),
            arg0: match reported(kind).object {
                KernelObject::Request => self.column(Column::Arg0).u64(row).unwrap_or(said.listener),
                KernelObject::Full | KernelObject::Timewait => self.arg(Column::Arg0, row),
            },
            arg1: self.arg(Column::Arg1, row),
            saddr: said.saddr.0,
            daddr: said.daddr.0,
            netns: said.netns,
            ifindex: said.ifindex,
            sport: said.sport,
            dport: said.dport,
            kind: kind as u8,
            old: self.state(Column::From, row)?,
            new: self.state(Column::To, row)?,
            flags,
        };
        Ok(HookRecord { raw, task })
    }

    /// Redefines a socket number.
    fn define_socket(&mut self, row: usize) -> Result<(), Wrong> {
        let entry = self.updated_entry(row, &DictEntry::default());
        *self.entry_of(row)? = entry;
        Ok(())
    }

    /// The row's socket: its last known fields, updated from the row.
    fn identity(&mut self, row: usize) -> Result<DictEntry, Wrong> {
        let before = *self.entry_of(row)?;
        let entry = self.updated_entry(row, &before);
        *self.entry_of(row)? = entry;
        Ok(entry)
    }

    fn entry_of(&mut self, row: usize) -> Result<&mut DictEntry, Wrong> {
        let number = self.column(Column::Socket).u32(row).ok_or("a row about no socket")? as usize;
        if number >= MAX_SOCKET_NUMBERS {
            return Err("more sockets than there can be");
        }
        if number >= self.entries.len() {
            self.entries.resize(number + 1, DictEntry::default());
        }
        Ok(&mut self.entries[number])
    }

    fn updated_entry(&self, row: usize, before: &DictEntry) -> DictEntry {
        DictEntry {
            cookie: self.column(Column::Cookie).u64(row).unwrap_or(before.cookie),
            object: self.column(Column::Object).u32(row).unwrap_or(before.object),
            netns: self.column(Column::Netns).u32(row).unwrap_or(before.netns),
            saddr: self.addr(Column::Saddr, row).unwrap_or(before.saddr),
            daddr: self.addr(Column::Daddr, row).unwrap_or(before.daddr),
            sport: self.column(Column::Sport).u16(row).unwrap_or(before.sport),
            dport: self.column(Column::Dport).u16(row).unwrap_or(before.dport),
            ifindex: self.column(Column::Ifindex).u32(row).unwrap_or(before.ifindex),
            listener: self.column(Column::Listener).u64(row).unwrap_or(before.listener),
        }
    }

    fn addr(&self, column: Column, row: usize) -> Option<Addr> {
        self.column(column).number(row).map(Addr)
    }

    /// The row's task; an undefined number is damage.
    fn task(&self, row: usize) -> Result<Option<raw::Task>, Wrong> {
        let Some(number) = self.column(Column::Task).u32(row) else { return Ok(None) };
        self.tasks.get(number as usize).copied().map(Some).ok_or("a task that nothing is known of")
    }

    /// Redefines a task number; new numbers are consecutive.
    fn define_task(&mut self, row: usize) -> Result<(), Wrong> {
        let number = self.column(Column::Task).u32(row).ok_or("a task without a number")? as usize;
        let name = self.column(Column::Comm).text(row)?.unwrap_or_default().as_bytes();
        let mut comm = [0; 16];
        let length = name.len().min(comm.len());
        comm[..length].copy_from_slice(&name[..length]);
        let task = raw::Task {
            cgroup: self.column(Column::Cgroup).u64(row).unwrap_or_default(),
            tgid: self.column(Column::Pid).u32(row).unwrap_or_default(),
            tid: self.column(Column::Tid).u32(row).unwrap_or_default(),
            comm,
        };
        if number > self.tasks.len() || number >= MAX_TASK_NUMBERS {
            return Err("a task out of turn");
        }
        if number == self.tasks.len() {
            self.tasks.push(task);
        } else {
            self.tasks[number] = task;
        }
        Ok(())
    }

    fn process(&self, row: usize) -> Result<Option<Process>, Wrong> {
        let Some(pid) = self.column(Column::Pid).u32(row) else { return Ok(None) };
        let comm = self.text(Column::Comm, row)?;
        Ok(Some(Process::new(pid, comm, self.column(Column::Cgroup).u64(row).unwrap_or_default())))
    }

    fn tuple(&self, row: usize) -> Tuple {
        Tuple {
            saddr: self.addr(Column::Saddr, row).unwrap_or(Addr::ANY),
            daddr: self.addr(Column::Daddr, row).unwrap_or(Addr::ANY),
            sport: self.column(Column::Sport).u16(row).unwrap_or_default(),
            dport: self.column(Column::Dport).u16(row).unwrap_or_default(),
            ifindex: self.column(Column::Ifindex).u32(row).unwrap_or_default(),
        }
    }

    fn seed(&self, row: usize, kind: RowKind, ts: Nanos) -> Result<SeedSocket, Wrong> {
        let number = |column| self.column(column).u32(row).unwrap_or_default();
        let arg0 = self.arg(Column::Arg0, row);
        let cookie = self.column(Column::Cookie).u64(row).unwrap_or_default();
        if !SocketId::is_cookie(cookie) {
            return Err("a cookie that no socket has");
        }
        Ok(SeedSocket {
            ts,
            id: SocketId(cookie),
            netns: NetnsId(number(Column::Netns)),
            tuple: self.tuple(row),
            state: self.tcp_state(Column::To, row)?,
            object: match kind {
                RowKind::SeedTimewait | RowKind::FoundTimewait => SeedObject::Timewait { left: Nanos(arg0) },
                RowKind::SeedRequest | RowKind::FoundRequest => SeedObject::Request { timeouts: arg0 as u8 },
                _ => SeedObject::Full,
            },
            inode: number(Column::Inode),
            uid: number(Column::Uid),
            rqueue: number(Column::Rqueue),
            wqueue: number(Column::Wqueue),
        })
    }

    fn carried(&self, row: usize, ts: Nanos) -> Result<SocketCheckpoint, Wrong> {
        Ok(SocketCheckpoint {
            ts,
            memory: self.facts(row)?,
            id: SocketId(self.column(Column::Cookie).u64(row).unwrap_or_default()),
            tuple: self.tuple(row),
            netns: NetnsId(self.column(Column::Netns).u32(row).unwrap_or_default()),
            state: self.tcp_state(Column::To, row)?,
            previous: self.tcp_state(Column::From, row)?,
            object: u64::from(self.column(Column::Object).u32(row).unwrap_or_default()),
            process: self.process(row)?,
        })
    }
}
