//! Report of `tcptrace check` as a table or a JSON document: checks and the self-test.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

use super::document::{self, DocumentHead, Origin};
use crate::{
    aggregate::Losses,
    kernel::{
        RingKind,
        preflight::{Check, CheckStatus},
    },
    model::{record::HostFacts, text, units},
    selftest::{SelftestOutcome, SelftestStep},
};

/// Result of `check`.
pub struct CheckReport {
    /// The host.
    pub host: HostFacts,
    /// The checks.
    pub checks: Vec<Check>,
    /// The outcome of the self-test, or why it failed or did not run.
    pub self_test: Result<SelftestOutcome, String>,
}

impl CheckReport {
    /// Whether tracing works here.
    pub const fn works(&self) -> bool {
        self.self_test.is_ok()
    }
}

/// Width of a line of text.
const WIDTH: usize = 80;
const NAME_WIDTH: usize = 20;
const STATUS_WIDTH: usize = 9;

/// Writes the table.
pub fn write_text(report: &CheckReport, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "tcptrace {}  {}  Linux {}\n",
        env!("CARGO_PKG_VERSION"),
        report.host.host,
        report.host.kernel
    )?;
    for check in &report.checks {
        let text = match &check.remedy {
            Some(remedy) => format!("{} {remedy}", check.finding),
            None => check.finding.clone(),
        };
        row(out, &check.name, status(check.status), &text)?;
    }
    match &report.self_test {
        Ok(outcome) => {
            let rings = match outcome.rings {
                RingKind::Slots => "through memory-mapped rings, one for each CPU",
                RingKind::Buffers => {
                    "through ring buffers, as on a kernel whose programs lack atomic instructions (5.12)"
                }
            };
            let text = format!("A loopback connection was traced through every state, {rings}:");
            row(out, "self-test", "works", &text)?;
            writeln!(out, "{}", path("client", &outcome.client))?;
            writeln!(out, "{}", path("server", &outcome.server))
        }
        Err(why) => row(out, "self-test", "MISSING", why),
    }
}

/// Writes one JSON document.
pub fn write_json(report: &CheckReport, taken_at: &str, out: &mut impl Write) -> io::Result<()> {
    let checks: Vec<Value> = report
        .checks
        .iter()
        .map(|check| {
            json!({
                "name": check.name,
                "status": status(check.status).to_lowercase(),
                "finding": check.finding,
                "remedy": check.remedy,
            })
        })
        .collect();
    let self_test = match &report.self_test {
        Ok(outcome) => json!({
            "status": "works",
            "rings": match outcome.rings {
                RingKind::Slots => "mapped",
                RingKind::Buffers => "buffers",
            },
            "client": steps(&outcome.client),
            "server": steps(&outcome.server),
        }),
        Err(why) => json!({ "status": "missing", "finding": why }),
    };
    let origin = Origin {
        taken_at: taken_at.to_owned(),
        kernel: text::sanitise(&report.host.kernel),
        source: "live".into(),
        loss: Losses::default(),
    };
    document::write(
        out,
        &CheckDocument { head: DocumentHead { schema: "tcptrace.check.v1", origin }, checks, self_test },
    )
}

#[derive(Serialize)]
struct CheckDocument<'a> {
    #[serde(flatten)]
    head: DocumentHead<'a>,
    checks: Vec<Value>,
    self_test: Value,
}

fn steps(steps: &[SelftestStep]) -> Vec<Value> {
    steps
        .iter()
        .map(|step| json!({ "state": step.state.name(), "before_ns": step.before().map(|length| length.0) }))
        .collect()
}

const fn status(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Works => "works",
        CheckStatus::Limited => "limited",
        CheckStatus::Missing => "MISSING",
    }
}

/// `  client  SYN_SENT 12us -> ESTABLISHED ...`: each state is followed by how long it lasted.
fn path(end: &str, steps: &[SelftestStep]) -> String {
    let mut text = format!("  {end}  ");
    for (i, step) in steps.iter().enumerate() {
        if i > 0 {
            let length = step.before().map_or_else(|| "?".into(), units::duration);
            text.extend([" ", &length, " -> "]);
        }
        text.push_str(step.state.name());
    }
    text
}

/// One line, its text wrapped below itself.
fn row(out: &mut impl Write, name: &str, status: &str, text: &str) -> io::Result<()> {
    let indent = NAME_WIDTH + 1 + STATUS_WIDTH;
    write!(out, "{name:NAME_WIDTH$} {status:STATUS_WIDTH$}")?;
    let mut column = indent;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            write!(out, "\n{:indent$}", "")?;
            column = indent;
        }
        if column > indent {
            write!(out, " ")?;
            column += 1;
        }
        write!(out, "{word}")?;
        column += length;
    }
    writeln!(out)
}
