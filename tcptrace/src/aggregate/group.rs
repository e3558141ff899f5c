//! The groups: who is counted where, and what each has seen.

use hdrhistogram::Histogram;
use rustc_hash::FxHashMap;

use super::{
    CLOSERS, DwellQuantiles, Group, Minisockets, TimeWaitEnds,
    keys::{GroupKey, Key, Names, Owners},
};
use crate::{
    lifecycle::{Bound, Closer, Dwell, EndReason, Event, Phase, Processes, Role, Socket},
    model::{Nanos, TcpState},
};

/// Groups kept at once. Past it, groups without sockets are thrown out; when none is, newcomers are
/// counted as "other".
const MAX_GROUPS: usize = 8192;
/// The group that takes what has no place of its own.
const OTHER: u32 = 0;
/// Dwells are kept from a microsecond to a day, to 1%.
const SHORTEST_NS: u64 = 1_000;
const LONGEST_NS: u64 = 86_400_000_000_000;
const DIGITS: u8 = 2;

/// All groups.
#[derive(Debug)]
pub(super) struct Groups {
    key: Key,
    rows: Vec<Entry>,
    free: Vec<u32>,
    by_key: FxHashMap<GroupKey, u32>,
    evicted: u64,
}

#[derive(Debug)]
struct Entry {
    key: GroupKey,
    counts: [u32; TcpState::COUNT],
    roles: [u32; 4],
    owners: Owners,
    closers: [u64; CLOSERS],
    ended: [u64; EndReason::COUNT],
    time_wait: Dwells,
    fin_wait2: Dwells,
    orphans: u64,
    oldest_close_wait: Option<Nanos>,
}

#[derive(Debug, Default)]
struct Dwells {
    entered: u64,
    entered_at_last: u64,
    ended: TimeWaitEnds,
    exact: Option<Box<Histogram<u32>>>,
    bounds: u64,
}

impl Entry {
    fn new(key: GroupKey) -> Self {
        Self {
            key,
            counts: [0; TcpState::COUNT],
            roles: [0; 4],
            owners: Owners::default(),
            closers: [0; CLOSERS],
            ended: [0; EndReason::COUNT],
            time_wait: Dwells::default(),
            fin_wait2: Dwells::default(),
            orphans: 0,
            oldest_close_wait: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
    }

    /// Counts a socket that is in its state already.
    fn add(&mut self, socket: &mut Socket) {
        self.counts[socket.state.index()] += 1;
        self.orphans += u64::from(socket.is_orphan_fin_wait2());
        self.count_closer(socket);
    }

    /// Takes back that a socket was counted, in `state`.
    fn take_back(&mut self, state: TcpState, socket: &mut Socket) {
        self.sub(state);
        let was_orphan = state == TcpState::FinWait2 && socket.orphan_since.is_some();
        self.orphans = self.orphans.saturating_sub(u64::from(was_orphan));
        self.uncount_closer(socket);
    }

    /// Counts who closed a socket, in place of whoever was thought to: once, however often it comes back.
    fn count_closer(&mut self, socket: &mut Socket) {
        if socket.counted_closer != socket.closer {
            self.uncount_closer(socket);
            self.closers[socket.closer as usize] += 1;
            socket.counted_closer = socket.closer;
        }
    }

    fn uncount_closer(&mut self, socket: &mut Socket) {
        let counted = std::mem::take(&mut socket.counted_closer);
        if counted != Closer::None {
            let count = &mut self.closers[counted as usize];
            *count = count.saturating_sub(1);
        }
    }

    fn sub(&mut self, state: TcpState) {
        let count = &mut self.counts[state.index()];
        *count = count.saturating_sub(1);
    }
}

impl Groups {
    pub(super) fn new(key: Key) -> Self {
        Self {
            key,
            rows: vec![Entry::new(GroupKey::Other)],
            free: Vec::new(),
            by_key: FxHashMap::default(),
            evicted: 0,
        }
    }

    pub(super) const fn key(&self) -> Key {
        self.key
    }

    /// Groups and sockets that had no place of their own.
    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Counts a socket that is in its state already.
    pub(super) fn join(&mut self, socket: &mut Socket, processes: &Processes) {
        self.give_group(socket, processes);
        self.row(socket).add(socket);
    }

    fn give_group(&mut self, socket: &mut Socket, processes: &Processes) {
        socket.group = self.place(self.key.of(socket, processes));
        let process = socket.process.and_then(|id| processes.get(id));
        let row = self.row(socket);
        row.roles[socket.role as usize] += 1;
        if let Some(process) = process {
            row.owners.note(process);
        }
    }

    /// The role or the owner became known: the socket may belong elsewhere.
    pub(super) fn identify(&mut self, socket: &mut Socket, processes: &Processes) {
        let key = self.key.of(socket, processes);
        if self.row(socket).key != key {
            self.row(socket).take_back(socket.state, socket);
            socket.group = self.place(key);
            let row = self.row(socket);
            row.add(socket);
            row.roles[socket.role as usize] += 1;
        }
        if let Some(process) = socket.process.and_then(|id| processes.get(id)) {
            self.row(socket).owners.note(process);
        }
    }

    /// A socket that was counted leaves a state, and counts as closed and ended by this.
    pub(super) fn leave(&mut self, event: &Event<'_>, socket: &mut Socket) {
        let row = self.row(socket);
        row.sub(event.from);
        row.count_closer(socket);
        if let Some(reason) = event.end_reason
            && socket.phase != Phase::Minisocket
        {
            row.ended[reason as usize] += 1;
        }
        match event.from {
            TcpState::TimeWait => row.time_wait.leave(event.dwell, event.end_reason),
            TcpState::FinWait2 => {
                row.fin_wait2.leave(event.dwell, event.end_reason);
                row.orphans = row.orphans.saturating_sub(u64::from(event.orphan == Some(true)));
            }
            _ => {}
        }
    }

    /// A socket enters a state that is shown; it may have been counted before.
    pub(super) fn enter(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes) {
        if !socket.is_counted() {
            self.give_group(socket, processes);
        }
        let row = self.row(socket);
        row.add(socket);
        match event.to {
            TcpState::TimeWait => row.time_wait.entered += 1,
            TcpState::FinWait2 => row.fin_wait2.entered += 1,
            _ => {}
        }
    }

    /// A socket that was counted in `state` should not have been.
    pub(super) fn withdraw(&mut self, state: TcpState, socket: &mut Socket) {
        self.row(socket).take_back(state, socket);
        socket.group = Socket::NO_GROUP;
    }

    pub(super) fn orphaned(&mut self, socket: &Socket) {
        self.row(socket).orphans += 1;
    }

    pub(super) fn forget_oldest(&mut self) {
        for row in &mut self.rows {
            row.oldest_close_wait = None;
        }
    }

    pub(super) fn note_close_wait(&mut self, socket: &Socket, since: Nanos) {
        let oldest = &mut self.row(socket).oldest_close_wait;
        *oldest = Some(oldest.map_or(since, |known| known.min(since)));
    }

    /// Every group that has or had sockets, most TIME_WAIT first.
    pub(super) fn snapshot(
        &mut self,
        per_s: impl Fn(u64) -> f64,
        names: &Names,
        own_netns: u32,
    ) -> Vec<Group> {
        let mut groups: Vec<Group> = self
            .rows
            .iter_mut()
            .filter(|row| !row.is_empty() || row.has_history())
            .map(|row| row.snapshot(&per_s, names, own_netns))
            .collect();
        groups.sort_by(|a, b| {
            let sockets = |group: &Group| group.counts.iter().sum::<u64>();
            (b.time_wait.now, sockets(b), b.time_wait.entered).cmp(&(
                a.time_wait.now,
                sockets(a),
                a.time_wait.entered,
            ))
        });
        groups
    }

    fn row(&mut self, socket: &Socket) -> &mut Entry {
        let index = if (socket.group as usize) < self.rows.len() { socket.group } else { OTHER };
        &mut self.rows[index as usize]
    }

    fn place(&mut self, key: GroupKey) -> u32 {
        if let Some(&index) = self.by_key.get(&key) {
            return index;
        }
        if self.by_key.len() >= MAX_GROUPS {
            self.throw_out_empty();
            if self.by_key.len() >= MAX_GROUPS {
                self.evicted += 1;
                return OTHER;
            }
        }
        let entry = Entry::new(key.clone());
        let index = if let Some(free) = self.free.pop() {
            self.rows[free as usize] = entry;
            free
        } else {
            self.rows.push(entry);
            self.rows.len() as u32 - 1
        };
        self.by_key.insert(key, index);
        index
    }

    /// Makes room: of the groups without sockets, those that had the fewest go.
    fn throw_out_empty(&mut self) {
        let mut empty: Vec<(u64, u32)> = self
            .by_key
            .values()
            .filter(|&&index| self.rows[index as usize].is_empty())
            .map(|&index| (self.rows[index as usize].weight(), index))
            .collect();
        empty.sort_unstable();
        empty.truncate(MAX_GROUPS / 4);
        for (_, index) in empty {
            self.evicted += 1;
            let row = std::mem::replace(&mut self.rows[index as usize], Entry::new(GroupKey::Other));
            self.by_key.remove(&row.key);
            self.free.push(index);
        }
    }
}

impl Entry {
    fn has_history(&self) -> bool {
        self.weight() > 0
    }

    fn weight(&self) -> u64 {
        self.ended.iter().sum::<u64>() + self.time_wait.entered + self.fin_wait2.entered
    }

    fn role(&self) -> Role {
        if let Some(role) = self.key.role() {
            return role;
        }
        let connected = [Role::Inbound, Role::Outbound];
        connected
            .into_iter()
            .max_by_key(|&role| self.roles[role as usize])
            .filter(|&role| self.roles[role as usize] > 0)
            .unwrap_or(if self.roles[Role::Listener as usize] > 0 { Role::Listener } else { Role::Unknown })
    }

    fn snapshot(&mut self, per_s: &impl Fn(u64) -> f64, names: &Names, own_netns: u32) -> Group {
        let count = |state: TcpState| u64::from(self.counts[state.index()]);
        let (time_wait, fin_wait2) = (count(TcpState::TimeWait), count(TcpState::FinWait2));
        Group {
            key: self.key.label(names, own_netns),
            role: self.role(),
            counts: self.counts.map(u64::from),
            process: self.owners.main(),
            other_processes: self.owners.others(),
            closers: self.closers,
            ended: self.ended,
            time_wait: self.time_wait.snapshot(time_wait, per_s),
            fin_wait2: self.fin_wait2.snapshot(fin_wait2, per_s),
            fin_wait2_orphan: self.orphans,
            oldest_close_wait: self.oldest_close_wait,
        }
    }
}

impl Dwells {
    fn leave(&mut self, dwell: Option<Dwell>, reason: Option<EndReason>) {
        match dwell {
            Some(Dwell { length, bound: Bound::Exact }) => {
                let exact = self.exact.get_or_insert_with(|| Box::new(empty_histogram()));
                exact.saturating_record(length.0.clamp(SHORTEST_NS, LONGEST_NS));
            }
            _ => self.bounds += 1,
        }
        let ended = &mut self.ended;
        let counter = match reason {
            Some(EndReason::Expired) => &mut ended.expired,
            Some(EndReason::Reused) => &mut ended.reused,
            Some(EndReason::Reopened) => &mut ended.reopened,
            Some(EndReason::Reset | EndReason::ResetReceived) => &mut ended.reset,
            Some(EndReason::Killed) => &mut ended.killed,
            Some(EndReason::Purged) => &mut ended.purged,
            Some(EndReason::Aborted) => &mut ended.aborted,
            Some(EndReason::Unexplained) => &mut ended.unexplained,
            _ => return,
        };
        *counter += 1;
    }

    fn snapshot(&mut self, now: u64, per_s: &impl Fn(u64) -> f64) -> Minisockets {
        let entered_per_s = per_s(self.entered - self.entered_at_last);
        self.entered_at_last = self.entered;
        Minisockets {
            now,
            entered: self.entered,
            entered_per_s,
            ended: self.ended,
            dwell: self.exact.as_deref().map_or_else(DwellQuantiles::default, quantiles),
            dwell_bounds: self.bounds,
        }
    }
}

fn quantiles(histogram: &Histogram<u32>) -> DwellQuantiles {
    DwellQuantiles {
        count: histogram.len(),
        p50: histogram.value_at_quantile(0.5),
        p90: histogram.value_at_quantile(0.9),
        p99: histogram.value_at_quantile(0.99),
        max: histogram.max(),
    }
}

fn empty_histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(SHORTEST_NS, LONGEST_NS, DIGITS)
        .unwrap_or_else(|_| unreachable!("the bounds are constants that hdrhistogram accepts"))
}
