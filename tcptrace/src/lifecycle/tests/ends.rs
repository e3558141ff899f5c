//! Counts the end reasons over every transition to CLOSE with every evidence, so that a change in one arm fails.

use std::{collections::BTreeMap, fmt::Write as _};

use super::*;

const STATES: [TcpState; 10] = [
    TcpState::Established,
    TcpState::SynSent,
    TcpState::SynRecv,
    TcpState::FinWait1,
    TcpState::FinWait2,
    TcpState::CloseWait,
    TcpState::LastAck,
    TcpState::Listen,
    TcpState::Closing,
    TcpState::Close,
];

fn closings(old: TcpState) -> impl Iterator<Item = Closing> {
    const ERRORS: [u32; 9] =
        [0, EPIPE, ENETUNREACH, ECONNABORTED, ECONNRESET, ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH, 5];
    const DETAILS: [u64; 5] = [
        0,
        close::SS_UNCONNECTED << close::SOCKET_STATE,
        2 << close::SOCKET_STATE,
        close::UNACKNOWLEDGED,
        EHOSTUNREACH as u64,
    ];
    const PORTS: [(u16, bool); 3] = [(4000, false), (4000, true), (0, false)];
    let flags = (0..=u8::MAX).filter(|flags| flags & flag::TASK == 0);
    flags.flat_map(move |flags| {
        ERRORS.into_iter().flat_map(move |sk_err| {
            DETAILS.into_iter().flat_map(move |detail| {
                // Only a connect() can fail for lack of a port.
                let ports: &[_] = if old == TcpState::SynSent { &PORTS } else { &PORTS[..1] };
                ports.iter().map(move |&(sport, bound)| Closing {
                    old: old as u8,
                    sk_err,
                    flags,
                    sport,
                    bound,
                    detail,
                })
            })
        })
    })
}

#[test]
fn end_reasons_by_state_and_evidence() {
    let sent = ResetReason::ALL.map(|reason| Evidence::ResetBefore(Reset::Sent(reason as u8)));
    let after = ResetReason::ALL
        .into_iter()
        .flat_map(|reason| [true, false].map(|answers| Evidence::ResetAfter { reason, answers }));
    let all = [Evidence::ResetBefore(Reset::Received), Evidence::Nothing, Evidence::NotRecorded]
        .into_iter()
        .chain([Evidence::Error(0), Evidence::Error(ECONNABORTED)])
        .chain(sent)
        .chain(after);
    let mut out = String::new();
    for evidence in all {
        writeln!(out, "{evidence:?}").expect("a String");
        for state in STATES {
            let mut ends: BTreeMap<(&str, bool), u32> = BTreeMap::new();
            for closing in closings(state) {
                let end = closing.explain(evidence);
                *ends.entry((end.reason.name(), end.inferred)).or_default() += 1;
            }
            let sign = |inferred| if inferred { "~" } else { "" };
            let ends: Vec<_> = ends
                .iter()
                .map(|(&(reason, inferred), n)| format!("{}{reason} {n}", sign(inferred)))
                .collect();
            writeln!(out, "  {}: {}", state.name(), ends.join(", ")).expect("a String");
        }
    }
    for reset in [None, Some(Reset::Received), Some(Reset::Sent(0))] {
        writeln!(out, "waits for evidence after {reset:?}").expect("a String");
        for state in STATES {
            let waits = closings(state).filter(|closing| closing.awaits_evidence(reset)).count();
            writeln!(out, "  {}: {waits} of {}", state.name(), closings(state).count()).expect("a String");
        }
    }
    insta::assert_snapshot!(out);
}

#[test]
fn ends_count_for_the_side_that_caused_them() {
    for reason in EndReason::ALL {
        let wanted = match reason.name() {
            "refused" => Closer::Refused,
            "reset_received" => Closer::ResetReceived,
            "timeout" | "unreachable" => Closer::TimedOut,
            "disconnected" | "killed" => Closer::ResetSent,
            name if name.starts_with("reset_sent") => Closer::ResetSent,
            _ => Closer::None,
        };
        assert_eq!(closer(reason), wanted, "{}", reason.name());
    }
}

#[test]
fn earlier_evidence_is_the_received_reset() {
    assert_eq!(Evidence::before(None), Evidence::Nothing);
    assert_eq!(Evidence::before(Some(Reset::Received)), Evidence::ResetBefore(Reset::Received));
}
