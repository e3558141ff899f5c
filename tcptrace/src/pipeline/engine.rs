//! What the pipeline does without its thread and its schedule: records in, on the caller's thread, and
//! pictures out when the caller wants one.

use std::sync::Arc;

use super::Taken;
use crate::{
    aggregate::{Aggregate, GroupSummary, Grouping, Scope, Snapshot},
    filter::Filter,
    lifecycle::{Limits, Tracker},
    model::{Nanos, Record},
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

    /// Everything that the views show.
    pub fn snapshot(&mut self) -> Snapshot {
        self.flow.snapshot(&self.tracker, &self.source)
    }

    /// All sockets and every group over the whole time, see [`Scope::Whole`].
    pub fn summary(&self) -> (GroupSummary, Vec<GroupSummary>) {
        self.flow.aggregate.summary(&self.flow.names, self.flow.host.netns)
    }
}
