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

/// The kernels that CI runs the live tests on, with the precision and the kind of rings. A kernel that is not here gets a row
/// before anything runs on it: its `kfree_skb` tracepoint shows segments where its format has the field `rx_sk`, and
/// programs have the instructions for mapped rings since 5.12, on arm64 since 5.18.
const KERNELS: [(&str, Precision, &str); 5] = [
    ("5.10", Precision::Timers, "buffers"),
    ("6.1", Precision::Timers, "mapped"),
    ("6.12", Precision::Segments, "mapped"),
    ("6.18", Precision::Segments, "mapped"),
    ("7.2", Precision::Segments, "mapped"),
];

#[derive(Deserialize)]
struct CheckDocument {
    kernel: String,
    checks: Vec<CheckedFeature>,
    self_test: SelfTest,
}

#[derive(Deserialize)]
struct SelfTest {
    /// `None` if it failed.
    rings: Option<String>,
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
fn row(release: &str) -> Result<(Precision, &'static str)> {
    let version = release.splitn(3, ['.', '-', '+']).take(2).collect::<Vec<_>>().join(".");
    let row = KERNELS.iter().find(|(known, ..)| *known == version);
    row.map(|&(_, precision, rings)| (precision, rings)).with_context(|| {
        format!("kernel {release} is not in the table of tests/src/precision.rs: add what it can show")
    })
}

fn here() -> Result<(Precision, &'static str)> {
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

/// The expected precision, or an error if `check` reports another one, or other rings.
fn agreed(binary: &Path, (expected, rings): (Precision, &str)) -> Result<Precision> {
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
    ensure!(
        report.self_test.rings.as_deref() == Some(rings),
        "check reports the rings {:?} on {}, the table has {rings}",
        report.self_test.rings,
        report.kernel
    );
    Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_finds_its_row_and_no_other() {
        assert_eq!(row("5.10.0-32-cloud-amd64").unwrap(), (Precision::Timers, "buffers"));
        assert_eq!(row("6.1.0-50-cloud-amd64").unwrap(), (Precision::Timers, "mapped"));
        assert_eq!(row("6.12.107+deb13-cloud-amd64").unwrap().0, Precision::Segments);
        assert_eq!(row("7.2-rc1").unwrap().0, Precision::Segments);
        assert!(row("6.11.3").unwrap_err().to_string().contains("add what it can show"));
    }

    #[test]
    fn the_document_of_check_gives_the_precision() {
        let report = |status: &str| {
            let text = format!(
                r#"{{"kernel": "7.2.1", "checks": [{{"name": "kfree_skb", "status": "{status}"}}], "self_test": {{}}}}"#
            );
            serde_json::from_str::<CheckDocument>(&text).unwrap().precision()
        };
        assert_eq!(report("works"), Precision::Segments);
        assert_eq!(report("limited"), Precision::Timers);
    }
}
