//! Table test of end reasons: a transition to CLOSE, its evidence, and the expected reason.

use super::*;

#[path = "ends.rs"]
mod ends;

const NO_ANSWER: bool = false;
const ANSWER: bool = true;
const MAPPED_CLOSE: u8 = flag::SHUTDOWN_BOTH;

fn closing(old: TcpState, sk_err: u32, flags: u8, detail: u64) -> Closing {
    Closing { old: old as u8, sk_err, flags, sport: 4000, bound: false, detail }
}

fn after(reason: ResetReason, answers: bool) -> Evidence {
    Evidence::ResetAfter { reason, answers }
}

fn before(reason: ResetReason) -> Evidence {
    Evidence::ResetBefore(Reset::Sent(reason as u8))
}

const RECEIVED: Evidence = Evidence::ResetBefore(Reset::Received);

#[test]
fn kernel_evidence_gives_a_sure_reason() {
    use EndReason as E;
    use ResetReason as R;
    use TcpState as S;
    let cases = [
        (closing(S::SynSent, ECONNREFUSED, 0, 0), RECEIVED, E::Refused),
        (closing(S::Established, ECONNRESET, 0, 0), RECEIVED, E::ResetReceived),
        (closing(S::CloseWait, EPIPE, 0, 0), RECEIVED, E::ResetReceived),
        // IP_RECVERR leaves an error behind; the RST ends the socket.
        (
            closing(S::Established, EHOSTUNREACH, MAPPED_CLOSE, 0),
            after(R::AbortOnClose, NO_ANSWER),
            E::ResetSentUnread,
        ),
        (
            closing(S::LastAck, 0, MAPPED_CLOSE, close::UNACKNOWLEDGED),
            after(R::AbortOnClose, NO_ANSWER),
            E::ResetSentUnread,
        ),
        (closing(S::FinWait1, 0, flag::ORPHAN | MAPPED_CLOSE, 0), after(R::AbortOnData, ANSWER), E::Aborted),
        (closing(S::FinWait2, 0, MAPPED_CLOSE, 0), after(R::AbortOnLinger, NO_ANSWER), E::ResetSentLinger2),
        (
            closing(S::FinWait1, 0, flag::ORPHAN | MAPPED_CLOSE, 0),
            after(R::AbortOnMemory, NO_ANSWER),
            E::ResetSentMemory,
        ),
        (
            closing(S::FinWait1, 0, flag::ORPHAN | MAPPED_CLOSE, 0),
            before(R::AbortOnMemory),
            E::ResetSentMemory,
        ),
        (
            closing(S::Established, 0, MAPPED_CLOSE | flag::LINGER_ZERO, 0),
            after(R::State, NO_ANSWER),
            E::ResetSentLinger,
        ),
        // The listener's option, inherited by its child.
        (closing(S::Established, 0, flag::LINGER_ZERO, 0), after(R::State, NO_ANSWER), E::Disconnected),
        (closing(S::Established, 0, 0, 0), after(R::State, NO_ANSWER), E::Disconnected),
        (closing(S::Established, ECONNABORTED, 0, 0), before(R::State), E::Killed),
        (closing(S::Established, ETIMEDOUT, 0, 0), before(R::KeepaliveTimeout), E::Timeout),
        (closing(S::FinWait2, 0, flag::ORPHAN | MAPPED_CLOSE, 0), before(R::State), E::Expired),
        (closing(S::Established, ECONNRESET, 0, 0), before(R::Other), E::ResetSent),
        (closing(S::SynRecv, 0, MAPPED_CLOSE, 0), after(R::AbortOnClose, NO_ANSWER), E::ResetSentUnread),
    ];
    for (closing, evidence, reason) in cases {
        assert_eq!(closing.explain(evidence), End::sure(reason), "{closing:?} {evidence:?}");
    }
}

#[test]
fn error_or_state_gives_the_reason_without_a_rst() {
    use EndReason as E;
    use TcpState as S;
    const CONNECTING: u64 = 2 << close::SOCKET_STATE;
    const UNCONNECTED: u64 = close::SS_UNCONNECTED << close::SOCKET_STATE;
    let silent = Evidence::Error(0);
    let cases = [
        (closing(S::LastAck, 0, flag::ORPHAN | MAPPED_CLOSE, 0), Evidence::Nothing, E::Closed),
        (closing(S::LastAck, 0, MAPPED_CLOSE, close::UNACKNOWLEDGED), silent, E::Silent),
        (closing(S::Established, 0, MAPPED_CLOSE, 0), Evidence::Error(ECONNABORTED), E::Silent),
        (closing(S::Established, ETIMEDOUT, 0, 0), Evidence::Error(ETIMEDOUT), E::Timeout),
        // A soft error from an ICMP message, when retransmission gives up.
        (closing(S::Established, ECONNREFUSED, 0, u64::from(ECONNREFUSED)), Evidence::Nothing, E::Timeout),
        (closing(S::SynSent, ETIMEDOUT, 0, 0), Evidence::Nothing, E::Timeout),
        (closing(S::SynSent, EHOSTUNREACH, 0, u64::from(EHOSTUNREACH)), Evidence::Nothing, E::Timeout),
        (closing(S::SynSent, EHOSTUNREACH, 0, 0), Evidence::Nothing, E::Unreachable),
        (closing(S::SynSent, ECONNREFUSED, 0, 0), Evidence::Nothing, E::Unreachable),
        (closing(S::CloseWait, ECONNABORTED, 0, 0), Evidence::Nothing, E::Killed),
        (closing(S::Established, 5, 0, 0), Evidence::Nothing, E::Unexplained),
        (closing(S::FinWait2, 0, flag::ORPHAN | MAPPED_CLOSE, 0), Evidence::Nothing, E::Overflow),
        (closing(S::Closing, 0, flag::ORPHAN | MAPPED_CLOSE, 0), Evidence::Nothing, E::Overflow),
        (closing(S::FinWait1, 0, flag::ORPHAN | flag::NETNS_DYING, 0), Evidence::Nothing, E::Purged),
        (closing(S::SynRecv, 0, 0, 0), Evidence::Nothing, E::Dropped),
        (closing(S::Listen, 0, MAPPED_CLOSE, 0), Evidence::Nothing, E::ListenerClosed),
        (closing(S::Listen, 0, 0, 0), Evidence::Error(0), E::ListenerClosed),
        (closing(S::Listen, 0, 0, 0), Evidence::Error(ECONNABORTED), E::Killed),
        // shutdown() and connect(AF_UNSPEC) while connect() is in progress.
        (closing(S::SynSent, 0, 0, CONNECTING), Evidence::Nothing, E::Abandoned),
        (closing(S::SynSent, 0, MAPPED_CLOSE, CONNECTING), Evidence::Nothing, E::Abandoned),
        (closing(S::SynSent, 0, MAPPED_CLOSE, UNCONNECTED), Evidence::Nothing, E::Abandoned),
        (Closing { sport: 0, ..closing(S::SynSent, 0, 0, UNCONNECTED) }, Evidence::Nothing, E::NoPort),
        (Closing { bound: true, ..closing(S::SynSent, 0, 0, UNCONNECTED) }, Evidence::Nothing, E::NoPort),
    ];
    for (closing, evidence, reason) in cases {
        assert_eq!(closing.explain(evidence), End::sure(reason), "{closing:?} {evidence:?}");
    }
}

#[test]
fn rst_without_a_reason_gives_an_inferred_end() {
    use EndReason as E;
    use TcpState as S;
    let orphan = flag::ORPHAN | MAPPED_CLOSE;
    let sent = after(ResetReason::NotSpecified, NO_ANSWER);
    let timer = before(ResetReason::NotSpecified);
    let cases = [
        (closing(S::Established, 0, MAPPED_CLOSE, 0), sent, E::ResetSentUnread),
        (closing(S::Established, 0, MAPPED_CLOSE | flag::LINGER_ZERO, 0), sent, E::ResetSentLinger),
        (
            closing(S::Established, 0, MAPPED_CLOSE | flag::LINGER_ZERO | flag::UNREAD, 0),
            sent,
            E::ResetSentUnread,
        ),
        (closing(S::Established, 0, 0, 0), sent, E::Disconnected),
        (closing(S::FinWait2, 0, orphan, 0), sent, E::ResetSentLinger2),
        (closing(S::FinWait1, 0, orphan, 0), sent, E::ResetSentMemory),
        (closing(S::FinWait1, 0, orphan, 0), timer, E::ResetSentMemory),
        (closing(S::FinWait2, 0, orphan, 0), timer, E::Expired),
        (closing(S::Established, ETIMEDOUT, 0, 0), timer, E::Timeout),
    ];
    for (closing, evidence, reason) in cases {
        assert_eq!(closing.explain(evidence), End::inferred(reason), "{closing:?} {evidence:?}");
    }
    let aborted = closing(S::FinWait1, 0, orphan, 0).explain(after(ResetReason::NotSpecified, ANSWER));
    assert_eq!(aborted, End::sure(E::Aborted));
}

#[test]
fn a_listener_whose_error_nothing_reports_is_inferred() {
    let closed = closing(TcpState::Listen, 0, 0, 0).explain(Evidence::Nothing);
    assert_eq!(closed, End::inferred(EndReason::ListenerClosed));
}

#[test]
fn old_recordings_without_resets_keep_their_reasons() {
    use EndReason as E;
    use TcpState as S;
    let cases = [
        (closing(S::LastAck, 0, flag::ORPHAN | MAPPED_CLOSE, 0), E::Closed),
        (closing(S::SynSent, ECONNREFUSED, 0, 0), E::Refused),
        (closing(S::SynSent, ETIMEDOUT, 0, 0), E::Timeout),
        (closing(S::SynSent, 0, flag::TASK | MAPPED_CLOSE, 0), E::Abandoned),
        (closing(S::Established, ECONNRESET, 0, 0), E::ResetReceived),
        (closing(S::Established, ECONNABORTED, 0, 0), E::Killed),
        (closing(S::Established, 0, MAPPED_CLOSE, 0), E::ResetSentUnread),
        (closing(S::Established, 0, MAPPED_CLOSE | flag::LINGER_ZERO, 0), E::ResetSentLinger),
        (closing(S::Established, 0, 0, 0), E::Disconnected),
        (closing(S::FinWait2, 0, flag::ORPHAN | MAPPED_CLOSE | flag::NO_ROOM, 0), E::Overflow),
        (closing(S::FinWait2, 0, flag::ORPHAN | MAPPED_CLOSE, 0), E::Aborted),
        (closing(S::Listen, 0, 0, 0), E::ListenerClosed),
        (closing(S::Established, 12, 0, 0), E::Unexplained),
    ];
    for (closing, reason) in cases {
        assert_eq!(closing.explain(Evidence::NotRecorded).reason, reason, "{closing:?}");
    }
}

#[test]
fn only_unexplained_ends_await_evidence() {
    use TcpState as S;
    let waits = [
        closing(S::Established, 0, MAPPED_CLOSE, 0),
        closing(S::LastAck, 0, MAPPED_CLOSE, close::UNACKNOWLEDGED),
        closing(S::Listen, 0, 0, 0),
        closing(S::FinWait2, 0, flag::ORPHAN, 0),
    ];
    let is_plain = [
        closing(S::LastAck, 0, flag::ORPHAN | MAPPED_CLOSE, 0),
        closing(S::Listen, 0, MAPPED_CLOSE, 0),
        closing(S::SynSent, 0, 0, 0),
        closing(S::SynSent, ECONNREFUSED, 0, 0),
        closing(S::CloseWait, ECONNABORTED, 0, 0),
    ];
    assert!(waits.into_iter().all(|closing| closing.awaits_evidence(None)));
    assert!(!is_plain.into_iter().any(|closing| closing.awaits_evidence(None)));
    // tcp_reset() for data after close().
    let after_close = closing(S::FinWait1, ECONNRESET, flag::ORPHAN | MAPPED_CLOSE, 0);
    assert!(after_close.awaits_evidence(Some(Reset::Received)));
    assert!(!after_close.awaits_evidence(Some(Reset::Sent(ResetReason::State as u8))));
    assert!(!closing(S::FinWait2, ECONNRESET, 0, 0).awaits_evidence(Some(Reset::Received)), "half closed");
    assert!(!closing(S::Established, ECONNRESET, 0, 0).awaits_evidence(Some(Reset::Received)));
}
