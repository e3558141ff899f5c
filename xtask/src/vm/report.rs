//! Results of one guest: reads the lines of its console; returns verdicts, counts, and its row of the kernel table.

use serde_json::Value;

use super::kernels::DebianKernel;
use super::table::KernelRow;
use crate::arch::Arch;
use crate::tally::{TestCounts, TestTally, TestVerdict};

/// The results so far.
#[derive(Default)]
pub struct GuestReport {
    /// `uname -r`
    pub release: Option<String>,
    check: Option<Value>,
    check_exit: Option<i64>,
    states_exit: Option<i64>,
    live: TestTally,
}

impl GuestReport {
    /// Parses one line of the console.
    pub fn line(&mut self, line: &str) {
        let Some(fact) = line.strip_prefix("vm: ") else { return self.live.live_line(line) };
        let Some((name, value)) = fact.split_once(' ') else { return };
        let exit = value.strip_prefix("exit ").and_then(|status| status.parse().ok());
        match name {
            "release" => self.release = Some(value.to_owned()),
            "check" if exit.is_some() => self.check_exit = exit,
            "check" => self.check = serde_json::from_str(value).ok(),
            "states" => self.states_exit = exit,
            _ => {}
        }
    }

    /// The live tests; `None` until they have printed their final counts.
    pub fn live(&self) -> Option<&TestTally> {
        self.live.live_closed().then_some(&self.live)
    }

    /// The verdicts of all checks except the live tests.
    pub fn verdicts(&self) -> Vec<(&'static str, TestVerdict)> {
        let verdict =
            |right: bool, wrong: String| if right { TestVerdict::Passed } else { TestVerdict::Failed(wrong) };
        let states =
            verdict(self.states_exit == Some(0), format!("states ended with {:?}", self.states_exit));
        let check = verdict(
            self.check_exit == Some(0) && self.check.is_some(),
            format!("check ended with {:?}: {}", self.check_exit, self.self_test()),
        );
        let mut verdicts = vec![("states", states), ("check", check)];
        if self.live().is_none() {
            verdicts.push(("live tests", TestVerdict::Failed("they ended before their final counts".into())));
        }
        verdicts
    }

    fn self_test(&self) -> String {
        self.check.as_ref().map_or_else(|| "no document".into(), |check| check["self_test"].to_string())
    }

    fn status(&self, name: &str) -> Option<&str> {
        let checks = self.check.as_ref()?["checks"].as_array()?;
        checks.iter().find(|check| check["name"] == name)?["status"].as_str()
    }

    /// Its row in the kernel table.
    pub fn row(&self, kernel: &DebianKernel, arch: Arch, counts: TestCounts) -> KernelRow {
        let works = |name| self.status(name) == Some("works");
        let release = self.release.as_deref().unwrap_or(kernel.version);
        let flavour = format!("-{}", kernel.flavour(arch));
        let needed = ["inet_sock_set_state", "timer_start", "timer_cancel", "timer_expire_entry"];
        let entry = if works("kfree_skb") {
            "to the nanosecond"
        } else if works("tw_entry_stamp") {
            "to the millisecond, at its end"
        } else {
            "upper bound, inferred"
        };
        let shows = if self.check_exit == Some(0) {
            [
                if needed.into_iter().all(works) { "yes" } else { "no" },
                if works("kfree_skb") { "yes" } else { "no" },
                entry,
                if works("kfree_skb") { "distinguished" } else { "unexplained" },
            ]
        } else {
            ["no", "no", "-", "-"]
        };
        KernelRow {
            release: release.strip_suffix(&flavour).unwrap_or(release).to_owned(),
            shows,
            arch,
            counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &str) -> GuestReport {
        let mut report = GuestReport::default();
        lines.lines().for_each(|line| report.line(line));
        report
    }

    #[test]
    fn a_guest_that_traces() {
        let kernel = DebianKernel::named("6.1").unwrap();
        let report = report(
            "vm: release 6.1.0-50-cloud-amd64\nvm: states exit 0\nvm: check exit 0\n\
             vm: check {\"checks\":[{\"name\":\"kfree_skb\",\"status\":\"limited\"}],\"self_test\":{}}\n\
             ok close::held (1.0 s)\nlive: 1 passed, 0 failed, 0 skipped\nvm: end",
        );
        assert!(report.verdicts().iter().all(|(_, verdict)| matches!(verdict, TestVerdict::Passed)));
        assert_eq!(report.live().unwrap().counts.passed, 1);
        let row = report.row(kernel, Arch::Amd64, TestCounts::default()).line(None);
        assert_eq!(
            row,
            "| 6.1.0-50 | no | no | upper bound, inferred | unexplained | 0 passed, 0 failed, 0 skipped | - |"
        );
    }

    #[test]
    fn a_guest_that_cannot_trace_fails() {
        let console = "vm: states exit 0\nvm: check exit 3\nvm: check {}\n";
        let failed: Vec<_> = report(console)
            .verdicts()
            .into_iter()
            .filter(|(_, verdict)| matches!(verdict, TestVerdict::Failed(_)))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(failed, ["check", "live tests"]);
    }
}
