//! Summary in three sentences: the recording, the peaks and the main producer of TIME_WAIT, the problems.

use std::{borrow::Cow, fmt};

use super::Report;
use crate::{
    aggregate::{Group, GroupKey, stuck_sockets::StuckSockets},
    lifecycle::{Closer, EndReason},
    model::{Nanos, TcpState, text, units},
    view::{losses::losses, stacks::StackSubject},
};

/// A CLOSE_WAIT or held FIN_WAIT2 at least this old counts as forgotten, not as pending.
const FORGOTTEN: Nanos = Nanos(10_000_000_000);
/// Resets are reported if they end more than one connection in this many.
const RESET_RATIO: u64 = 20;

/// A sentence in parts.
pub struct Sentence(pub Vec<SentencePart>);

/// A part of a sentence.
pub struct SentencePart {
    pub text: String,
    /// The code that it is about.
    pub code: Option<StackSubject>,
}

impl Sentence {
    fn plain(text: String) -> Self {
        Self(vec![SentencePart { text, code: None }])
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| f.write_str(&part.text))
    }
}

/// The three sentences.
pub fn sentences(report: &Report<'_>) -> [Sentence; 3] {
    [Sentence::plain(seen(report)), most(report), wrong(report)]
}

/// Sentence about the recording: host, time, connections.
fn seen(report: &Report<'_>) -> String {
    let host = &report.snapshot.host;
    let (began, ended) = (report.local(report.snapshot.began), report.local(report.snapshot.ts));
    let until = if began.date() == ended.date() { "%H:%M:%S %Z" } else { "%-d %B %Y %H:%M:%S %Z" };
    let established = report.entered(TcpState::Established);
    let which = if report.filter.is_empty() && host.filter.is_empty() {
        ""
    } else {
        ", of those that pass the filter,"
    };
    format!(
        "On {} (Linux {}) TCP was followed for {}, on {} to {}: {} sockets{which} became ESTABLISHED, {} a second.",
        or(&host.host, "a host without a name"),
        or(&host.kernel, "of unknown release"),
        units::duration(report.span()),
        began.strftime("%-d %B %Y from %H:%M:%S"),
        ended.strftime(until),
        units::count(established),
        units::rate(report.per_s(established)),
    )
}

/// Sentence about the peaks and the main producer of TIME_WAIT.
fn most(report: &Report<'_>) -> Sentence {
    let peak = |state| report.snapshot.timeline.peak(state);
    let established = match peak(TcpState::Established) {
        Some((n, ts)) => {
            format!("at most {} sockets were ESTABLISHED at once ({})", units::count(n), report.clock(ts))
        }
        None => "no socket was ESTABLISHED".into(),
    };
    let Some((highest, ts)) = peak(TcpState::TimeWait) else {
        return Sentence::plain(format!("No socket was in TIME_WAIT, and {established}."));
    };
    let entered = report.entered(TcpState::TimeWait);
    let came = match entered {
        0 => "all of them older than the recording".into(),
        _ => format!(
            "{} entered it ({}/s){}",
            units::count(entered),
            units::rate(report.per_s(entered)),
            producer(report, entered)
        ),
    };
    let peaked =
        format!("TIME_WAIT peaked at {} sockets at {}: {came}", units::count(highest), report.clock(ts));
    Sentence(vec![
        SentencePart { text: peaked, code: Some(StackSubject::Close) },
        SentencePart { text: format!("; {established}."), code: None },
    ])
}

/// The group that produced most TIME_WAIT, and its main closer.
fn producer(report: &Report<'_>, entered: u64) -> String {
    let groups = report.listed.groups.iter().filter(|group| group.id != GroupKey::OTHER);
    let Some(group) = groups.max_by_key(|group| group.time_wait.entered) else { return String::new() };
    let closes = match group.main_closer() {
        Some((Closer::Local, share)) => format!(", where this side closes first in {}", percent(share)),
        Some((Closer::Remote, share)) => format!(", where the peer closes first in {}", percent(share)),
        _ => String::new(),
    };
    let share = group.time_wait.entered as f64 / entered as f64;
    let owner = owner(group).map(|owner| format!(" ({owner})")).unwrap_or_default();
    format!(", {} of them at {}{owner}{closes}", percent(share), text::sanitise(&group.key))
}

/// Sentence about the problems.
fn wrong(report: &Report<'_>) -> Sentence {
    let found = |(finding, code): &ReportFinding| Some(SentencePart { text: finding(report)?, code: *code });
    let mut parts: Vec<SentencePart> = Vec::new();
    for mut part in FINDINGS.iter().filter_map(found) {
        if !parts.is_empty() {
            part.text.insert_str(0, "; ");
        } else if let Some(first) = part.text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        parts.push(part);
    }
    if parts.is_empty() {
        let none = "No problem found: nothing was lost, no CLOSE_WAIT is older than 10 s, no FIN_WAIT2 is held for longer, \
                and neither ports nor room for TIME_WAIT ran out.";
        return Sentence::plain(none.into());
    }
    parts.push(SentencePart { text: ".".into(), code: None });
    Sentence(parts)
}

/// A possible problem: a clause or `None`, and the code that it is about.
type ReportFinding = (fn(&Report<'_>) -> Option<String>, Option<StackSubject>);

/// Possible problems, most serious first.
const FINDINGS: [ReportFinding; 8] = [
    (|report| losses(&report.snapshot.losses).map(|lost| format!("counts may be off ({lost})")), None),
    (close_wait_problem, Some(StackSubject::Leak)),
    (held, Some(StackSubject::Leak)),
    (
        |report| ended(report, EndReason::NoPort, "calls of connect() found no free port"),
        Some(StackSubject::Connect),
    ),
    (
        |report| {
            ended(
                report,
                EndReason::Overflow,
                "closes got no TIME_WAIT, since tcp_max_tw_buckets was reached",
            )
        },
        Some(StackSubject::Close),
    ),
    (|report| ended(report, EndReason::Dropped, "handshakes were dropped"), None),
    (|report| ended(report, EndReason::Timeout, "connections timed out"), None),
    (resets, None),
];

fn close_wait_problem(report: &Report<'_>) -> Option<String> {
    let Waiting { sockets, oldest, program } = waiting(report, TcpState::CloseWait)?;
    Some(format!("{sockets} in CLOSE_WAIT, the oldest for {oldest}: {program} has not called close()"))
}

fn held(report: &Report<'_>) -> Option<String> {
    let Waiting { sockets, oldest, program } = waiting(report, TcpState::FinWait2)?;
    Some(format!(
        "{sockets} in FIN_WAIT2, the oldest for {oldest}: {program} holds them, and no timeout ends that"
    ))
}

/// Sockets that a program should have closed, as text.
struct Waiting {
    /// `40 sockets are`.
    sockets: String,
    /// Age of the oldest.
    oldest: String,
    /// Owner of the oldest.
    program: String,
}

/// The sockets in `state`, if the oldest has been there too long.
fn waiting(report: &Report<'_>, state: TcpState) -> Option<Waiting> {
    let of_state = || report.snapshot.stuck.iter().filter(|stuck| stuck.state == state);
    let age = |stuck: &StuckSockets| stuck.oldest.first().map(|one| one.age);
    let longest = of_state().max_by_key(|stuck| age(stuck))?;
    let oldest = longest.oldest.first().filter(|one| one.age >= FORGOTTEN)?;
    let bound = if oldest.at_least { ">= " } else { "" };
    let count = of_state().map(|stuck| stuck.count).sum();
    let process = longest.process.as_ref();
    Some(Waiting {
        sockets: if count == 1 {
            "1 socket is".into()
        } else {
            format!("{} sockets are", units::count(count))
        },
        oldest: format!("{bound}{}", units::duration(oldest.age)),
        program: process.map_or_else(
            || "a program that was not found".into(),
            |process| format!("{} (pid {})", text::sanitise(&process.comm), process.pid),
        ),
    })
}

fn ended(report: &Report<'_>, reason: EndReason, what: &str) -> Option<String> {
    let n = report.listed.all.ended[reason as usize];
    (n > 0).then(|| format!("{} {what}", units::count(n)))
}

fn resets(report: &Report<'_>) -> Option<String> {
    let closers = &report.listed.all.closed;
    let resets = closers[Closer::ResetReceived as usize] + closers[Closer::ResetSent as usize];
    let all: u64 = closers[1..].iter().sum();
    (resets * RESET_RATIO > all)
        .then(|| format!("{} of {} connections ended by a reset", units::count(resets), units::count(all)))
}

/// The process that owns most of a group, with its id.
fn owner(group: &Group) -> Option<String> {
    group.process.as_ref().map(|process| format!("{}, pid {}", text::sanitise(&process.comm), process.pid))
}

fn or<'a>(name: &'a str, unknown: &'a str) -> Cow<'a, str> {
    if name.is_empty() { unknown.into() } else { text::sanitise(name) }
}

/// Formats a share; only exact values are shown as 0 % or 100 %.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p > 0.0 && p < 0.5 => "<1 %".into(),
        99.5..100.0 => ">99 %".into(),
        p => format!("{p:.0} %"),
    }
}
