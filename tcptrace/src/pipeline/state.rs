//! State of the pipeline besides the tracker: filter, aggregate, host tables and the active query.

use std::{collections::BTreeMap, sync::Arc};

use tcptrace_common::filter::{Ends, KernelFilter};

use super::{
    event_sink::EventSink,
    query::{ActiveQuery, QueryChange},
    streams::{MergedStreams, StreamState},
};
use crate::{
    aggregate::{
        Aggregate, Context, History, Snapshot, StreamTables,
        detail::{DetailAnswer, Query},
        host_counters::Observed,
        stuck_sockets,
    },
    filter::Filter,
    lifecycle::{Event, Observer, Processes, Socket, Tracker},
    model::{
        Nanos, NetnsId, Record, SocketId, TcpState,
        peer_names::PeerNames,
        record::{HostFacts, KernelLosses},
    },
    source::may_be_in,
};

/// State of the pipeline besides the tracker.
pub(super) struct PipelineState {
    pub(super) filter: Filter,
    /// The part of the filter that the kernel side tests as well.
    pub(super) scope: KernelFilter,
    pub(super) aggregate: Aggregate,
    pub(super) events: Option<Box<dyn EventSink>>,
    /// The host that the current records come from.
    pub(super) stream: Box<StreamState>,
    /// All hosts, if records of several are merged; the one in `stream` has a placeholder.
    pub(super) streams: MergedStreams,
    /// Records missed by this run's recorder.
    pub(super) not_recorded: u64,
    pub(super) records: u64,
    /// Time of the last tick; wall-clock time if streams are merged.
    pub(super) now: Nanos,
    /// The active query, if a view can send queries.
    pub(super) active: Option<ActiveQuery>,
    /// Whether snapshots list stuck sockets.
    pub(super) lists_stuck: bool,
}

impl PipelineState {
    pub(super) fn new(
        aggregate: Aggregate,
        events: Option<Box<dyn EventSink>>,
        active: Option<ActiveQuery>,
        filter: Filter,
    ) -> Self {
        Self {
            scope: filter.kernel_part(),
            filter,
            aggregate,
            events,
            stream: Box::default(),
            streams: MergedStreams::default(),
            not_recorded: 0,
            records: 0,
            now: Nanos(0),
            active,
            lists_stuck: false,
        }
    }

    /// Snapshots also have what only findings need.
    pub(super) fn for_findings(self) -> Self {
        Self { aggregate: self.aggregate.with_pools(), lists_stuck: true, ..self }
    }

    /// The same, with names of remote addresses.
    pub(super) fn with_peer_names(mut self, names: Arc<PeerNames>) -> Self {
        self.streams.peer_names = Arc::clone(&names);
        self.stream.names = self.stream.names.with_peers(names);
        self
    }

    /// Continues with the records of stream `number`, one of several that are merged.
    pub(super) fn enter_stream(&mut self, number: u16, tracker: &mut Box<Tracker>) {
        self.streams.enter(number, &self.scope, tracker, &mut self.stream);
        self.aggregate.set_origin(self.stream.origin.clone());
    }

    /// The tables of all streams.
    pub(super) fn tables<'a>(&'a self, tracker: &'a Tracker) -> Vec<StreamTables<'a>> {
        self.streams.tables(tracker, &self.stream)
    }

    /// Facts about the host, or about all of them.
    pub(super) fn host_facts(&self, tracker: &Tracker) -> Arc<HostFacts> {
        self.streams.host_facts(tracker, &self.stream)
    }

    /// Host counters with current names and settings.
    fn observed(&mut self) -> Arc<Observed> {
        Arc::make_mut(&mut self.stream.observed).complete(&self.stream.names);
        Arc::clone(&self.stream.observed)
    }

    /// Stores a record with `keep`, which returns whether there was room. If a table is full or crowded, evicts unused
    /// rows first.
    fn keep(&mut self, tracker: &mut Tracker, keep: impl Fn(&mut Self) -> bool) {
        self.stream.patience.note();
        let is_kept = keep(self);
        if is_kept && !self.stream.names.is_crowded() {
            return;
        }
        if self.stream.seeded && self.stream.patience.is_over() {
            self.make_room(tracker);
            let has_room = is_kept || keep(self);
            self.stream.patience.restart(tracker.count(), has_room);
            if has_room {
                return;
            }
        }
        self.stream.refused += u64::from(!is_kept);
    }

    /// Evicts rows that no socket refers to from full or crowded tables.
    fn make_room(&mut self, tracker: &mut Tracker) {
        let used = self.aggregate.used(tracker);
        self.stream.names.make_room(&used);
        let has_sockets = |netns: NetnsId| used.netns.contains(&netns);
        Arc::make_mut(&mut self.stream.observed).make_room(|id| tracker.socket(id).is_some(), has_sockets);
    }

    /// Stores host data from `record` if it matches the filter.
    fn observe(&mut self, record: &Record, tracker: &mut Tracker) {
        let scope = &self.scope;
        let is_wanted = match record {
            Record::NetnsCounters { netns, .. } => may_be_in(scope, *netns),
            Record::NetnsSettings { sysctls, .. } => sysctls.is_empty(),
            Record::Seed(socket) => {
                let waits = matches!(socket.state, TcpState::CloseWait | TcpState::FinWait2);
                (socket.state == TcpState::Listen || (waits && self.stream.host.blind))
                    && scope.passes(&socket.tuple.ends(socket.netns))
            }
            Record::Owner { fd, .. } => fd.is_some(),
            Record::Kernel(seen) => {
                self.stream.observed.wants(&seen.raw) && scope.passes(&Ends::of(&seen.raw))
            }
            _ => false,
        };
        if is_wanted {
            self.keep(tracker, |flow| Arc::make_mut(&mut flow.stream.observed).take(record));
        }
    }

    pub(super) fn snapshot(&mut self, tracker: &Tracker, source: &Arc<str>) -> Snapshot {
        let context = Context { answer: self.answer(tracker), ..self.context(tracker, source) };
        let mut snapshot = if self.streams.are_merged() {
            // `tables` borrows all of `self`.
            let mut aggregate = std::mem::replace(&mut self.aggregate, Aggregate::nothing());
            let snapshot = aggregate.snapshot_of(self.now, &self.tables(tracker), context);
            self.aggregate = aggregate;
            snapshot
        } else {
            self.aggregate.snapshot(self.now, tracker, &self.stream.names, context)
        };
        snapshot.stacks.missed = self.stream.losses.stacks;
        if self.lists_stuck {
            snapshot.stuck =
                stuck_sockets::of(tracker, &snapshot.host, &snapshot.observed, snapshot.began, snapshot.ts);
        }
        snapshot
    }

    pub(super) fn context(&mut self, tracker: &Tracker, source: &Arc<str>) -> Context {
        let (losses, refused) = self.streams.losses(tracker, &self.stream);
        Context {
            host: self.host_facts(tracker),
            source: Arc::clone(source),
            filter: self.filter.to_string().into(),
            records: self.records,
            // A recording reports its own missing records.
            kernel_losses: KernelLosses { not_recorded: losses.not_recorded + self.not_recorded, ..losses },
            output_dropped: self.events.as_ref().map_or(0, |events| events.dropped()),
            // They are of one host.
            observed: if self.streams.are_merged() { Arc::default() } else { self.observed() },
            refused,
            answer: None,
        }
    }

    /// Applies a new query and restarts the counts if it needs that.
    pub(super) fn ask(&mut self, query: Query, tracker: &mut Tracker) -> QueryChange {
        let Self { active: Some(active), filter, aggregate, stream, now, .. } = self else {
            return QueryChange::None;
        };
        let change = active.take(query);
        if change == QueryChange::Filter
            && let Some(wanted) = active.filter(&stream.names)
        {
            *filter = wanted;
        }
        let history = match change {
            QueryChange::None | QueryChange::Focus | QueryChange::Over => return change,
            QueryChange::Count => History::Goes,
            QueryChange::Filter => History::Ends,
        };
        aggregate.restart(active.query().grouping, history, tracker, |socket, processes| {
            socket.counted.shown = filter.states(&socket.subject(processes));
        });
        active.recounted(*now);
        change
    }

    pub(super) fn answer(&mut self, tracker: &Tracker) -> Option<Arc<DetailAnswer>> {
        let active = self.active.as_mut()?;
        Some(active.answer(self.now, tracker, &self.aggregate))
    }

    /// The state besides the tracker as records for the start of a recording; [`tracker_head`] is the rest.
    pub(super) fn head(&self) -> Vec<Record> {
        let ts = self.now;
        let mut records =
            vec![Record::Host(Box::new(HostFacts::clone(&self.stream.host))), Record::Tick { ts }];
        let netns = self.stream.names.all_netns();
        records.extend(netns.map(|(netns, name)| Record::NetnsName { ts, netns, name: Arc::clone(name) }));
        let cgroups = self.stream.names.all_cgroups();
        records.extend(cgroups.map(|(cgroup, path)| Record::CgroupPath {
            ts,
            cgroup,
            path: Arc::clone(path),
        }));
        records.extend(self.stream.names.peer_records(ts));
        let settings = self.stream.names.all_settings();
        records.extend(settings.map(|(netns, sysctls)| Record::NetnsSettings {
            ts,
            netns,
            sysctls: BTreeMap::clone(sysctls),
        }));
        records.extend(self.stream.observed.records(ts));
        records.extend(self.aggregate.port_holder_records(ts));
        records.extend(self.aggregate.stack_records(ts));
        records
    }

    pub(super) fn take(&mut self, record: &Record, tracker: &mut Tracker) {
        match record {
            Record::Kernel(_) => self.records += 1,
            Record::Host(facts) => {
                self.stream.host = Arc::new(facts.after(&self.stream.host));
                self.stream.origin = self.streams.origin(&self.stream.host);
                self.aggregate.set_origin(self.stream.origin.clone());
            }
            Record::ClockStep(step) => Arc::make_mut(&mut self.stream.host).step_clock(*step),
            Record::Loss { losses, .. } => self.stream.losses = *losses,
            Record::NetnsName { .. }
            | Record::CgroupPath { .. }
            | Record::AddressName { .. }
            | Record::NetnsSettings { .. } => {
                self.keep(tracker, |flow| flow.stream.names.take(record));
            }
            Record::OwnersEnd { .. } => self.stream.seeded = true,
            // Nothing is shown until the existing sockets are known again.
            Record::Restart { .. } => self.stream.seeded = false,
            Record::Tick { ts } => {
                let host = &self.stream.host;
                let now = if self.streams.are_merged() { Nanos(host.wall_ns(*ts)) } else { *ts };
                self.now = self.now.max(now);
                self.aggregate.begin(now);
            }
            Record::Seed(_)
            | Record::SeedEnd { .. }
            | Record::Listing(_)
            | Record::Found(_)
            | Record::Missing { .. }
            | Record::Owner { .. }
            | Record::Workload { .. }
            | Record::ProcessFacts { .. }
            | Record::NetnsCounters { .. }
            | Record::Conntrack { .. }
            | Record::BoundPorts { .. }
            | Record::Stack { .. }
            | Record::SocketCheckpoint(_)
            | Record::TrackerCheckpoint(_)
            | Record::Stream { .. } => {}
        }
        self.observe(record, tracker);
        if let Some(events) = self.events.as_mut().filter(|_| !matches!(record, Record::Kernel(_))) {
            events.record(record, &self.stream.host);
        }
        tracker.take(record, self);
        let is_in_scope = !matches!(
            record,
            Record::Conntrack { netns, .. } | Record::BoundPorts { netns, .. }
                if !may_be_in(&self.scope, *netns)
        );
        if is_in_scope && let Some(netns) = self.aggregate.take(record) {
            tracker.revisit_namespace(netns, record.ts().unwrap_or(self.now), self);
        }
        if self.stream.seeded && matches!(record, Record::Tick { .. }) {
            self.aggregate.mark(self.now);
        }
    }

    /// Sets the states in which `socket` matches the filter, as far as known.
    fn judge(&self, socket: &mut Socket, processes: &Processes) {
        if !self.filter.is_everything() {
            socket.counted.shown = self.filter.states(&socket.subject(processes));
        }
    }
}

/// The state of a tracker at `ts` as records; of 500,000 sockets it takes a few tenths of a second.
pub(super) fn tracker_head(tracker: &Tracker, ts: Nanos) -> impl Iterator<Item = Record> + use<> {
    let (workloads, facts) = tracker.names(ts);
    let (sockets, rest) = tracker.carry(ts);
    // The checkpoint is not a seed: the seed is complete before it.
    let seed_end = [Record::SeedEnd { ts, began: ts }, Record::OwnersEnd { ts }];
    let sockets = sockets.into_iter().map(|carried| Record::SocketCheckpoint(Box::new(carried)));
    // After the sockets: each finds its process, however many there are.
    let last = facts.into_iter().chain([Record::TrackerCheckpoint(Box::new(rest))]);
    workloads.into_iter().chain(seed_end).chain(sockets).chain(last)
}

/// Filters tracker events: a change is reported if the previous or the new state is shown, and a socket is counted
/// while its state is shown.
impl Observer for PipelineState {
    fn appeared(&mut self, id: SocketId, socket: &mut Socket, processes: &Processes) {
        self.judge(socket, processes);
        if let Some(events) = &mut self.events {
            events.appeared(id, socket, processes, &self.stream.host);
        }
        self.aggregate.appeared(id, socket, processes);
    }

    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes) {
        self.judge(socket, processes);
        if let Some(active) = &mut self.active {
            active.journal.take(event);
        }
        // An inbound connection is reported as coming from LISTEN, a state that the socket itself never had.
        let from = if event.begins { TcpState::Close } else { event.from };
        if let Some(events) = &mut self.events
            && (socket.counted.shown.contains(from) || socket.counted.shown.contains(event.to))
        {
            events.event(event, &self.stream.host);
        }
        self.aggregate.changed(event, socket, processes);
    }

    fn corrected(&mut self, from: TcpState, socket: &mut Socket, processes: &Processes) {
        self.aggregate.corrected(from, socket, processes);
    }

    fn identified(&mut self, socket: &mut Socket, processes: &Processes) {
        self.judge(socket, processes);
        self.aggregate.identified(socket, processes);
    }

    fn owner_moved(&mut self, socket: &mut Socket, processes: &Processes) {
        self.judge(socket, processes);
        self.aggregate.owner_moved(socket, processes);
    }

    fn accepted(&mut self, socket: &Socket, processes: &Processes) {
        self.aggregate.accepted(socket, processes);
    }

    fn orphaned(&mut self, socket: &mut Socket) {
        self.aggregate.orphaned(socket);
    }

    fn forgotten(&mut self, socket: &mut Socket) {
        self.aggregate.forgotten(socket);
    }
}
