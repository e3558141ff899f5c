//! TCP states with the kernel's numbers (`include/net/tcp_states.h`) and the names `ss` prints.

/// A TCP state. The discriminants are the kernel's.
///
/// `TCP_NEW_SYN_RECV` (12, a request socket) is decoded as [`TcpState::SynRecv`]: for the operator both are a handshake
/// in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TcpState {
    /// Connected; data may flow both ways.
    Established = 1,
    /// SYN sent, no answer yet.
    SynSent = 2,
    /// SYN received, SYN-ACK sent.
    SynRecv = 3,
    /// FIN sent, not yet acknowledged.
    FinWait1 = 4,
    /// FIN acknowledged; waiting for the peer's FIN.
    FinWait2 = 5,
    /// Both FINs are acknowledged; we closed first and wait for old duplicates to expire.
    TimeWait = 6,
    /// No connection.
    Close = 7,
    /// FIN received; our application has not closed yet.
    CloseWait = 8,
    /// The peer closed first; our FIN is sent and not yet acknowledged.
    LastAck = 9,
    /// Listening for connections.
    Listen = 10,
    /// Both sides sent a FIN at the same time; ours is not yet acknowledged.
    Closing = 11,
}

impl TcpState {
    /// Every state, in the kernel's order.
    pub const ALL: [Self; 11] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];

    /// Number of states: the length of a table indexed by [`TcpState::index`].
    pub const COUNT: usize = Self::ALL.len();

    /// The state with the kernel's number `raw`; `None` for a number no TCP state has.
    pub const fn from_kernel(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Established,
            2 => Self::SynSent,
            3 | 12 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => return None,
        })
    }

    /// Position in [`TcpState::ALL`], `0..COUNT`.
    pub const fn index(self) -> usize {
        self as usize - 1
    }

    /// The name in the kernel's and the RFC's spelling: `TIME_WAIT`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }
}
