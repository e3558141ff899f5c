//! Findings about sockets that wait for a `close()`, here or at the peer.

use super::{
    evidence::Case,
    finding::{Found, Severity},
};
use crate::{
    aggregate::stuck_sockets::{self, One, StuckSockets},
    model::{
        TcpState,
        units::{self, plural},
    },
};

/// From this many old CLOSE_WAIT sockets on, the finding is critical.
const CRITICAL_LEAKED: u64 = 100;
/// Fewer orphans in FIN_WAIT2 are no finding.
const MANY_ORPHANS: u64 = 200;

/// Number of old sockets in `state`, and their rows.
fn old<'a>(case: &Case<'a>, state: TcpState) -> (u64, Vec<&'a StuckSockets>) {
    let old: Vec<_> = case.stuck(state).filter(|stuck| stuck.old > 0).collect();
    (old.iter().map(|stuck| stuck.old).sum(), old)
}

/// One line for each of the oldest sockets: ends, age, descriptor.
fn lines(case: &Case<'_>, old: &[&StuckSockets]) -> Vec<String> {
    const MOST: usize = 3;
    let mut oldest: Vec<_> = old.iter().flat_map(|stuck| &stuck.oldest).collect();
    oldest.sort_by_key(|one| std::cmp::Reverse(one.age));
    let line = |one: &&&One| {
        let fd = case.snapshot.observed.descriptors.get(&one.id);
        let fd = fd.map(|fd| format!(", descriptor {fd}")).unwrap_or_default();
        let bound = if one.at_least { ">= " } else { "" };
        format!("{} <- {} for {bound}{}{fd}", one.local, case.remote(one.remote), units::duration(one.age))
    };
    oldest.iter().take(MOST).map(|one| line(&one)).collect()
}

/// Finding: the peer has closed, our process has not.
pub fn close_wait(case: &Case<'_>) -> Option<Found> {
    let (count, old) = old(case, TcpState::CloseWait);
    if count == 0 {
        return None;
    }
    let all: u64 = case.stuck(TcpState::CloseWait).map(|stuck| stuck.count).sum();
    let mut evidence = vec![format!(
        "{} of {} CLOSE_WAIT did not change state in the last {}",
        units::count(count),
        units::count(all),
        patience(case)
    )];
    evidence.extend(lines(case, &old));
    evidence.extend(case.code_of_close_wait());
    let who = case.top_stuck_owners(&old, |stuck| stuck.old);
    let pid = who.first().and_then(|who| who.pid).map_or_else(|| "PID".into(), |pid| pid.to_string());
    Some(Found {
        severity: if count >= CRITICAL_LEAKED { Severity::Critical } else { Severity::Warning },
        title: format!("{} not closed by the process (CLOSE_WAIT)", plural(count, "connection", "connections")),
        evidence,
        numbers: vec![("old", count), ("close_wait", all)],
        why: "The peer has sent its FIN, so read() returns 0; the kernel waits for our close() without a limit in \
              time. Each leaks a descriptor and memory, until accept() or open() fails with EMFILE.",
        who,
        fix: vec![
            "In the application: close() the socket when read() returns 0 or fails, on every path, errors and \
             timeouts included. Check pools that keep dead connections."
                .into(),
            format!("Until then: restart it; which descriptors: ls -l /proc/{pid}/fd"),
        ],
        dont: "No setting helps: not tcp_keepalive_time (the peer's host still answers), not tcp_fin_timeout.",
        verify: "tcptrace top --state close-wait   # CW-AGE stays short".into(),
    })
}

/// Finding: our process has shut down its side and waits for the peer.
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
        who: case.top_stuck_owners(&old, |stuck| stuck.old),
        fix: vec![
            "In the application: after shutdown(), read to the end with a timeout of its own, then close()."
                .into(),
            "At the peer: close when read() returns 0 (it has as many CLOSE_WAIT).".into(),
        ],
        dont: "tcp_fin_timeout does nothing here: it is for sockets without a process.",
        verify: "tcptrace top --state fin-wait2   # held goes down".into(),
    })
}

/// Finding: closed here, not by the peer, and held by no process.
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

/// The age from which a socket counts as old, in words.
fn patience(case: &Case<'_>) -> String {
    units::duration(stuck_sockets::old(case.snapshot.ts.since(case.snapshot.began)))
}
