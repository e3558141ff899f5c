//! Findings about connections that end without two FINs, and about those that are never established.

use super::{
    evidence::Case,
    finding::{Found, Severity},
};
use crate::{
    lifecycle::EndReason,
    model::{
        Nanos, TcpState,
        units::{self, plural},
    },
};

/// Fewer are treated as accidents.
const FEW: u64 = 5;
/// The first retransmission timeout of a SYN.
const SYN_TIMEOUT: Nanos = Nanos::SECOND;

/// Sum of the counter's growth over all namespaces, as `TCPAbortOnClose +12`.
fn counter(case: &Case<'_>, name: &str) -> String {
    let grown: u64 = case.grown(name).iter().map(|(_, grown)| grown).sum();
    format!("{name} +{}", units::count(grown))
}

/// Finding: `close()` with unread data.
pub fn unread_data(case: &Case<'_>) -> Option<Found> {
    let traced = case.ended(None, EndReason::ResetSentUnread);
    if traced < FEW {
        return None;
    }
    Some(Found {
        severity: Severity::Warning,
        title: format!("{} closed with data unread: a RST instead of a FIN", plural(traced, "connection was", "connections were")),
        evidence: vec![format!("traced: {}; the kernel's {}", units::count(traced), counter(case, "TCPAbortOnClose"))],
        numbers: vec![("traced", traced)],
        why: "close() while received data waits unread sends a RST: the peer then also discards data still in flight \
              to it, answers included. There is no TIME_WAIT.",
        who: case.by_count(|group| group.ended[EndReason::ResetSentUnread as usize]),
        fix: vec![
            "In the application: read to the end (until read() returns 0) before close(); a server that refuses a \
             request shuts down its side first and drains the rest."
                .into(),
        ],
        dont: "The missing TIME_WAIT is no benefit: clients see \"connection reset by peer\".",
        verify: "tcptrace events   # no reset_sent_unread".into(),
    })
}

/// Finding: `SO_LINGER` with a time of 0.
pub fn linger_zero(case: &Case<'_>) -> Option<Found> {
    let traced = case.ended(None, EndReason::ResetSentLinger);
    if traced < FEW {
        return None;
    }
    Some(Found {
        severity: Severity::Note,
        title: format!(
            "{} aborted on purpose (SO_LINGER 0)",
            plural(traced, "connection was", "connections were")
        ),
        evidence: vec![format!(
            "traced: {}; the kernel's {}",
            units::count(traced),
            counter(case, "TCPAbortOnData")
        )],
        numbers: vec![("traced", traced)],
        why: "With SO_LINGER and a time of 0 close() sends a RST and skips TIME_WAIT. Data not yet delivered is lost, \
              and old segments may enter a new connection between the same ends.",
        who: case.by_count(|group| group.ended[EndReason::ResetSentLinger as usize]),
        fix: vec![
            "In the application: leave SO_LINGER alone; health checks and load tests may use it.".into(),
        ],
        dont: "Do not use it to get rid of TIME_WAIT where data matters.",
        verify: "tcptrace events   # no reset_sent_linger".into(),
    })
}

/// Finding: RSTs received. Where both ends are on this host, it follows from why the other end sent them.
pub fn peer_resets(case: &Case<'_>) -> Option<Found> {
    let traced = case.ended(None, EndReason::ResetReceived);
    if traced < FEW {
        return None;
    }
    Some(Found {
        severity: Severity::Note,
        title: format!("{} reset by the peer", plural(traced, "connection was", "connections were")),
        evidence: vec![format!("traced: {} ended by a RST in {}", units::count(traced), case.watched())],
        numbers: vec![("traced", traced)],
        why: "A RST came instead of a FIN: the peer closed with data unread or aborted, its host restarted, or a load \
              balancer, firewall or NAT on the way no longer knew the connection.",
        who: case.by_count(|group| group.ended[EndReason::ResetReceived as usize]),
        fix: vec![
            "On the peer's host: tcptrace events shows why it sends them (reset_sent_*, killed).".into(),
            "If the connections were idle: keep them alive, or end them, before the idle timeout of what is on the way.".into(),
        ],
        dont: "Do not retry blindly: a request may have been carried out before the RST.",
        verify: "tcptrace events   # no reset_received".into(),
    })
}

/// Finding: `connect()` without an answer.
pub fn unanswered(case: &Case<'_>) -> Option<Found> {
    let waiting: Vec<_> = case
        .stuck(TcpState::SynSent)
        .filter(|stuck| stuck.oldest.first().is_some_and(|one| one.age >= SYN_TIMEOUT))
        .collect();
    let waiting_now: u64 = waiting.iter().map(|stuck| stuck.count).sum();
    let ended = |reason: EndReason| -> u64 {
        case.snapshot.groups.iter().map(|group| group.connects_ended[reason as usize]).sum()
    };
    let (timed_out, given_up) = (ended(EndReason::Timeout), ended(EndReason::Abandoned));
    if waiting_now + timed_out + given_up == 0 {
        return None;
    }
    let mut who = case.top_stuck_owners(&waiting, |stuck| stuck.count);
    if who.is_empty() {
        who = case.by_count(|group| {
            group.connects_ended[EndReason::Timeout as usize]
                + group.connects_ended[EndReason::Abandoned as usize]
        });
    }
    let to = who.first().map(|who| who.service.clone()).unwrap_or_default();
    Some(Found {
        severity: Severity::Warning,
        title: format!("connects without an answer: {to}"),
        evidence: vec![
            format!("{} for a second or longer now", plural(waiting_now, "connect waits", "connects wait")),
            format!(
                "in {}: {} timed out, {} given up by the process; {}",
                case.watched(),
                units::count(timed_out),
                units::count(given_up),
                counter(case, "TCPSynRetrans")
            ),
        ],
        numbers: vec![("waiting", waiting_now), ("timed_out", timed_out), ("given_up", given_up)],
        why: "The SYN is sent and nothing comes back: host down, a firewall that drops, or a full accept queue over \
              there. The kernel tries for about two minutes (tcp_syn_retries=6).",
        who,
        fix: vec![
            "In the application: a connect timeout of its own, and another destination after it.".into(),
            "Network: is the host up, does a firewall drop? On the other host: tcptrace doctor (accept queue).".into(),
        ],
        dont: "Do not lower tcp_syn_retries for all sockets because of one destination; TCP_SYNCNT sets one socket.",
        verify: "tcptrace top --state syn-sent".into(),
    })
}

/// Finding: `connect()` answered with a RST.
pub fn refused(case: &Case<'_>) -> Option<Found> {
    let traced = case.ended(None, EndReason::Refused);
    if traced == 0 {
        return None;
    }
    let who = case.by_count(|group| group.ended[EndReason::Refused as usize]);
    let to = who.first().map(|who| who.service.clone()).unwrap_or_default();
    Some(Found {
        severity: if traced >= FEW { Severity::Warning } else { Severity::Note },
        title: format!("{} refused, most by {to}", plural(traced, "connect was", "connects were")),
        evidence: vec![format!(
            "traced in {}: {}; {}",
            case.watched(),
            units::count(traced),
            counter(case, "AttemptFails")
        )],
        numbers: vec![("traced", traced)],
        why: "The peer answered the SYN with a RST: no process listens on that port, or a firewall rejects it.",
        who,
        fix: vec![
            "Check on the other host that the service listens on that address and port: ss -tln".into(),
            "In the application: wait longer after each failure instead of trying in a loop.".into(),
        ],
        dont: "No setting of this host changes it.",
        verify: "tcptrace events   # no refused".into(),
    })
}
