//! Adds what existed before the trace: sockets from `sock_diag`, owners from `/proc`.
//!
//! The hooks are attached before the seed is read, so their records are complete from then on and take precedence: the
//! seed neither changes a socket that a hook has reported nor brings back one that has ended.

use super::{
    Closer, Observer, OwnerKind, Phase, Role, Since, Socket, Tracker,
    ended::EndedInSeed,
    listed::{closer_of, phase_of, time_wait_entry},
    table::SlotRef,
};
use crate::model::{Nanos, SeedSocket, SocketId, TcpState, record::Process};

impl Tracker {
    /// Adds a socket from the seed.
    pub(super) fn add_seeded(&mut self, seed: &SeedSocket, out: &mut impl Observer) {
        if self.seeding
            && seed.state != TcpState::Close
            && self.is_in_scope(seed.netns, &seed.tuple)
            && !self.ended_in_seed.has(seed)
            && self.find_listed(seed).is_none()
        {
            self.add_seeded_socket(seed, out);
        }
    }

    /// Adds a socket that `sock_diag` lists. A timewait socket that shares its cookie is rekeyed.
    pub(super) fn add_seeded_socket(
        &mut self,
        seed: &SeedSocket,
        out: &mut impl Observer,
    ) -> Option<SlotRef> {
        let since = time_wait_entry(seed).map_or(Since::AtLatest(seed.ts), Since::Inferred);
        let mut socket = Socket::new(seed.tuple, seed.netns, seed.state, since);
        socket.only_seeded = true;
        socket.closer = closer_of(seed.state);
        socket.closed_before = socket.closer != Closer::None;
        socket.phase = phase_of(seed);
        // A full orphan's timer can be longer than a timewait socket's: tcp_fin_timeout above 60 s.
        socket.orphan_since = (seed.state == TcpState::FinWait2 && seed.inode == 0).then_some(seed.ts);
        if socket.phase == Phase::Request {
            socket.role = Role::Inbound;
        }
        self.guess_role(&mut socket);
        let phase = socket.phase;
        if phase == Phase::Timewait {
            return self.add_timewait(seed.id, socket, out);
        }
        self.free_cookie(seed.id);
        let at = self.appear(seed.id, socket, out)?;
        if phase == Phase::Request {
            self.handshakes.seed(at.id, seed.netns, &seed.tuple);
        }
        Some(at)
    }

    /// Guesses the role. A local port that matches a listener means inbound. Once all listeners are known, the ports of
    /// other connections show which side chose its own. SYN_SENT and LISTEN determine the role by themselves.
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
            socket.role = if listener.is_some() { Role::Inbound } else { self.port_ranges.role_of(socket) };
            socket.role_guessed = true;
        }
    }

    /// Completes the seed: all listeners are known.
    pub(super) fn finish_seed(&mut self, out: &mut impl Observer) {
        self.seeding = false;
        self.ended_in_seed = EndedInSeed::default();
        for socket in self.sockets.iter_mut() {
            if socket.role != Role::Unknown {
                continue;
            }
            let listener = self.listeners.find(socket.netns, &socket.tuple);
            socket.role = if listener.is_some() { Role::Inbound } else { self.port_ranges.role_of(socket) };
            socket.listener_is_any = listener.is_some_and(|listener| listener.addr.is_any());
            socket.role_guessed = true;
            out.identified(socket, &self.processes);
        }
    }

    /// Sets the owner that the `/proc` search found.
    pub(super) fn apply_owner(
        &mut self,
        id: SocketId,
        process: &Process,
        ts: Nanos,
        out: &mut impl Observer,
    ) {
        if let Some(at) = self.sockets.find(id) {
            let owner = self.processes.acquire_process(process, ts);
            self.own(at, owner, OwnerKind::Proc, out);
        }
    }

    /// Completes the owner search: inbound connections without an owner inherit their listener's.
    pub(super) fn finish_owner_search(&mut self, out: &mut impl Observer) {
        let mut ownerless: Vec<SocketId> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.role == Role::Inbound && socket.owner == OwnerKind::Unknown)
            .map(|(id, _)| id)
            .collect();
        // Hash order is random.
        ownerless.sort_unstable();
        for id in ownerless {
            self.inherit_owner(id, out);
        }
    }

    /// Gives an inbound connection the owner of its listener.
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
