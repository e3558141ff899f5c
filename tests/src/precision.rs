//! What can be demanded of tcptrace on this kernel: its own `check` in, never a version number.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::lab::run_to_end;

/// How exactly what happens to a minisocket can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Segments that reach it are seen: times to the nanosecond, every reason.
    Segments,
    /// Only its timer is.
    Timers,
}

#[derive(Deserialize)]
struct Report {
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct Check {
    name: String,
    status: String,
}

/// The check that tells whether segments are seen.
const SEGMENTS: &str = "kfree_skb";

impl Precision {
    /// What `binary` says it can do here; asked once.
    pub fn of(binary: &Path) -> Result<Self> {
        static ASKED: OnceLock<Precision> = OnceLock::new();
        if let Some(&known) = ASKED.get() {
            return Ok(known);
        }
        let mut command = Command::new(binary);
        command.args(["check", "--json"]);
        let output = run_to_end(command)?;
        let report: Report = serde_json::from_slice(&output.stdout).context("the answer to check --json")?;
        let check = report.checks.iter().find(|check| check.name == SEGMENTS);
        // Without BTF there is no such check, and nothing is traced either.
        let precision =
            if check.is_some_and(|check| check.status == "works") { Self::Segments } else { Self::Timers };
        Ok(*ASKED.get_or_init(|| precision))
    }
}
