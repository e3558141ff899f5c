//! Counts tracker events and builds [`Snapshot`]s: sockets per state and group, rates, dwell quantiles, closers.
//!
//! Pure, like the tracker: time comes only from the events and from the `ts` of a call.

mod counting;
pub mod detail;
mod dwell_store;
mod dwell_summary;
mod dwells;
mod group_entry;
mod groups;
pub mod host_counters;
mod keys;
mod names;
mod orphan;
mod over_time;
mod owners;
mod packed_dwell;
mod pools;
mod ports;
pub mod refused_syns;
mod snapshot;
mod stacks;
mod sticky_top_n;
mod streams;
pub mod stuck_sockets;
mod table;
mod timeline;

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;

use crate::{
    lifecycle::{Closer, Counted, Counters, Processes, Role, Since, Socket, Tracker},
    model::{
        Nanos, NetnsId, Record, SocketId, TcpState,
        peer_names::PeerNames,
        record::{HostFacts, KernelLosses},
        stack::{StackUse, UserStack},
    },
};

use detail::DetailAnswer;
use dwell_store::Histograms;
pub use dwell_store::Scope;
pub use dwell_summary::{DwellQuantiles, RoleDwells, StateDwells, TimeWaitEnds, TimewaitSockets};
pub use dwells::{Bucket, Distribution};
use group_entry::{GroupValues, Oldest};
use groups::{GroupLimits, Groups};
use host_counters::Observed;
pub use keys::{GroupKey, Grouping, Key, PeerPrefix};
pub use names::{CleanupThrottle, HostNames, Sysctls, Used};
use over_time::OverTime;
pub use over_time::{GroupSummary, StateSummary};
pub use packed_dwell::Split;
pub use pools::PoolDemand;
use pools::Pools;
use ports::Ports;
pub use ports::{
    BindPorts, ConntrackTable, DestinationPorts, NatPorts, NatSnapshot, NetnsPorts, PortSettings,
    PortsSnapshot, SearchTimes, TwReuse,
};
pub use snapshot::{Group, Losses, Sample, Snapshot, StateTotal};
use stacks::Stacks;
pub use stacks::{CallTotal, LeakGroup, StackCall, StackGroup, StacksSnapshot};
use sticky_top_n::StickyTopN;
use streams::KeyNames;
pub use streams::{MergedOrigin, SocketOrigin, StreamTables};
pub use timeline::{Point, Timeline};

/// Samples kept in the history, one per snapshot.
pub const HISTORY: usize = 60;

/// Aggregates tracker events.
#[derive(Clone, Debug)]
pub struct Aggregate {
    groups: Groups,
    totals: [Total; TcpState::COUNT],
    scope: Scope,
    /// Ended dwells of all sockets, indexed by `Role as usize`; only if the scope keeps every state.
    dwells: Option<[Histograms; Role::ALL.len()]>,
    /// Only with [`Scope::Whole`].
    over_time: Option<OverTime>,
    /// Number of its samples.
    samples: u64,
    ports: Ports,
    pools: Option<Pools>,
    stacks: Stacks,
    orphans: u64,
    history: VecDeque<Sample>,
    timeline: Timeline,
    began: Option<Nanos>,
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    now: u64,
    /// Highest `now` since the last [`Aggregate::mark`].
    highest: u64,
    entered: u64,
    entered_at_last: u64,
    /// `entered` at the last [`Aggregate::mark`].
    entered_before: u64,
}

/// Baseline for the rates of the next snapshot.
#[derive(Clone, Copy, Debug)]
struct Last {
    ts: Nanos,
    records: u64,
}

/// Snapshot contents that do not come from the counts.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Facts about the host.
    pub host: Arc<HostFacts>,
    /// Source of the records.
    pub source: Arc<str>,
    /// Filter expression; empty: everything is shown.
    pub filter: Arc<str>,
    /// Records processed so far.
    pub records: u64,
    /// Losses on the kernel side.
    pub kernel_losses: KernelLosses,
    /// Output lines dropped because the reader was too slow.
    pub output_dropped: u64,
    /// Host counters, accept queues and descriptors.
    pub observed: Arc<Observed>,
    /// Records about the host that were refused because a table was full.
    pub refused: u64,
    /// Answer to the active detail query.
    pub answer: Option<Arc<DetailAnswer>>,
}

/// Whether a restart keeps the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Kept: the same sockets are shown.
    Goes,
    /// Cleared: other sockets are shown.
    Ends,
}

impl Aggregate {
    /// An empty aggregate.
    pub fn new(grouping: Grouping, scope: Scope) -> Self {
        Self::with_limits(grouping, scope, GroupLimits::default())
    }

    /// A placeholder that counts nothing.
    pub fn nothing() -> Self {
        Self::new(Grouping::NONE, Scope::Nothing)
    }

    /// Like [`Self::new`], limited to three groups and 2,000 bytes of histograms.
    #[cfg(test)]
    pub(crate) fn cramped(grouping: Grouping, scope: Scope) -> Self {
        let limits = GroupLimits { groups: 3, histogram_bytes: 2_000, ..GroupLimits::default() };
        Self::with_limits(grouping, scope, limits)
    }

    fn with_limits(grouping: Grouping, scope: Scope, limits: GroupLimits) -> Self {
        Self {
            groups: Groups::new(grouping, scope.of_groups(), limits),
            scope,
            totals: Default::default(),
            dwells: (!matches!(scope, Scope::TimewaitSockets | Scope::Nothing)).then(Default::default),
            over_time: (scope == Scope::Whole).then(OverTime::default),
            samples: 0,
            ports: Ports::default(),
            pools: None,
            stacks: Stacks::default(),
            orphans: 0,
            history: VecDeque::with_capacity(HISTORY),
            timeline: Timeline::default(),
            began: None,
            last: None,
        }
    }

    /// Keeps up to `most` groups and `most` destinations in the output from one snapshot to the next: the busiest
    /// groups and the destinations that run out of ports first, until others clearly exceed them.
    #[must_use]
    pub fn with_places(mut self, most: usize) -> Self {
        self.groups.places = StickyTopN::new(most);
        self.ports.places = StickyTopN::new(most);
        self
    }

    /// Simulates connection pools, see [`Snapshot::pools`].
    #[must_use]
    pub fn with_pools(self) -> Self {
        Self { pools: Some(Pools::default()), ..self }
    }

    /// Lists the stacks of system calls, and of sockets that wait for their process for longer than `older`, see
    /// [`Snapshot::stacks`].
    #[must_use]
    pub const fn with_stacks(mut self, older: Nanos) -> Self {
        self.stacks.list(older);
        self
    }

    /// Sets the start of the trace; only the first call counts.
    pub fn begin(&mut self, ts: Nanos) {
        self.began.get_or_insert(ts);
    }

    /// Counts the sockets that follow as those of `origin`. Ports and stacks are not counted once streams are merged: each host
    /// has its own.
    pub fn set_origin(&mut self, origin: SocketOrigin) {
        self.ports.are_counted = origin.merged.is_none();
        self.groups.origin = origin;
    }

    /// Updates port settings and stacks from `record`. Returns a namespace whose sockets must be counted again.
    pub fn take(&mut self, record: &Record) -> Option<NetnsId> {
        if self.groups.origin.merged.is_none() {
            self.stacks.take(record);
        }
        self.ports.take(record)
    }

    /// Restarts the counts from the sockets tracked now; ended sockets are dropped. `judge` sets the states in which
    /// a socket is shown.
    pub fn restart(
        &mut self,
        grouping: Grouping,
        history: History,
        tracker: &mut Tracker,
        judge: impl Fn(&mut Socket, &Processes),
    ) {
        self.groups = self.groups.cleared(grouping);
        self.totals = Default::default();
        self.dwells = self.dwells.as_ref().map(|_| Default::default());
        self.pools = self.pools.as_ref().map(|_| Pools::default());
        self.stacks.restart();
        self.orphans = 0;
        self.last = None;
        if history == History::Ends {
            self.history.clear();
            self.timeline = Timeline::default();
            self.ports.hide_all();
        }
        tracker.for_each_socket(|socket, processes| {
            socket.counted.group = Counted::NO_GROUP;
            socket.counted.closer = Closer::None;
            judge(socket, processes);
            if history == History::Ends {
                self.ports.identified(socket, processes);
            }
            if socket.is_shown() {
                self.arrive(socket);
                self.groups.join(socket, processes);
            }
        });
    }

    /// The current grouping.
    pub const fn grouping(&self) -> Grouping {
        self.groups.grouping()
    }

    /// Sockets of one group and the dwells kept for it; `None` if the group no longer exists.
    pub fn members<'a>(
        &'a self,
        key: &GroupKey,
        tracker: &'a Tracker,
    ) -> Option<(impl Iterator<Item = (SocketId, &'a Socket)>, Vec<StateDwells>)> {
        let place = self.groups.find(key)?;
        let sockets = tracker
            .sockets()
            .filter(move |(_, socket)| socket.is_counted() && self.groups.row_index_of(socket) == place);
        Some((sockets, self.groups.dwells(place)))
    }

    /// Adds a timeline point for the time since the last mark. The first point uses the current counts as peaks:
    /// before it the initial sockets were still being read.
    pub fn mark(&mut self, ts: Nanos) {
        let is_first = self.timeline.points.is_empty();
        let highest = self.totals.map(|total| if is_first { total.now } else { total.highest });
        let entered = self.totals.map(|total| total.entered - total.entered_before);
        for total in &mut self.totals {
            total.highest = total.now;
            total.entered_before = total.entered;
        }
        self.timeline.add(self.began.unwrap_or(ts), Point { ts, highest, entered });
    }

    /// Sockets in `state` now.
    pub const fn now(&self, state: TcpState) -> u64 {
        self.totals[state.index()].now
    }

    /// Builds the snapshot at `ts` of one host. Rates cover the time since the previous snapshot.
    pub fn snapshot(
        &mut self,
        ts: Nanos,
        tracker: &Tracker,
        names: &HostNames,
        context: Context,
    ) -> Snapshot {
        let host = Arc::clone(&context.host);
        let streams = [StreamTables { tracker, names, host: &host }];
        let (ports, stacks) = (self.ports.snapshot(ts, names), self.stacks.snapshot(ts, tracker));
        Snapshot { ports, stacks, ..self.snapshot_of(ts, &streams, context) }
    }

    /// Builds the snapshot at `ts` of all merged `streams`, without ports and stacks.
    pub fn snapshot_of(&mut self, ts: Nanos, streams: &[StreamTables<'_>], context: Context) -> Snapshot {
        self.mark(ts);
        let interval = self.last.map_or(Nanos(0), |last| ts.since(last.ts));
        let per_s = |count: u64| if interval.0 == 0 { 0.0 } else { count as f64 / interval.as_secs_f64() };
        let mut states = [StateTotal::default(); TcpState::COUNT];
        for (total, state) in self.totals.iter().zip(&mut states) {
            let entered_per_s = per_s(total.entered - total.entered_at_last);
            *state = StateTotal { now: total.now, entered: total.entered, entered_per_s };
        }
        let records_before = self.last.map_or(0, |last| last.records);
        let losses = self.losses(streams, &context);
        let now = self.totals.map(|total| total.now);
        self.note(ts);
        let oldest_close_wait = self.oldest_close_wait(streams);
        let shown = GroupValues {
            names: KeyNames { streams, own_netns: context.host.netns },
            scope: Scope::default(),
            interval_s: interval.as_secs_f64(),
        };
        let tables = self.tables(streams, &context.observed);
        let shown_groups = self.groups.snapshot(ts, &shown, &oldest_close_wait);
        let snapshot = Snapshot {
            ts,
            began: self.began.unwrap_or(ts),
            interval,
            host: context.host,
            source: context.source,
            filter: context.filter,
            records: context.records,
            records_per_s: per_s(context.records - records_before),
            losses,
            states,
            history: self.history.iter().copied().collect(),
            timeline: self.timeline.clone(),
            grouping: self.groups.grouping(),
            groups: shown_groups.groups,
            other_groups: shown_groups.others,
            observed: context.observed,
            stuck: Vec::new(),
            ports: PortsSnapshot::default(),
            pools: self.pools.as_ref().map(Pools::snapshot).unwrap_or_default(),
            stacks: StacksSnapshot::default(),
            dwells: self.merged_dwells().map(|dwells| dwells.states(&now, self.orphans)).unwrap_or_default(),
            dwells_by_role: self.dwells_by_role(),
            peer_names: peer_names(streams),
            tables,
            answer: context.answer,
        };
        self.begin_interval(ts, context.records);
        snapshot
    }

    /// Starts the next interval like [`Self::snapshot`], without building a snapshot.
    pub fn pass(&mut self, ts: Nanos, records: u64) {
        self.note(ts);
        self.begin_interval(ts, records);
    }

    /// Adds the current counts to the history.
    fn note(&mut self, ts: Nanos) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(Sample { ts, counts: self.totals.map(|total| total.now) });
    }

    /// Starts a rate interval.
    fn begin_interval(&mut self, ts: Nanos, records: u64) {
        for total in &mut self.totals {
            total.entered_at_last = total.entered;
        }
        self.groups.begin_interval();
        self.last = Some(Last { ts, records });
    }

    /// Row count of each table.
    fn tables(&self, streams: &[StreamTables<'_>], observed: &Observed) -> Vec<(&'static str, usize)> {
        let mut tables = vec![
            ("groups", self.groups.keys().count()),
            ("destinations", self.ports.destinations()),
            ("translations", self.ports.translations()),
        ];
        if let Some((first, others)) = streams.split_first() {
            let of = |stream: &StreamTables<'_>| {
                stream.tracker.side_tables().into_iter().chain(stream.names.sizes())
            };
            let mut sums: Vec<(&'static str, usize)> = of(first).collect();
            for (sum, (_, rows)) in others.iter().flat_map(|other| of(other).enumerate()) {
                if let Some((_, sum)) = sums.get_mut(sum) {
                    *sum += rows;
                }
            }
            tables.extend(sums);
        }
        tables.extend(observed.sizes());
        tables
    }

    /// Connection tracking tables and bound ports as records for the start of a recording that begins at `ts`.
    pub fn port_holder_records(&self, ts: Nanos) -> impl Iterator<Item = Record> {
        self.ports.holder_records(ts)
    }

    /// The frames of a stack, if they are known.
    pub fn stack(&self, stack: StackUse) -> Option<Arc<UserStack>> {
        self.stacks.named(stack).cloned()
    }

    /// The frames of stacks as records for the start of a recording that begins at `ts`.
    pub fn stack_records(&self, ts: Nanos) -> impl Iterator<Item = Record> {
        self.stacks.records(ts)
    }

    /// Namespace and cgroup ids that sockets and groups refer to.
    pub fn used(&self, tracker: &Tracker) -> Used {
        let mut used = Used::default();
        for (_, socket) in tracker.sockets() {
            used.netns.insert(socket.netns);
            let owner = socket.process.and_then(|id| tracker.processes().get(id));
            used.cgroups.extend(owner.map(|owner| owner.cgroup));
        }
        self.groups.keys().for_each(|key| key.note(&mut used));
        used
    }

    /// Losses so far, by cause.
    pub fn losses(&self, streams: &[StreamTables<'_>], context: &Context) -> Losses {
        let mut counters = Counters::default();
        for stream in streams {
            counters.add(&stream.tracker.counters());
        }
        Losses {
            ring_full: context.kernel_losses.ring_full,
            recursion_missed: context.kernel_losses.recursion_missed,
            healed: counters.healed,
            evicted: counters.evicted + self.groups.evicted() + self.ports.refused() + context.refused,
            decode_errors: context.kernel_losses.decode_errors + counters.undecodable,
            read_faults: context.kernel_losses.read_faults,
            output_dropped: context.output_dropped,
            not_recorded: context.kernel_losses.not_recorded,
            uncounted: context.kernel_losses.uncounted,
            unseeded: counters.unseeded,
        }
    }

    /// Approximate memory of the groups, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.groups.size_bytes()
    }

    /// Samples the sockets per state for the mean over time, see [`Scope::Whole`].
    pub fn sample(&mut self) {
        self.samples += 1;
        if let Some(over_time) = &mut self.over_time {
            over_time.sample(&self.totals.map(|total| total.now));
            self.groups.sample();
        }
    }

    /// Summary of all sockets and of each group over the trace, see [`Scope::Whole`].
    pub fn summary(&self, streams: &[StreamTables<'_>], own_netns: u32) -> (GroupSummary, Vec<GroupSummary>) {
        let groups = self.groups.summary(KeyNames { streams, own_netns }, self.samples);
        let now = self.totals.map(|total| total.now);
        let over_time = self.over_time.clone().unwrap_or_default();
        let dwells = self.merged_dwells().unwrap_or_default();
        let dwells = |state| dwells.whole(state);
        let mut all = GroupSummary {
            key: "all".into(),
            role: Role::Unknown,
            process: None,
            states: over_time.states(&now, self.samples, dwells),
            closed: Default::default(),
            ended: Default::default(),
            dwells_elsewhere: 0,
        };
        for group in &groups {
            for (sum, n) in all.closed.iter_mut().zip(group.closed) {
                *sum += n;
            }
            for (sum, n) in all.ended.iter_mut().zip(group.ended) {
                *sum += n;
            }
        }
        (all, groups)
    }

    /// Ended dwells of all roles, merged.
    fn merged_dwells(&self) -> Option<Histograms> {
        let (first, rest) = self.dwells.as_ref()?.split_first()?;
        let mut sum = first.clone();
        for dwells in rest {
            sum.merge(dwells);
        }
        Some(sum)
    }

    /// Non-empty dwells by role and state; only with [`Scope::Roles`].
    fn dwells_by_role(&self) -> Vec<RoleDwells> {
        let Some(dwells) = self.dwells.as_ref().filter(|_| self.scope == Scope::Roles) else {
            return Vec::new();
        };
        let each = Role::ALL.into_iter().zip(dwells).flat_map(|(role, dwells)| {
            TcpState::ALL.into_iter().map(move |state| RoleDwells {
                role,
                state,
                distribution: dwells.whole(state).distribution(),
            })
        });
        each.filter(|dwells| dwells.distribution.count > 0).collect()
    }

    /// The oldest CLOSE_WAIT socket of each group.
    fn oldest_close_wait(&self, streams: &[StreamTables<'_>]) -> FxHashMap<u32, Oldest> {
        let mut oldest: FxHashMap<u32, Oldest> = FxHashMap::default();
        if self.now(TcpState::CloseWait) == 0 {
            return oldest;
        }
        let are_merged = self.groups.origin.merged.is_some();
        for StreamTables { tracker, host, .. } in streams {
            let in_close_wait = |socket: &Socket| {
                socket.state == TcpState::CloseWait && socket.is_counted() && socket.since != Since::Unknown
            };
            for (_, socket) in tracker.sockets_where(in_close_wait) {
                let owner = socket.process.and_then(|id| tracker.processes().get(id)).cloned();
                // Merged streams have wall-clock times.
                let since =
                    if are_merged { socket.since.map(|ts| Nanos(host.wall_ns(ts))) } else { socket.since };
                let this = Oldest { since, owner };
                let known = oldest.entry(self.groups.row_index_of(socket)).or_insert_with(|| this.clone());
                *known = known.clone().older(this);
            }
        }
        oldest
    }
}

/// Names of remote addresses; those of the first stream win.
fn peer_names(streams: &[StreamTables<'_>]) -> Arc<PeerNames> {
    let mut all = streams.iter().map(|stream| stream.names.peers()).rev();
    let Some(last) = all.next() else { return Arc::default() };
    let mut sum = Arc::clone(last);
    for names in all.filter(|names| !names.is_empty()) {
        for (origin, prefix, name) in names.iter() {
            Arc::make_mut(&mut sum).insert(origin, prefix, name);
        }
    }
    sum
}

#[cfg(test)]
mod row_tests;
#[cfg(test)]
mod tests;
