//! Pipeline without thread and schedule: processes records on the caller's thread and builds snapshots on request.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    query::ActiveQuery,
    state::{PipelineState, tracker_head},
};
use crate::{
    aggregate::{Aggregate, GroupSummary, Grouping, Losses, Scope, Snapshot, StreamTables, detail::Query},
    filter::Filter,
    lifecycle::{Tracker, TrackerLimits},
    model::{Nanos, NetnsId, Record, StateCounts, TcpState, peer_names::PeerNames, record::HostFacts},
};

/// A tracker and its aggregate.
pub struct Engine {
    tracker: Box<Tracker>,
    flow: PipelineState,
    source: Arc<str>,
    next_sample: Nanos,
}

/// The sockets of one network namespace.
#[derive(Clone, Debug)]
pub struct NetnsCounts {
    /// Its host.
    pub host: String,
    /// Whether it is the tracer's own.
    pub is_own: bool,
    /// The namespace.
    pub id: NetnsId,
    /// Its name in `ip netns`. Untrusted.
    pub name: Option<Arc<str>>,
    /// Its sockets.
    pub counts: StateCounts,
}

/// Sampling interval of the sockets per state for their mean over time, see [`Scope::Whole`].
const SAMPLE_INTERVAL: Nanos = Nanos::SECOND;

/// A copy that continues from the same point.
impl Clone for Engine {
    fn clone(&self) -> Self {
        let flow = &self.flow;
        let flow = PipelineState {
            // An engine has no receiver of events.
            events: None,
            scope: flow.scope,
            filter: flow.filter.clone(),
            aggregate: flow.aggregate.clone(),
            stream: flow.stream.clone(),
            streams: flow.streams.clone(),
            active: flow.active.clone(),
            ..*flow
        };
        Self { tracker: self.tracker.clone(), flow, source: Arc::clone(&self.source), ..*self }
    }
}

impl Engine {
    /// An engine without records; `source` names their origin.
    pub fn new(filter: Filter, grouping: Grouping, scope: Scope, source: Arc<str>) -> Self {
        Self {
            tracker: Box::new(Tracker::new(TrackerLimits::default()).scoped(filter.kernel_part())),
            flow: PipelineState::new(Aggregate::new(grouping, scope), None, None, filter),
            source,
            next_sample: Nanos(0),
        }
    }

    /// Snapshots also have what only findings need.
    #[must_use]
    pub fn for_findings(self) -> Self {
        Self { flow: self.flow.for_findings(), ..self }
    }

    /// Starts with these names of remote addresses.
    #[must_use]
    pub fn with_peer_names(self, names: Arc<PeerNames>) -> Self {
        Self { flow: self.flow.with_peer_names(names), ..self }
    }

    /// Adds an answer to `query` to every snapshot; `base` is the fixed part of the filter.
    #[must_use]
    pub fn with_query(mut self, query: Query, base: Filter) -> Self {
        self.flow.active = Some(ActiveQuery::new(query, base));
        self
    }

    /// Changes the subject of the answers; the counts stay.
    pub fn focus(&mut self, query: &Query, fault: Option<&str>) {
        if let Some(active) = &mut self.flow.active {
            active.take(query.clone());
            active.filter_fault = fault.map(Into::into);
        }
    }

    /// Combines the filter of `query` with the fixed part. Namespace names resolve to those seen in records so far.
    pub fn filter(&mut self, query: &Query) -> Result<Filter, String> {
        let Some(active) = &self.flow.active else { return Ok(self.flow.filter.clone()) };
        let mut active = active.clone();
        active.take(query.clone());
        let filter = active.filter(&self.flow.stream.names);
        filter.ok_or_else(|| active.filter_fault.unwrap_or_default())
    }

    /// The snapshot `before` with an answer to the current query.
    pub fn answer(&mut self, before: &Snapshot) -> Snapshot {
        Snapshot { answer: self.flow.answer(&self.tracker), ..before.clone() }
    }

    /// Processes one record.
    pub fn take(&mut self, record: &Record) {
        if let Record::Stream { number } = *record {
            self.flow.enter_stream(number, &mut self.tracker);
            return;
        }
        self.flow.take(record, &mut self.tracker);
        if let Record::Tick { .. } = *record
            && self.flow.stream.seeded
            && self.flow.now >= self.next_sample
        {
            self.flow.aggregate.sample();
            self.next_sample = self.flow.now.plus(SAMPLE_INTERVAL);
        }
    }

    /// All current state as records for the start of a recording.
    pub fn head(&self) -> Vec<Record> {
        let mut records = self.flow.head();
        records.extend(tracker_head(&self.tracker, self.flow.now));
        records
    }

    /// Time of the last tick.
    pub const fn now(&self) -> Nanos {
        self.flow.now
    }

    /// Whether the initial sockets and owners are complete.
    pub const fn is_seeded(&self) -> bool {
        self.flow.stream.seeded
    }

    /// Starts the next interval like [`Self::snapshot`], without building a snapshot.
    pub fn pass(&mut self) {
        self.flow.aggregate.pass(self.flow.now, self.flow.records);
    }

    /// The tracker with its sockets and owners.
    pub const fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Sockets per state now, indexed by [`TcpState::index`].
    pub fn counts(&self) -> [u64; TcpState::COUNT] {
        let mut counts = [0; TcpState::COUNT];
        for state in TcpState::ALL {
            counts[state.index()] = self.flow.aggregate.now(state);
        }
        counts
    }

    /// Sockets per host and network namespace.
    pub fn counts_by_netns(&self) -> Vec<NetnsCounts> {
        let mut all = Vec::new();
        for StreamTables { tracker, names, host } in self.flow.tables(&self.tracker) {
            let mut counts: BTreeMap<NetnsId, StateCounts> = BTreeMap::new();
            let shown = tracker.sockets().filter(|(_, socket)| socket.counted.shown.contains(socket.state));
            for (_, socket) in shown {
                let counts = counts.entry(socket.netns).or_default();
                if socket.is_orphan_fin_wait2() {
                    counts.add_orphan_fin_wait2();
                } else {
                    counts.add(socket.state);
                }
            }
            all.extend(counts.into_iter().map(|(id, counts)| NetnsCounts {
                host: host.host.clone(),
                is_own: id.0 == host.netns,
                id,
                name: names.netns(id).cloned(),
                counts,
            }));
        }
        all
    }

    /// Losses so far, by cause.
    pub fn losses(&mut self) -> Losses {
        let context = self.flow.context(&self.tracker, &self.source);
        self.flow.aggregate.losses(&self.flow.tables(&self.tracker), &context)
    }

    /// Hook records processed so far.
    pub const fn records(&self) -> u64 {
        self.flow.records
    }

    /// Facts about the host, including the steps of its clock.
    pub const fn host(&self) -> &Arc<HostFacts> {
        &self.flow.stream.host
    }

    /// Approximate memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        let journal = self.flow.active.as_ref().map_or(0, |active| active.journal.size_bytes());
        self.tracker.size_bytes() + self.flow.aggregate.size_bytes() + journal
    }

    /// Builds a snapshot for the views.
    pub fn snapshot(&mut self) -> Snapshot {
        self.flow.snapshot(&self.tracker, &self.source)
    }

    /// Summary of all sockets and of each group over the trace, see [`Scope::Whole`].
    pub fn summary(&self) -> (GroupSummary, Vec<GroupSummary>) {
        let own_netns = self.flow.host_facts(&self.tracker).netns;
        self.flow.aggregate.summary(&self.flow.tables(&self.tracker), own_netns)
    }
}
