//! Events of the tracker: one [`Event`] per state change of one socket.

use crate::{
    filter::Subject,
    model::{
        Closer, Dwell, EndReason, Nanos, NetnsId, OwnerKind, Role, SocketId, TcpState, Tuple, record::Process,
    },
};

/// One state change of one socket.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// When.
    pub ts: Nanos,
    /// Which socket.
    pub id: SocketId,
    /// Its network namespace.
    pub netns: NetnsId,
    /// Both ends.
    pub tuple: Tuple,
    /// Which side opened it.
    pub role: Role,
    /// Whether the role was guessed from the listeners: the socket is older than the trace.
    pub role_guessed: bool,
    /// The state it left.
    pub from: TcpState,
    /// The state it entered.
    pub to: TcpState,
    /// First change of this socket: it was not counted in `from`.
    pub begins: bool,
    /// Time spent in `from`; `None` when unknown.
    pub dwell: Option<Dwell>,
    /// Which side ended the connection, as far as known at this point.
    pub closer: Closer,
    /// With CLOSE: why it ended.
    pub end_reason: Option<EndReason>,
    /// `end_reason` is inferred from the circumstances: the kernel did not report it.
    pub reason_inferred: bool,
    /// When `from` or `to` is FIN_WAIT2: whether it is an orphan (no process holds it).
    pub orphan: Option<bool>,
    /// Leaving an orphan FIN_WAIT2: the part of the dwell without an owner.
    pub orphan_for: Option<Dwell>,
    /// Leaving SYN_SENT: the part of the dwell before the SYN was sent, in which `connect()` searched for a local port. `None` where
    /// it is not known.
    pub search: Option<Nanos>,
    /// Leaving TIME_WAIT: a late segment restarted its timer.
    pub extended: bool,
    /// How the owner is known.
    pub owner: OwnerKind,
    /// The owner, if known.
    pub process: Option<&'a Process>,
}

impl<'a> From<&Event<'a>> for Subject<'a> {
    fn from(event: &Event<'a>) -> Self {
        Self {
            tuple: event.tuple,
            netns: event.netns,
            role: event.role,
            closer: event.closer,
            owner: event.owner,
            process: event.process,
        }
    }
}
