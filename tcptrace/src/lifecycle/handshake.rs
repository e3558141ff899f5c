//! Tracks request sockets: the actual SYN_RECV, from the SYN to the last ACK of the handshake.
//!
//! A request socket has no cookie until something requests one, so its tuple identifies it. The child that
//! `tcp_check_req()` creates replaces it.

use tcptrace_common::record::{self as raw, flag};

use super::{
    EndReason, Observer, OwnerKind, Phase, Role, Since, Socket, Tracker,
    ended::Ended,
    pending::{CancelCause, Pending},
    table::SlotRef,
};
use crate::model::{Nanos, NetnsId, SocketId, TcpState, Tuple};

impl Tracker {
    /// A SYN arrived, or the SYN-ACK timer was armed again.
    pub(super) fn request_armed(&mut self, raw: &raw::RawRecord, out: &mut impl Observer) {
        let (netns, tuple, ts) = (NetnsId(raw.netns), Tuple::of(raw), Nanos(raw.ts_ns));
        if let Some(known) = self.handshakes.get(netns, &tuple) {
            // reqsk_timer_handler(): with tcp_migrate_req a handshake whose listener was closed continues as a clone,
            // for another listener. A timeout count above 0 shows that it was armed before.
            let has_migrated = known.object != 0 && known.object != raw.object && raw.arg1 > 0;
            let is_same = known.may_be(raw.object) || has_migrated;
            // The kernel may give a new request socket the address of the one before.
            if is_same && raw.flags & flag::NEW_REQUEST == 0 {
                self.pending.take(known.id);
                self.handshakes.insert(known.id, raw.object, netns, &tuple);
                if has_migrated {
                    self.migrate_handshake(known.id, SocketId(raw.arg0), out);
                }
                return;
            }
            // A second SYN from the same end: the previous request socket is gone.
            match self.pending.take(known.id) {
                Some(pending) => self.end_expired_request(&pending, out),
                None => self.end_request(known.id, ts, EndReason::Dropped, out),
            }
        }
        self.end_reopened(netns, &tuple, out);
        // The request socket has a cookie when something requested one; then its child inherits it.
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

    /// The handshake completed, was dropped, or its SYN-ACK timer is about to expire.
    pub(super) fn request_cancelled(&mut self, raw: &raw::RawRecord) {
        match self.handshakes.get(NetnsId(raw.netns), &Tuple::of(raw)) {
            Some(known) if known.may_be(raw.object) => {
                let pending = Pending { id: known.id, ts: Nanos(raw.ts_ns), cause: CancelCause::Request };
                self.pending.push(pending);
            }
            // Older than the trace. If it continues, its timer is armed again.
            None if self.seeding => {
                self.remember_ended_in_seed(Ended::request(NetnsId(raw.netns), &Tuple::of(raw)));
            }
            _ => {}
        }
    }

    /// The SYN-ACK timer expired: the kernel retransmits the SYN-ACK, or gives up.
    pub(super) fn request_expired(&mut self, raw: &raw::RawRecord) {
        let known = self.handshakes.get(NetnsId(raw.netns), &Tuple::of(raw));
        if let Some(known) = known.filter(|known| known.may_be(raw.object)) {
            self.pending.take(known.id);
            let pending = Pending { id: known.id, ts: Nanos(raw.ts_ns), cause: CancelCause::RequestExpired };
            self.pending.push(pending);
        }
    }

    /// A listener clones itself for a finished handshake.
    pub(super) fn child_cloned(&mut self, id: SocketId, raw: &raw::RawRecord, out: &mut impl Observer) {
        // Before 6.15 these are the listener's own cookie and tuple: the child appears when it becomes ESTABLISHED.
        let is_listeners_record =
            raw.dport == 0 || self.sockets.get(id).is_some_and(|socket| socket.state == TcpState::Listen);
        if !is_listeners_record && !self.is_duplicate_child(id) {
            self.begin_child(id, raw, out);
        }
    }

    /// Adds the full socket of a handshake: it replaces the request socket, or, with syncookies and TCP Fast Open,
    /// begins here.
    pub(super) fn begin_child(&mut self, id: SocketId, raw: &raw::RawRecord, out: &mut impl Observer) {
        let (netns, tuple) = (NetnsId(raw.netns), Tuple::of(raw));
        let Some(handshake) = self.handshakes.get(netns, &tuple) else {
            self.end_reopened(netns, &tuple, out);
            self.begin_inbound(id, raw, Since::Exact(Nanos(raw.ts_ns)), out);
            return;
        };
        if handshake.id != id && self.sockets.contains(id) {
            return;
        }
        self.finish_handshake(handshake.id, id);
    }

    /// Moves the handshake `id` to another listener.
    fn migrate_handshake(&mut self, id: SocketId, listener: SocketId, out: &mut impl Observer) {
        let owner = self.sockets.get(listener).and_then(|listener| listener.process);
        if let (Some(at), Some(owner)) = (self.sockets.find(id), owner) {
            let owner = self.processes.acquire_again(owner);
            self.own(at, owner, OwnerKind::Listener, out);
        }
    }

    /// Replaces the handshake `id` by the full socket `child`.
    pub(super) fn finish_handshake(&mut self, id: SocketId, child: SocketId) -> Option<SlotRef> {
        let at = self.sockets.find(id)?;
        self.change_phase(at, Phase::Full);
        Some(self.sockets.rename(at, child))
    }

    /// Changes the kernel object of a socket. A socket that leaves the request phase leaves the handshake table, so
    /// that another handshake may begin with its tuple.
    pub(super) fn change_phase(&mut self, at: SlotRef, phase: Phase) {
        let socket = &mut self.sockets[at];
        let before = std::mem::replace(&mut socket.phase, phase);
        if before == phase {
            return;
        }
        match before {
            Phase::Request => self.handshakes.forget(at.id, socket.netns, &socket.tuple),
            Phase::Timewait => self.rekeyed.forget(at.id),
            Phase::Full => {}
        }
        self.drop_pending_end(at);
    }

    /// Ends a handshake whose timer was cancelled or expired and that no later record continued.
    pub(super) fn end_expired_request(&mut self, pending: &Pending, out: &mut impl Observer) {
        let reason = match pending.cause {
            CancelCause::RequestExpired => EndReason::Timeout,
            _ => EndReason::Dropped,
        };
        self.end_request(pending.id, pending.ts, reason, out);
    }

    /// Learns the port of a listener: `listen()` on an unbound socket chooses a port only after it reports the new
    /// state (`inet_csk_listen_start()`).
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
        if let Some(at) = self.sockets.find(id) {
            self.enter(at, TcpState::Close, ts, Some(reason), out);
        }
    }

    fn is_duplicate_child(&mut self, id: SocketId) -> bool {
        let known = self.sockets.get(id).is_some_and(|socket| socket.phase != Phase::Request);
        self.counters.doubles += u64::from(known);
        known
    }

    /// Adds an inbound connection in SYN_RECV.
    fn begin_inbound(
        &mut self,
        id: SocketId,
        raw: &raw::RawRecord,
        since: Since,
        out: &mut impl Observer,
    ) -> Option<SlotRef> {
        let (netns, tuple) = (NetnsId(raw.netns), Tuple::of(raw));
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
