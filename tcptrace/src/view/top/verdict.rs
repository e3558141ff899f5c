//! Verdict: the most important finding of a snapshot as one or two sentences, or what a host without a finding holds.

use unicode_width::UnicodeWidthStr as _;

use super::screen::wrap::wrap;
use crate::{
    aggregate::{DestinationPorts, Group, Snapshot},
    lifecycle::{Closer, Role},
    model::{Nanos, TcpState, record::Process, text, units},
    view::doctor::{Finding, LOSSES, Severity, TIMEWAIT_BYTES, Who},
};

/// What the bottom lines say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BottomLine {
    /// Severity of the finding; `None` without one.
    pub severity: Option<Severity>,
    /// Sentences, sanitised, the most important first.
    sentences: Vec<String>,
}

/// TIME_WAIT growth below this rate is noise.
const MIN_GROWTH_PER_S: f64 = 1.0;
/// So is growth below this share of the sockets that enter: about as many end.
const MIN_GROWTH_SHARE: f64 = 0.1;

/// The verdict on `snapshot`, in which `serious` are the findings that are more than notes, the worst first.
pub fn of<'a>(snapshot: &Snapshot, mut serious: impl Iterator<Item = &'a Finding>) -> BottomLine {
    let Some(worst) = serious.next() else {
        return BottomLine { severity: None, sentences: vec![calm(snapshot)] };
    };
    let named = |who: &&Who| who.name.is_some() && who.pid.is_some();
    let who = worst.who.iter().find(named).or(worst.who.first());
    let who = who.map(|who| culprit(who, &worst.title)).filter(|who| !who.is_empty());
    let who = who.map(|who| format!(": {who}")).unwrap_or_default();
    let mut sentences = vec![format!("{}  {}{who}.", worst.severity.name(), text::sanitise(&worst.title))];
    let (losses, others): (Vec<_>, Vec<_>) = serious.partition(|finding| finding.id == LOSSES);
    // They may be the cause of the finding: a socket whose transitions were lost looks stuck until a sweep.
    if !losses.is_empty() {
        sentences.push("Records were lost: this may be wrong.".into());
    }
    let more = others.len();
    if more > 0 {
        sentences.push(format!("{} more.", units::plural(more as u64, "finding", "findings")));
    }
    sentences.extend(worst.fix.first().map(|step| text::sanitise(step).into_owned()));
    if worst.id == LOSSES {
        sentences.push(calm(snapshot));
    }
    BottomLine { severity: Some(worst.severity), sentences }
}

/// The verdict on one listing of the sockets, without a trace: nothing shows how long a socket has waited.
pub fn of_listing(snapshot: &Snapshot, findings: &[Finding]) -> BottomLine {
    let verdict = of(snapshot, findings.iter().filter(|finding| finding.severity != Severity::Note));
    let close_wait = |group: &Group| group.counts[TcpState::CloseWait.index()];
    let waiting: u64 = snapshot.groups.iter().map(close_wait).sum();
    let most = snapshot.groups.iter().max_by_key(|group| close_wait(group));
    let Some(most) = most.filter(|_| verdict.severity.is_none() && waiting > 0) else { return verdict };
    let who = most.process.as_ref().map(|process| format!(", {}", named(process))).unwrap_or_default();
    let waiting = format!(
        "{} CLOSE_WAIT, most of them {}{who}: a leak if they stay. `tcptrace doctor` watches them for 10s, without root too.",
        units::count(waiting),
        most.named_key(&snapshot.peer_names),
    );
    BottomLine { severity: None, sentences: vec![waiting] }
}

impl BottomLine {
    /// Lines that it needs at this width, at most `most`.
    pub fn height(&self, width: usize, most: u16) -> u16 {
        let lines = wrap(&self.fitted(width, most.into()), width).len();
        most.min(u16::try_from(lines).unwrap_or(u16::MAX))
    }

    /// As many sentences as fit into `height` lines; at least one.
    pub fn fitted(&self, width: usize, height: usize) -> String {
        let mut fitted = String::new();
        for sentence in &self.sentences {
            let longer = if fitted.is_empty() { sentence.clone() } else { format!("{fitted} {sentence}") };
            let lines = wrap(&longer, width);
            let fits = lines.len() <= height && lines.iter().all(|line| line.width() <= width);
            if fits || fitted.is_empty() {
                fitted = longer;
            }
        }
        fitted
    }
}

/// `batch-exporter (pid 21408), 10.0.0.9:50051, the oldest for at least 13.0s`, without what `title` says.
fn culprit(who: &Who, title: &str) -> String {
    let mut words = Vec::new();
    if let (Some(name), Some(pid)) = (&who.name, who.pid) {
        let pid = format!("pid {pid}");
        words.push(if title.starts_with(&format!("{name} ")) {
            pid
        } else {
            format!("{} ({pid})", text::sanitise(name))
        });
    }
    // `10.71.0.2 to 10.72.0.2:5432`: the client of a gateway, which has no process here.
    let client = who.service.split_once(" to ").filter(|(_, remote)| title.contains(remote));
    if let Some((client, _)) = client {
        words.push(format!("most by {}", text::sanitise(client)));
    } else if !title.contains(&who.service) {
        words.push(text::sanitise(&who.service).into_owned());
    }
    if let Some(age) = who.oldest {
        let at_least = if who.at_least == Some(true) { "at least " } else { "" };
        words.push(format!("the oldest for {at_least}{}", units::duration(age)));
    }
    words.join(", ")
}

/// The verdict on a snapshot without a finding.
fn calm(snapshot: &Snapshot) -> String {
    growing(snapshot).unwrap_or_else(|| harmless(snapshot))
}

fn growing(snapshot: &Snapshot) -> Option<String> {
    let growth = growth_per_s(snapshot, TcpState::TimeWait)?;
    let entered_per_s = snapshot.states[TcpState::TimeWait.index()].entered_per_s;
    if growth < MIN_GROWTH_PER_S.max(MIN_GROWTH_SHARE * entered_per_s) {
        return None;
    }
    let most =
        snapshot.groups.iter().max_by(|a, b| a.time_wait.entered_per_s.total_cmp(&b.time_wait.entered_per_s));
    let group = most.filter(|group| group.time_wait.entered_per_s > 0.0)?;
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
        Role::Inbound => " On a server TIME_WAIT costs memory only. Nothing to do.",
        _ => "",
    };
    Some(format!(
        "{} TIME_WAIT, +{}/s; most enter at {} ({}/s): {who}.{meaning}",
        units::count(snapshot.states[TcpState::TimeWait.index()].now),
        units::rate(growth),
        group.named_key(&snapshot.peer_names),
        units::rate(group.time_wait.entered_per_s),
    ))
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
    format!(
        "{sockets}, {side}on the connecting side. Most ports are held to {}: {} of {}. Nothing to do.",
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

/// The name of a process, as in the column PROCESS, and its id: `pgbench (pid 4127)`.
fn named(process: &Process) -> String {
    format!("{} (pid {})", process.shown(), process.pid)
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};
    use crate::view::doctor::diagnose;

    fn verdict(snapshot: &Snapshot) -> BottomLine {
        let findings = diagnose(snapshot);
        of(snapshot, findings.iter().filter(|finding| finding.severity != Severity::Note))
    }

    fn after(change: impl Fn(&mut Snapshot)) -> (Option<Severity>, String) {
        let mut snapshot = fixture::busy();
        change(&mut snapshot);
        let verdict = verdict(&snapshot);
        (verdict.severity, verdict.fitted(200, 1))
    }

    fn without_leak(snapshot: &mut Snapshot) {
        snapshot.stuck.clear();
    }

    #[test]
    fn leak_is_named_with_its_process_and_age() {
        let (severity, text) = after(|_| {});
        assert_eq!(severity, Some(Severity::Critical));
        assert_eq!(
            text,
            "CRITICAL  1,204 connections not closed by the process (CLOSE_WAIT): batch-exporter (pid 90210), \
             192.168.100.200:50051, the oldest for 15m22s."
        );
        let (_, older) = after(|snapshot| snapshot.stuck[0].oldest[0].at_least = true);
        assert!(older.ends_with("the oldest for at least 15m22s."), "{older}");
        let (_, nobody) = after(|snapshot| snapshot.stuck[0].process = None);
        assert_eq!(
            nobody,
            "CRITICAL  1,204 connections not closed by the process (CLOSE_WAIT): 192.168.100.200:50051, the oldest for \
             15m22s."
        );
    }

    #[test]
    fn as_much_as_fits_is_said() {
        let verdict = verdict(&fixture::busy());
        assert!(
            verdict.fitted(80, 5).contains("In the application: close() the socket when read() returns 0")
        );
        assert!(verdict.fitted(30, 1).ends_with("15m22s."), "{}", verdict.fitted(30, 1));
        let (_, two) = after(|snapshot| fixture::use_ports(snapshot, Some(Nanos(26_000_000_000))));
        assert!(two.ends_with("1 finding more."), "{two}");
    }

    #[test]
    fn what_the_title_says_is_not_repeated() {
        let who = |name: Option<&str>, service: &str| Who {
            name: name.map(Into::into),
            pid: name.map(|_| 7),
            service: service.into(),
            ..Who::default()
        };
        let pool = "checkout makes new connections to 10.0.0.5:5432 where a pool would reuse them";
        assert_eq!(culprit(&who(Some("checkout"), "10.0.0.5:5432"), pool), "pid 7");
        let nat = "NAT ports from 10.2.0.1 to 10.0.0.5:5432 run out in 9.00s";
        assert_eq!(culprit(&who(None, "10.1.0.2 to 10.0.0.5:5432"), nat), "most by 10.1.0.2");
        assert_eq!(culprit(&who(Some("app"), "10.0.0.5:5432"), nat), "app (pid 7)");
    }

    #[test]
    fn listing_shows_no_leak_and_hides_none() {
        let mut snapshot = fixture::busy();
        snapshot.stuck.clear();
        snapshot.history.clear();
        let verdict = of_listing(&snapshot, &[]);
        assert_eq!(verdict.severity, None);
        assert!(
            verdict.fitted(200, 2).starts_with(
                "1,204 CLOSE_WAIT, most of them 192.168.100.200:50051, batch-exporter (pid 90210): a leak if they stay."
            ),
            "{}",
            verdict.fitted(200, 2)
        );
    }

    #[test]
    fn worst_finding_comes_first() {
        let (severity, text) = after(|snapshot| {
            without_leak(snapshot);
            fixture::use_ports(snapshot, Some(Nanos(26_000_000_000)));
        });
        assert_eq!(severity, Some(Severity::Warning));
        assert!(
            text.starts_with("WARNING  local ports to 10.0.0.5:5432 run out in 26.0s: pgbench (pid 4127)."),
            "{text}"
        );
        let (severity, text) = after(|snapshot| snapshot.losses.ring_full = 5_000);
        assert_eq!(severity, Some(Severity::Critical), "{text}");
        assert!(text.contains("15m22s. Records were lost: this may be wrong."), "{text}");
        let lost = |lost| {
            after(move |snapshot| {
                without_leak(snapshot);
                snapshot.losses.ring_full = lost;
            })
        };
        assert!(
            lost(5_000).1.starts_with("WARNING  counts may be off: tcptrace lost records."),
            "{lost:?}",
            lost = lost(5_000)
        );
        assert_eq!(lost(5).0, None);
        let mut snapshot = fixture::busy();
        without_leak(&mut snapshot);
        snapshot.losses.ring_full = 5_000;
        let text = verdict(&snapshot).fitted(80, 3);
        assert!(text.contains("--ring-size 64") && text.contains("18,336 TIME_WAIT, +300/s"), "{text}");
    }

    #[test]
    fn growth_of_time_wait_names_its_service() {
        let growing = after(without_leak);
        assert_eq!(
            growing,
            (
                None,
                "18,336 TIME_WAIT, +300/s; most enter at 10.0.0.5:5432 (412/s): this side closes first, api-server \
                 (pid 4242) and others."
                    .into()
            )
        );
        let (_, settled) = after(|snapshot| {
            without_leak(snapshot);
            snapshot.states[TcpState::TimeWait.index()].entered_per_s = 4_000.0;
        });
        assert!(settled.starts_with("No problem found: 18,336 TIME_WAIT"), "{settled}");
        assert_eq!(verdict(&fixture::empty()).fitted(80, 1), "No problem found.");
    }

    #[test]
    fn harmless_time_wait_is_explained() {
        let calm = |keep: &[usize], change: &dyn Fn(&mut Snapshot)| {
            let (severity, text) = after(|snapshot| {
                without_leak(snapshot);
                snapshot.history.clear();
                snapshot.groups[1].fin_wait2_orphan = 15;
                snapshot.groups = keep.iter().map(|&index| snapshot.groups[index].clone()).collect();
                change(snapshot);
            });
            assert_eq!(severity, None, "{text}");
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
    }
}
