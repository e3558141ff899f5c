//! Findings about incoming connections that find no room in a queue.

use super::{
    evidence::Case,
    finding::{Found, Severity, Who},
};
use crate::{
    aggregate::{host_counters::Queue, refused_syns::RefusedSyns, stuck_sockets::StuckSockets},
    model::{
        Endpoint, NetnsId, TcpState,
        units::{self, plural},
    },
};

/// Maximum number of listeners named in one finding.
const MOST_NAMED: usize = 3;
/// Fewer retransmitted SYN-ACKs are normal packet loss.
const MIN_SYN_ACKS: u64 = 5;
/// Fewer refused SYNs are no finding: any client may take the same port again.
const MIN_REFUSED_SYNS: u64 = 3;

/// Listeners of `netns` that were seen full, the longest queue first.
fn full<'a>(case: &Case<'a>, netns: NetnsId) -> Vec<(&'a StuckSockets, Queue)> {
    let queues = &case.snapshot.observed.queues;
    let mut full: Vec<(&StuckSockets, Queue)> = case
        .stuck(TcpState::Listen)
        .filter(|stuck| stuck.netns == netns)
        .flat_map(|stuck| stuck.oldest.iter().map(move |one| (stuck, one)))
        .filter_map(|(stuck, one)| Some((stuck, *queues.get(&one.id)?)))
        .filter(|(_, queue)| queue.was_full())
        .collect();
    full.sort_by_key(|(_, queue)| std::cmp::Reverse(queue.most));
    full
}

/// Finding: `accept()` is too slow, or the backlog too short.
pub fn accept_queue(case: &Case<'_>) -> Option<Found> {
    let grown = case.grown("ListenOverflows");
    let &(netns, _) = grown.first()?;
    let counted: u64 = grown.iter().map(|(_, grown)| grown).sum();
    let full = full(case, netns);
    let mut evidence: Vec<String> = grown
        .iter()
        .map(|&(netns, grown)| {
            format!("ListenOverflows +{}{} in {}", units::count(grown), case.place(netns), case.watched())
        })
        .collect();
    evidence.extend(full.iter().take(MOST_NAMED).map(|(stuck, queue)| {
        format!(
            "{}: {} waiting for accept(), its backlog is {}",
            stuck.service,
            units::count(queue.most.into()),
            units::count(queue.limit.into())
        )
    }));
    if full.is_empty() {
        evidence.push("no poll (one per second) found a full listener: the overflow was short".into());
    }
    let who: Vec<Who> = full
        .iter()
        .take(MOST_NAMED)
        .map(|(stuck, queue)| Who {
            oldest: None,
            at_least: None,
            ..case.stuck_owner(stuck, queue.most.into())
        })
        .collect();
    let limit = full.first().map(|(_, queue)| i64::from(queue.limit));
    let somaxconn = case.setting(netns, "net.core.somaxconn");
    let mut fix = vec![
        "In the application: accept() faster (more threads or workers; nothing slow between two calls), and \
         listen() with a longer backlog."
            .to_owned(),
    ];
    if somaxconn.is_some() && (limit.is_none() || limit == somaxconn) {
        let wider = somaxconn.unwrap_or(0).saturating_mul(4).max(4_096);
        fix.push(format!(
            "somaxconn caps the backlog; set it, then restart the listener: {}",
            case.set(netns, "net.core.somaxconn", wider)
        ));
    }
    Some(Found {
        severity: Severity::Critical,
        title: format!("accept queue overflow: {} dropped", plural(counted, "SYN or ACK", "SYNs and ACKs")),
        evidence,
        numbers: vec![
            ("overflows", counted),
            ("queue", full.first().map_or(0, |(_, queue)| queue.most.into())),
            ("backlog", full.first().map_or(0, |(_, queue)| queue.limit.into())),
        ],
        why: "Connections whose handshake is done wait in the listener's accept queue until the process takes them. \
              When it is full (backlog + 1) the kernel drops SYNs and last ACKs; clients try again after 1, 3, 7 s.",
        who,
        fix,
        dont: "Do not raise tcp_max_syn_backlog for this: it is about the SYN queue. Leave tcp_abort_on_overflow 0.",
        verify: format!("{}   # stays constant", case.command(netns, "nstat -az TcpExtListenOverflows")),
    })
}

/// Finding: SYNs arrive faster than handshakes complete.
pub fn syn_queue(case: &Case<'_>) -> Option<Found> {
    let sent = case.grown("SyncookiesSent");
    let dropped = case.grown("TCPReqQFullDrop");
    let &(netns, _) = sent.first().or(dropped.first())?;
    let total = |grown: &[(NetnsId, u64)]| grown.iter().map(|(_, grown)| grown).sum::<u64>();
    let (cookies, drops) = (total(&sent), total(&dropped));
    let (received, failed) = (total(&case.grown("SyncookiesRecv")), total(&case.grown("SyncookiesFailed")));
    let always = case.setting(netns, "net.ipv4.tcp_syncookies") == Some(2);
    let title = match (always, cookies) {
        (true, _) => "syncookies are always on (tcp_syncookies=2), which is for tests".to_owned(),
        (false, 0) => format!("SYN queue overflow: {} dropped", plural(drops, "SYN", "SYNs")),
        (false, _) => {
            format!("SYN queue overflow: {} answered with a cookie", plural(cookies, "SYN", "SYNs"))
        }
    };
    let fix = if always {
        vec![case.set(netns, "net.ipv4.tcp_syncookies", 1)]
    } else {
        vec![
            "Check whether they are real clients: SyncookiesRecv near SyncookiesSent is load, far below it is a \
             flood.".into(),
            "Load: in the application a longer backlog, which is the limit of the SYN queue as well (with \
             somaxconn and tcp_max_syn_backlog above it). Flood: filter upstream."
                .into(),
            case.set(netns, "net.ipv4.tcp_syncookies", 1),
        ]
    };
    Some(Found {
        severity: Severity::Warning,
        title,
        evidence: vec![
            format!(
                "SyncookiesSent +{}, SyncookiesRecv +{}, SyncookiesFailed +{}, TCPReqQFullDrop +{}{}",
                units::count(cookies),
                units::count(received),
                units::count(failed),
                units::count(drops),
                case.place(netns)
            ),
            format!(
                "{} in SYN_RECV {}",
                plural(case.snapshot.states[TcpState::SynRecv.index()].now, "handshake", "handshakes"),
                case.when()
            ),
        ],
        numbers: vec![
            ("cookies_sent", cookies),
            ("cookies_received", received),
            ("cookies_failed", failed),
            ("syns_dropped", drops),
        ],
        why: "More handshakes wait for their last ACK than the listener's backlog. With tcp_syncookies=1 the kernel \
              answers without remembering: the connection works, with fewer TCP options.",
        who: again(case),
        fix,
        dont: "Do not set tcp_syncookies=0. A cookie is a last resort, no capacity: do not live with it.",
        verify: format!("{}   # stay constant", case.command(netns, "nstat -az 'TcpExtSyncookies*'")),
    })
}

/// Finding: SYN-ACKs that are not acknowledged.
pub fn syn_acks(case: &Case<'_>) -> Option<Found> {
    let again: u64 = case.snapshot.observed.synacks_again.values().sum();
    if again < MIN_SYN_ACKS {
        return None;
    }
    let who = self::again(case);
    Some(Found {
        severity: Severity::Warning,
        title: format!("{} sent again: the last ACK does not come", plural(again, "SYN-ACK was", "SYN-ACKs were")),
        evidence: vec![
            format!("{} in {}", plural(again, "SYN-ACK sent again", "SYN-ACKs sent again"), case.watched()),
            format!("{} in SYN_RECV {}", plural(case.snapshot.states[TcpState::SynRecv.index()].now, "handshake", "handshakes"), case.when()),
        ],
        numbers: vec![("synacks_again", again)],
        why: "A SYN came and its SYN-ACK was not answered within 1, 3, 7 s: the return path is lossy or filtered, the \
              source was forged (a flood), or the last ACK met a full accept queue.",
        who,
        fix: vec![
            "If accept queue overflow is found too: that first.".into(),
            "Else check the return path to these clients: asymmetric routes, stateful firewalls, forged sources.".into(),
        ],
        dont: "Lowering tcp_synack_retries only gives up on slow clients sooner.",
        verify: "tcptrace hist --state syn-recv".into(),
    })
}

/// Finding: SYNs that a TIME_WAIT refused.
pub fn syns_at_time_wait(case: &Case<'_>) -> Option<Found> {
    let mut refused: Vec<_> = case.snapshot.observed.refused_syns().collect();
    refused.sort_by_key(|(_, _, refused)| std::cmp::Reverse(refused.syns));
    let sum = |count: fn(&RefusedSyns) -> u64| -> u64 { refused.iter().map(|(_, _, of)| count(of)).sum() };
    let (syns, connects, accepted) = (sum(|of| of.syns), sum(|of| of.connects), sum(|of| of.accepted));
    if syns < MIN_REFUSED_SYNS {
        return None;
    }
    let stall = refused.iter().map(|(_, _, of)| of.longest_stall).max()?;
    // Before about 6.16 the kernel counts both in PAWSEstab.
    let grown = |name: &str| case.grown(name).iter().map(|(_, grown)| grown).sum::<u64>();
    let older = format!(
        "older timestamps, by the kernel's counters: PAWSTimewait +{}, PAWSEstab +{}",
        units::count(grown("PAWSTimewait")),
        units::count(grown("PAWSEstab"))
    );
    let later = match accepted {
        0 => "none of these was accepted so far".into(),
        n => format!("{} accepted later, after {} at most", units::count(n), units::duration(stall)),
    };
    let line = |(netns, local, of): &(NetnsId, Endpoint, RefusedSyns)| {
        format!("{local}{}: {}, the latest of {}", case.place(*netns), units::count(of.syns), of.peer)
    };
    let mut evidence = vec![
        format!("{} in {}; {later}", plural(connects, "connect met one", "connects met one"), case.watched()),
        older,
    ];
    evidence.extend(refused.iter().take(MOST_NAMED).map(line));
    Some(Found {
        severity: Severity::Warning,
        title: format!("{} refused because of a TIME_WAIT", plural(syns, "SYN was", "SYNs were")),
        evidence,
        numbers: vec![
            ("syns", syns),
            ("connects", connects),
            ("accepted", accepted),
            ("longest_stall_ns", stall.0),
        ],
        why: "The client took a port again whose last connection is still in TIME_WAIT here. The kernel reopens \
              it for a newer timestamp or a higher sequence number only; else it answers with an ACK or drops \
              the SYN, and the client sends it again after 1, 2, 3, 4, 5, 7 s and so on (before Linux 6.5: 1, 3, \
              7 s). Clients behind one NAT address share its ports and not their timestamps; a load balancer \
              with few source ports comes back to each within 60 s.",
        who: refused
            .iter()
            .take(MOST_NAMED)
            .map(|&(netns, local, of)| listening(case, netns, local, of.syns))
            .collect(),
        fix: vec![
            "Let the clients close first, with keep-alive on this side: the TIME_WAIT is theirs then, and they \
             skip its port."
                .into(),
            "NAT or balancer in front: more source addresses, or connections that it keeps; TCP timestamps on at \
             all of its clients, or at none."
                .into(),
        ],
        dont: "Not tcp_tw_recycle (removed): it refused such SYNs for every connection. tcp_tw_reuse changes \
               nothing for accepted ones.",
        verify: format!(
            "{}   # stay constant",
            case.command(refused[0].0, "nstat -az TcpExtPAWSTimewait TcpExtPAWSEstab")
        ),
    })
}

/// Listeners that retransmitted SYN-ACKs, the most first.
fn again(case: &Case<'_>) -> Vec<Who> {
    let mut again: Vec<_> = case.snapshot.observed.synacks_again.iter().collect();
    again.sort_by_key(|&(_, count)| std::cmp::Reverse(*count));
    let again = again.iter().take(MOST_NAMED);
    again.map(|&(&(netns, local), &count)| listening(case, netns, local, count)).collect()
}

/// The owner of the listener at `local`.
fn listening(case: &Case<'_>, netns: NetnsId, local: Endpoint, count: u64) -> Who {
    let listener = case.stuck(TcpState::Listen).find(|stuck| {
        stuck.netns == netns
            && stuck.service.port == local.port
            && (stuck.service.addr == local.addr || stuck.service.addr.is_any())
    });
    let known = listener.map(|stuck| Who { oldest: None, at_least: None, ..case.stuck_owner(stuck, count) });
    known.unwrap_or_else(|| Who {
        netns: case.name(netns),
        service: local.to_string(),
        count,
        ..Who::default()
    })
}
