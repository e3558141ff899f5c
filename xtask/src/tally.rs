//! Counts test results: in, the lines that test programs print; out, counts, and the tests that did not pass with the reason.

use std::fmt;

/// The result of one check.
pub enum TestVerdict {
    Passed,
    /// The defect, and what to do.
    Failed(String),
    /// The reason why it could not run here.
    Skipped(String),
}

impl TestVerdict {
    /// Skipped, with the reason on one line.
    pub fn skipped(reason: &anyhow::Error) -> Self {
        Self::Skipped(format!("{reason:#}").replace('\n', " "))
    }

    pub fn print(&self, name: &str) {
        match self {
            Self::Passed => println!("ok {name}"),
            Self::Failed(reason) => println!("FAILED {name}: {reason}"),
            Self::Skipped(reason) => println!("skipped {name}: {reason}"),
        }
    }
}

impl From<anyhow::Result<()>> for TestVerdict {
    fn from(result: anyhow::Result<()>) -> Self {
        result.map_or_else(|error| Self::Failed(format!("{error:#}")), |()| Self::Passed)
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct TestCounts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Live scenarios that passed only when run again, for an unknown reason; not a success.
    pub flaky: u64,
    /// Live scenarios that passed once the kernel hid no events from BPF programs.
    pub excused: u64,
}

impl TestCounts {
    /// Whether nothing failed and nothing is flaky.
    pub fn is_success(self) -> bool {
        self.failed == 0 && self.flaky == 0
    }

    /// From `8 passed; 0 failed; 1 ignored; ...` or `8 passed, 0 failed, 1 skipped, 0 flaky, 0 excused`.
    fn parse(text: &str) -> Option<Self> {
        let mut counts = Self::default();
        let mut seen = 0;
        for part in text.split([';', ',']) {
            let Some((number, result)) = part.trim().split_once(' ') else { continue };
            let field = match result {
                "passed" => &mut counts.passed,
                "failed" => &mut counts.failed,
                "skipped" | "ignored" => &mut counts.skipped,
                "flaky" => &mut counts.flaky,
                "excused" => &mut counts.excused,
                _ => continue,
            };
            *field = number.parse().ok()?;
            seen += 1;
        }
        [3, 5].contains(&seen).then_some(counts)
    }
}

impl fmt::Display for TestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)?;
        let late = [(self.flaky, "flaky"), (self.excused, "excused")];
        late.iter()
            .filter(|(count, _)| *count > 0)
            .try_for_each(|(count, name)| write!(f, ", {count} {name}"))
    }
}

/// The sum over all test programs.
#[derive(Debug, Default)]
pub struct TestTally {
    pub counts: TestCounts,
    failures: Vec<String>,
    skips: Vec<String>,
    flaky: Vec<String>,
    excused: Vec<String>,
    live_closed: bool,
}

impl TestTally {
    pub fn verdict(&mut self, name: &str, verdict: &TestVerdict) {
        match verdict {
            TestVerdict::Passed => self.counts.passed += 1,
            TestVerdict::Failed(reason) => {
                self.counts.failed += 1;
                self.failures.push(format!("{name}: {reason}"));
            }
            TestVerdict::Skipped(reason) => {
                self.counts.skipped += 1;
                self.skips.push(format!("{name}: {reason}"));
            }
        }
    }

    /// One line of `cargo test`.
    pub fn cargo_test_line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            // "ok. 8 passed; ..." or "FAILED. 7 passed; 1 failed; ..."
            if let Some(counts) = result.split_once(". ").and_then(|(_, counts)| TestCounts::parse(counts)) {
                self.add(counts);
            }
        } else if let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        {
            if outcome == "FAILED" {
                self.failures.push(name.to_owned());
            } else if let Some(reason) = outcome.strip_prefix("ignored") {
                let reason = reason.strip_prefix(", ").unwrap_or("marked #[ignore]");
                self.skips.push(format!("{name}: {reason}"));
            }
        }
    }

    /// One line of the live tests: `ok NAME`, `FAILED NAME: failure`, `skipped NAME: reason`, and in the end `flaky NAME: failure`,
    /// `excused NAME: reason` and the counts.
    pub fn live_line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("live: ").and_then(TestCounts::parse) {
            self.add(counts);
            self.live_closed = true;
        } else if let Some(name) = line.strip_prefix("FAILED ") {
            self.failures.push(name.to_owned());
        } else if let Some(name_and_reason) = line.strip_prefix("skipped ") {
            self.skips.push(name_and_reason.to_owned());
        } else if let Some(name_and_failure) = line.strip_prefix("flaky ") {
            self.flaky.push(name_and_failure.to_owned());
        } else if let Some(name_and_reason) = line.strip_prefix("excused ") {
            self.excused.push(name_and_reason.to_owned());
        }
    }

    /// Adds the results of `other`, each name after `prefix`.
    pub fn merge(&mut self, prefix: &str, other: &Self) {
        self.add(other.counts);
        let prefixed =
            |names: &[String]| names.iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>();
        self.failures.extend(prefixed(&other.failures));
        self.skips.extend(prefixed(&other.skips));
        self.flaky.extend(prefixed(&other.flaky));
        self.excused.extend(prefixed(&other.excused));
    }

    /// Whether the live tests printed their closing counts.
    pub fn live_closed(&self) -> bool {
        self.live_closed
    }

    /// Whether there is no result.
    pub fn is_empty(&self) -> bool {
        self.counts == TestCounts::default()
    }

    /// Everything that did not pass, by name, without the counts.
    pub fn report(&self) -> String {
        let section = |title: &str, lines: &[String]| match lines {
            [] => String::new(),
            lines => lines.iter().fold(format!("{title}:\n"), |text, line| text + "  " + line + "\n"),
        };
        section("skipped", &self.skips)
            + &section("excused", &self.excused)
            + &section("flaky", &self.flaky)
            + &section("failed", &self.failures)
    }

    fn add(&mut self, counts: TestCounts) {
        self.counts.passed += counts.passed;
        self.counts.failed += counts.failed;
        self.counts.skipped += counts.skipped;
        self.counts.flaky += counts.flaky;
        self.counts.excused += counts.excused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> TestCounts {
        TestCounts { passed, failed, skipped, ..TestCounts::default() }
    }

    #[test]
    fn cargo_test_results_add_up() {
        let mut tally = TestTally::default();
        for line in [
            "running 3 tests",
            "test model::units::tests::round ... ok",
            "test kernel::tests::btf ... ignored, needs a kernel with BTF",
            "test model::text::tests::names ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
            "test src/lib.rs - model (line 3) ... ignored",
            "test result: ok. 8 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            tally.cargo_test_line(line);
        }
        assert_eq!(tally.counts, counts(9, 1, 2));
        assert_eq!(
            tally.report(),
            "skipped:\n  kernel::tests::btf: needs a kernel with BTF\n  src/lib.rs - model (line 3): marked #[ignore]\n\
             failed:\n  model::text::tests::names\n"
        );
    }

    #[test]
    fn live_lines_give_names_and_the_closing_line_gives_counts() {
        let mut tally = TestTally::default();
        for line in ["ok time_wait", "FAILED fin_wait2", "skipped nginx: no nginx here: install it"] {
            tally.live_line(line);
        }
        assert!(!tally.live_closed(), "it may have crashed before it counted");
        tally.live_line("live: 1 passed, 1 failed, 1 skipped, 0 flaky, 0 excused");
        assert!(tally.live_closed());
        assert_eq!(tally.counts, counts(1, 1, 1));
        assert_eq!(tally.report(), "skipped:\n  nginx: no nginx here: install it\nfailed:\n  fin_wait2\n");
    }

    #[test]
    fn flaky_and_excused_scenarios_are_counted_separately() {
        let mut guest = TestTally::default();
        for line in [
            "again close::held, 0 events hidden by the kernel: no FIN",
            "ok close::held, in run 2",
            "excused seed::two: 3 events hidden by the kernel: healed 1",
            "flaky close::held: passed in run 2 only: no FIN",
            "live: 5 passed, 0 failed, 1 skipped, 1 flaky, 1 excused",
        ] {
            guest.live_line(line);
        }
        assert!(guest.live_closed());
        let mut tally = TestTally::default();
        tally.merge("vm 6.1: ", &guest);
        assert_eq!(tally.counts.to_string(), "5 passed, 0 failed, 1 skipped, 1 flaky, 1 excused");
        assert_eq!(
            tally.report(),
            "excused:\n  vm 6.1: seed::two: 3 events hidden by the kernel: healed 1\n\
             flaky:\n  vm 6.1: close::held: passed in run 2 only: no FIN\n"
        );
        assert!(!tally.counts.is_success(), "flaky is no success");
        tally.counts.flaky = 0;
        assert!(tally.counts.is_success(), "excused is one");
    }

    #[test]
    fn verdicts_count_one_each() {
        let mut tally = TestTally::default();
        tally.verdict("a", &TestVerdict::Passed);
        tally.verdict("b", &TestVerdict::Failed("stale".into()));
        tally.verdict("c", &TestVerdict::Skipped("other tools".into()));
        assert_eq!(tally.counts.to_string(), "1 passed, 1 failed, 1 skipped");
        assert_eq!(tally.report(), "skipped:\n  c: other tools\nfailed:\n  b: stale\n");
    }

    #[test]
    fn malformed_counts_are_ignored() {
        assert_eq!(TestCounts::parse("3 passed, many failed, 0 skipped"), None);
        assert_eq!(TestCounts::parse("3 passed"), None);
        let mut tally = TestTally::default();
        tally.cargo_test_line("test result: unknown");
        tally.live_line("live: starting");
        assert_eq!(tally.counts, TestCounts::default());
    }
}
