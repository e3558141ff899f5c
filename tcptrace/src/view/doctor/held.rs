//! Sockets that wait for a `close()` on one side or the other.

use super::{Found, Severity, case::Case};
use crate::{
    aggregate::standing::{self, One, Standing},
    model::{
        TcpState,
        units::{self, plural},
    },
};

/// So many CLOSE_WAIT that nobody closes are no accident.
const MANY_LEAKED: u64 = 100;
/// Orphans in FIN_WAIT2: fewer are no pile.
const MANY_ORPHANS: u64 = 200;

/// Sockets in `state` that are old.
fn old<'a>(case: &Case<'a>, state: TcpState) -> (u64, Vec<&'a Standing>) {
    let old: Vec<_> = case.standing(state).filter(|standing| standing.old > 0).collect();
    (old.iter().map(|standing| standing.old).sum(), old)
}

/// One line for each of the oldest: ends, age, descriptor.
fn lines(case: &Case<'_>, old: &[&Standing]) -> Vec<String> {
    const MOST: usize = 3;
    let mut oldest: Vec<_> = old.iter().flat_map(|standing| &standing.oldest).collect();
    oldest.sort_by_key(|one| std::cmp::Reverse(one.age));
    let line = |one: &&&One| {
        let fd = case.snapshot.observed.descriptors.get(&one.id);
        let fd = fd.map(|fd| format!(", descriptor {fd}")).unwrap_or_default();
        let bound = if one.at_least { ">= " } else { "" };
        format!("{} <- {} for {bound}{}{fd}", one.local, one.remote, units::duration(one.age))
    };
    oldest.iter().take(MOST).map(|one| line(&one)).collect()
}

/// The peer has closed, our process has not.
pub fn close_wait(case: &Case<'_>) -> Option<Found> {
    let (count, old) = old(case, TcpState::CloseWait);
    if count == 0 {
        return None;
    }
    let all: u64 = case.standing(TcpState::CloseWait).map(|standing| standing.count).sum();
    let mut evidence = vec![format!(
        "{} of {} CLOSE_WAIT did not move in the last {}",
        units::count(count),
        units::count(all),
        patience(case)
    )];
    evidence.extend(lines(case, &old));
    let who = case.most_standing(&old, |standing| standing.old);
    let pid = who.first().and_then(|who| who.pid).map_or_else(|| "PID".into(), |pid| pid.to_string());
    Some(Found {
        severity: if count >= MANY_LEAKED { Severity::Critical } else { Severity::Warning },
        title: format!("{} that the process forgot to close (CLOSE_WAIT)", plural(count, "connection", "connections")),
        evidence,
        numbers: vec![("old", count), ("close_wait", all)],
        why: "The peer has sent its FIN, so read() returns 0; the kernel waits for our close() without a limit in \
              time. Each leaks a descriptor and memory, until accept() or open() fails with EMFILE.",
        who,
        fix: vec![
            "In the application: close() the socket when read() returns 0 or fails, on every path, errors and \
             timeouts included. Look at pools that keep dead connections."
                .into(),
            format!("Until then: restart it; which descriptors: ls -l /proc/{pid}/fd"),
        ],
        dont: "No setting helps: not tcp_keepalive_time (the peer's host still answers), not tcp_fin_timeout.",
        verify: "tcptrace top --state close-wait   # CW-AGE stays short".into(),
    })
}

/// Our process has shut down its side and waits for the peer.
pub fn fin_wait2(case: &Case<'_>) -> Option<Found> {
    let (count, old) = old(case, TcpState::FinWait2);
    if count == 0 {
        return None;
    }
    let mut evidence = vec![format!(
        "{} held by a process for {} or longer",
        plural(count, "FIN_WAIT2 is", "FIN_WAIT2 are"),
        patience(case)
    )];
    evidence.extend(lines(case, &old));
    Some(Found {
        severity: Severity::Warning,
        title: format!(
            "{} half-closed and never finished (held FIN_WAIT2)",
            plural(count, "connection", "connections")
        ),
        evidence,
        numbers: vec![("old", count)],
        why: "The process called shutdown() for writing and keeps the socket; the peer does not close. While a \
              process holds the socket the kernel sets no limit in time.",
        who: case.most_standing(&old, |standing| standing.old),
        fix: vec![
            "In the application: after shutdown(), read to the end with a timeout of its own, then close()."
                .into(),
            "At the peer: close when read() returns 0 (it has as many CLOSE_WAIT).".into(),
        ],
        dont: "tcp_fin_timeout does nothing here: it is for sockets without a process.",
        verify: "tcptrace top --state fin-wait2   # held goes down".into(),
    })
}

/// Closed here, not by the peer, and nobody holds them.
pub fn orphans(case: &Case<'_>) -> Option<Found> {
    let orphans: u64 = case.snapshot.groups.iter().map(|group| group.fin_wait2_orphan).sum();
    if orphans < MANY_ORPHANS {
        return None;
    }
    let most = case.snapshot.groups.iter().max_by_key(|group| group.fin_wait2_orphan)?;
    let netns = most.netns()?;
    let timeout = case.setting(netns, "net.ipv4.tcp_fin_timeout").unwrap_or(60);
    Some(Found {
        severity: Severity::Warning,
        title: format!("{} orphans in FIN_WAIT2: the peers are slow to close", units::count(orphans)),
        evidence: vec![
            format!(
                "{} FIN_WAIT2 without a process, each for up to {timeout} s (tcp_fin_timeout)",
                units::count(orphans)
            ),
            format!("they count against tcp_max_tw_buckets, as TIME_WAIT does{}", case.place(netns)),
        ],
        numbers: vec![("orphans", orphans), ("fin_timeout_s", timeout.unsigned_abs())],
        why: "This side has closed, the peer has acknowledged it and has not closed. The kernel waits \
              tcp_fin_timeout for its FIN; after that a late one is answered with a RST.",
        who: case.by_count(|group| group.fin_wait2_orphan),
        fix: vec![
            "At the peer: close when read() returns 0; it has as many CLOSE_WAIT.".into(),
            format!("If the peer can't be changed: {}", case.set(netns, "net.ipv4.tcp_fin_timeout", 15)),
        ],
        dont: "Do not expect fewer TIME_WAIT of it: tcp_fin_timeout bounds these orphans only.",
        verify: "tcptrace hist --state fin-wait2   # split: orphan".into(),
    })
}

/// How long a socket must have waited to be told of.
fn patience(case: &Case<'_>) -> String {
    units::duration(standing::old(case.snapshot.ts.since(case.snapshot.began)))
}
