//! Facts about a connection: who opened it, who ended it and why, which kernel object represents it, and how its owner is
//! known.

use serde::{Deserialize, Serialize};

/// Which kernel object represents the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A request socket: the handshake is not finished.
    Request,
    /// A full socket.
    Full,
    /// A timewait socket.
    Timewait,
}

/// Which side opened the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Role {
    /// Older than the trace, and no listener matches.
    #[default]
    Unknown,
    /// Accepted here.
    Inbound,
    /// Connected from here.
    Outbound,
    /// Listens for connections.
    Listener,
}

impl Role {
    /// Every role, indexed by `self as usize`.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Inbound, Self::Outbound, Self::Listener];

    /// JSON name.
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
    /// Not closed yet, or closed before tracing and the state does not show by which side.
    #[default]
    None,
    /// We sent the first FIN: the TIME_WAIT is ours.
    Local,
    /// The peer sent the first FIN.
    Remote,
    /// We sent the first FIN, and the peer's crossed it (`CLOSING`).
    Both,
    /// A RST was received.
    ResetReceived,
    /// We sent a RST: unread data, `SO_LINGER` 0, or killed.
    ResetSent,
    /// Retransmission gave up.
    TimedOut,
    /// The connection was refused.
    Refused,
}

impl Closer {
    /// Every value except `None`, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::Local,
        Self::Remote,
        Self::Both,
        Self::ResetReceived,
        Self::ResetSent,
        Self::TimedOut,
        Self::Refused,
    ];

    /// Number of values: the length of a table indexed by `self as usize`.
    pub const COUNT: usize = Self::ALL.len() + 1;

    /// JSON name.
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

/// Why a full socket, a timewait socket or a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EndReason {
    /// A timewait socket's timer expired: the normal end of TIME_WAIT, the timeout of an orphan FIN_WAIT2.
    Expired,
    /// A `connect()` reused the TIME_WAIT's tuple (`tcp_tw_reuse`).
    Reused,
    /// A new SYN from the peer reused the TIME_WAIT's tuple.
    Reopened,
    /// A RST ended a timewait socket.
    Reset,
    /// Data arrived after the socket was closed: the kernel answered with a RST.
    Aborted,
    /// Killed by an administrator (`ss -K`).
    Killed,
    /// Destroyed with its network namespace.
    Purged,
    /// A timewait socket ended, and no observation explains why.
    Unexplained,
    /// The records about its end were lost: sweeps of `sock_diag` no longer list it.
    Lost,
    /// The last ACK of a passive close arrived.
    Closed,
    /// A socket could not become a timewait socket, because `tcp_max_tw_buckets` was reached: its TIME_WAIT was
    /// skipped.
    Overflow,
    /// The peer answered the SYN with a RST.
    Refused,
    /// A RST was received.
    ResetReceived,
    /// `close()` with unread data: a RST was sent.
    ResetSentUnread,
    /// `close()` with `SO_LINGER` 0: a RST was sent.
    ResetSentLinger,
    /// `connect(AF_UNSPEC)` on a connected socket, or a listener closed before it accepted this one: a RST was sent.
    Disconnected,
    /// Retransmission, keepalive or `TCP_USER_TIMEOUT` gave up.
    Timeout,
    /// `connect()` itself failed: no free port (EADDRNOTAVAIL).
    NoPort,
    /// `close()` before the connection was established.
    Abandoned,
    /// A handshake was dropped: accept queue full, listener closed.
    Dropped,
    /// A listener was closed.
    ListenerClosed,
    /// An ICMP message ended the handshake.
    Unreachable,
    /// `close()` with a negative `TCP_LINGER2`: a RST was sent instead of waiting in FIN_WAIT2.
    ResetSentLinger2,
    /// Too many orphans (`tcp_max_orphans`) or no memory for sockets (`tcp_mem`): a RST was sent.
    ResetSentMemory,
    /// A RST was sent for another of the kernel's reasons: an unacceptable segment, Multipath TCP.
    ResetSent,
    /// Nothing was sent: closed in repair mode (`TCP_REPAIR`), or with `SO_LINGER` 0 after the FIN was sent.
    Silent,
}

/// An end reason, and whether it is inferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// Inferred from the circumstances: the kernel did not report it.
    pub inferred: bool,
}

impl End {
    /// A reason that the kernel reported.
    pub const fn sure(reason: EndReason) -> Self {
        Self { reason, inferred: false }
    }

    /// A reason inferred from the circumstances.
    pub const fn inferred(reason: EndReason) -> Self {
        Self { reason, inferred: true }
    }
}

impl EndReason {
    /// Every reason, in the order of tables.
    pub const ALL: [Self; 26] = [
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
        Self::Unreachable,
        Self::ResetSentLinger2,
        Self::ResetSentMemory,
        Self::ResetSent,
        Self::Silent,
    ];

    /// Number of reasons: the length of a table indexed by `self as usize`.
    pub const COUNT: usize = Self::ALL.len();

    /// JSON name.
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
            Self::Unreachable => "unreachable",
            Self::ResetSentLinger2 => "reset_sent_linger2",
            Self::ResetSentMemory => "reset_sent_memory",
            Self::ResetSent => "reset_sent",
            Self::Silent => "silent",
        }
    }
}

/// How the owner of a socket is known. Later variants are more certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum OwnerKind {
    /// Not known.
    #[default]
    Unknown,
    /// The owner of the listener that accepted the connection.
    Listener,
    /// Found in `/proc/PID/fd`.
    Proc,
    /// Observed in the process's own system call.
    Exact,
}

impl OwnerKind {
    /// JSON name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Listener => "listener",
            Self::Proc => "proc",
            Self::Exact => "exact",
        }
    }
}
