//! Details on demand: answers a [`Query`] with a [`DetailAnswer`] in the next snapshot.
//!
//! No socket stores anything for this. A view sends what it displays; the pipeline picks the sockets of one group from
//! the tracker's table, at most [`sockets::PER_STATE`] per state, and keeps the latest changes of all sockets in a
//! fixed-size [`Journal`]. Changes that left the journal are reported as unknown.

mod journal;
mod sockets;

#[cfg(test)]
mod tests;

pub use journal::{Journal, StateChange};
pub use sockets::{PER_STATE, SocketRow, pick, row_of};

use std::sync::Arc;

use crate::{
    aggregate::{GroupKey, Grouping, StateDwells},
    filter::Expr,
    lifecycle::{Since, Socket, Tracker},
    model::{Nanos, SocketId, TcpState, stack::UserStack},
};

/// Content that a view requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Grouping of the sockets.
    pub grouping: Grouping,
    /// Filter in addition to the one of the command line.
    pub filter: Option<Expr>,
    /// Subject of the detail.
    pub focus: Focus,
    /// Number of counter resets so far; a change restarts the counts.
    pub resets: u32,
}

impl Query {
    /// A query for groups only.
    pub const fn new(grouping: Grouping) -> Self {
        Self { grouping, filter: None, focus: Focus::Groups, resets: 0 }
    }

    /// Whether both queries count the same sockets in the same way.
    pub fn counts_like(&self, other: &Self) -> bool {
        (self.grouping, &self.filter, self.resets) == (other.grouping, &other.filter, other.resets)
    }
}

/// Subject of the detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Focus {
    /// The groups.
    Groups,
    /// The sockets of one group.
    Group(GroupKey),
    /// One socket.
    Socket(SocketId),
}

/// Answer to a [`Query`].
#[derive(Clone, Debug)]
pub struct DetailAnswer {
    /// The query.
    pub query: Query,
    /// Time of the answer; may be later than the snapshot that contains it.
    pub ts: Nanos,
    /// Start of the counts: later than the trace after a reset or a change of the query.
    pub since: Nanos,
    /// Error of a filter that cannot be used; the previous filter stays active.
    pub filter_fault: Option<String>,
    /// Detail for [`Query::focus`].
    pub detail: Detail,
    /// Whether the source has ended: from then on only the answers change.
    pub ended: bool,
}

/// Detail of a group or a socket.
#[derive(Clone, Debug)]
pub enum Detail {
    /// No detail was requested.
    Nothing,
    /// The sockets of a group.
    Group(Members),
    /// The history of a socket.
    Socket(Box<Life>),
    /// The requested group or socket no longer exists.
    Gone,
}

/// The sockets of a group.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// The sockets that are longest in their state, per state.
    pub sockets: Vec<SocketRow>,
    /// Total number of sockets.
    pub total: u64,
    /// The group's dwells in the states that are measured.
    pub dwells: Vec<StateDwells>,
}

/// History of one socket.
#[derive(Clone, Debug)]
pub struct Life {
    /// Its current row, or the last one before it ended.
    pub socket: SocketRow,
    /// Its state changes, oldest first.
    pub steps: Vec<StateChange>,
    /// History before the first change.
    pub before: Before,
    /// Stack of the `connect()` that opened it, or of the `accept()` that received it, if captured.
    pub opened_by: Option<Arc<UserStack>>,
    /// Stack of the call that sent its FIN, if captured.
    pub closed_by: Option<Arc<UserStack>>,
}

/// History before the first known change of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// None: the change created the socket.
    Nothing,
    /// The socket is older than the trace.
    OlderThanTrace,
    /// Unknown: changes up to this time may be missing.
    ChangesDropped(Nanos),
}

impl Life {
    /// History of `id`; `None` if neither the tracker nor `last_seen` has the socket.
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
            _ => journal.kept_since().map_or(Before::OlderThanTrace, Before::ChangesDropped),
        };
        Some(Self { socket, steps, before, opened_by: None, closed_by: None })
    }
}
