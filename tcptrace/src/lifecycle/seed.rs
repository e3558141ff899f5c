//! What existed before the trace: sockets from `sock_diag`, owners from `/proc`.
//!
//! The hooks run before the seed is read, so the stream is complete from then on and wins: a socket
//! it has spoken of is not touched by the seed, one it has seen end is not brought back.

use super::{Closer, Observer, OwnerKind, Phase, Role, Since, Socket, Tracker};
use crate::model::{
    Nanos, NetnsId, SeedSocket, SocketId, TcpState,
    record::{Process, SeedObject},
};

/// TIME_WAIT's timer (`TCP_TIMEWAIT_LEN`).
const TIMEWAIT: Nanos = Nanos(60_000_000_000);

impl Tracker {
    /// Adds a socket that existed when it was looked for.
    pub(super) fn take_seed(&mut self, seed: &SeedSocket, out: &mut impl Observer) {
        if let Some(socket) = self.sockets.get(&seed.id) {
            if !self.sees_segments && socket.is_orphan_fin_wait2() {
                self.still_in_fin_wait2.insert(seed.id);
            }
            return;
        }
        // After the seed only what is tracked is looked at again.
        if !self.seeding
            || self.ended_in_seed.contains(&seed.id)
            || seed.state == TcpState::Close
            || !self.is_in_scope(seed.netns, &seed.tuple)
        {
            return;
        }
        let mut socket = Socket::new(seed.tuple, seed.netns, seed.state, Since::AtLatest(seed.ts));
        socket.only_seeded = true;
        socket.closer = closer_of(seed.state);
        match seed.object {
            SeedObject::Full => {
                // Its timer is longer than a minisocket's may be: tcp_fin_timeout above 60 s.
                socket.orphan_since =
                    (seed.state == TcpState::FinWait2 && seed.inode == 0).then_some(seed.ts);
            }
            SeedObject::Minisocket { left } => {
                socket.phase = Phase::Minisocket;
                if seed.state == TcpState::TimeWait {
                    socket.since = Since::Inferred(seed.ts.minus(TIMEWAIT.since(left)));
                } else {
                    socket.orphan_since = Some(seed.ts);
                }
            }
            SeedObject::Request { .. } => {
                if self.is_known_handshake(seed) {
                    return;
                }
                socket.phase = Phase::Request;
                socket.role = Role::Inbound;
            }
        }
        if seed.state == TcpState::SynSent {
            socket.role = Role::Outbound;
        } else if let Some(listener) = self.listeners.find(seed.netns, &seed.tuple)
            && seed.state != TcpState::Listen
        {
            socket.listener_is_any = listener.addr.is_any();
            if socket.role == Role::Unknown {
                socket.role = Role::Inbound;
                socket.role_guessed = true;
            }
        }
        let (phase, tuple) = (socket.phase, socket.tuple);
        self.appear(seed.id, socket, out);
        if phase == Phase::Request && self.sockets.contains_key(&seed.id) {
            self.handshakes.seed(seed.id, seed.netns, &tuple);
        }
    }

    /// The seed is complete: what no listener explains was connected from here.
    pub(super) fn end_seed(&mut self, out: &mut impl Observer) {
        self.seeding = false;
        self.ended_in_seed = rustc_hash::FxHashSet::default();
        for socket in self.sockets.values_mut() {
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

    /// Where segments are not seen: orphans that were not found in FIN_WAIT2 again are in TIME_WAIT. When
    /// exactly they entered it is not known, only that it was by `ts`.
    pub(super) fn end_fin_wait2(&mut self, ts: Nanos, began: Nanos, netns: NetnsId, out: &mut impl Observer) {
        let mut gone: Vec<SocketId> = self
            .sockets
            .iter()
            .filter(|(id, socket)| {
                socket.netns == netns
                    && socket.phase == Phase::Minisocket
                    && socket.is_orphan_fin_wait2()
                    && socket.orphan_since.is_some_and(|since| since < began)
                    && !self.still_in_fin_wait2.contains(id)
            })
            .map(|(&id, _)| id)
            .collect();
        // The order of a hash table is its own.
        gone.sort_unstable();
        for id in gone {
            self.enter_inferred(id, TcpState::TimeWait, ts, out);
        }
        self.still_in_fin_wait2.clear();
    }

    /// A process was found to hold a socket.
    pub(super) fn take_owner(&mut self, id: SocketId, process: &Process, out: &mut impl Observer) {
        let owner = self.processes.acquire_process(process);
        self.own(id, owner, OwnerKind::Proc, out);
    }

    /// Every process was searched: a connection nobody was found to hold has its listener's owner.
    pub(super) fn end_owners(&mut self, out: &mut impl Observer) {
        let ownerless: Vec<SocketId> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.role == Role::Inbound && socket.owner == OwnerKind::Unknown)
            .map(|(&id, _)| id)
            .collect();
        for id in ownerless {
            let listener =
                self.sockets.get(&id).and_then(|socket| self.listeners.find(socket.netns, &socket.tuple));
            let process = listener.and_then(|listener| self.sockets.get(&listener.id)?.process);
            if let Some(process) = process {
                let owner = self.processes.acquire_again(process);
                self.own(id, owner, OwnerKind::Listener, out);
            }
        }
    }
}

/// Which side must have closed first for a socket to be in `state`.
const fn closer_of(state: TcpState) -> Closer {
    match state {
        TcpState::FinWait1 | TcpState::FinWait2 | TcpState::TimeWait => Closer::Local,
        TcpState::Closing => Closer::Both,
        TcpState::CloseWait | TcpState::LastAck => Closer::Remote,
        _ => Closer::None,
    }
}
