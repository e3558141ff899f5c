//! Why a full socket went to CLOSE: `sk_err`, the state before and a few flags tell.

use tcptrace_common::record::flag;

use super::{Closer, EndReason};
use crate::model::{Nanos, TcpState};

const EPIPE: u32 = 32;
const ENETUNREACH: u32 = 101;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;
const EHOSTUNREACH: u32 = 113;

/// What the kernel shows of a transition to CLOSE.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    /// The state before.
    pub old: TcpState,
    /// `sk_err`.
    pub sk_err: u32,
    /// Bits from [`flag`].
    pub flags: u8,
    /// Local port; 0 when none was ever chosen.
    pub sport: u16,
    /// How long it was in FIN_WAIT2 without an owner.
    pub orphan_for: Option<Nanos>,
}

/// Less than any orphan is given: `tcp_fin_time()` is at least 3.5 times `TCP_RTO_MIN`, 700 ms.
const ORPHAN_LEAST: Nanos = Nanos(500_000_000);

impl Closing {
    /// The reason. A socket that becomes a minisocket never gets here.
    pub fn reason(self) -> EndReason {
        match self.sk_err {
            0 => self.reason_without_error(),
            // tcp_reset(): a RST sets the error by the state it meets.
            ECONNREFUSED if self.old == TcpState::SynSent => EndReason::Refused,
            ECONNREFUSED | ECONNRESET | EPIPE => EndReason::ResetReceived,
            // tcp_abort().
            ECONNABORTED => EndReason::Killed,
            // tcp_write_err(): the soft error an ICMP left, or ETIMEDOUT.
            ETIMEDOUT | EHOSTUNREACH | ENETUNREACH => EndReason::Timeout,
            _ => EndReason::Unexplained,
        }
    }

    fn reason_without_error(self) -> EndReason {
        match self.old {
            TcpState::Listen => EndReason::ListenerClosed,
            TcpState::LastAck => EndReason::Closed,
            // connect() itself failed: tcp_v4_connect() goes back to CLOSE when no port can be had.
            TcpState::SynSent if self.sport == 0 || !self.has(flag::SHUTDOWN_BOTH) => EndReason::NoPort,
            TcpState::SynSent => EndReason::Abandoned,
            // tcp_time_wait() found no room. The peer's FIN is in (SOCK_DONE), or nobody holds it.
            TcpState::FinWait2 | TcpState::Closing
                if self.has(flag::NO_ROOM) && (self.has(flag::ORPHAN) || self.has(flag::DONE)) =>
            {
                EndReason::Overflow
            }
            // tcp_keepalive_timer(): where the ACK of its FIN met a busy socket, the orphan stays a full one.
            TcpState::FinWait2 if self.orphan_for.is_some_and(|length| length >= ORPHAN_LEAST) => {
                EndReason::Expired
            }
            // tcp_rcv_state_process(): TCPABORTONDATA.
            TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing if self.has(flag::ORPHAN) => {
                EndReason::Aborted
            }
            TcpState::SynRecv => EndReason::Dropped,
            // __tcp_close() looks at unread data first (TCPAbortOnClose, then TCPAbortOnData).
            _ if self.has(flag::LINGER_ZERO) && !self.has(flag::UNREAD) => EndReason::ResetSentLinger,
            // __tcp_close() shuts down both ways first; tcp_disconnect() does not.
            _ if self.has(flag::SHUTDOWN_BOTH) => EndReason::ResetSentUnread,
            _ => EndReason::Disconnected,
        }
    }

    const fn has(self, bit: u8) -> bool {
        self.flags & bit != 0
    }
}

/// Which side a first end by `reason` counts for.
pub const fn closer(reason: EndReason) -> Closer {
    match reason {
        EndReason::Refused => Closer::Refused,
        EndReason::ResetReceived => Closer::ResetReceived,
        EndReason::ResetSentUnread
        | EndReason::ResetSentLinger
        | EndReason::Disconnected
        | EndReason::Killed => Closer::ResetSent,
        EndReason::Timeout => Closer::TimedOut,
        _ => Closer::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_follow_the_kernel() {
        use EndReason as R;
        use TcpState as S;
        let cases = [
            (S::LastAck, 0, flag::ORPHAN | flag::SHUTDOWN_BOTH, 80, R::Closed),
            (S::SynSent, ECONNREFUSED, 0, 4000, R::Refused),
            (S::SynSent, ETIMEDOUT, 0, 4000, R::Timeout),
            (S::SynSent, EHOSTUNREACH, 0, 4000, R::Timeout),
            (S::SynSent, 0, flag::TASK, 0, R::NoPort),
            (S::SynSent, 0, flag::TASK | flag::SHUTDOWN_BOTH, 4000, R::Abandoned),
            (S::Established, ECONNRESET, 0, 4000, R::ResetReceived),
            (S::CloseWait, EPIPE, 0, 4000, R::ResetReceived),
            (S::Established, ECONNABORTED, 0, 4000, R::Killed),
            (S::Established, 0, flag::SHUTDOWN_BOTH, 4000, R::ResetSentUnread),
            (S::Established, 0, flag::SHUTDOWN_BOTH | flag::LINGER_ZERO, 4000, R::ResetSentLinger),
            (
                S::Established,
                0,
                flag::SHUTDOWN_BOTH | flag::LINGER_ZERO | flag::UNREAD,
                4000,
                R::ResetSentUnread,
            ),
            (S::Established, 0, 0, 4000, R::Disconnected),
            (S::SynSent, 0, flag::TASK, 4000, R::NoPort),
            (S::FinWait2, 0, flag::ORPHAN | flag::SHUTDOWN_BOTH | flag::NO_ROOM, 4000, R::Overflow),
            (S::FinWait2, 0, flag::DONE | flag::SHUTDOWN_BOTH | flag::NO_ROOM, 4000, R::Overflow),
            (S::FinWait2, 0, flag::ORPHAN | flag::SHUTDOWN_BOTH, 4000, R::Aborted),
            (S::FinWait2, 0, flag::SHUTDOWN_BOTH | flag::NO_ROOM, 4000, R::ResetSentUnread),
            (S::FinWait2, 0, flag::SHUTDOWN_BOTH, 4000, R::ResetSentUnread),
            (S::FinWait2, 0, flag::SHUTDOWN_BOTH | flag::LINGER_ZERO, 4000, R::ResetSentLinger),
            (S::Closing, 0, flag::DONE | flag::SHUTDOWN_BOTH | flag::NO_ROOM, 4000, R::Overflow),
            (S::FinWait1, 0, flag::ORPHAN | flag::SHUTDOWN_BOTH, 4000, R::Aborted),
            (S::Listen, 0, 0, 80, R::ListenerClosed),
            (S::Established, 12, 0, 80, R::Unexplained),
        ];
        for (old, sk_err, flags, sport, reason) in cases {
            let closing = Closing { old, sk_err, flags, sport, orphan_for: None };
            assert_eq!(closing.reason(), reason, "{closing:?}");
        }
    }
    #[test]
    fn an_orphan_that_stayed_a_full_socket_expires() {
        let closing = Closing {
            old: TcpState::FinWait2,
            sk_err: 0,
            flags: flag::ORPHAN | flag::SHUTDOWN_BOTH,
            sport: 4000,
            orphan_for: Some(Nanos(3_000_000_000)),
        };
        assert_eq!(closing.reason(), EndReason::Expired);
        assert_eq!(Closing { orphan_for: Some(Nanos(20_000)), ..closing }.reason(), EndReason::Aborted);
        let full = Closing { flags: closing.flags | flag::NO_ROOM, ..closing };
        assert_eq!(full.reason(), EndReason::Overflow);
    }
}
