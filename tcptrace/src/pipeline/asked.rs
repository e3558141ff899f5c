//! What a view has asked for, and the answers: a [`Query`] in, an [`Answer`] out.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    aggregate::{Aggregate, Names},
    filter::Filter,
    inspect::{Answer, Detail, Focus, Journal, Life, Members, Query, SocketRow, pick},
    lifecycle::Tracker,
    model::{Nanos, NetnsId},
};

/// The question and what its answer takes.
#[derive(Clone)]
pub(super) struct Asked {
    query: Query,
    /// What the command line lets pass.
    base: Filter,
    pub(super) filter_fault: Option<String>,
    since: Option<Nanos>,
    pub(super) journal: Journal,
    /// The socket that is looked at, as it was last.
    last_seen: Option<SocketRow>,
    pub(super) ended: bool,
}

/// What a new question changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing new was asked.
    None,
    /// Another closer look at the same counts.
    Focus,
    /// Sockets are to be counted anew, the same ones.
    Count,
    /// Others are to be counted.
    Filter,
    /// Nobody will ask any more.
    Over,
}

impl Asked {
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

    /// Takes a new question.
    pub(super) fn take(&mut self, query: Query) -> Change {
        let change = if query.filter != self.query.filter {
            Change::Filter
        } else if query.counts_like(&self.query) {
            Change::Focus
        } else {
            Change::Count
        };
        self.journal.follow(match query.focus {
            Focus::Socket(id) => Some(id),
            Focus::Groups | Focus::Group(_) => None,
        });
        self.query = query;
        change
    }

    /// The question.
    pub(super) const fn query(&self) -> &Query {
        &self.query
    }

    /// The filter that is asked for together with the command line's; `None` where it can't be used.
    pub(super) fn filter(&mut self, names: &Names) -> Option<Filter> {
        let netns: BTreeMap<String, NetnsId> =
            names.netns.iter().map(|(&netns, name)| (name.to_string(), netns)).collect();
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

    /// Counting began anew.
    pub(super) const fn recounted(&mut self, now: Nanos) {
        self.since = Some(now);
    }

    pub(super) fn answer(&mut self, now: Nanos, tracker: &Tracker, aggregate: &Aggregate) -> Arc<Answer> {
        let detail = match &self.query.focus {
            Focus::Groups => Detail::Nothing,
            Focus::Group(key) => aggregate.members(key, tracker).map_or(Detail::Gone, |(sockets, dwells)| {
                let (sockets, total) = pick(sockets, tracker.processes());
                Detail::Group(Members { sockets, total, dwells })
            }),
            Focus::Socket(id) => match Life::of(*id, tracker, &self.journal, self.last_seen.as_ref()) {
                Some(life) => {
                    self.last_seen = Some(life.socket.clone());
                    Detail::Socket(Box::new(life))
                }
                None => Detail::Gone,
            },
        };
        Arc::new(Answer {
            query: self.query.clone(),
            ts: now,
            since: self.since.unwrap_or_default(),
            filter_fault: self.filter_fault.clone(),
            detail,
            ended: self.ended,
        })
    }
}
