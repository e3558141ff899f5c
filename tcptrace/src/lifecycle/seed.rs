//! What existed before the trace: sockets from `sock_diag`, owners from `/proc`.
//!
//! The hooks run before the seed is read, so the stream is complete from then on and wins: a socket
//! it has spoken of is not touched by the seed, one it has seen end is not brought back.

use super::{
    Closer, Observer, OwnerKind, Phase, Role, Since, Socket, Tracker,
    sweep::{phase_of, time_wait_entry},
};
use crate::model::{SeedSocket, SocketId, TcpState, record::Process};

impl Tracker {
    /// Adds a socket that existed when it was looked for.
    pub(super) fn take_seed(&mut self, seed: &SeedSocket, out: &mut impl Observer) {
        let is_over = self.ended_in_seed.contains(&seed.id)
            || phase_of(seed) == Phase::Request
                && (self.handshakes.id_of(seed.netns, &seed.tuple).is_some()
                    || self.handshakes.has_ended_in_seed(seed.netns, &seed.tuple));
        if self.seeding
            && !is_over
            && !self.sockets.contains(seed.id)
            && seed.state != TcpState::Close
            && self.is_in_scope(seed.netns, &seed.tuple)
        {
            self.appear_seeded(seed, out);
        }
    }

    /// A socket is there, as `sock_diag` lists it.
    pub(super) fn appear_seeded(&mut self, seed: &SeedSocket, out: &mut impl Observer) {
        let since = time_wait_entry(seed).map_or(Since::AtLatest(seed.ts), Since::Inferred);
        let mut socket = Socket::new(seed.tuple, seed.netns, seed.state, since);
        socket.only_seeded = true;
        socket.closer = closer_of(seed.state);
        socket.closed_before = socket.closer != Closer::None;
        socket.phase = phase_of(seed);
        // A full orphan's timer is longer than a minisocket's may be: tcp_fin_timeout above 60 s.
        socket.orphan_since = (seed.state == TcpState::FinWait2 && seed.inode == 0).then_some(seed.ts);
        if socket.phase == Phase::Request {
            socket.role = Role::Inbound;
        }
        self.guess_role(&mut socket);
        let phase = socket.phase;
        let is_new = self.appear(seed.id, socket, out).is_some();
        if is_new && phase == Phase::Request {
            self.handshakes.seed(seed.id, seed.netns, &seed.tuple);
        }
    }

    /// A socket whose port a listener has came through it. When all listeners are known, one that no listener
    /// explains was connected from here. Who is in SYN_SENT or LISTEN says so itself.
    pub(super) fn guess_role(&self, socket: &mut Socket) {
        match socket.state {
            TcpState::SynSent => socket.role = Role::Outbound,
            TcpState::Listen => {}
            _ => self.guess_role_by_listener(socket),
        }
    }

    fn guess_role_by_listener(&self, socket: &mut Socket) {
        let listener = self.listeners.find(socket.netns, &socket.tuple);
        socket.listener_is_any = listener.is_some_and(|listener| listener.addr.is_any());
        if socket.role == Role::Unknown && (listener.is_some() || !self.seeding) {
            socket.role = if listener.is_some() { Role::Inbound } else { Role::Outbound };
            socket.role_guessed = true;
        }
    }

    /// The seed is complete: what no listener explains was connected from here.
    pub(super) fn end_seed(&mut self, out: &mut impl Observer) {
        self.seeding = false;
        self.ended_in_seed = rustc_hash::FxHashSet::default();
        self.handshakes.end_seed();
        for socket in self.sockets.iter_mut() {
            if socket.role != Role::Unknown {
                continue;
            }
            let listener = self.listeners.find(socket.netns, &socket.tuple);
            socket.role = if listener.is_some() { Role::Inbound } else { Role::Outbound };
            socket.listener_is_any = listener.is_some_and(|listener| listener.addr.is_any());
            socket.role_guessed = true;
            out.identified(socket, &self.processes);
        }
    }

    /// A process was found to hold a socket.
    pub(super) fn take_owner(&mut self, id: SocketId, process: &Process, out: &mut impl Observer) {
        if let Some(at) = self.sockets.find(id) {
            let owner = self.processes.acquire_process(process);
            self.own(at, owner, OwnerKind::Proc, out);
        }
    }

    /// Every process was searched: a connection nobody was found to hold has its listener's owner.
    pub(super) fn end_owners(&mut self, out: &mut impl Observer) {
        let ownerless: Vec<SocketId> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.role == Role::Inbound && socket.owner == OwnerKind::Unknown)
            .map(|(id, _)| id)
            .collect();
        for id in ownerless {
            self.inherit_owner(id, out);
        }
    }

    /// A connection that came through a listener has its owner.
    pub(super) fn inherit_owner(&mut self, id: SocketId, out: &mut impl Observer) {
        let Some(at) = self.sockets.find(id) else { return };
        let socket = &self.sockets[at];
        if socket.role != Role::Inbound {
            return;
        }
        let listener = self.listeners.find(socket.netns, &socket.tuple);
        let process = listener.and_then(|listener| self.sockets.get(listener.id)?.process);
        if let Some(process) = process {
            let owner = self.processes.acquire_again(process);
            self.own(at, owner, OwnerKind::Listener, out);
        }
    }
}

/// Which side must have closed first for a socket to be in `state`.
pub(super) const fn closer_of(state: TcpState) -> Closer {
    match state {
        TcpState::FinWait1 | TcpState::FinWait2 | TcpState::TimeWait => Closer::Local,
        TcpState::Closing => Closer::Both,
        TcpState::CloseWait | TcpState::LastAck => Closer::Remote,
        _ => Closer::None,
    }
}
