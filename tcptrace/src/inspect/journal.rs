//! The last changes of state of all sockets, and every change of one of them: events in, [`Step`]s out.

use std::collections::VecDeque;

use crate::{
    lifecycle::{Dwell, EndReason, Event},
    model::{Nanos, SocketId, TcpState},
};

/// One change of state of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub ts: Nanos,
    /// The state it left.
    pub from: TcpState,
    /// The state it entered.
    pub to: TcpState,
    /// How long it was in `from`, where that is known.
    pub dwell: Option<Dwell>,
    /// Where it ended: why.
    pub end_reason: Option<EndReason>,
    /// The first change of the socket.
    pub begins: bool,
    /// Where `to` is FIN_WAIT2: nobody holds it any more.
    pub orphan: bool,
}

/// Changes kept of all sockets: some seconds of a busy host, all day of a quiet one, 4 MiB of memory.
const KEPT: usize = 1 << 16;
/// Changes kept of the followed socket; one that is connected again and again has many.
const KEPT_OF_ONE: usize = 1_000;

/// What is remembered of changes.
#[derive(Clone, Debug)]
pub struct Journal {
    recent: VecDeque<(SocketId, Step)>,
    kept: usize,
    /// The last change that had to be dropped.
    dropped: Option<Nanos>,
    followed: Option<Followed>,
}

/// The socket whose changes are all kept.
#[derive(Clone, Debug)]
struct Followed {
    id: SocketId,
    steps: Vec<Step>,
    /// The last change of any socket that had been dropped when this began.
    dropped: Option<Nanos>,
}

impl Default for Journal {
    fn default() -> Self {
        Self::with_room(KEPT)
    }
}

impl Journal {
    fn with_room(kept: usize) -> Self {
        Self { recent: VecDeque::new(), kept, dropped: None, followed: None }
    }

    /// The same with room for three changes.
    #[cfg(test)]
    pub(super) fn cramped() -> Self {
        Self::with_room(3)
    }

    /// What it takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.recent.len() * size_of::<(SocketId, Step)>()
    }

    /// Takes a change in.
    pub fn take(&mut self, event: &Event<'_>) {
        let step = Step {
            ts: event.ts,
            from: event.from,
            to: event.to,
            dwell: event.dwell,
            end_reason: event.end_reason,
            begins: event.begins,
            orphan: event.orphan == Some(true),
        };
        if self.recent.len() == self.kept
            && let Some((_, dropped)) = self.recent.pop_front()
        {
            self.dropped = Some(dropped.ts);
        }
        self.recent.push_back((event.id, step));
        if let Some(followed) = &mut self.followed
            && followed.id == event.id
        {
            if followed.steps.len() == KEPT_OF_ONE {
                followed.dropped = Some(followed.steps.remove(0).ts);
            }
            followed.steps.push(step);
        }
    }

    /// Keeps every change of this socket from now on, and of no other; those before as far as they are there.
    pub fn follow(&mut self, id: Option<SocketId>) {
        if self.followed.as_ref().map(|followed| followed.id) == id {
            return;
        }
        self.followed = id.map(|id| Followed { id, steps: self.recent_of(id), dropped: self.dropped });
    }

    /// The changes of a socket that are known.
    pub fn of(&self, id: SocketId) -> Vec<Step> {
        match &self.followed {
            Some(followed) if followed.id == id => followed.steps.clone(),
            _ => self.recent_of(id),
        }
    }

    fn recent_of(&self, id: SocketId) -> Vec<Step> {
        self.recent.iter().filter(|(of, _)| *of == id).map(|(_, step)| *step).collect()
    }

    /// Changes of the followed socket up to this time may be missing; `None`: all since the trace began are
    /// there.
    pub fn kept_since(&self) -> Option<Nanos> {
        self.followed.as_ref().map_or(self.dropped, |followed| followed.dropped)
    }
}
