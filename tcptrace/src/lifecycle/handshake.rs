//! Request sockets: the real SYN_RECV, from the SYN to the last ACK of the handshake.
//!
//! A request socket has no cookie of its own until somebody asks for one, so it is known by its
//! tuple. The child that `tcp_check_req()` makes of it takes over its place.

use hashbrown::{HashMap, HashSet};
use tcptrace_common::record as raw;

use super::{
    EndReason, Observer, OwnerKind, Phase, Role, Since, Socket, Tracker,
    pending::{Cause, Pending},
    table::Place,
    tracker::tuple_of,
};
use crate::model::{Nanos, NetnsId, SocketId, TcpState, Tuple};

/// Handshakes by their ends, hashed with a seed of chance: whoever sends a SYN chooses one of them.
#[derive(Clone, Debug, Default)]
pub struct Handshakes {
    by_tuple: HashMap<(NetnsId, Tuple), Handshake>,
    made: u64,
    /// Ended while the seed is still being read: it must not bring them back.
    ended_in_seed: HashSet<(NetnsId, Tuple)>,
}

#[derive(Clone, Copy, Debug)]
struct Handshake {
    id: SocketId,
    /// Kernel address: tells a second request socket with the same ends from this one.
    object: u64,
}

impl Handshakes {
    /// How many are under way.
    pub fn len(&self) -> usize {
        self.by_tuple.len()
    }

    fn key(netns: NetnsId, tuple: &Tuple) -> (NetnsId, Tuple) {
        // The request knows the interface the SYN came in on, the child the one it is bound to.
        (netns, Tuple { ifindex: 0, ..*tuple })
    }

    fn get(&self, netns: NetnsId, tuple: &Tuple) -> Option<Handshake> {
        self.by_tuple.get(&Self::key(netns, tuple)).copied()
    }

    /// The id of the handshake with these ends.
    pub fn id_of(&self, netns: NetnsId, tuple: &Tuple) -> Option<SocketId> {
        self.get(netns, tuple).map(|handshake| handshake.id)
    }

    /// Whether a handshake with these ends was seen to end before the seed that still has it.
    pub fn has_ended_in_seed(&self, netns: NetnsId, tuple: &Tuple) -> bool {
        self.ended_in_seed.contains(&Self::key(netns, tuple))
    }

    /// The seed is complete.
    pub fn end_seed(&mut self) {
        self.ended_in_seed = HashSet::default();
    }

    fn insert(&mut self, id: SocketId, object: u64, netns: NetnsId, tuple: &Tuple) {
        self.by_tuple.insert(Self::key(netns, tuple), Handshake { id, object });
    }

    /// Adds a handshake from the seed, whose kernel address is not known.
    pub fn seed(&mut self, id: SocketId, netns: NetnsId, tuple: &Tuple) {
        self.insert(id, 0, netns, tuple);
    }

    /// Kernel address of the handshake `id`; 0 while it is not known.
    pub fn object_of(&self, id: SocketId, netns: NetnsId, tuple: &Tuple) -> u64 {
        self.get(netns, tuple).filter(|handshake| handshake.id == id).map_or(0, |handshake| handshake.object)
    }

    /// Goes on with a handshake of a recording that was closed before this one.
    pub fn go_on(&mut self, id: SocketId, object: u64, netns: NetnsId, tuple: &Tuple) {
        self.insert(id, object, netns, tuple);
    }

    /// How many got a number so far.
    pub const fn made(&self) -> u64 {
        self.made
    }

    /// Goes on after `made` of them.
    pub fn go_on_from(&mut self, made: u64) {
        self.made = self.made.max(made);
    }

    fn next_id(&mut self) -> SocketId {
        self.made += 1;
        SocketId::handshake(self.made)
    }

    /// Forgets the handshake `id`.
    pub fn forget(&mut self, id: SocketId, netns: NetnsId, tuple: &Tuple) {
        let key = Self::key(netns, tuple);
        if self.by_tuple.get(&key).is_some_and(|handshake| handshake.id == id) {
            self.by_tuple.remove(&key);
        }
    }
}

impl Tracker {
    /// A SYN came in, or the SYN-ACK timer was set again.
    pub(super) fn request_armed(&mut self, raw: &raw::Record, out: &mut impl Observer) {
        let (netns, tuple, ts) = (NetnsId(raw.netns), tuple_of(raw), Nanos(raw.ts_ns));
        if let Some(known) = self.handshakes.get(netns, &tuple) {
            if known.object == raw.object || known.object == 0 {
                self.pending.take(known.id);
                self.handshakes.insert(known.id, raw.object, netns, &tuple);
                return;
            }
            // Another SYN from the same end: the request before is gone.
            let ended = self.pending.take(known.id);
            self.end_request(known.id, ended.map_or(ts, |pending| pending.ts), EndReason::Dropped, out);
        }
        self.reopened_by(netns, &tuple, out);
        // It has a cookie when somebody asked for one; then its child inherits it.
        let id = match SocketId(raw.cookie) {
            id if raw.cookie != 0 && !self.sockets.contains(id) => id,
            _ => self.handshakes.next_id(),
        };
        let retransmitted = raw.arg1 > 0;
        let since = if retransmitted { Since::Unknown } else { Since::Exact(ts) };
        if let Some(at) = self.begin_inbound(id, raw, since, out) {
            self.sockets[at].phase = Phase::Request;
            self.handshakes.insert(id, raw.object, netns, &tuple);
        }
    }

    /// The handshake is done, was dropped, or its SYN-ACK timer is about to run out.
    pub(super) fn request_cancelled(&mut self, raw: &raw::Record) {
        if let Some(known) = self.handshakes.get(NetnsId(raw.netns), &tuple_of(raw)) {
            let pending = Pending { id: known.id, ts: Nanos(raw.ts_ns), cause: Cause::Request };
            self.pending.push(pending);
        } else if self.seeding {
            // Older than the trace. When it goes on, its timer is set again.
            self.handshakes.ended_in_seed.insert(Handshakes::key(NetnsId(raw.netns), &tuple_of(raw)));
        }
    }

    /// The SYN-ACK timer ran out: the kernel sends it again, or gives up.
    pub(super) fn request_expired(&mut self, raw: &raw::Record) {
        if let Some(known) = self.handshakes.get(NetnsId(raw.netns), &tuple_of(raw)) {
            self.pending.take(known.id);
            let pending = Pending { id: known.id, ts: Nanos(raw.ts_ns), cause: Cause::RequestExpired };
            self.pending.push(pending);
        }
    }

    /// A listener clones itself for a finished handshake.
    pub(super) fn child_cloned(&mut self, id: SocketId, raw: &raw::Record, out: &mut impl Observer) {
        // Before 6.15 these are the listener's own cookie and ends: the child shows itself when it
        // becomes ESTABLISHED.
        let is_the_listener =
            raw.dport == 0 || self.sockets.get(id).is_some_and(|socket| socket.state == TcpState::Listen);
        if !is_the_listener && !self.is_double_of_child(id) {
            self.begin_child(id, raw, out);
        }
    }

    /// The full socket of a handshake: takes the place of the request socket, or, with syncookies and
    /// TCP fast open, begins here.
    pub(super) fn begin_child(&mut self, id: SocketId, raw: &raw::Record, out: &mut impl Observer) {
        let (netns, tuple) = (NetnsId(raw.netns), tuple_of(raw));
        let Some(handshake) = self.handshakes.get(netns, &tuple) else {
            self.reopened_by(netns, &tuple, out);
            self.begin_inbound(id, raw, Since::Exact(Nanos(raw.ts_ns)), out);
            return;
        };
        if handshake.id != id && self.sockets.contains(id) {
            return;
        }
        self.pending.take(handshake.id);
        self.handshakes.forget(handshake.id, netns, &tuple);
        if let Some(at) = self.sockets.find(handshake.id) {
            let at = self.sockets.rename(at, id);
            self.sockets[at].phase = Phase::Full;
        }
    }

    /// Ends a handshake whose timer was cancelled or ran out with nothing after it.
    pub(super) fn settle_request(&mut self, pending: &Pending, out: &mut impl Observer) {
        let reason = match pending.cause {
            Cause::RequestExpired => EndReason::Timeout,
            _ => EndReason::Dropped,
        };
        self.end_request(pending.id, pending.ts, reason, out);
    }

    /// `listen()` on a socket that was not bound chooses a port after it has told the new state
    /// (`inet_csk_listen_start()`).
    fn learn_listening_port(&mut self, listener: SocketId, sport: u16, out: &mut impl Observer) {
        let Some(socket) = self.sockets.get_mut(listener) else { return };
        if socket.role == Role::Listener && socket.tuple.sport == 0 {
            self.listeners.remove(listener);
            socket.tuple.sport = sport;
            self.listeners.insert(listener, socket.netns, &socket.tuple);
            out.identified(socket, &self.processes);
        }
    }

    fn end_request(&mut self, id: SocketId, ts: Nanos, reason: EndReason, out: &mut impl Observer) {
        if let Some(at) = self.sockets.find(id)
            && self.sockets[at].phase == Phase::Request
        {
            self.enter(at, TcpState::Close, ts, Some(reason), out);
        }
    }

    fn is_double_of_child(&mut self, id: SocketId) -> bool {
        let known = self.sockets.get(id).is_some_and(|socket| socket.phase != Phase::Request);
        self.counters.doubles += u64::from(known);
        known
    }

    /// A connection comes in and is in SYN_RECV.
    fn begin_inbound(
        &mut self,
        id: SocketId,
        raw: &raw::Record,
        since: Since,
        out: &mut impl Observer,
    ) -> Option<Place> {
        let (netns, tuple) = (NetnsId(raw.netns), tuple_of(raw));
        let mut socket = Socket::new(tuple, netns, TcpState::Close, since);
        socket.role = Role::Inbound;
        let by_cookie = SocketId(if raw.kind == raw::Kind::RequestArmed as u8 { raw.arg0 } else { 0 });
        self.learn_listening_port(by_cookie, tuple.sport, out);
        let listener = match self.sockets.get(by_cookie) {
            Some(listener) if listener.role == Role::Listener => {
                Some((listener.tuple.saddr, listener.process))
            }
            _ => self
                .listeners
                .find(netns, &tuple)
                .map(|found| (found.addr, self.sockets.get(found.id).and_then(|listener| listener.process))),
        };
        if let Some((addr, process)) = listener {
            socket.listener_is_any = addr.is_any();
            if let Some(process) = process {
                socket.process = Some(self.processes.acquire_again(process));
                socket.owner = OwnerKind::Listener;
            }
        }
        let process = socket.process;
        let begun = if let Since::Exact(ts) = since {
            let begun = self.insert(id, socket);
            if let Some(at) = begun {
                self.enter(at, TcpState::SynRecv, ts, None, out);
            }
            begun
        } else {
            socket.state = TcpState::SynRecv;
            self.appear(id, socket, out)
        };
        if let (None, Some(process)) = (begun, process) {
            // The table is full.
            self.processes.release(process);
        }
        begun
    }
}
