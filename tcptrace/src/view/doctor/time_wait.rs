//! Findings about TIME_WAIT: a full table, harmless TIME_WAIT, and reuse of its ports.

use super::{
    evidence::Case,
    finding::{Found, Severity},
};
use crate::{
    lifecycle::{EndReason, Role},
    model::{
        NetnsId, TcpState,
        units::{self, plural},
    },
};

/// Fewer are not worth a finding.
const MANY: u64 = 1_000;
/// Memory of one timewait socket: `sizeof(struct tcp_timewait_sock)` plus slab overhead.
pub const TIMEWAIT_BYTES: u64 = 250;

const MAX_TW_BUCKETS: &str = "net.ipv4.tcp_max_tw_buckets";
const TW_REUSE: &str = "net.ipv4.tcp_tw_reuse";

/// Finding: `tcp_max_tw_buckets` was reached.
pub fn overflow(case: &Case<'_>) -> Option<Found> {
    let grown = case.grown("TCPTimeWaitOverflow");
    let traced = case.ended(None, EndReason::Overflow);
    let counted: u64 = grown.iter().map(|(_, grown)| grown).sum();
    let &(netns, _) = grown.first()?;
    let limit = case.setting(netns, MAX_TW_BUCKETS);
    let evidence = grown
        .iter()
        .map(|&(netns, grown)| {
            let limit =
                case.setting(netns, MAX_TW_BUCKETS).map_or_else(|| "?".into(), |limit| limit.to_string());
            format!(
                "TCPTimeWaitOverflow +{}{} in {}; tcp_max_tw_buckets is {limit}",
                units::count(grown),
                case.place(netns),
                case.watched()
            )
        })
        .chain((traced > 0).then(|| {
            let overflow = plural(traced, "socket was traced", "sockets were traced");
            format!("{overflow} from FIN_WAIT2 or CLOSING straight to CLOSE, without TIME_WAIT")
        }))
        .collect();
    Some(Found {
        severity: Severity::Critical,
        title: format!(
            "{} got no TIME_WAIT: their table is full",
            plural(counted, "closed connection", "closed connections")
        ),
        evidence,
        numbers: vec![
            ("overflow_counted", counted),
            ("overflow_traced", traced),
            ("limit", limit.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(0)),
        ],
        why: "At tcp_max_tw_buckets timewait sockets in a network namespace the kernel creates no more: it closes the \
              connection at once. A lost last ACK is then answered with a RST, and an old segment may enter a new \
              connection between the same ends.",
        who: case.by_count(|group| group.ended[EndReason::Overflow as usize]),
        fix: vec![
            "In the application: keep and reuse connections, or let the other side close first.".into(),
            case.set(netns, MAX_TW_BUCKETS, default_tw_buckets(case, netns).max(262_144)),
        ],
        dont: "Do not lower tcp_max_tw_buckets to have fewer TIME_WAIT: that is what happens here.",
        verify: format!("{}   # stays constant", case.command(netns, "nstat -az TcpExtTCPTimeWaitOverflow")),
    })
}

/// The kernel's default: half the number of hash table buckets (`tcp_sk_init()`).
pub fn default_tw_buckets(case: &Case<'_>, netns: NetnsId) -> u64 {
    let setting = case.setting(netns, "net.ipv4.tcp_ehash_entries").map(i64::unsigned_abs).filter(|&n| n > 0);
    // The kernel sizes the table at one bucket per 128 KiB of memory, at most 512 Ki.
    let by_memory = || (case.snapshot.host.memory_bytes >> 17).next_power_of_two().min(512 << 10);
    setting.unwrap_or_else(by_memory) / 2
}

/// Finding: TIME_WAIT of accepted connections.
pub fn harmless(case: &Case<'_>) -> Option<Found> {
    let inbound = || case.groups_of(Role::Inbound);
    let now: u64 = inbound().map(|group| group.time_wait.now).sum();
    if now < MANY {
        return None;
    }
    let groups: Vec<_> = inbound().filter(|group| group.time_wait.now > 0).collect();
    let netns = groups.iter().max_by_key(|group| group.time_wait.now)?.netns()?;
    let limit = case.setting(netns, MAX_TW_BUCKETS).and_then(|limit| u64::try_from(limit).ok());
    let most: u64 =
        groups.iter().filter(|group| group.netns() == Some(netns)).map(|group| group.time_wait.now).sum();
    let mut evidence = vec![format!(
        "{} on the accepting side, {} of memory in all; none of them takes a local port",
        plural(now, "TIME_WAIT", "TIME_WAIT"),
        units::bytes(now * TIMEWAIT_BYTES)
    )];
    if let Some(limit) = limit.filter(|&limit| limit > 0) {
        evidence.push(format!(
            "{}% of tcp_max_tw_buckets ({}){}",
            most * 100 / limit,
            units::count(limit),
            case.place(netns)
        ));
    }
    Some(Found {
        severity: Severity::Note,
        title: format!("{} TIME_WAIT on the server side, and they are harmless", units::count(now)),
        evidence,
        numbers: vec![("time_wait", now), ("bytes", now * TIMEWAIT_BYTES), ("limit", limit.unwrap_or(0))],
        why: "This side closes first, so it keeps the TIME_WAIT: 60 s times the connections closed per second. \
              They cost memory, about 250 bytes each, and nothing else: all of them share the listener's port.",
        who: case.by_count(|group| if group.role == Role::Inbound { group.time_wait.now } else { 0 }),
        fix: vec![
            "Nothing has to be done. To have fewer: keep-alive, or let the clients close first.".into(),
        ],
        dont: "No setting shortens TIME_WAIT. Not tcp_fin_timeout, not tcp_tw_reuse (outgoing connections only), \
               not tcp_tw_recycle (removed in 4.12).",
        verify: "tcptrace top".into(),
    })
}

/// Finding: the effect of `tcp_tw_reuse` here.
pub fn reuse(case: &Case<'_>) -> Option<Found> {
    let recycled = case.grown("TWRecycled");
    let counted: u64 = recycled.iter().map(|(_, grown)| grown).sum();
    let outbound = || case.groups_of(Role::Outbound);
    let traced: u64 = outbound().map(|group| group.time_wait.ended.reused).sum();
    let held: u64 = outbound().map(|group| group.time_wait.now).sum();
    if counted > 0 || traced > 0 {
        return Some(reuse_active(case, counted, traced));
    }
    let most = outbound().max_by_key(|group| group.time_wait.now)?;
    let netns = most.netns()?;
    let value = case.setting(netns, TW_REUSE)?;
    let is_loopback = most.service.is_some_and(|(_, end)| end.addr.is_loopback());
    let title = match value {
        0 => "tcp_tw_reuse=0: a TIME_WAIT keeps its port from new connections",
        1 => "tcp_tw_reuse=1, and no port in TIME_WAIT had to be reused",
        2 if !is_loopback => "tcp_tw_reuse=2 helps on loopback only",
        _ => return None,
    };
    if held < MANY {
        return None;
    }
    // Those older than the trace have no owner, so they are another group.
    let there: u64 =
        outbound().filter(|group| group.service == most.service).map(|group| group.time_wait.now).sum();
    let fix = match value {
        1 => vec!["Nothing has to be done.".into()],
        _ => vec![
            "In the application: keep and reuse connections (a pool, keep-alive).".into(),
            format!("When ports run short: {}", case.set(netns, TW_REUSE, 1)),
        ],
    };
    Some(Found {
        severity: Severity::Note,
        title: title.into(),
        evidence: vec![format!(
            "{} of outgoing connections, {} of them to {}{}",
            plural(held, "TIME_WAIT", "TIME_WAIT"),
            units::count(there),
            most.service.map_or_else(|| most.key.clone(), |(_, end)| end.to_string()),
            case.place(netns)
        )],
        numbers: vec![("time_wait", held), ("tw_reuse", value.unsigned_abs())],
        why: REUSE,
        who: vec![case.who(most, most.time_wait.now)],
        fix,
        dont: "It is not tcp_tw_recycle, which broke clients behind NAT and was removed in 4.12.",
        verify: "tcptrace ports".into(),
    })
}

const REUSE: &str = "tcp_tw_reuse lets connect() take over a TIME_WAIT of its own side that is at least 1 s old \
                     (tcp_tw_reuse_delay), when both ends use timestamps: 0 never, 1 always, 2 on loopback only. \
                     It does nothing for accepted connections.";

fn reuse_active(case: &Case<'_>, counted: u64, traced: u64) -> Found {
    let states = |state: TcpState| case.snapshot.states[state.index()].now;
    Found {
        severity: Severity::Note,
        title: format!(
            "tcp_tw_reuse is active: connect() reused {}",
            plural(counted.max(traced), "port in TIME_WAIT", "ports in TIME_WAIT")
        ),
        evidence: vec![
            format!(
                "TWRecycled +{} in {}; traced: {} reused",
                units::count(counted),
                case.watched(),
                units::count(traced)
            ),
            format!("{} now", plural(states(TcpState::TimeWait), "TIME_WAIT", "TIME_WAIT")),
        ],
        numbers: vec![("recycled_counted", counted), ("reused_traced", traced)],
        why: REUSE,
        who: case
            .by_count(|group| if group.role == Role::Outbound { group.time_wait.ended.reused } else { 0 }),
        fix: vec!["No action needed; a connection pool would also save the handshakes.".into()],
        dont: "TWRecycled counts tcp_tw_reuse; it has nothing to do with tcp_tw_recycle.",
        verify: "tcptrace ports".into(),
    }
}
