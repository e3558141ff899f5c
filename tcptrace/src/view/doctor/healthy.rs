//! Lists the numbers that show that nothing is wrong.

use super::evidence::Case;
use crate::{
    aggregate::Snapshot,
    lifecycle::EndReason,
    model::{
        TcpState,
        units::{self, plural},
    },
};

/// One sentence per check.
pub fn reasons(snapshot: &Snapshot) -> Vec<String> {
    let case = Case::new(snapshot);
    let now = |state: TcpState| snapshot.states[state.index()].now;
    let grown = |name: &str| case.grown(name).iter().map(|(_, grown)| grown).sum::<u64>();
    let fullest = case
        .polled_netns()
        .filter_map(|(netns, surroundings)| {
            let limit = u64::try_from(surroundings.number("net.ipv4.tcp_max_tw_buckets")?).ok()?;
            Some((surroundings.now("sockstat.tw")?, limit, netns))
        })
        .filter(|&(_, limit, _)| limit > 0)
        .max_by_key(|&(used, limit, _)| used * 1_000 / limit);
    let mut reasons = vec![format!(
        "{} and {} in {}, {} traced in {}",
        plural(now(TcpState::Established), "connection", "connections"),
        plural(now(TcpState::TimeWait), "TIME_WAIT", "TIME_WAIT"),
        plural(snapshot.observed.netns.len() as u64, "network namespace", "network namespaces"),
        plural(snapshot.records, "change", "changes"),
        case.watched(),
    )];
    if let Some((used, limit, netns)) = fullest {
        reasons.push(format!(
            "TIME_WAIT table: {} of {} used{}, overflow +{}",
            units::count(used),
            units::count(limit),
            case.place(netns),
            grown("TCPTimeWaitOverflow")
        ));
    }
    let old = |state: TcpState| case.stuck(state).map(|stuck| stuck.old).sum::<u64>();
    reasons.push(format!(
        "CLOSE_WAIT: {}, {} of them old; held FIN_WAIT2: {} old",
        units::count(now(TcpState::CloseWait)),
        units::count(old(TcpState::CloseWait)),
        units::count(old(TcpState::FinWait2))
    ));
    reasons.push(format!(
        "accept queues: {}, ListenOverflows +{}; SYN queues: SyncookiesSent +{}",
        plural(now(TcpState::Listen), "listener", "listeners"),
        grown("ListenOverflows"),
        grown("SyncookiesSent")
    ));
    let failures: u64 = snapshot.ports.destinations.iter().map(|ports| ports.connect_failures).sum();
    reasons.push(format!(
        "connects: {} found no port, {} refused, {} without an answer now",
        units::count(failures),
        units::count(case.ended(None, EndReason::Refused)),
        units::count(now(TcpState::SynSent))
    ));
    reasons
}
