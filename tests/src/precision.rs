//! The precision expected of tcptrace per kernel: a table, which `tcptrace check` must agree with.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

use crate::lab::run_to_end;

/// How exactly the events of a timewait socket can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Segments that reach it are seen: times to the nanosecond, every reason.
    Segments,
    /// Only its timer is.
    Timers,
}

/// The kernels that CI runs the live tests on. A kernel that is not here gets a row before anything runs on it: its
/// `kfree_skb` tracepoint shows segments where its format has the field `rx_sk`.
const KERNELS: [(&str, Precision); 5] = [
    ("5.10", Precision::Timers),
    ("6.1", Precision::Timers),
    ("6.12", Precision::Segments),
    ("6.18", Precision::Segments),
    ("7.2", Precision::Segments),
];

#[derive(Deserialize)]
struct CheckDocument {
    kernel: String,
    checks: Vec<CheckedFeature>,
}

#[derive(Deserialize)]
struct CheckedFeature {
    name: String,
    status: String,
}

impl CheckDocument {
    fn precision(&self) -> Precision {
        let is_segments = |check: &CheckedFeature| check.name == SEGMENTS && check.status == "works";
        if self.checks.iter().any(is_segments) { Precision::Segments } else { Precision::Timers }
    }
}

/// The hook that shows segments.
const SEGMENTS: &str = "kfree_skb";

/// The row of the kernel whose release begins with these two numbers.
fn row(release: &str) -> Result<Precision> {
    let version = release.splitn(3, ['.', '-', '+']).take(2).collect::<Vec<_>>().join(".");
    let row = KERNELS.iter().find(|(known, _)| *known == version);
    row.map(|&(_, expected)| expected).with_context(|| {
        format!("kernel {release} is not in the table of tests/src/precision.rs: add what it can show")
    })
}

fn here() -> Result<Precision> {
    row(&rustix::system::uname().release().to_string_lossy())
}

impl Precision {
    /// The precision of this kernel by the table; an error unless `check` of `binary` reports the same.
    pub fn of(binary: &Path) -> Result<Self> {
        static CHECKED: Mutex<Option<Result<Precision, String>>> = Mutex::new(None);
        let mut checked = CHECKED.lock().map_err(|error| anyhow!("{error}"))?;
        let expected = here()?;
        let result =
            checked.get_or_insert_with(|| agreed(binary, expected).map_err(|error| format!("{error:#}")));
        result.clone().map_err(|error| anyhow!(error))
    }
}

/// `expected`, or an error if `check` reports another precision.
fn agreed(binary: &Path, expected: Precision) -> Result<Precision> {
    let mut command = Command::new(binary);
    command.args(["check", "--json"]);
    let output = run_to_end(command)?;
    let report: CheckDocument =
        serde_json::from_slice(&output.stdout).context("the answer to check --json")?;
    let reported = report.precision();
    ensure!(
        output.status.success(),
        "check ends with {} on {}, which can be traced",
        output.status,
        report.kernel
    );
    ensure!(
        reported == expected,
        "check reports {reported:?} on {}, the table has {expected:?}",
        report.kernel
    );
    Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_finds_its_row_and_no_other() {
        assert_eq!(row("5.10.0-32-cloud-amd64").unwrap(), Precision::Timers);
        assert_eq!(row("6.1.0-50-cloud-amd64").unwrap(), Precision::Timers);
        assert_eq!(row("6.12.107+deb13-cloud-amd64").unwrap(), Precision::Segments);
        assert_eq!(row("7.2-rc1").unwrap(), Precision::Segments);
        assert!(row("6.11.3").unwrap_err().to_string().contains("add what it can show"));
    }

    #[test]
    fn the_document_of_check_gives_the_precision() {
        let report = |status: &str| {
            let text = format!(
                r#"{{"kernel": "7.2.1", "checks": [{{"name": "kfree_skb", "status": "{status}"}}]}}"#
            );
            serde_json::from_str::<CheckDocument>(&text).unwrap().precision()
        };
        assert_eq!(report("works"), Precision::Segments);
        assert_eq!(report("limited"), Precision::Timers);
    }
}
