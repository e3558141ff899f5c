//! What the pipeline does without its thread and its schedule: records in, on the caller's thread, and
//! pictures out when the caller wants one.

use std::{collections::BTreeMap, sync::Arc};

use super::{asked::Asked, taken::Taken};
use crate::{
    aggregate::{Aggregate, GroupSummary, Grouping, Losses, Scope, Snapshot},
    filter::Filter,
    inspect::Query,
    lifecycle::{Limits, Tracker},
    model::{Nanos, NetnsId, Record, StateCounts, TcpState},
};

/// A tracker and what is counted behind it.
pub struct Engine {
    tracker: Tracker,
    flow: Taken,
    source: Arc<str>,
    next_look: Nanos,
}

/// How often sockets are counted for their mean over time, see [`Scope::Whole`].
const LOOK_EVERY: Nanos = Nanos::SECOND;

/// Goes on from the same point.
impl Clone for Engine {
    fn clone(&self) -> Self {
        let flow = &self.flow;
        let flow = Taken {
            // An engine has no one to tell events to.
            events: None,
            scope: flow.scope,
            filter: flow.filter.clone(),
            aggregate: flow.aggregate.clone(),
            host: Arc::clone(&flow.host),
            names: flow.names.clone(),
            observed: Arc::clone(&flow.observed),
            asked: flow.asked.clone(),
            ..*flow
        };
        Self { tracker: self.tracker.clone(), flow, source: Arc::clone(&self.source), ..*self }
    }
}

impl Engine {
    /// Nothing taken in yet; `source` is where the records come from.
    pub fn new(filter: Filter, grouping: Grouping, scope: Scope, source: Arc<str>) -> Self {
        Self {
            tracker: Tracker::new(Limits::default()).scoped(filter.kernel_part()),
            flow: Taken::new(Aggregate::new(grouping, scope), None, None, filter),
            source,
            next_look: Nanos(0),
        }
    }

    /// The same with an answer to `query` in every picture; `base` is the part of the filter that stays.
    #[must_use]
    pub fn answering(mut self, query: Query, base: Filter) -> Self {
        self.flow.asked = Some(Asked::new(query, base));
        self
    }

    /// What is to be looked at more closely from now on. What is counted stays.
    pub fn focus(&mut self, query: &Query, fault: Option<&str>) {
        if let Some(asked) = &mut self.flow.asked {
            asked.take(query.clone());
            asked.filter_fault = fault.map(Into::into);
        }
    }

    /// The filter that `query` asks for, with the part that stays. It takes the names of namespaces, which
    /// records have told.
    pub fn filter(&mut self, query: &Query) -> Result<Filter, String> {
        let Some(asked) = &self.flow.asked else { return Ok(self.flow.filter.clone()) };
        let mut asked = asked.clone();
        asked.take(query.clone());
        let filter = asked.filter(&self.flow.names);
        filter.ok_or_else(|| asked.filter_fault.unwrap_or_default())
    }

    /// The picture `before` with the answer to what is asked for now.
    pub fn answer(&mut self, before: &Snapshot) -> Snapshot {
        Snapshot { answer: self.flow.answer(&self.tracker), ..before.clone() }
    }

    /// Takes one record in.
    pub fn take(&mut self, record: &Record) {
        self.flow.take(record, &mut self.tracker);
        if let Record::Tick { ts } = *record
            && self.flow.seeded
            && ts >= self.next_look
        {
            self.flow.aggregate.look();
            self.next_look = ts.plus(LOOK_EVERY);
        }
    }

    /// The time, as the last tick told it.
    pub const fn now(&self) -> Nanos {
        self.flow.now
    }

    /// Whether all that was there at the start is known.
    pub const fn is_seeded(&self) -> bool {
        self.flow.seeded
    }

    /// Goes on as after a [`Self::snapshot`] that nobody wants to see.
    pub fn pass(&mut self) {
        self.flow.aggregate.pass(self.flow.now, self.flow.records);
    }

    /// Every socket followed now, and who owns them.
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

    /// The sockets of every network namespace that has some, with its name where it has one.
    pub fn counts_by_netns(&self) -> Vec<(NetnsId, Option<Arc<str>>, StateCounts)> {
        let mut counts: BTreeMap<NetnsId, StateCounts> = BTreeMap::new();
        let shown = self.tracker.sockets().filter(|(_, socket)| socket.shown.contains(socket.state));
        for (_, socket) in shown {
            let counts = counts.entry(socket.netns).or_default();
            if socket.is_orphan_fin_wait2() {
                counts.add_orphan_fin_wait2();
            } else {
                counts.add(socket.state);
            }
        }
        let name = |netns| self.flow.names.netns.get(&netns).cloned();
        counts.into_iter().map(|(netns, counts)| (netns, name(netns), counts)).collect()
    }

    /// Everything lost so far, by cause.
    pub fn losses(&mut self) -> Losses {
        let context = self.flow.context(&self.source);
        self.flow.aggregate.losses(&self.tracker, &context)
    }

    /// Records taken in so far, those of the hooks.
    pub const fn records(&self) -> u64 {
        self.flow.records
    }

    /// Wall-clock time at monotonic 0.
    pub fn clock_offset_ns(&self) -> u64 {
        self.flow.host.clock_offset_ns
    }

    /// Roughly what it takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        let journal = self.flow.asked.as_ref().map_or(0, |asked| asked.journal.size_bytes());
        self.tracker.size_bytes() + self.flow.aggregate.size_bytes() + journal
    }

    /// Everything that the views show.
    pub fn snapshot(&mut self) -> Snapshot {
        self.flow.snapshot(&self.tracker, &self.source)
    }

    /// All sockets and every group over the whole time, see [`Scope::Whole`].
    pub fn summary(&self) -> (GroupSummary, Vec<GroupSummary>) {
        self.flow.aggregate.summary(&self.flow.names, self.flow.host.netns)
    }
}
