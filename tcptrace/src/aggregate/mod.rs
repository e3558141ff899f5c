//! Events in, a [`Snapshot`] out: sockets per state and group, rates, dwell quantiles, closers.
//!
//! Pure, like the tracker: the time is in the events and in the call that asks for a snapshot.

mod cgroup;
mod counting;
mod departure;
mod dwells;
mod entry;
mod groups;
mod keys;
pub mod observed;
mod over_time;
mod owners;
mod places;
mod ports;
mod snapshot;
pub mod standing;
mod stays;
mod table;
mod timeline;

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;

use crate::{
    inspect::Answer,
    lifecycle::{Closer, Processes, Role, Since, Socket, Tracker},
    model::{
        Nanos, NetnsId, Record, SocketId, TcpState,
        record::{HostFacts, KernelLosses},
    },
};

pub use departure::Split;
pub use dwells::{Bucket, Distribution};
use entry::{Oldest, Shown};
use groups::{Groups, Limits};
pub use keys::{GroupKey, Grouping, Names, PeerPrefix};
use observed::Observed;
use over_time::OverTime;
pub use over_time::{GroupSummary, StateSummary};
use places::Places;
use ports::Ports;
pub use ports::{DestinationPorts, NetnsPorts, PortSettings, PortsSnapshot, TwReuse};
pub use snapshot::{
    DwellQuantiles, Group, Losses, Minisockets, RoleDwells, Sample, Snapshot, StateDwells, StateTotal,
    TimeWaitEnds,
};
use stays::Histograms;
pub use stays::Scope;
pub use timeline::{Point, Timeline};

/// How many snapshots back the history reaches.
pub const HISTORY: usize = 60;

/// Number of entries in a table indexed by `Closer as usize`.
const CLOSERS: usize = Closer::ALL.len() + 1;

/// Counts what the tracker tells.
#[derive(Clone, Debug)]
pub struct Aggregate {
    groups: Groups,
    totals: [Total; TcpState::COUNT],
    scope: Scope,
    /// The stays of all sockets, where those in every state are kept, indexed by `Role as usize`.
    stays: Option<[Histograms; Role::ALL.len()]>,
    /// With [`Scope::Whole`], and how often it was looked at.
    over_time: Option<OverTime>,
    looks: u64,
    ports: Ports,
    orphans: u64,
    history: VecDeque<Sample>,
    timeline: Timeline,
    began: Option<Nanos>,
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    now: u64,
    /// The most at once since the last look.
    highest: u64,
    entered: u64,
    entered_at_last: u64,
    /// At the last look.
    entered_before: u64,
}

/// What the rates of the next snapshot are measured against.
#[derive(Clone, Copy, Debug)]
struct Last {
    ts: Nanos,
    records: u64,
}

/// What a snapshot holds beyond the counts.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Facts about the host.
    pub host: Arc<HostFacts>,
    /// Where the records come from.
    pub source: Arc<str>,
    /// What is shown of it, as an expression; empty for everything.
    pub filter: Arc<str>,
    /// Records taken in so far.
    pub records: u64,
    /// Losses on the kernel side.
    pub kernel_losses: KernelLosses,
    /// Lines that a slow reader of the output did not take in time.
    pub output_dropped: u64,
    /// What was looked at beside the sockets.
    pub observed: Arc<Observed>,
    /// What was asked for.
    pub answer: Option<Arc<Answer>>,
}

/// What becomes of the history when counting begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// The sockets are the same.
    Goes,
    /// It is of other sockets.
    Ends,
}

impl Aggregate {
    /// Nothing counted yet.
    pub fn new(grouping: Grouping, scope: Scope) -> Self {
        Self::with_limits(grouping, scope, Limits::default())
    }

    /// The same with room for three groups and hardly a histogram.
    #[cfg(test)]
    pub(crate) fn cramped(grouping: Grouping, scope: Scope) -> Self {
        let limits = Limits { groups: 3, histogram_bytes: 2_000, ..Limits::default() };
        Self::with_limits(grouping, scope, limits)
    }

    fn with_limits(grouping: Grouping, scope: Scope, limits: Limits) -> Self {
        Self {
            groups: Groups::new(grouping, scope.of_groups(), limits),
            scope,
            totals: Default::default(),
            stays: (!matches!(scope, Scope::Minisockets | Scope::Nothing)).then(Default::default),
            over_time: (scope == Scope::Whole).then(OverTime::default),
            looks: 0,
            ports: Ports::default(),
            orphans: 0,
            history: VecDeque::with_capacity(HISTORY),
            timeline: Timeline::default(),
            began: None,
            last: None,
        }
    }

    /// The same with so many groups, and destinations, that keep their place from one snapshot to the next: the
    /// busiest, and those that run out of ports first, until others clearly are.
    #[must_use]
    pub fn with_places(mut self, most: usize) -> Self {
        self.groups.places = Places::new(most);
        self.ports.places = Places::new(most);
        self
    }

    /// Tracing had begun by `ts`; the first call counts.
    pub fn begin(&mut self, ts: Nanos) {
        self.began.get_or_insert(ts);
    }

    /// Takes in what `record` tells beside what the tracker makes of it. Returns a namespace whose sockets are to
    /// be looked at again.
    pub fn take(&mut self, record: &Record) -> Option<NetnsId> {
        self.ports.take(record)
    }

    /// Counts anew, from what the tracker follows now: what has ended is forgotten. `judge` says in which
    /// states a socket is shown.
    pub fn restart(
        &mut self,
        grouping: Grouping,
        history: History,
        tracker: &mut Tracker,
        judge: impl Fn(&mut Socket, &Processes),
    ) {
        self.groups = self.groups.anew(grouping);
        self.totals = Default::default();
        self.stays = self.stays.as_ref().map(|_| Default::default());
        self.orphans = 0;
        self.last = None;
        if history == History::Ends {
            self.history.clear();
            self.timeline = Timeline::default();
            self.ports.choose_anew();
        }
        tracker.each_socket(|socket, processes| {
            socket.group = Socket::NO_GROUP;
            socket.counted_closer = Closer::None;
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

    /// What the groups are grouped by.
    pub const fn grouping(&self) -> Grouping {
        self.groups.grouping()
    }

    /// The sockets of one group, and its dwells as far as they are kept; `None` where it is gone.
    pub fn members<'a>(
        &'a self,
        key: &GroupKey,
        tracker: &'a Tracker,
    ) -> Option<(impl Iterator<Item = (SocketId, &'a Socket)>, Vec<StateDwells>)> {
        let place = self.groups.find(key)?;
        let sockets = tracker
            .sockets()
            .filter(move |(_, socket)| socket.is_counted() && self.groups.place_of(socket) == place);
        Some((sockets, self.groups.dwells(place)))
    }

    /// Notes for the timeline what happened since the last look. Up to the first one there is no telling how many
    /// sockets there were: they were still being read.
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

    /// Everything the views show, at `ts`. Rates are over the time since the snapshot before.
    pub fn snapshot(&mut self, ts: Nanos, tracker: &Tracker, names: &Names, context: Context) -> Snapshot {
        self.mark(ts);
        let interval = self.last.map_or(Nanos(0), |last| ts.since(last.ts));
        let per_s = |count: u64| if interval.0 == 0 { 0.0 } else { count as f64 / interval.as_secs_f64() };
        let mut states = [StateTotal::default(); TcpState::COUNT];
        for (total, state) in self.totals.iter().zip(&mut states) {
            let entered_per_s = per_s(total.entered - total.entered_at_last);
            *state = StateTotal { now: total.now, entered: total.entered, entered_per_s };
        }
        let records_before = self.last.map_or(0, |last| last.records);
        let losses = self.losses(tracker, &context);
        let now = self.totals.map(|total| total.now);
        self.note(ts);
        let oldest_close_wait = self.oldest_close_wait(tracker);
        let shown = Shown {
            names,
            own_netns: context.host.netns,
            scope: Scope::default(),
            interval_s: interval.as_secs_f64(),
        };
        let picture = self.groups.snapshot(ts, &shown, &oldest_close_wait);
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
            groups: picture.groups,
            other_groups: picture.others,
            observed: context.observed,
            standing: Vec::new(),
            ports: self.ports.snapshot(ts, names),
            dwells: self.all_stays().map(|stays| stays.states(&now, self.orphans)).unwrap_or_default(),
            dwells_by_role: self.dwells_by_role(),
            answer: context.answer,
        };
        self.begin_interval(ts, context.records);
        snapshot
    }

    /// Goes on as after a [`Self::snapshot`] that nobody wants to see.
    pub fn pass(&mut self, ts: Nanos, records: u64) {
        self.note(ts);
        self.begin_interval(ts, records);
    }

    /// Keeps the counts of this moment for the history.
    fn note(&mut self, ts: Nanos) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(Sample { ts, counts: self.totals.map(|total| total.now) });
    }

    /// From now on rates are measured against this moment.
    fn begin_interval(&mut self, ts: Nanos, records: u64) {
        for total in &mut self.totals {
            total.entered_at_last = total.entered;
        }
        self.groups.begin_interval();
        self.last = Some(Last { ts, records });
    }

    /// Everything lost so far, by cause.
    pub fn losses(&self, tracker: &Tracker, context: &Context) -> Losses {
        let counters = tracker.counters();
        Losses {
            ring_full: context.kernel_losses.ring_full,
            recursion_missed: context.kernel_losses.recursion_missed,
            healed: counters.healed,
            evicted: counters.evicted + self.groups.evicted() + context.observed.left_out,
            decode_errors: context.kernel_losses.decode_errors + counters.undecodable,
            read_faults: context.kernel_losses.read_faults,
            output_dropped: context.output_dropped,
            not_recorded: context.kernel_losses.not_recorded,
            uncounted: context.kernel_losses.uncounted,
        }
    }

    /// Roughly what it takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.groups.size_bytes()
    }

    /// Counts the sockets in every state for the mean over time, see [`Scope::Whole`].
    pub fn look(&mut self) {
        self.looks += 1;
        if let Some(over_time) = &mut self.over_time {
            over_time.look(&self.totals.map(|total| total.now));
            self.groups.look();
        }
    }

    /// All sockets and every group over the whole time, see [`Scope::Whole`].
    pub fn summary(&self, names: &Names, own_netns: u32) -> (GroupSummary, Vec<GroupSummary>) {
        let groups = self.groups.summary(names, own_netns, self.looks);
        let now = self.totals.map(|total| total.now);
        let over_time = self.over_time.clone().unwrap_or_default();
        let stays = self.all_stays().unwrap_or_default();
        let dwells = |state| stays.whole(state);
        let mut all = GroupSummary {
            key: "all".into(),
            role: Role::Unknown,
            process: None,
            states: over_time.states(&now, self.looks, dwells),
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

    /// The stays of all sockets together.
    fn all_stays(&self) -> Option<Histograms> {
        let (first, rest) = self.stays.as_ref()?.split_first()?;
        let mut sum = first.clone();
        for stays in rest {
            sum.merge(stays);
        }
        Some(sum)
    }

    /// With [`Scope::Roles`] the dwells by role and state, the empty ones left out.
    fn dwells_by_role(&self) -> Vec<RoleDwells> {
        let Some(stays) = self.stays.as_ref().filter(|_| self.scope == Scope::Roles) else {
            return Vec::new();
        };
        let each = Role::ALL.into_iter().zip(stays).flat_map(|(role, stays)| {
            TcpState::ALL.into_iter().map(move |state| RoleDwells {
                role,
                state,
                distribution: stays.whole(state).distribution(),
            })
        });
        each.filter(|dwells| dwells.distribution.count > 0).collect()
    }

    /// By group, the oldest socket in CLOSE_WAIT.
    fn oldest_close_wait(&self, tracker: &Tracker) -> FxHashMap<u32, Oldest> {
        let mut oldest: FxHashMap<u32, Oldest> = FxHashMap::default();
        if self.now(TcpState::CloseWait) == 0 {
            return oldest;
        }
        for (_, socket) in tracker.sockets() {
            if socket.state == TcpState::CloseWait && socket.is_counted() && socket.since != Since::Unknown {
                let owner = socket.process.and_then(|id| tracker.processes().get(id)).cloned();
                let this = Oldest { since: socket.since, owner };
                let known = oldest.entry(self.groups.place_of(socket)).or_insert_with(|| this.clone());
                *known = known.clone().older(this);
            }
        }
        oldest
    }
}

#[cfg(test)]
mod tests;
