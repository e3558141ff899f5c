//! One end of a connection: the life of one socket, up to TIME_WAIT or CLOSE.

use std::sync::Arc;

use crate::{
    lifecycle::{Bound, Closer, EndReason, Event, Role},
    model::{Addr, NetnsId, SocketId, TcpState, Tuple, record::Process},
};

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionEnd {
    /// Number of its host.
    pub host: u16,
    /// Its network namespace.
    pub netns: NetnsId,
    /// The socket.
    pub id: SocketId,
    /// Both addresses and ports, as this end sees them.
    pub tuple: Tuple,
    /// Whether it connected or accepted.
    pub role: Role,
    /// When it became ESTABLISHED, by the wall clock of its host; `None` if it never did, or before the recording.
    pub established_ns: Option<u64>,
    /// When it was first seen.
    pub seen_ns: u64,
    /// When it entered TIME_WAIT or CLOSE.
    pub ended_ns: Option<u64>,
    /// The states that it left, in order, and the time in each in nanoseconds, if known exactly.
    pub left: Vec<(TcpState, Option<u64>)>,
    /// The state that it is in, or ended in: TIME_WAIT or CLOSE.
    pub state: TcpState,
    /// Which side closed first, as this end saw it.
    pub closer: Closer,
    /// Why it ended, if it went to CLOSE.
    pub end_reason: Option<EndReason>,
    /// Process id and name of the owner. The name is untrusted.
    pub process: Option<(u32, Arc<str>)>,
    /// It is older than the recording.
    pub began_before: bool,
    /// The other end, once it is known.
    pub(super) partner: Option<u64>,
    /// Whether the filter selects it.
    pub(super) is_shown: bool,
    /// Whether it can be found by its addresses and ports.
    pub(super) is_indexed: bool,
}

/// Longest list of states that is kept: repeated ones of a damaged recording are left out.
const MAX_STATES: usize = 16;

impl ConnectionEnd {
    /// The end that a socket in `state` is, seen at `seen_ns`.
    pub(super) fn new(
        host: u16,
        id: SocketId,
        netns: NetnsId,
        tuple: Tuple,
        seen_ns: u64,
        state: TcpState,
    ) -> Self {
        Self {
            host,
            netns,
            id,
            tuple,
            role: Role::Unknown,
            established_ns: None,
            seen_ns,
            ended_ns: None,
            left: Vec::new(),
            state,
            closer: Closer::None,
            end_reason: None,
            process: None,
            began_before: false,
            partner: None,
            is_shown: false,
            is_indexed: false,
        }
    }

    /// Applies a change of its state at `ts_ns`.
    pub(super) fn change(&mut self, event: &Event<'_>, ts_ns: u64) {
        self.tuple = event.tuple;
        self.role = event.role;
        self.closer = event.closer;
        self.state = event.to;
        self.own(event.process);
        if !event.begins && self.left.len() < MAX_STATES {
            let exact = event.dwell.filter(|dwell| dwell.bound == Bound::Exact);
            self.left.push((event.from, exact.map(|dwell| dwell.length.0)));
        }
        if event.to == TcpState::Established && !self.began_before {
            self.established_ns = self.established_ns.or(Some(ts_ns));
        }
        if matches!(event.to, TcpState::TimeWait | TcpState::Close) {
            self.ended_ns = Some(ts_ns);
            self.end_reason = event.end_reason;
        }
    }

    /// Takes the owner.
    pub(super) fn own(&mut self, process: Option<&Process>) {
        if let Some(process) = process {
            self.process = Some((process.pid, Arc::clone(&process.comm)));
        }
    }

    /// Whether the other side has a socket for it, too.
    pub const fn is_connection(&self) -> bool {
        self.established_ns.is_some() || self.began_before
    }

    /// Whether both ports and addresses are known.
    pub(super) fn has_tuple(&self) -> bool {
        let Tuple { saddr, daddr, sport, dport, .. } = &self.tuple;
        *sport != 0 && *dport != 0 && !saddr.is_any() && !daddr.is_any()
    }

    /// Its key in the index.
    pub(super) fn key(&self) -> EndKey {
        let Tuple { saddr, daddr, sport, dport, .. } = self.tuple;
        let is_loopback = daddr.is_loopback() || saddr.is_loopback();
        EndKey {
            // A loopback address is one of its host and namespace.
            scope: if is_loopback { (self.host, self.netns.0) } else { (0, 0) },
            local: (saddr, sport),
            remote: (daddr, dport),
        }
    }
}

/// Addresses and ports of a connection as one end sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct EndKey {
    /// Host and namespace of a loopback address.
    pub(super) scope: (u16, u32),
    /// Its own address and port.
    pub(super) local: (Addr, u16),
    /// Those of the other end.
    pub(super) remote: (Addr, u16),
}

impl EndKey {
    /// The key of the other end.
    pub(super) const fn reversed(self) -> Self {
        Self { scope: self.scope, local: self.remote, remote: self.local }
    }
}
