//! What the tracker says: one [`Event`] per change of state of one socket.

use serde::{Deserialize, Serialize};

use crate::model::{Nanos, NetnsId, SocketId, TcpState, Tuple, record::Process};

/// Which side opened the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Role {
    /// Existed before tracing, and no listener explains it.
    #[default]
    Unknown,
    /// Accepted here.
    Inbound,
    /// Connected from here.
    Outbound,
    /// Waits for connections.
    Listener,
}

impl Role {
    /// Every role, indexed by `self as usize`.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Inbound, Self::Outbound, Self::Listener];

    /// As written in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Listener => "listener",
        }
    }
}

/// Which side ended the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Closer {
    /// Not closed yet, or closed before tracing in a way that leaves no trace.
    #[default]
    None,
    /// We sent the first FIN: the TIME_WAIT is ours.
    Local,
    /// The peer sent the first FIN.
    Remote,
    /// We sent the first FIN, and the peer's crossed it (`CLOSING`).
    Both,
    /// A RST came in.
    ResetReceived,
    /// We sent a RST: unread data, `SO_LINGER` 0, or killed.
    ResetSent,
    /// Retransmission gave up.
    TimedOut,
    /// The connection never came to be: refused.
    Refused,
}

impl Closer {
    /// Every value that names a side or a fault, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::Local,
        Self::Remote,
        Self::Both,
        Self::ResetReceived,
        Self::ResetSent,
        Self::TimedOut,
        Self::Refused,
    ];

    /// As written in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Both => "both",
            Self::ResetReceived => "reset_received",
            Self::ResetSent => "reset_sent",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
        }
    }
}

/// Why a socket, a minisocket or a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EndReason {
    /// A minisocket's timer ran out: the normal end of TIME_WAIT, the timeout of an orphan FIN_WAIT2.
    Expired,
    /// A `connect()` took the TIME_WAIT's tuple over (`tcp_tw_reuse`).
    Reused,
    /// A new SYN from the peer took the TIME_WAIT's tuple over.
    Reopened,
    /// A RST ended a minisocket.
    Reset,
    /// Data came that nobody was there to read any more, or `TCP_LINGER2` forbade to wait for it: a RST was
    /// the answer.
    Aborted,
    /// Killed by an administrator (`ss -K`).
    Killed,
    /// Went down with its network namespace.
    Purged,
    /// A minisocket ended and nothing that was seen explains how.
    Unexplained,
    /// The records about its end were lost: sweeps of `sock_diag` found it gone.
    Lost,
    /// The last ACK of a passive close came.
    Closed,
    /// A socket should have become a minisocket and there was no room for one
    /// (`tcp_max_tw_buckets`): a TIME_WAIT that never was.
    Overflow,
    /// The peer answered the SYN with a RST.
    Refused,
    /// A RST came in.
    ResetReceived,
    /// `close()` with unread data: a RST went out.
    ResetSentUnread,
    /// `close()` with `SO_LINGER` 0: a RST went out.
    ResetSentLinger,
    /// `connect(AF_UNSPEC)` on a connected socket, or a listener closed before it accepted this one: a RST
    /// went out.
    Disconnected,
    /// Retransmission gave up, or the route is gone.
    Timeout,
    /// `connect()` itself failed: no free port (EADDRNOTAVAIL).
    NoPort,
    /// `close()` before the connection was made.
    Abandoned,
    /// A handshake was dropped: accept queue full, listener closed.
    Dropped,
    /// A listener was closed.
    ListenerClosed,
}

impl EndReason {
    /// Every reason, in the order of tables.
    pub const ALL: [Self; 21] = [
        Self::Expired,
        Self::Reused,
        Self::Reopened,
        Self::Reset,
        Self::Aborted,
        Self::Killed,
        Self::Purged,
        Self::Unexplained,
        Self::Lost,
        Self::Closed,
        Self::Overflow,
        Self::Refused,
        Self::ResetReceived,
        Self::ResetSentUnread,
        Self::ResetSentLinger,
        Self::Disconnected,
        Self::Timeout,
        Self::NoPort,
        Self::Abandoned,
        Self::Dropped,
        Self::ListenerClosed,
    ];

    /// How many reasons there are: the length of a table indexed by `self as usize`.
    pub const COUNT: usize = Self::ALL.len();

    /// As written in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Reused => "reused",
            Self::Reopened => "reopened",
            Self::Reset => "reset",
            Self::Aborted => "aborted",
            Self::Killed => "killed",
            Self::Purged => "purged",
            Self::Unexplained => "unexplained",
            Self::Lost => "lost",
            Self::Closed => "closed",
            Self::Overflow => "overflow",
            Self::Refused => "refused",
            Self::ResetReceived => "reset_received",
            Self::ResetSentUnread => "reset_sent_unread",
            Self::ResetSentLinger => "reset_sent_linger",
            Self::Disconnected => "disconnected",
            Self::Timeout => "timeout",
            Self::NoPort => "no_port",
            Self::Abandoned => "abandoned",
            Self::Dropped => "dropped",
            Self::ListenerClosed => "listener_closed",
        }
    }
}

/// How the owner of a socket is known. Later variants are better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum OwnerKind {
    /// Not known.
    #[default]
    Unknown,
    /// The owner of the listener that the connection came through.
    Listener,
    /// Found in `/proc/PID/fd`.
    Proc,
    /// Seen in the process's own system call.
    Exact,
}

impl OwnerKind {
    /// As written in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Listener => "listener",
            Self::Proc => "proc",
            Self::Exact => "exact",
        }
    }
}

/// How true a dwell is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Bound {
    /// Both ends were seen.
    #[default]
    Exact,
    /// The state began before tracing: the dwell is at least this long.
    AtLeast,
    /// The beginning was computed (a minisocket's timer), not seen.
    Inferred,
}

/// One stay of one socket in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dwell {
    /// How long.
    pub length: Nanos,
    /// How true that is. Only [`Bound::Exact`] enters a histogram.
    pub bound: Bound,
}

/// One socket went from one state to another.
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
    /// Its first change: it was not counted in `from`.
    pub begins: bool,
    /// How long it was in `from`; `None` when that is not known at all.
    pub dwell: Option<Dwell>,
    /// Which side ended the connection, as far as it is known now.
    pub closer: Closer,
    /// Where it ended: why.
    pub end_reason: Option<EndReason>,
    /// Where `from` or `to` is FIN_WAIT2: whether a minisocket holds it (an orphan) or a process.
    pub orphan: Option<bool>,
    /// Leaving an orphan FIN_WAIT2: how long of the dwell it had no owner.
    pub orphan_for: Option<Nanos>,
    /// Leaving TIME_WAIT: its timer was set anew by a late segment.
    pub extended: bool,
    /// How the owner is known.
    pub owner: OwnerKind,
    /// The owner, where it is known.
    pub process: Option<&'a Process>,
}
