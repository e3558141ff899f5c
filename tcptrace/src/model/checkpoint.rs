//! The state of a tracker at the beginning of a recording, as data: every socket, and the state beside the sockets.

use serde::{Deserialize, Serialize};

use super::{
    Closer, Nanos, NetnsId, OwnerKind, Phase, Role, Since, SocketId, TcpState, Tuple, process::Process,
    stack::StackUse,
};

/// A socket that was tracked before the file began.
#[derive(Clone, Debug)]
pub struct SocketCheckpoint {
    /// Time of the checkpoint.
    pub ts: Nanos,
    /// The socket.
    pub id: SocketId,
    /// Both ends.
    pub tuple: Tuple,
    /// Network namespace.
    pub netns: NetnsId,
    /// Current state.
    pub state: TcpState,
    /// Previous state.
    pub previous: TcpState,
    /// Kernel address of the request socket or the timewait socket; 0 when unknown.
    pub object: u64,
    /// State that has no column.
    pub memory: ExtraState,
    /// Its owner.
    pub process: Option<Process>,
}

/// State of a socket that has no column in the table of sockets. Fields unknown to older versions have defaults.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraState {
    /// When the current state began.
    pub since: Since,
    /// FIN_WAIT2: when the last process closed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphan_since: Option<Nanos>,
    /// A sweep found that: it may have been earlier.
    #[serde(default, skip_serializing_if = "is_false")]
    pub orphan_inferred: bool,
    /// Kernel object.
    pub phase: Phase,
    /// Which side opened it.
    pub role: Role,
    /// Whether `role` was guessed from the listeners.
    #[serde(default, skip_serializing_if = "is_false")]
    pub role_guessed: bool,
    /// Inbound: the listener is bound to any address.
    #[serde(default, skip_serializing_if = "is_false")]
    pub listener_is_any: bool,
    /// Which side ended it.
    pub closer: Closer,
    /// How the owner is known.
    pub owner: OwnerKind,
    /// Outbound: `bind()` chose the local port.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bound: bool,
    /// No hook has reported it yet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub only_seeded: bool,
    /// A late segment armed the TIME_WAIT timer again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub extended: bool,
    /// The segment record of the FIN that began TIME_WAIT is still to come.
    #[serde(default, skip_serializing_if = "is_false")]
    pub awaits_fin: bool,
    /// The RST that is about to end the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
    /// Stack of the `connect()` that opened it, or of the `accept()` that received it.
    #[serde(default, skip_serializing_if = "StackUse::is_none")]
    pub opened_by: StackUse,
    /// Stack of the call that sent its FIN.
    #[serde(default, skip_serializing_if = "StackUse::is_none")]
    pub closed_by: StackUse,
}

/// State beside the sockets; the last record of a checkpoint, after the sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackerCheckpoint {
    /// Time of the checkpoint.
    #[serde(skip)]
    pub ts: Nanos,
    /// Time of the first record.
    pub began: Option<Nanos>,
    /// Timer ticks per second, if known.
    pub hz: Option<i64>,
    /// Number of ids assigned so far to handshakes.
    pub handshakes: u64,
    /// Number of ids assigned so far to rekeyed timewait sockets.
    pub rekeyed: u64,
    /// Recently closed sockets, oldest first.
    #[serde(default)]
    pub closed: Vec<(SocketId, Nanos)>,
    /// Threads inside `connect()`.
    #[serde(default)]
    pub connecting: Vec<(u32, SocketId, Nanos)>,
    /// Cancelled timers without an explanation so far, oldest first.
    #[serde(default)]
    pub cancelled: Vec<(SocketId, Cancelled)>,
    /// Rekeyed timewait sockets and their cookies, which other connections have now.
    #[serde(default)]
    pub aside: Vec<(SocketId, u64)>,
    /// Namespaces that are followed.
    #[serde(default)]
    pub netns: Vec<u32>,
}

/// A cancelled timer whose reason is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// When it was cancelled.
    pub ts: Nanos,
    /// Its owner.
    pub of: TimerOf,
}

/// Owner of the timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimerOf {
    /// A timewait socket's, with the values of the record.
    Timewait {
        /// `tw_substate`.
        substate: u8,
        /// First value.
        arg0: u64,
        /// Second value.
        arg1: u64,
    },
    /// A timewait socket's; a thread was connecting to the same remote end.
    TakenOver {
        /// `tw_substate`.
        substate: u8,
        /// First value.
        arg0: u64,
        /// Second value.
        arg1: u64,
    },
    /// A handshake's.
    Request,
    /// A handshake's, which expired.
    RequestExpired,
    /// No timer: a full socket that went to CLOSE.
    Closing(Closing),
}

/// A transition to CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Kernel number of the state before.
    pub old: u8,
    /// `sk_err`.
    pub sk_err: u32,
    /// Bits from [`flag`](tcptrace_common::record::flag).
    pub flags: u8,
    /// Local port; 0 when none was chosen.
    pub sport: u16,
    /// `bind()` chose the port.
    pub bound: bool,
    /// See [`close`](tcptrace_common::record::close).
    pub detail: u64,
}

/// A RST observed before the transition to CLOSE that it explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// The peer sent it.
    Received,
    /// This host sent it; the value is a [`ResetReason`](tcptrace_common::record::ResetReason) number.
    Sent(u8),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(value: &bool) -> bool {
    !*value
}
