//! The active query of a view, and its answers.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    aggregate::{
        Aggregate, HostNames,
        detail::{Detail, DetailAnswer, Focus, Journal, Life, Members, Query, SocketRow, pick},
    },
    filter::Filter,
    lifecycle::Tracker,
    model::{Nanos, NetnsId},
};

/// The query and the data for its answers.
#[derive(Clone)]
pub(super) struct ActiveQuery {
    query: Query,
    /// Filter of the command line.
    base: Filter,
    pub(super) filter_fault: Option<String>,
    since: Option<Nanos>,
    pub(super) journal: Journal,
    /// Last row of the socket in focus.
    last_seen: Option<SocketRow>,
    pub(super) ended: bool,
}

/// Effect of a new query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryChange {
    /// No new query.
    None,
    /// Another focus, same counts.
    Focus,
    /// The same sockets must be counted again.
    Count,
    /// Other sockets must be counted.
    Filter,
    /// All query senders are gone.
    Over,
}

impl ActiveQuery {
    pub(super) fn new(query: Query, base: Filter) -> Self {
        Self {
            query,
            base,
            filter_fault: None,
            since: None,
            journal: Journal::default(),
            last_seen: None,
            ended: false,
        }
    }

    /// Replaces the query.
    pub(super) fn take(&mut self, query: Query) -> QueryChange {
        let change = if query.filter != self.query.filter {
            QueryChange::Filter
        } else if query.counts_like(&self.query) {
            QueryChange::Focus
        } else {
            QueryChange::Count
        };
        self.journal.follow(match query.focus {
            Focus::Socket(id) => Some(id),
            Focus::Groups | Focus::Group(_) => None,
        });
        self.query = query;
        change
    }

    /// The current query.
    pub(super) const fn query(&self) -> &Query {
        &self.query
    }

    /// Filter of the query combined with that of the command line; `None` if it cannot be used.
    pub(super) fn filter(&mut self, names: &HostNames) -> Option<Filter> {
        let netns: BTreeMap<String, NetnsId> =
            names.all_netns().map(|(netns, name)| (name.to_string(), netns)).collect();
        match Filter::new(self.query.filter.clone(), &netns) {
            Ok(filter) => {
                self.filter_fault = None;
                Some(self.base.and(filter))
            }
            Err(fault) => {
                self.filter_fault = Some(fault.to_string());
                None
            }
        }
    }

    /// Notes that the counts restarted at `now`.
    pub(super) const fn recounted(&mut self, now: Nanos) {
        self.since = Some(now);
    }

    pub(super) fn answer(
        &mut self,
        now: Nanos,
        tracker: &Tracker,
        aggregate: &Aggregate,
    ) -> Arc<DetailAnswer> {
        let detail = match &self.query.focus {
            Focus::Groups => Detail::Nothing,
            Focus::Group(key) => aggregate.members(key, tracker).map_or(Detail::Gone, |(sockets, dwells)| {
                let (sockets, total) = pick(sockets, tracker.processes());
                Detail::Group(Members { sockets, total, dwells })
            }),
            Focus::Socket(id) => match Life::of(*id, tracker, &self.journal, self.last_seen.as_ref()) {
                Some(mut life) => {
                    life.opened_by = aggregate.stack(life.socket.opened_by);
                    life.closed_by = aggregate.stack(life.socket.closed_by);
                    self.last_seen = Some(life.socket.clone());
                    Detail::Socket(Box::new(life))
                }
                None => Detail::Gone,
            },
        };
        Arc::new(DetailAnswer {
            query: self.query.clone(),
            ts: now,
            since: self.since.unwrap_or_default(),
            filter_fault: self.filter_fault.clone(),
            detail,
            ended: self.ended,
        })
    }
}
