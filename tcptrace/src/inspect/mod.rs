//! A closer look, on request: a [`Query`] in, an [`Answer`] with the next snapshot out.
//!
//! Nothing of this is kept for every socket. A view says what it shows; the pipeline picks the sockets of
//! one group out of the tracker's table, at most [`sockets::PER_STATE`] of each state, and has the last
//! changes of all sockets in a [`Journal`] of a fixed size. What the journal no longer has is said to be
//! unknown.

mod journal;
mod sockets;

#[cfg(test)]
mod tests;

pub use journal::{Journal, Step};
pub use sockets::{PER_STATE, SocketRow, pick, row_of};

use crate::{
    aggregate::{GroupKey, Grouping, StateDwells},
    filter::Expr,
    lifecycle::{Since, Socket, Tracker},
    model::{Nanos, SocketId, TcpState},
};

/// What a view wants to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What to group by.
    pub grouping: Grouping,
    /// Which sockets, beyond what the command line says.
    pub filter: Option<Expr>,
    /// What to look at more closely.
    pub focus: Focus,
    /// How often counting was to begin anew.
    pub resets: u32,
}

impl Query {
    /// Groups and nothing else.
    pub const fn new(grouping: Grouping) -> Self {
        Self { grouping, filter: None, focus: Focus::Groups, resets: 0 }
    }

    /// Whether both count the same.
    pub fn counts_like(&self, other: &Self) -> bool {
        (self.grouping, &self.filter, self.resets) == (other.grouping, &other.filter, other.resets)
    }
}

/// What a view looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Focus {
    /// The groups.
    Groups,
    /// The sockets of one group.
    Group(GroupKey),
    /// One socket.
    Socket(SocketId),
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The question.
    pub query: Query,
    /// When: the snapshot that holds it may be older.
    pub ts: Nanos,
    /// Since when sockets are counted; later than the trace began after a reset or a change of the question.
    pub since: Nanos,
    /// Why the filter could not be used; the one before is.
    pub filter_fault: Option<String>,
    /// What [`Query::focus`] asks for.
    pub detail: Detail,
    /// The source has ended: nothing will change any more but the answers.
    pub ended: bool,
}

/// What a closer look shows.
#[derive(Clone, Debug)]
pub enum Detail {
    /// Nothing was asked for.
    Nothing,
    /// The sockets of a group.
    Group(Members),
    /// The life of a socket.
    Socket(Box<Life>),
    /// What was asked for is not there any more.
    Gone,
}

/// The sockets of a group.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// Of every state those that are in it the longest.
    pub sockets: Vec<SocketRow>,
    /// How many sockets there are.
    pub total: u64,
    /// How long the group's sockets stayed in the states that are measured.
    pub dwells: Vec<StateDwells>,
}

/// What is known of one socket.
#[derive(Clone, Debug)]
pub struct Life {
    /// As it is, or was when it ended.
    pub socket: SocketRow,
    /// Its changes, the first one first.
    pub steps: Vec<Step>,
    /// What is known of the time before the first of them.
    pub before: Before,
}

/// What came before the first known change of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: the socket began with it.
    Nothing,
    /// The socket is older than the trace.
    OlderThanTrace,
    /// Changes that were not kept: those from this time on were.
    NotKept(Nanos),
}

impl Life {
    /// The life of `id`, of which the tracker or `last_seen` knows something.
    pub fn of(
        id: SocketId,
        tracker: &Tracker,
        journal: &Journal,
        last_seen: Option<&SocketRow>,
    ) -> Option<Self> {
        let row = |socket: &Socket| row_of(id, socket, tracker.processes());
        let socket = tracker.socket(id).map(row).or_else(|| {
            let mut gone = last_seen.filter(|seen| seen.id == id)?.clone();
            gone.state = TcpState::Close;
            Some(gone)
        })?;
        let steps = journal.of(id);
        let before = match steps.first() {
            Some(first) if first.begins => Before::Nothing,
            None if !matches!(socket.since, Since::Exact(_) | Since::Unknown) => Before::OlderThanTrace,
            _ => journal.kept_since().map_or(Before::OlderThanTrace, Before::NotKept),
        };
        Some(Self { socket, steps, before })
    }
}
