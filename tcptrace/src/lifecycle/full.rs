//! The life of a full socket: its transitions in, steps of the tracker out.

use std::collections::VecDeque;

use tcptrace_common::record::{self as raw, flag};

use super::{
    Observer, OwnerKind, Phase, Role, Since, Socket, Tracker, closing::Closing, table::Place,
    tracker::tuple_of,
};
use crate::model::{Nanos, NetnsId, Observation, SocketId, TcpState};

/// One transition of a full socket, decoded.
#[derive(Clone, Copy, Debug)]
struct Transition {
    old: TcpState,
    new: TcpState,
}

impl Transition {
    /// `inet_csk_clone_lock()`: a listener's child. Before 6.15 the record still carries the
    /// listener's cookie and tuple.
    const fn is_child_being_cloned(self) -> bool {
        matches!((self.old, self.new), (TcpState::Listen, TcpState::SynRecv))
    }
}

impl Tracker {
    pub(super) fn take_transition(&mut self, seen: &Observation, out: &mut impl Observer) {
        let (Some(old), Some(new)) =
            (TcpState::from_kernel(seen.raw.old), TcpState::from_kernel(seen.raw.new))
        else {
            self.counters.undecodable += 1;
            return;
        };
        let id = SocketId(seen.raw.cookie);
        if old == new {
            // `shutdown(WR)` and then `close()` sets FIN_WAIT1 twice. The kernel side leaves it out.
            return;
        }
        let change = Transition { old, new };
        if change.is_child_being_cloned() {
            return self.child_cloned(id, &seen.raw, out);
        }
        let Some(at) = self.leaving(id, change, &seen.raw, out) else { return };
        if self.sockets[at].state != old {
            self.correct(at, old, out);
        }
        self.advance_full(at, change, seen, out);
        if old == TcpState::SynSent {
            self.forget_out_of_scope(id, Nanos(seen.raw.ts_ns), out);
        }
    }

    /// The full socket that a transition is about; `None` where there is nothing to tell.
    fn leaving(
        &mut self,
        id: SocketId,
        change: Transition,
        raw: &raw::Record,
        out: &mut impl Observer,
    ) -> Option<Place> {
        let Transition { old, new } = change;
        let Some(at) = self.sockets.find(id) else {
            if !self.is_in_scope(NetnsId(raw.netns), &tuple_of(raw)) {
                return None;
            }
            if new == TcpState::Close && self.recently_closed.contains(id, Nanos(raw.ts_ns)) {
                self.counters.doubles += 1;
                return None;
            }
            return self.begin_full(id, change, raw, out);
        };
        let socket = &self.sockets[at];
        match socket.phase {
            // The full socket hands over to the minisocket that stands for it already.
            Phase::Minisocket if new == TcpState::Close => None,
            Phase::Minisocket => {
                self.set_minisocket_aside(at);
                self.begin_full(id, change, raw, out)
            }
            _ if socket.state == new && socket.previous == old && !socket.only_seeded => {
                self.counters.doubles += 1;
                None
            }
            // A seeded handshake whose child has inherited the cookie; before 6.15 it shows itself now.
            Phase::Request if old == TcpState::SynRecv => {
                self.begin_child(id, raw, out);
                self.sockets.find(id)
            }
            Phase::Request | Phase::Full => Some(at),
        }
    }

    /// Now that a connection has its local port, no more may be told of it.
    fn forget_out_of_scope(&mut self, id: SocketId, ts: Nanos, out: &mut impl Observer) {
        if self.scope.is_everything() {
            return;
        }
        let Some(at) = self.sockets.find(id) else { return };
        let socket = &mut self.sockets[at];
        if !self.scope.passes(&socket.tuple.ends(socket.netns)) {
            out.forgotten(socket);
            self.remove(at, ts);
        }
    }

    /// A socket not known yet is about to leave the state `old`.
    fn begin_full(
        &mut self,
        id: SocketId,
        change: Transition,
        raw: &raw::Record,
        out: &mut impl Observer,
    ) -> Option<Place> {
        let tuple = tuple_of(raw);
        let netns = NetnsId(raw.netns);
        if change.old == TcpState::Close {
            // Its first transition: `advance_full` announces it.
            return self.insert(id, Socket::new(tuple, netns, TcpState::Close, Since::Unknown));
        }
        if change.old == TcpState::SynRecv {
            // Before 6.15 a child has its own cookie and tuple only now.
            self.begin_child(id, raw, out);
            return self.sockets.find(id);
        }
        let since = match self.began {
            Some(began) if self.seeding => Since::AtLatest(began),
            _ => {
                self.counters.healed += 1;
                Since::Unknown
            }
        };
        let mut socket = Socket::new(tuple, netns, change.old, since);
        self.guess_role(&mut socket);
        let at = self.appear(id, socket, out);
        self.inherit_owner(id, out);
        at
    }

    /// The known state is not the one that a transition leaves.
    fn correct(&mut self, at: Place, old: TcpState, out: &mut impl Observer) {
        let socket = &mut self.sockets[at];
        if socket.only_seeded {
            // The seed was read after this transition, or between it and the one before.
            socket.since = self.began.map_or(Since::Unknown, Since::AtLatest);
        } else {
            self.counters.healed += 1;
            socket.since = Since::Unknown;
        }
        self.put_right(at, old, out);
    }

    /// Gives a socket the state that it turned out to be in.
    pub(super) fn put_right(&mut self, at: Place, state: TcpState, out: &mut impl Observer) {
        let socket = &mut self.sockets[at];
        let from = std::mem::replace(&mut socket.state, state);
        if from == TcpState::Listen {
            self.listeners.remove(at.id);
        }
        out.corrected(from, socket, &self.processes);
        if state != TcpState::FinWait2 {
            socket.orphan_since = None;
        }
    }

    /// Applies a transition to a socket that is in its old state.
    fn advance_full(&mut self, at: Place, change: Transition, seen: &Observation, out: &mut impl Observer) {
        let ts = Nanos(seen.raw.ts_ns);
        let socket = &mut self.sockets[at];
        if socket.learn_tuple(&tuple_of(&seen.raw)) {
            out.identified(socket, &self.processes);
        }
        match change.new {
            TcpState::SynSent => {
                socket.role = Role::Outbound;
                socket.role_guessed = false;
                // connect() chooses a port only after this.
                socket.bound = seen.raw.sport != 0;
            }
            TcpState::Listen => {
                socket.role = Role::Listener;
                self.listeners.insert(at.id, socket.netns, &socket.tuple);
            }
            _ => {}
        }
        if change.new == TcpState::FinWait2 && seen.raw.flags & flag::ORPHAN != 0 {
            socket.orphan_since = Some(ts);
        }
        let orphan_for = socket.orphan_since.map(|since| ts.since(since));
        if let Some(task) = &seen.task {
            let owner = self.processes.acquire_task(task);
            self.own(at, owner, OwnerKind::Exact, out);
            if change.new == TcpState::SynSent {
                self.connects.insert(task.tid, at.id, ts);
            }
        }
        let reason = (change.new == TcpState::Close).then(|| {
            let closing = Closing {
                old: change.old,
                sk_err: seen.raw.arg0 as u32,
                flags: seen.raw.flags,
                sport: seen.raw.sport,
                orphan_for,
            };
            closing.reason()
        });
        self.enter(at, change.new, ts, reason, out);
    }
}

/// The sockets that closed last: the second report of a close finds its socket gone.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentlyClosed {
    last: VecDeque<(SocketId, Nanos)>,
}

impl RecentlyClosed {
    const LENGTH: usize = 64;
    /// Both reports of one transition come from one CPU, one after the other.
    const WINDOW: Nanos = Nanos(1_000_000);

    pub fn push(&mut self, id: SocketId, ts: Nanos) {
        if self.last.len() == Self::LENGTH {
            self.last.pop_front();
        }
        self.last.push_back((id, ts));
    }

    /// The ids and when, oldest first.
    pub fn oldest_first(&self) -> impl Iterator<Item = (SocketId, Nanos)> {
        self.last.iter().copied()
    }

    fn contains(&self, id: SocketId, ts: Nanos) -> bool {
        self.last.iter().rev().any(|&(closed, at)| closed == id && ts.since(at) < Self::WINDOW)
    }
}
