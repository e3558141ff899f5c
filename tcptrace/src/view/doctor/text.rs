//! Writes findings as text: the worst first, wrapped to the terminal, readable in a minute.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr as _;

use super::{Finding, Severity, Who, healthy};
use crate::{
    aggregate::Snapshot,
    model::{text, units},
    view::losses,
};

/// Layout of the report.
#[derive(Clone, Copy, Debug)]
pub struct DoctorLayout {
    /// Width in columns.
    pub width: usize,
    /// Whether to use colours.
    pub paint: Paint,
    /// How much detail to write.
    pub detail: FindingDetail,
    /// Whether commands are wrapped.
    pub commands: Commands,
}

/// Whether commands are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commands {
    /// Never: they can be copied.
    Copyable,
    /// Where a line would have more columns: a popup would cut it.
    WrappedAt(usize),
}

/// Whether colours are used. The text has the same information without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// No escape sequences.
    Plain,
    /// ANSI colours.
    Colour,
}

/// How much to write about each finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingDetail {
    /// Notes: title and evidence only. Others: everything but the reasons.
    Short,
    /// Everything.
    Full,
}

/// Columns reserved for labels.
const INDENT: usize = 10;
/// Wider text is hard to read.
const WIDEST: usize = 100;
const NARROWEST: usize = 40;

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const CYAN: &str = "\x1b[36m";
const GREEN: &str = "\x1b[32m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Writes the report.
pub fn write(
    out: &mut impl Write,
    snapshot: &Snapshot,
    findings: &[Finding],
    layout: DoctorLayout,
) -> io::Result<()> {
    let layout = layout.readable();
    let host = &snapshot.host;
    let head = format!(
        "tcptrace doctor  {}  Linux {}  {}  watched {}",
        text::sanitise(&host.host),
        text::sanitise(&host.kernel),
        text::sanitise(&snapshot.source),
        units::duration(snapshot.ts.since(snapshot.began))
    );
    wrapped(out, "", &head, layout)?;
    wrapped(out, "", &summary(findings), layout)?;
    for finding in findings {
        if finding.follows_from.is_some() && layout.detail == FindingDetail::Short {
            folded(out, finding, layout)?;
        } else {
            writeln!(out)?;
            self::finding(out, finding, layout)?;
        }
    }
    if findings.iter().all(|finding| finding.severity == Severity::Note) {
        writeln!(out)?;
        healthy(out, snapshot, layout)?;
    }
    for limit in &host.limits {
        writeln!(out)?;
        labelled(out, "unseen", &text::sanitise(limit), "", layout)?;
    }
    let is_short = layout.detail == FindingDetail::Short && !findings.is_empty();
    if is_short || losses::losses(&snapshot.losses).is_some() {
        writeln!(out)?;
    }
    if is_short {
        let hint = "All details, with the reasons: -v. One setting: tcptrace doctor --explain NAME";
        wrapped(out, "", hint, layout)?;
    }
    Ok(())
}

/// Writes why nothing is wrong.
pub fn healthy(out: &mut impl Write, snapshot: &Snapshot, layout: DoctorLayout) -> io::Result<()> {
    let layout = layout.readable();
    let ok = layout.painted(GREEN, "OK");
    writeln!(out, "{ok}  No problems found. Evidence:")?;
    for reason in healthy::reasons(snapshot) {
        for (n, line) in wrap(&reason, layout.width - 4, "").into_iter().enumerate() {
            writeln!(out, "  {} {line}", if n == 0 { "-" } else { " " })?;
        }
    }
    Ok(())
}

fn summary(findings: &[Finding]) -> String {
    let counted: Vec<String> = [
        (Severity::Critical, "critical", "critical"),
        (Severity::Warning, "warning", "warnings"),
        (Severity::Note, "note", "notes"),
    ]
    .into_iter()
    .filter_map(|(severity, one, many)| {
        let alone = findings.iter().filter(|finding| finding.follows_from.is_none());
        let n = alone.filter(|finding| finding.severity == severity).count();
        (n > 0).then(|| format!("{n} {}", if n == 1 { one } else { many }))
    })
    .collect();
    if counted.is_empty() { "nothing found".into() } else { counted.join(", ") }
}

/// A finding that has a cause: one or two lines below that cause.
fn folded(out: &mut impl Write, finding: &Finding, layout: DoctorLayout) -> io::Result<()> {
    let evidence = finding.evidence.first().map(|line| format!(": {line}")).unwrap_or_default();
    labelled(out, "also", &format!("{}{evidence}", finding.title), "", layout)
}

/// Writes one finding.
pub fn finding(out: &mut impl Write, finding: &Finding, layout: DoctorLayout) -> io::Result<()> {
    let layout = layout.readable();
    let colour = match finding.severity {
        Severity::Critical => RED,
        Severity::Warning => YELLOW,
        Severity::Note => CYAN,
    };
    let title = format!("{}  {}", finding.severity.name(), text::sanitise(&finding.title));
    let mut lines = wrap(&title, layout.width, "    ").into_iter();
    if let Some(first) = lines.next() {
        let rest = first.strip_prefix(finding.severity.name()).unwrap_or(&first);
        writeln!(out, "{}{rest}", layout.painted(colour, finding.severity.name()))?;
    }
    lines.try_for_each(|line| writeln!(out, "{line}"))?;
    for (n, line) in finding.evidence.iter().enumerate() {
        labelled(out, if n == 0 { "seen" } else { "" }, line, "", layout)?;
    }
    let is_full = layout.detail == FindingDetail::Full;
    if is_full {
        labelled(out, "why", finding.why, "", layout)?;
    }
    if finding.severity == Severity::Note && !is_full {
        return Ok(());
    }
    for (n, who) in finding.who.iter().enumerate() {
        labelled(out, if n == 0 { "who" } else { "" }, &self::who(who), "", layout)?;
    }
    for (n, step) in finding.fix.iter().enumerate() {
        let number = if finding.fix.len() > 1 { format!("{}. ", n + 1) } else { String::new() };
        let hang = " ".repeat(number.len());
        let (words, command) = apart(step);
        let label = if n == 0 { "fix" } else { "" };
        let mut label = label;
        let mut first = number;
        if !words.is_empty() {
            labelled(out, label, &format!("{first}{words}"), &hang, layout)?;
            (label, first) = ("", hang.clone());
        }
        for line in layout.command_lines(command, INDENT + hang.len()) {
            let padding = " ".repeat(INDENT - 2 - label.len());
            writeln!(out, "  {}{padding}{first}{line}", layout.painted(DIM, label))?;
            (label, first) = ("", hang.clone());
        }
    }
    for (n, form) in finding.lasting.iter().enumerate() {
        labelled(out, if n == 0 { "keep" } else { "" }, form, "  ", layout)?;
    }
    labelled(out, "don't", finding.dont, "", layout)?;
    labelled(out, "verify", &finding.verify, "", layout)
}

/// Splits a step into its text and the command at its end.
pub(super) fn apart(step: &str) -> (&str, &str) {
    let begins = ["ip netns exec ", "nsenter -t ", "sysctl -w ", "iptables -t ", "ip6tables -t "]
        .iter()
        .filter_map(|begin| step.find(begin))
        .min();
    let (words, command) = step.split_at(begins.unwrap_or(step.len()));
    (words.trim_end(), command)
}

/// `nginx (pid 1204) in netns blue, *:443: 12, descriptors 7, 9; oldest >= 12.3s`.
fn who(who: &Who) -> String {
    let process = match (&who.name, who.pid) {
        (Some(name), Some(pid)) => format!("{} (pid {pid})", text::sanitise(name)),
        // A client of this gateway, `10.71.0.2 to 10.72.0.2:5432`: its process is on another host.
        _ if who.service.contains(" to ") => "client".into(),
        _ => "owner unknown".into(),
    };
    let netns =
        who.netns.as_ref().map(|netns| format!(" in netns {}", text::sanitise(netns))).unwrap_or_default();
    let peer = who.peer_name.as_ref().map(|name| format!(" [{}]", text::sanitise(name))).unwrap_or_default();
    let service = text::sanitise(&who.service);
    let mut line = format!("{process}{netns}, {service}{peer}: {}", units::count(who.count));
    if !who.fds.is_empty() {
        let fds: Vec<String> = who.fds.iter().take(6).map(u32::to_string).collect();
        let more = if who.fds.len() > fds.len() { ", ..." } else { "" };
        let word = if fds.len() > 1 { "descriptors" } else { "descriptor" };
        line = format!("{line}, {word} {}{more}", fds.join(", "));
    }
    if let Some(oldest) = who.oldest {
        let bound = if who.at_least == Some(true) { ">= " } else { "" };
        line = format!("{line}; oldest {bound}{}", units::duration(oldest));
    }
    line
}

/// Writes a label with text beside it.
fn labelled(
    out: &mut impl Write,
    label: &str,
    line: &str,
    hang: &str,
    layout: DoctorLayout,
) -> io::Result<()> {
    let indent = " ".repeat(INDENT);
    for (n, line) in wrap(&text::sanitise(line), layout.width - INDENT, hang).into_iter().enumerate() {
        if n == 0 {
            let padding = " ".repeat(INDENT - 2 - label.len());
            writeln!(out, "  {}{padding}{line}", layout.painted(DIM, label))?;
        } else {
            writeln!(out, "{indent}{line}")?;
        }
    }
    Ok(())
}

fn wrapped(out: &mut impl Write, hang: &str, line: &str, layout: DoctorLayout) -> io::Result<()> {
    wrap(line, layout.width, hang).into_iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// Wraps `text` to at most `width` columns at spaces, if there are any; all lines but the first begin with `hang`.
/// Keeps runs of spaces.
pub(super) fn wrap(text: &str, width: usize, hang: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_inclusive(' ') {
        let has_text = line.len() > if lines.is_empty() { 0 } else { hang.len() };
        if has_text && line.width() + word.trim_end().width() > width {
            lines.push(std::mem::replace(&mut line, hang.to_owned()).trim_end().to_owned());
        }
        line.push_str(word);
    }
    lines.push(line.trim_end().to_owned());
    lines
}

impl DoctorLayout {
    /// With a width that can be read.
    fn readable(self) -> Self {
        Self { width: self.width.clamp(NARROWEST, WIDEST), ..self }
    }

    /// The lines of a command after `indent` columns.
    fn command_lines(self, command: &str, indent: usize) -> Vec<String> {
        match self.commands {
            _ if command.is_empty() => Vec::new(),
            Commands::Copyable => vec![command.to_owned()],
            Commands::WrappedAt(width) => wrap(command, width.saturating_sub(indent), "  "),
        }
    }

    fn painted(self, colour: &str, word: &str) -> String {
        match self.paint {
            Paint::Colour if !word.is_empty() => format!("{colour}{word}{RESET}"),
            _ => word.to_owned(),
        }
    }
}
