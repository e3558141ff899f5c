//! Explains why a full socket ended: combines its transition to CLOSE with other kernel evidence into an [`End`].
//!
//! | Source | Evidence |
//! |---|---|
//! | `tcp_receive_reset` | before CLOSE: a RST arrived, or data after `close()`: then `tcp_send_reset` follows |
//! | `tcp_send_reset` | a RST is sent, and why (6.12); before CLOSE from timers and `tcp_abort()`, else after it |
//! | `inet_sk_error_report` | after CLOSE: `tcp_disconnect()` or `tcp_done_with_error()` has finished |
//! | the transition alone | every end without a RST or an error |
//!
//! When the kernel gives no reason for a RST, the reason is inferred from unread data, `SO_LINGER` and the state, and
//! marked as inferred. A recording of an older version has only the last source.

use tcptrace_common::record::{self as raw, ResetReason, close, flag};

use crate::model::{
    Closer, End, EndReason, TcpState,
    checkpoint::{Closing, Reset},
};

const EPIPE: u32 = 32;
const ENETUNREACH: u32 = 101;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;
const EHOSTUNREACH: u32 = 113;

/// Kernel evidence about an end, beside the transition to CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A RST was received, or the socket sent one on its own, before it went to CLOSE.
    ResetBefore(Reset),
    /// The closed socket sends a RST.
    ResetAfter {
        /// Why.
        reason: ResetReason,
        /// It answers a segment.
        answers: bool,
    },
    /// The closed socket reports this `sk_err` to its user.
    Error(u32),
    /// None of these.
    Nothing,
    /// The source does not record such evidence.
    NotRecorded,
}

impl Evidence {
    /// Evidence known before the kernel reports more.
    pub const fn before(reset: Option<Reset>) -> Self {
        match reset {
            Some(reset) => Self::ResetBefore(reset),
            None => Self::Nothing,
        }
    }
}

impl Closing {
    /// Decodes `raw`, a transition to CLOSE; `bound`: whether `bind()` chose the port.
    pub const fn of(raw: &raw::RawRecord, bound: bool) -> Self {
        let raw::RawRecord { old, arg0, arg1, flags, sport, .. } = *raw;
        Self { old, sk_err: arg0 as u32, flags, sport, bound, detail: arg1 }
    }

    /// Whether the next RST or error from the kernel may explain more than the RST before.
    pub fn awaits_evidence(self, reset: Option<Reset>) -> bool {
        match (reset, self.state()) {
            (Some(Reset::Received), _) => self.may_answer_data(),
            // In SYN_SENT __tcp_close() and tcp_disconnect() send none; tcp_reset() and tcp_v4_err() have set the
            // error.
            (Some(Reset::Sent(_)), _) | (None, TcpState::SynSent) => false,
            // tcp_abort() and shutdown() of a listener report different errors.
            (None, TcpState::Listen) => !self.has(flag::SHUTDOWN_BOTH),
            // tcp_rcv_state_process(): the last ACK.
            (None, TcpState::LastAck) if self.sk_err == 0 => self.detail & close::UNACKNOWLEDGED != 0,
            (None, _) => self.sk_err != ECONNABORTED,
        }
    }

    /// Whether the preceding `tcp_receive_reset` may not be a received RST: `tcp_rcv_state_process()` also calls
    /// `tcp_reset()` for data after `close()`, and then sends its own RST.
    fn may_answer_data(self) -> bool {
        let has_sent_fin = matches!(
            self.state(),
            TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing | TcpState::LastAck
        );
        has_sent_fin && self.has(flag::SHUTDOWN_BOTH)
    }

    /// Derives why the socket ended. Sockets that become timewait sockets never get here.
    pub fn explain(self, evidence: Evidence) -> End {
        match evidence {
            Evidence::ResetBefore(Reset::Received) if self.state() == TcpState::SynSent => {
                End::sure(EndReason::Refused)
            }
            Evidence::ResetBefore(Reset::Received) => End::sure(EndReason::ResetReceived),
            Evidence::ResetBefore(Reset::Sent(reason)) => {
                self.reset_before(ResetReason::from_raw(reason.into()))
            }
            Evidence::ResetAfter { reason, answers } => self.reset_after(reason, answers),
            Evidence::Error(ECONNABORTED) if self.state() == TcpState::Listen => End::sure(EndReason::Killed),
            // tcp_disconnect() without a RST: TCP_REPAIR, or SO_LINGER 0 after the FIN was sent.
            Evidence::Error(_) if self.sk_err == 0 && self.state() != TcpState::Listen => {
                End::sure(EndReason::Silent)
            }
            // Before 5.14 no error shows whether it was tcp_abort() or shutdown().
            Evidence::Nothing
                if self.state() == TcpState::Listen && self.sk_err == 0 && !self.has(flag::SHUTDOWN_BOTH) =>
            {
                End::inferred(EndReason::ListenerClosed)
            }
            Evidence::Error(_) | Evidence::Nothing if self.sk_err != 0 => End::sure(self.by_error()),
            Evidence::Error(_) | Evidence::Nothing => self.without_error(),
            Evidence::NotRecorded => End {
                reason: self.legacy_reason(),
                inferred: self.sk_err == 0 && !matches!(self.state(), TcpState::Listen | TcpState::LastAck),
            },
        }
    }

    /// The socket sent a RST on its own, then went to CLOSE.
    fn reset_before(self, reason: ResetReason) -> End {
        match reason {
            ResetReason::State | ResetReason::NotSpecified if self.sk_err == ECONNABORTED => {
                End::sure(EndReason::Killed)
            }
            // tcp_keepalive_timer(): the wait of an orphan without a timewait socket timed out.
            ResetReason::State if self.state() == TcpState::FinWait2 => End::sure(EndReason::Expired),
            ResetReason::NotSpecified if self.state() == TcpState::FinWait2 => {
                End::inferred(EndReason::Expired)
            }
            // tcp_keepalive_timer() when the peer answers no probe.
            ResetReason::NotSpecified if self.sk_err != 0 => End::inferred(self.by_error()),
            // tcp_out_of_resources().
            ResetReason::NotSpecified => End::inferred(EndReason::ResetSentMemory),
            _ => self.by_reset_reason(reason),
        }
    }

    /// The socket went to CLOSE, then sent a RST.
    fn reset_after(self, reason: ResetReason, answers: bool) -> End {
        match reason {
            // tcp_rcv_state_process(): only TCPAbortOnData ends a socket.
            ResetReason::NotSpecified if answers => End::sure(EndReason::Aborted),
            ResetReason::NotSpecified => End::inferred(match self.state() {
                // __tcp_close() has orphaned the socket: TCP_LINGER2 < 0, tcp_check_oom().
                TcpState::FinWait2 if self.has(flag::ORPHAN) => EndReason::ResetSentLinger2,
                _ if self.has(flag::ORPHAN) => EndReason::ResetSentMemory,
                // __tcp_close() checks unread data first (TCPAbortOnClose, then TCPAbortOnData).
                _ if self.has_lingered() && !self.has(flag::UNREAD) => EndReason::ResetSentLinger,
                _ if self.has(flag::SHUTDOWN_BOTH) => EndReason::ResetSentUnread,
                _ => EndReason::Disconnected,
            }),
            _ => self.by_reset_reason(reason),
        }
    }

    fn by_reset_reason(self, reason: ResetReason) -> End {
        End::sure(match reason {
            ResetReason::AbortOnData => EndReason::Aborted,
            ResetReason::AbortOnClose => EndReason::ResetSentUnread,
            ResetReason::AbortOnLinger => EndReason::ResetSentLinger2,
            ResetReason::AbortOnMemory => EndReason::ResetSentMemory,
            ResetReason::KeepaliveTimeout => EndReason::Timeout,
            // tcp_disconnect(), called by __tcp_close() or not.
            ResetReason::State | ResetReason::DisconnectWithData if self.has_lingered() => {
                EndReason::ResetSentLinger
            }
            ResetReason::State | ResetReason::DisconnectWithData => EndReason::Disconnected,
            ResetReason::NotSpecified | ResetReason::Other => EndReason::ResetSent,
        })
    }

    /// An error without a RST.
    fn by_error(self) -> EndReason {
        let soft = (self.detail & close::SOFT_ERROR) as u32;
        match self.state() {
            // tcp_abort().
            _ if self.sk_err == ECONNABORTED => EndReason::Killed,
            // tcp_write_err(): the soft error that an ICMP message set, or ETIMEDOUT.
            _ if self.sk_err == ETIMEDOUT || self.sk_err == soft => EndReason::Timeout,
            // tcp_v4_err(): an ICMP message ends a handshake.
            TcpState::SynSent | TcpState::SynRecv => EndReason::Unreachable,
            // The last ACK of a socket whose error came from an ICMP message (IP_RECVERR).
            TcpState::LastAck => EndReason::Closed,
            _ => EndReason::Unexplained,
        }
    }

    /// Neither a RST nor an error.
    fn without_error(self) -> End {
        let socket_state = self.detail >> close::SOCKET_STATE & 0xff;
        End::sure(match self.state() {
            TcpState::Listen => EndReason::ListenerClosed,
            TcpState::LastAck if self.detail & close::UNACKNOWLEDGED == 0 => EndReason::Closed,
            TcpState::SynSent if socket_state == 0 => return End::inferred(self.syn_sent_without_error()),
            // tcp_v4_connect() returns to CLOSE when no port is free, before __inet_stream_connect() waits.
            TcpState::SynSent
                if socket_state == close::SS_UNCONNECTED
                    && !self.has(flag::SHUTDOWN_BOTH)
                    && (self.sport == 0 || self.bound) =>
            {
                EndReason::NoPort
            }
            TcpState::SynSent => EndReason::Abandoned,
            _ if self.has(flag::NETNS_DYING) => EndReason::Purged,
            // tcp_time_wait() got no timewait socket.
            TcpState::FinWait2 | TcpState::Closing => EndReason::Overflow,
            TcpState::SynRecv => EndReason::Dropped,
            _ => EndReason::Unexplained,
        })
    }

    const fn syn_sent_without_error(self) -> EndReason {
        if self.sport == 0 || !self.has(flag::SHUTDOWN_BOTH) {
            EndReason::NoPort
        } else {
            EndReason::Abandoned
        }
    }

    /// The reason for recordings without RST records.
    fn legacy_reason(self) -> EndReason {
        match (self.sk_err, self.state()) {
            (0, TcpState::Listen) => EndReason::ListenerClosed,
            (0, TcpState::LastAck) => EndReason::Closed,
            (0, TcpState::SynSent) => self.syn_sent_without_error(),
            // The peer's FIN has arrived (SOCK_DONE), or the socket is an orphan.
            (0, TcpState::FinWait2 | TcpState::Closing)
                if self.has(flag::NO_ROOM) && (self.has(flag::ORPHAN) || self.has(flag::DONE)) =>
            {
                EndReason::Overflow
            }
            (0, TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing) if self.has(flag::ORPHAN) => {
                EndReason::Aborted
            }
            (0, TcpState::SynRecv) => EndReason::Dropped,
            (0, _) if self.has(flag::LINGER_ZERO) && !self.has(flag::UNREAD) => EndReason::ResetSentLinger,
            (0, _) if self.has(flag::SHUTDOWN_BOTH) => EndReason::ResetSentUnread,
            (0, _) => EndReason::Disconnected,
            (ECONNREFUSED, TcpState::SynSent) => EndReason::Refused,
            (ECONNREFUSED | ECONNRESET | EPIPE, _) => EndReason::ResetReceived,
            (ECONNABORTED, _) => EndReason::Killed,
            (ETIMEDOUT | EHOSTUNREACH | ENETUNREACH, _) => EndReason::Timeout,
            _ => EndReason::Unexplained,
        }
    }

    /// `close()` with `SO_LINGER` 0, as opposed to `connect(AF_UNSPEC)` or the end of a listener.
    const fn has_lingered(self) -> bool {
        self.has(flag::LINGER_ZERO) && self.has(flag::SHUTDOWN_BOTH)
    }

    /// The state before. The transition was decoded, so every number is a valid state.
    fn state(self) -> TcpState {
        TcpState::from_kernel(self.old).unwrap_or(TcpState::Close)
    }

    const fn has(self, bit: u8) -> bool {
        self.flags & bit != 0
    }
}

/// The closer of a connection whose first end is `reason`.
pub const fn closer(reason: EndReason) -> Closer {
    match reason {
        EndReason::Refused => Closer::Refused,
        EndReason::ResetReceived => Closer::ResetReceived,
        EndReason::ResetSentUnread
        | EndReason::ResetSentLinger
        | EndReason::ResetSentLinger2
        | EndReason::ResetSentMemory
        | EndReason::ResetSent
        | EndReason::Disconnected
        | EndReason::Killed => Closer::ResetSent,
        EndReason::Timeout | EndReason::Unreachable => Closer::TimedOut,
        _ => Closer::None,
    }
}

#[cfg(test)]
#[path = "tests/closing.rs"]
mod tests;
