//! Counting: in, what the test programs print; out, how many passed, failed and were skipped, which, and why.

use std::fmt;

/// How one check ended.
pub enum Verdict {
    Passed,
    /// With what is wrong and what to do.
    Failed(String),
    /// With the reason why it could not run here.
    Skipped(String),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Counts {
    /// From `8 passed; 0 failed; 1 ignored; ...` or `8 passed, 0 failed, 1 skipped`.
    fn parse(text: &str) -> Option<Self> {
        let mut counts = Self::default();
        let mut seen = 0;
        for part in text.split([';', ',']) {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let field = match what {
                "passed" => &mut counts.passed,
                "failed" => &mut counts.failed,
                "skipped" | "ignored" => &mut counts.skipped,
                _ => continue,
            };
            *field = number.parse().ok()?;
            seen += 1;
        }
        (seen == 3).then_some(counts)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The sum over all test programs.
#[derive(Debug, Default)]
pub struct Tally {
    pub counts: Counts,
    failures: Vec<String>,
    skips: Vec<String>,
    live_closed: bool,
}

impl Tally {
    pub fn verdict(&mut self, name: &str, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => self.counts.passed += 1,
            Verdict::Failed(reason) => {
                self.counts.failed += 1;
                self.failures.push(format!("{name}: {reason}"));
            }
            Verdict::Skipped(reason) => {
                self.counts.skipped += 1;
                self.skips.push(format!("{name}: {reason}"));
            }
        }
    }

    /// One line of `cargo test`.
    pub fn cargo_test_line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            // "ok. 8 passed; ..." or "FAILED. 7 passed; 1 failed; ..."
            if let Some(counts) = result.split_once(". ").and_then(|(_, counts)| Counts::parse(counts)) {
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

    /// One line of the live tests: `ok NAME`, `FAILED NAME`, `skipped NAME: reason`, and in the end the counts.
    pub fn live_line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("live: ").and_then(Counts::parse) {
            self.add(counts);
            self.live_closed = true;
        } else if let Some(name) = line.strip_prefix("FAILED ") {
            self.failures.push(name.to_owned());
        } else if let Some(name_and_reason) = line.strip_prefix("skipped ") {
            self.skips.push(name_and_reason.to_owned());
        }
    }

    /// Adds all of `other`, its names behind `prefix`.
    pub fn merge(&mut self, prefix: &str, other: &Self) {
        self.add(other.counts);
        let prefixed =
            |names: &[String]| names.iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>();
        self.failures.extend(prefixed(&other.failures));
        self.skips.extend(prefixed(&other.skips));
    }

    /// Whether the live tests came to their end and counted.
    pub fn live_closed(&self) -> bool {
        self.live_closed
    }

    /// Everything that did not pass, by name, without the closing counts.
    pub fn report(&self) -> String {
        let section = |title: &str, lines: &[String]| match lines {
            [] => String::new(),
            lines => lines.iter().fold(format!("{title}:\n"), |text, line| text + "  " + line + "\n"),
        };
        section("skipped", &self.skips) + &section("failed", &self.failures)
    }

    fn add(&mut self, counts: Counts) {
        self.counts.passed += counts.passed;
        self.counts.failed += counts.failed;
        self.counts.skipped += counts.skipped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts { passed, failed, skipped }
    }

    #[test]
    fn cargo_test_results_add_up() {
        let mut tally = Tally::default();
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
        let mut tally = Tally::default();
        for line in ["ok time_wait", "FAILED fin_wait2", "skipped nginx: no nginx here: install it"] {
            tally.live_line(line);
        }
        assert!(!tally.live_closed(), "it may have crashed before it counted");
        tally.live_line("live: 1 passed, 1 failed, 1 skipped");
        assert!(tally.live_closed());
        assert_eq!(tally.counts, counts(1, 1, 1));
        assert_eq!(tally.report(), "skipped:\n  nginx: no nginx here: install it\nfailed:\n  fin_wait2\n");
    }

    #[test]
    fn verdicts_count_one_each() {
        let mut tally = Tally::default();
        tally.verdict("a", &Verdict::Passed);
        tally.verdict("b", &Verdict::Failed("stale".into()));
        tally.verdict("c", &Verdict::Skipped("other tools".into()));
        assert_eq!(tally.counts.to_string(), "1 passed, 1 failed, 1 skipped");
        assert_eq!(tally.report(), "skipped:\n  c: other tools\nfailed:\n  b: stale\n");
    }

    #[test]
    fn what_only_looks_like_counts_is_not_counted() {
        assert_eq!(Counts::parse("3 passed, many failed, 0 skipped"), None);
        assert_eq!(Counts::parse("3 passed"), None);
        let mut tally = Tally::default();
        tally.cargo_test_line("test result: unknown");
        tally.live_line("live: starting");
        assert_eq!(tally.counts, Counts::default());
    }
}
