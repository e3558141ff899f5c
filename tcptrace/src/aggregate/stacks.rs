//! Counts connects, accepts and closes by the user stack that made them, and the sockets that such a stack opened and nobody
//! closes.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashMap;

use super::{
    dwell_store::{DwellStore, Histograms, Scope},
    dwell_summary::DwellQuantiles,
    packed_dwell::PackedDwell,
};
use crate::{
    lifecycle::{Event, Phase, Processes, Role, Socket, Tracker},
    model::{
        Nanos, Record, TcpState,
        record::Process,
        stack::{StackFrame, StackUse, UserStack},
    },
};

/// Stacks counted at once. Beyond that the quarter with the fewest calls makes room.
const MAX_STACKS: usize = 1 << 12;
/// Stacks whose frames are kept. Beyond that the older half makes room.
const MAX_NAMED: usize = 1 << 13;
const MAX_NAMED_BYTES: usize = 32 << 20;
/// Groups in a snapshot.
const MAX_GROUPS: usize = 512;

/// A system call whose stacks are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StackCall {
    /// `connect()`: opens a connection.
    Connect,
    /// `close()` or `shutdown()` before the peer's: its socket goes to TIME_WAIT.
    Close,
    /// `accept()`: receives a connection.
    Accept,
}

impl StackCall {
    /// Every call, by number.
    pub const ALL: [Self; 3] = [Self::Connect, Self::Close, Self::Accept];

    /// In a sentence about connections, before the code.
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Connect => "opened by",
            Self::Close => "closed by",
            Self::Accept => "accepted by",
        }
    }

    /// The call that causes a transition.
    const fn of(event: &Event<'_>) -> Option<Self> {
        match event.to {
            TcpState::SynSent => Some(Self::Connect),
            TcpState::FinWait1 => Some(Self::Close),
            _ => None,
        }
    }

    const fn stack(self, socket: &Socket) -> StackUse {
        match self {
            // A number belongs to one kind of call.
            Self::Connect | Self::Accept => socket.opened_by,
            Self::Close => socket.closed_by,
        }
    }
}

/// Counts by stack.
#[derive(Clone, Debug, Default)]
pub(super) struct Stacks {
    /// Snapshots have the groups, with sockets that were forgotten for longer than this.
    older: Option<Nanos>,
    counted: HashMap<(StackCall, u32), CountedStack>,
    named: BTreeMap<u32, Arc<UserStack>>,
    /// Bytes of their names.
    named_bytes: usize,
    totals: [CallTotal; StackCall::ALL.len()],
    /// Calls of stacks that made room for others.
    evicted: u64,
}

#[derive(Clone, Debug)]
struct CountedStack {
    process: Process,
    calls: u64,
    captured: u64,
    dwells: DwellStore,
}

/// All calls of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTotal {
    /// Calls.
    pub calls: u64,
    /// Those with a stack, and those that they stand for: about `calls` where stacks are captured.
    pub with_stack: u64,
    /// Captured stacks.
    pub captured: u64,
}

/// What one stack of one program does.
#[derive(Clone, Debug)]
pub struct StackGroup {
    /// The call.
    pub call: StackCall,
    /// The stack; without frames if it has no names.
    pub stack: Arc<UserStack>,
    /// The process, or one of several with the same name.
    pub process: Process,
    /// Number of processes.
    pub processes: usize,
    /// Calls, perhaps an estimate.
    pub calls: u64,
    /// Captured stacks among them.
    pub captured: u64,
    /// Dwells of its sockets, by state.
    pub dwells: Vec<(TcpState, DwellQuantiles)>,
}

impl StackGroup {
    /// Whether `calls` is an estimate, from fewer captured stacks.
    pub const fn is_estimate(&self) -> bool {
        self.captured < self.calls
    }
}

/// The sockets that one stack opened, and that no process closes.
#[derive(Clone, Debug)]
pub struct LeakGroup {
    /// The stack that opened or accepted them, or that shut them down; `None` if it is not known.
    pub stack: Option<Arc<UserStack>>,
    /// The call of this stack. `shutdown()` if neither `connect()` nor `accept()` was seen.
    pub call: StackCall,
    /// The owner, or one of several with the same name.
    pub process: Option<Process>,
    /// Number of processes.
    pub processes: usize,
    /// Sockets in CLOSE_WAIT.
    pub close_wait: u64,
    /// Sockets in FIN_WAIT2 that a process holds.
    pub fin_wait2: u64,
    /// The longest time in that state.
    pub longest: Nanos,
}

/// Stacks at one moment.
#[derive(Clone, Debug, Default)]
pub struct StacksSnapshot {
    /// By call.
    pub totals: [CallTotal; StackCall::ALL.len()],
    /// The stacks with most calls first.
    pub groups: Vec<StackGroup>,
    /// The stacks with most forgotten sockets first.
    pub leaks: Vec<LeakGroup>,
    /// From which age a socket counts as forgotten.
    pub older: Nanos,
    /// Calls that are in no group, because the table was full.
    pub evicted: u64,
    /// Stacks that were not captured.
    pub missed: u64,
}

/// A stack, its call, and the program.
type LeakKey = (Option<Arc<UserStack>>, StackCall, Arc<str>);

impl Stacks {
    pub(super) const fn list(&mut self, older: Nanos) {
        self.older = Some(older);
    }

    pub(super) fn take(&mut self, record: &Record) {
        match record {
            Record::Stack { number, stack, .. } => {
                if self.named.len() >= MAX_NAMED || self.named_bytes >= MAX_NAMED_BYTES {
                    self.forget_older_half();
                }
                self.named_bytes += stack.size_bytes();
                let before = self.named.insert(*number, Arc::clone(stack));
                self.named_bytes -= before.map_or(0, |before| before.size_bytes());
            }
            // Another recording numbers its own stacks.
            Record::Restart { .. } => *self = Self { older: self.older, ..Self::default() },
            _ => {}
        }
    }

    fn forget_older_half(&mut self) {
        if let Some(&middle) = self.named.keys().nth(self.named.len() / 2) {
            self.named = self.named.split_off(&middle);
            self.named_bytes = self.named.values().map(|stack| stack.size_bytes()).sum();
        }
    }

    /// Starts the counts over.
    pub(super) fn restart(&mut self) {
        let named = std::mem::take(&mut self.named);
        *self = Self { older: self.older, named, named_bytes: self.named_bytes, ..Self::default() };
    }

    /// The frames of a stack.
    pub(super) fn named(&self, stack: StackUse) -> Option<&Arc<UserStack>> {
        self.named.get(&stack.number()?)
    }

    /// The frames as records, for the start of a recording.
    pub(super) fn records(&self, ts: Nanos) -> impl Iterator<Item = Record> {
        self.named.iter().map(move |(&number, stack)| Record::Stack { ts, number, stack: Arc::clone(stack) })
    }

    pub(super) fn changed(&mut self, event: &Event<'_>, socket: &Socket) {
        if let Some(call) = StackCall::of(event) {
            self.count(call, event.process, call.stack(socket));
        }
        if socket.opened_by.is_none() && socket.closed_by.is_none() {
            return;
        }
        for call in StackCall::ALL {
            let Some(number) = call.stack(socket).number() else { continue };
            let Some(counted) = self.counted.get_mut(&(call, number)) else { continue };
            for dwell in PackedDwell::of(event, socket) {
                counted.dwells.take(dwell, Scope::Every);
            }
        }
    }

    pub(super) fn accepted(&mut self, socket: &Socket, processes: &Processes) {
        self.count(StackCall::Accept, owner(socket, processes), socket.opened_by);
    }

    fn count(&mut self, call: StackCall, process: Option<&Process>, stack: StackUse) {
        let total = &mut self.totals[call as usize];
        total.calls += 1;
        let (Some(number), Some(process)) = (stack.number(), process) else { return };
        total.with_stack += stack.calls();
        total.captured += 1;
        if self.counted.len() >= MAX_STACKS && !self.counted.contains_key(&(call, number)) {
            self.make_room();
        }
        let counted = self.counted.entry((call, number)).or_insert_with(|| CountedStack {
            process: process.clone(),
            calls: 0,
            captured: 0,
            dwells: DwellStore::default(),
        });
        counted.calls += stack.calls();
        counted.captured += 1;
        if counted.process.facts.is_none() && process.facts.is_some() {
            counted.process = process.clone();
        }
    }

    fn make_room(&mut self) {
        let mut calls: Vec<u64> = self.counted.values().map(|counted| counted.calls).collect();
        let (_, &mut few, _) = calls.select_nth_unstable(MAX_STACKS / 4);
        let mut room = MAX_STACKS / 4;
        let evicted = &mut self.evicted;
        self.counted.retain(|_, counted| {
            let stays = counted.calls > few || room == 0;
            if !stays {
                room -= 1;
                *evicted += counted.calls;
            }
            stays
        });
    }

    /// The groups at `ts`, if they are listed.
    pub(super) fn snapshot(&self, ts: Nanos, tracker: &Tracker) -> StacksSnapshot {
        let Some(older) = self.older else { return StacksSnapshot::default() };
        StacksSnapshot {
            totals: self.totals,
            groups: self.groups(),
            leaks: self.leaks(ts, older, tracker),
            older,
            evicted: self.evicted,
            missed: 0,
        }
    }

    /// Stacks with the same frames in programs of the same name are one group.
    fn groups(&self) -> Vec<StackGroup> {
        let unnamed = Arc::<UserStack>::default();
        let mut groups: HashMap<_, (StackGroup, Histograms, Vec<u32>)> = HashMap::new();
        for (&(call, number), counted) in &self.counted {
            let stack = self.named.get(&number).unwrap_or(&unnamed);
            let (group, dwells, pids) =
                groups.entry((call, stack, &counted.process.comm)).or_insert_with(|| {
                    let group = StackGroup {
                        call,
                        stack: Arc::clone(stack),
                        process: counted.process.clone(),
                        processes: 0,
                        calls: 0,
                        captured: 0,
                        dwells: Vec::new(),
                    };
                    (group, Histograms::default(), Vec::new())
                });
            group.calls += counted.calls;
            group.captured += counted.captured;
            counted.dwells.add_to(dwells, Scope::Every);
            pids.push(counted.process.pid);
            if counted.process.pid < group.process.pid {
                group.process = counted.process.clone();
            }
        }
        let mut groups: Vec<_> = groups
            .into_values()
            .map(|(group, dwells, mut pids)| {
                pids.sort_unstable();
                pids.dedup();
                let states = TcpState::ALL.into_iter().map(|state| (state, dwells.quantiles(state).0));
                let dwells = states.filter(|(_, quantiles)| quantiles.count > 0).collect();
                StackGroup { processes: pids.len(), dwells, ..group }
            })
            .collect();
        groups.sort_by(|a, b| {
            (b.calls, a.call, a.process.pid)
                .cmp(&(a.calls, b.call, b.process.pid))
                .then_with(|| names(&a.stack).cmp(&names(&b.stack)))
        });
        groups.truncate(MAX_GROUPS);
        groups
    }

    /// Sockets that wait for their process for longer than `older`, by the stack that opened or accepted them.
    fn leaks(&self, ts: Nanos, older: Nanos, tracker: &Tracker) -> Vec<LeakGroup> {
        let mut groups: HashMap<LeakKey, (LeakGroup, Vec<u32>)> = HashMap::new();
        let forgotten = |socket: &Socket| forgotten_for(socket, ts).filter(|&age| age >= older);
        for (_, socket) in tracker.sockets_where(|socket| forgotten(socket).is_some()) {
            let Some(age) = forgotten(socket) else { continue };
            let process = owner(socket, tracker.processes());
            let opened = self.named(socket.opened_by);
            let stack = opened.or_else(|| self.named(socket.closed_by));
            let call = match socket.role {
                _ if opened.is_none() && stack.is_some() => StackCall::Close,
                Role::Inbound => StackCall::Accept,
                _ => StackCall::Connect,
            };
            let comm = process.map_or_else(|| "".into(), |process| Arc::clone(&process.comm));
            let (group, pids) = groups.entry((stack.cloned(), call, comm)).or_insert_with(|| {
                let group = LeakGroup {
                    stack: stack.cloned(),
                    call,
                    process: process.cloned(),
                    processes: 0,
                    close_wait: 0,
                    fin_wait2: 0,
                    longest: Nanos(0),
                };
                (group, Vec::new())
            });
            if socket.state == TcpState::CloseWait {
                group.close_wait += 1;
            } else {
                group.fin_wait2 += 1;
            }
            group.longest = group.longest.max(age);
            pids.extend(process.map(|process| process.pid));
        }
        let mut groups: Vec<LeakGroup> = groups
            .into_values()
            .map(|(group, mut pids)| {
                pids.sort_unstable();
                pids.dedup();
                LeakGroup { processes: pids.len(), ..group }
            })
            .collect();
        groups.sort_by_cached_key(|group| {
            let pid = group.process.as_ref().map(|process| process.pid);
            let sockets = std::cmp::Reverse(group.close_wait + group.fin_wait2);
            let names = group.stack.as_deref().map(names);
            (sockets, pid, group.longest, names.is_none(), names, group.call)
        });
        groups.truncate(MAX_GROUPS);
        groups
    }
}

/// Names of the functions, which order groups with equal counts.
fn names(stack: &UserStack) -> Vec<String> {
    stack.frames.iter().map(StackFrame::name).collect()
}

/// How long a socket has been waiting for its process to close it.
fn forgotten_for(socket: &Socket, ts: Nanos) -> Option<Nanos> {
    let is_forgotten = match socket.state {
        TcpState::CloseWait => true,
        TcpState::FinWait2 => socket.phase == Phase::Full && socket.orphan_since.is_none(),
        _ => false,
    };
    Some(ts.since(socket.since.time().filter(|_| is_forgotten && socket.is_shown())?))
}

fn owner<'a>(socket: &Socket, processes: &'a Processes) -> Option<&'a Process> {
    processes.get(socket.process?).map(AsRef::as_ref)
}
