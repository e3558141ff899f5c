//! Insight line: the most important finding of a snapshot as one sentence. [`RULES`] gives the order.

use crate::{
    aggregate::{DestinationPorts, Group, Snapshot},
    lifecycle::{Bound, Closer, EndReason, Role},
    model::{Nanos, TcpState, record::Process, units},
    view::{doctor::TIMEWAIT_BYTES, losses::losses},
};

/// Severity of an insight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsightSeverity {
    /// Something breaks or is wrong.
    Alarm,
    /// Something gets worse.
    Warning,
    /// Worth knowing.
    Note,
    /// No finding.
    Calm,
}

/// One finding about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insight {
    /// Severity of an insight.
    pub severity: InsightSeverity,
    /// The sentence, sanitised.
    pub text: String,
    /// Index of the group it names.
    pub group: Option<usize>,
}

/// A rule that may produce a finding.
type Rule = fn(&Snapshot) -> Option<Insight>;

/// All rules, most important first.
const RULES: [Rule; 6] = [exhausted, lost, leaked, held, overflown, growing];

/// The most important finding of `snapshot`.
pub fn of(snapshot: &Snapshot) -> Insight {
    RULES.iter().find_map(|rule| rule(snapshot)).unwrap_or_else(|| Insight {
        severity: InsightSeverity::Calm,
        text: harmless(snapshot),
        group: None,
    })
}

/// Counts are doubtful if more than one record in this many is lost.
const LOSS_TOLERANCE: u64 = 1_000;
/// A CLOSE_WAIT at least this old counts as leaked.
const FORGOTTEN: Nanos = Nanos(10_000_000_000);
/// Servers normally have fewer half-closed sockets than this.
const MIN_HELD_SOCKETS: u64 = 10;
/// TIME_WAIT growth below this rate is noise.
const MIN_GROWTH_PER_S: f64 = 1.0;

fn exhausted(snapshot: &Snapshot) -> Option<Insight> {
    // The list is sorted: the destination that runs out first comes first.
    let (ports, left) =
        snapshot.ports.destinations.iter().find_map(|ports| Some((ports, ports.runs_out_soon()?)))?;
    let is_it =
        |group: &Group| group.role == Role::Outbound && group.service == Some((ports.netns, ports.remote));
    let row = snapshot.groups.iter().position(is_it);
    let when = match left {
        Nanos(0) => "has no local port left".to_owned(),
        left => format!("runs out of local ports {}", units::in_time(left)),
    };
    let who = ports.processes.first().map_or_else(|| "an unknown process".into(), named);
    let opens = units::rate(ports.entered_per_s);
    let closer = row.and_then(|row| snapshot.groups[row].main_closer()).map(|(closer, _)| closer);
    let and = match closer {
        Some(Closer::Local) => " and closes first",
        Some(Closer::Remote) => "; the peer closes first",
        _ => "",
    };
    let failures = match ports.connect_failures {
        0 => String::new(),
        n => format!(" {} connects failed for it.", units::count(n)),
    };
    Some(Insight {
        severity: InsightSeverity::Alarm,
        text: format!("{} {when}: {who} opens {opens} connections/s{and}.{failures}", ports.remote),
        group: row,
    })
}

fn lost(snapshot: &Snapshot) -> Option<Insight> {
    let lost = snapshot.losses.total() - snapshot.losses.healed;
    if lost.saturating_mul(LOSS_TOLERANCE) <= snapshot.records {
        return None;
    }
    let what = losses(&snapshot.losses)?;
    Some(Insight {
        severity: InsightSeverity::Alarm,
        text: format!("Counts may be off: {what}, of {} records.", units::count(snapshot.records)),
        group: None,
    })
}

fn leaked(snapshot: &Snapshot) -> Option<Insight> {
    let age = |group: &Group| group.oldest_close_wait.and_then(|since| since.age(snapshot.ts));
    let (row, group) = most(snapshot, |group| {
        let count = group.counts[TcpState::CloseWait.index()];
        if age(group).is_some_and(|age| age.length >= FORGOTTEN) { count } else { 0 }
    })?;
    let count = group.counts[TcpState::CloseWait.index()];
    let sockets = if count == 1 { "a socket".to_owned() } else { format!("{} sockets", units::count(count)) };
    let age = age(group)?;
    let at_least = if age.bound == Bound::Exact { "" } else { "at least " };
    let age = format!("{at_least}{}", units::duration(age.length));
    let oldest = if count == 1 { "" } else { "the oldest " };
    let text = match &group.close_wait_owner {
        Some(owner) if count == 1 || group.other_processes == 0 => format!(
            "{} leaves {sockets} in CLOSE_WAIT, {oldest}for {age}: the peer closed, it has not called close().",
            named(owner)
        ),
        // The owners of the other sockets are unknown here.
        Some(owner) => format!(
            "{sockets} of {} in CLOSE_WAIT, the oldest, of {}, for {age}: the peer closed, it has not called close().",
            group.named_key(&snapshot.peer_names),
            named(owner)
        ),
        None => format!(
            "{sockets} of {} in CLOSE_WAIT, {oldest}for {age}: the peer closed, an unknown process has not.",
            group.named_key(&snapshot.peer_names)
        ),
    };
    Some(Insight { severity: InsightSeverity::Warning, text, group: Some(row) })
}

fn held(snapshot: &Snapshot) -> Option<Insight> {
    let (row, group) = most(snapshot, Group::fin_wait2_held)?;
    let count = group.fin_wait2_held();
    (count >= MIN_HELD_SOCKETS).then(|| Insight {
        severity: InsightSeverity::Warning,
        text: format!(
            "{} holds {} half-closed sockets (FIN_WAIT2): it shut its side down and waits for the peer, without limit.",
            process(group).unwrap_or_else(|| group.named_key(&snapshot.peer_names).into_owned()),
            units::count(count)
        ),
        group: Some(row),
    })
}

fn overflown(snapshot: &Snapshot) -> Option<Insight> {
    let (row, group) = most(snapshot, |group| group.ended[EndReason::Overflow as usize])?;
    Some(Insight {
        severity: InsightSeverity::Alarm,
        text: format!(
            "{} connections of {} ended without TIME_WAIT: tcp_max_tw_buckets is reached.",
            units::count(group.ended[EndReason::Overflow as usize]),
            group.named_key(&snapshot.peer_names)
        ),
        group: Some(row),
    })
}

fn growing(snapshot: &Snapshot) -> Option<Insight> {
    let growth = growth_per_s(snapshot, TcpState::TimeWait)?;
    if growth < MIN_GROWTH_PER_S {
        return None;
    }
    let (row, group) = most(snapshot, |group| (group.time_wait.entered_per_s * 10.0) as u64)?;
    let who = match group.main_closer() {
        Some((Closer::Local, _)) => match (&group.process, group.other_processes) {
            (Some(process), 0) => format!("{} closes first", named(process)),
            (Some(process), _) => format!("this side closes first, {} and others", named(process)),
            (None, _) => "this side closes first".into(),
        },
        Some((Closer::Remote, _)) => "the peer closes first".into(),
        _ => "who closes first is not clear yet".into(),
    };
    let meaning = match group.role {
        Role::Inbound => " On a server TIME_WAIT costs memory only.",
        _ => "",
    };
    Some(Insight {
        severity: InsightSeverity::Note,
        text: format!(
            "TIME_WAIT grows by {}/s, most of it {} (+{}/s): {who}.{meaning}",
            units::rate(growth),
            group.named_key(&snapshot.peer_names),
            units::rate(group.time_wait.entered_per_s),
        ),
        group: Some(row),
    })
}

/// What the TIME_WAIT sockets of a host without a finding cost.
fn harmless(snapshot: &Snapshot) -> String {
    let of = |role: Role| -> u64 {
        let groups = snapshot.groups.iter().filter(|group| group.role == role);
        groups.map(|group| group.counts[TcpState::TimeWait.index()]).sum()
    };
    let (accepted, connected) = (of(Role::Inbound), of(Role::Outbound));
    let all = accepted + connected + of(Role::Unknown);
    let sockets = format!("{} TIME_WAIT", units::count(all));
    if all == 0 {
        return "No problem found.".into();
    }
    if accepted == all {
        let memory = units::bytes(all * TIMEWAIT_BYTES);
        let who = accepting(snapshot);
        return format!("{sockets} on the accepting side{who}: {memory}, no local port held. Nothing to do.");
    }
    let share =
        |ports: &&DestinationPorts| ports.available.map(|available| ports.used * 1_000 / available.max(1));
    let fullest = snapshot.ports.destinations.iter().filter(|ports| ports.used > 0).max_by_key(share);
    let Some((ports, available)) = fullest.and_then(|ports| Some((ports, ports.available?))) else {
        return format!("No problem found: {sockets}, {} on the accepting side.", units::count(accepted));
    };
    let side = if connected == all { String::new() } else { format!("{} ", units::count(connected)) };
    let verdict = match ports.slow_above {
        Some(slow_above) if ports.used > slow_above => {
            format!("From {} on connect() searches long.", units::count(slow_above))
        }
        _ => "Nothing to do.".into(),
    };
    format!(
        "{sockets}, {side}on the connecting side. Most ports are held to {}: {} of {}. {verdict}",
        ports.remote,
        units::count(ports.used),
        units::count(available)
    )
}

/// The processes with most accepted connections in TIME_WAIT: ` (haproxy, nginx)`.
fn accepting(snapshot: &Snapshot) -> String {
    const NAMED: usize = 2;
    let count = |group: &&Group| group.counts[TcpState::TimeWait.index()];
    let mut groups: Vec<_> = snapshot.groups.iter().filter(|group| count(group) > 0).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(count(group)));
    let mut names: Vec<String> = Vec::new();
    for process in groups.iter().filter_map(|group| group.process.as_ref()) {
        let name = process.shown().into_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let others = if names.len() > NAMED { ", ..." } else { "" };
    names.truncate(NAMED);
    if names.is_empty() { String::new() } else { format!(" ({}{others})", names.join(", ")) }
}

/// Time window of a trend.
const TREND_WINDOW: Nanos = Nanos(10_000_000_000);

/// Growth per second of the sockets in a state over the last `TREND_WINDOW`; `None` while there is too little history.
pub fn growth_per_s(snapshot: &Snapshot, state: TcpState) -> Option<f64> {
    let last = snapshot.history.last()?;
    let first = snapshot.history.iter().find(|sample| last.ts.since(sample.ts) <= TREND_WINDOW)?;
    let seconds = last.ts.since(first.ts).as_secs_f64();
    let count = |counts: &[u64; TcpState::COUNT]| counts[state.index()] as f64;
    (seconds > 0.0).then(|| (count(&last.counts) - count(&first.counts)) / seconds)
}

/// The group with the highest `of`, if that is above 0.
fn most(snapshot: &Snapshot, of: impl Fn(&Group) -> u64) -> Option<(usize, &Group)> {
    let groups = snapshot.groups.iter().enumerate();
    groups.max_by_key(|(_, group)| of(group)).filter(|(_, group)| of(group) > 0)
}

/// The process of a group with exactly one: of several, the owner of most sockets need not be the one at fault.
fn process(group: &Group) -> Option<String> {
    group.process.as_ref().filter(|_| group.other_processes == 0).map(named)
}

/// The name of a process, as in the column PROCESS, and its id: `pgbench (pid 4127)`.
fn named(process: &Process) -> String {
    format!("{} (pid {})", process.shown(), process.pid)
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};
    use crate::{aggregate::Losses, lifecycle::Since};

    fn insight_after(change: impl Fn(&mut Snapshot)) -> (InsightSeverity, String) {
        let mut snapshot = fixture::busy();
        change(&mut snapshot);
        let insight = of(&snapshot);
        (insight.severity, insight.text)
    }

    fn without_leak(snapshot: &mut Snapshot) {
        snapshot.groups[2].oldest_close_wait = None;
    }

    #[test]
    fn leak_insight_names_process_and_age() {
        let (severity, text) = insight_after(|_| {});
        assert_eq!(severity, InsightSeverity::Warning);
        assert_eq!(
            text,
            "batch-exporter (pid 90210) leaves 1,204 sockets in CLOSE_WAIT, the oldest for 15m22s: \
             the peer closed, it has not called close()."
        );
        assert_eq!(of(&fixture::busy()).group, Some(2));
        let older = insight_after(|snapshot| {
            snapshot.groups[2].oldest_close_wait = Some(Since::AtLatest(Nanos(20_000_000_000)));
        });
        assert!(older.1.contains("the oldest for at least 15m22s"), "{}", older.1);
        let one = insight_after(|snapshot| snapshot.groups[2].counts[TcpState::CloseWait.index()] = 1);
        assert!(one.1.contains(" leaves a socket in CLOSE_WAIT, for 15m22s: "), "{}", one.1);
    }

    #[test]
    fn leak_insight_names_the_leaking_process_of_several() {
        let (_, text) = insight_after(|snapshot| {
            let group = &mut snapshot.groups[2];
            group.key = "shop".into();
            (group.process, group.other_processes) = (Some(fixture::process(811, "nginx")), 1);
        });
        assert_eq!(
            text,
            "1,204 sockets of shop in CLOSE_WAIT, the oldest, of batch-exporter (pid 90210), for 15m22s: \
             the peer closed, it has not called close()."
        );
        let (_, text) = insight_after(|snapshot| {
            without_leak(snapshot);
            snapshot.groups[1].fin_wait2_orphan = 0;
            snapshot.groups[1].other_processes = 1;
        });
        assert!(text.contains("*:443 holds 15 half-closed"), "{text}");
    }

    #[test]
    fn port_exhaustion_comes_first() {
        let (severity, text) = insight_after(|snapshot| {
            fixture::use_ports(snapshot, Some(Nanos(26_000_000_000)));
            snapshot.losses = Losses { ring_full: 5_000, ..Losses::default() };
        });
        assert_eq!(severity, InsightSeverity::Alarm);
        assert_eq!(
            text,
            "10.0.0.5:5432 runs out of local ports in 26.0s: pgbench (pid 4127) opens 408 connections/s and \
             closes first."
        );
        let (_, none) = insight_after(|snapshot| fixture::use_ports(snapshot, Some(Nanos(0))));
        assert!(none.starts_with("10.0.0.5:5432 has no local port left: pgbench"), "{none}");
        let (severity, _) = insight_after(|snapshot| fixture::use_ports(snapshot, None));
        assert_eq!(severity, InsightSeverity::Warning);
    }

    #[test]
    fn many_losses_outrank_a_leak_and_few_do_not() {
        let lose =
            |n| move |snapshot: &mut Snapshot| snapshot.losses = Losses { ring_full: n, ..Losses::default() };
        assert_eq!(insight_after(lose(5_000)).0, InsightSeverity::Alarm);
        assert!(insight_after(lose(5_000)).1.starts_with("Counts may be off: lost 5,000: ring full 5,000"));
        assert_eq!(insight_after(lose(5)).0, InsightSeverity::Warning);
    }

    #[test]
    fn lower_rules_apply_in_order() {
        let growing = insight_after(without_leak);
        assert_eq!(
            growing,
            (
                InsightSeverity::Note,
                "TIME_WAIT grows by 300/s, most of it 10.0.0.5:5432 (+412/s): \
                 this side closes first, api-server (pid 4242) and others."
                    .into()
            )
        );
        let overflown = insight_after(|snapshot| {
            without_leak(snapshot);
            snapshot.groups[0].ended[EndReason::Overflow as usize] = 12;
        });
        assert!(overflown.1.starts_with("12 connections of 10.0.0.5:5432 ended without TIME_WAIT"));
        let held = insight_after(|snapshot| {
            without_leak(snapshot);
            snapshot.groups[0].ended[EndReason::Overflow as usize] = 12;
            snapshot.groups[1].fin_wait2_orphan = 0;
        });
        assert!(held.1.starts_with("nginx (pid 811) holds 15 half-closed sockets"), "{}", held.1);
        assert_eq!(of(&fixture::empty()).severity, InsightSeverity::Calm);
    }

    #[test]
    fn harmless_time_wait_is_explained() {
        let calm = |keep: &[usize], change: &dyn Fn(&mut Snapshot)| {
            let (severity, text) = insight_after(|snapshot| {
                without_leak(snapshot);
                snapshot.history.clear();
                snapshot.groups[1].fin_wait2_orphan = 15;
                snapshot.groups = keep.iter().map(|&index| snapshot.groups[index].clone()).collect();
                change(snapshot);
            });
            assert_eq!(severity, InsightSeverity::Calm, "{text}");
            text
        };
        assert_eq!(
            calm(&[1], &|_| {}),
            "210 TIME_WAIT on the accepting side (nginx): 51.3 KiB, no local port held. Nothing to do."
        );
        assert_eq!(calm(&[3], &|_| {}), "No problem found.");
        assert_eq!(
            calm(&[0, 1], &|snapshot| snapshot.ports.destinations.clear()),
            "No problem found: 18,332 TIME_WAIT, 210 on the accepting side."
        );
        let ports = |used: u64| {
            move |snapshot: &mut Snapshot| {
                fixture::use_ports(snapshot, None);
                let ports = &mut snapshot.ports.destinations[0];
                (ports.used, ports.available, ports.slow_above) = (used, Some(28_232), Some(14_116));
            }
        };
        assert_eq!(
            calm(&[0, 1], &ports(2_000)),
            "18,332 TIME_WAIT, 18,122 on the connecting side. Most ports are held to 10.0.0.5:5432: 2,000 of 28,232. \
             Nothing to do."
        );
        assert!(calm(&[0], &ports(20_000)).ends_with("From 14,116 on connect() searches long."));
    }
}
