//! Runs the scenarios of a table, each on its own thread and in its own network namespace, and reports.
//!
//! Not libtest-mimic: it has no skip at run time, no time-out, no second run and no order, which are most of this file.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::gettid;

use crate::clock::{is_emulated, soon};
use crate::lab::{Lab, Skip, TestTarget};
use crate::{hidden_events, process};

/// Number of short scenarios that run at a time.
fn pool_size() -> usize {
    if is_emulated() { 1 } else { 4 }
}

/// Run the live tests
#[derive(Parser)]
#[command(
    name = "live",
    after_help = "TCPTRACE_BIN: the binary under test; default: target/release/tcptrace"
)]
struct RunnerArgs {
    /// List the scenarios
    #[arg(long)]
    list: bool,
    /// Make the traffic and check it with the kernel, without the tracer
    #[arg(long)]
    traffic: bool,
    /// Leave out the scenarios that pass or fail alike on every kernel
    #[arg(long)]
    kernel: bool,
    /// Run the scenarios whose name contains one of these
    names: Vec<String>,
}

/// The time and the CPU that a scenario needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScenarioPace {
    /// Waits a minute for a timer: all of these start first, at the same time.
    Waiting,
    /// Takes seconds.
    Short,
    /// Loads the machine, or needs it for itself: runs alone, before all others.
    Alone,
}

/// One row of the table of scenarios.
pub struct Scenario {
    /// Its name on the command line and in the report.
    pub name: &'static str,
    /// Its body.
    pub run: fn(&Lab) -> Result<()>,
    /// When it may run.
    pub pace: ScenarioPace,
}

impl Scenario {
    /// Whether its name contains one of `names`.
    fn is_named(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.name.contains(name))
    }
}

enum ScenarioOutcome {
    Passed,
    Failed(String),
    Skipped(String),
    /// It did not end in time.
    TimedOut,
}

/// A message from the thread of a scenario.
enum ThreadMessage {
    Started(Pid),
    Ended(ScenarioOutcome),
}

struct ScenarioReport {
    scenario: &'static Scenario,
    outcome: ScenarioOutcome,
    took: Duration,
    /// Events that the kernel hid from every BPF program meanwhile: see [`crate::hidden_events`].
    hidden: u64,
}

/// Runs the command line over `table`; returns whether nothing failed. The scenarios named `on_every_kernel` pass or fail
/// alike on every kernel.
pub fn main(table: &'static [Scenario], on_every_kernel: &[&str]) -> bool {
    let RunnerArgs { list, traffic, kernel, names } = RunnerArgs::parse();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let unmatched = [unmatched(table, &names), unmatched(table, on_every_kernel)].concat();
    if !unmatched.is_empty() {
        eprintln!("no scenario has {unmatched:?} in its name: --list lists all");
        return false;
    }
    let is_chosen = |scenario: &&Scenario| {
        (names.is_empty() || scenario.is_named(&names)) && !(kernel && scenario.is_named(on_every_kernel))
    };
    let chosen: Vec<_> = table.iter().filter(is_chosen).collect();
    if list {
        for scenario in chosen {
            println!("{}", scenario.name);
        }
        return true;
    }
    if let Err(error) = process::prepare() {
        eprintln!("cannot prepare for starting processes: {error}");
        return false;
    }
    let target = if traffic { Some(TestTarget::Traffic) } else { binary() };
    target.is_some_and(|target| run_all(&chosen, &target))
}

/// The names that match no scenario.
fn unmatched<'a>(table: &[Scenario], names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| !table.iter().any(|scenario| scenario.is_named(&[name]))).collect()
}

fn binary() -> Option<TestTarget> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/release/tcptrace");
    let path = std::env::var_os("TCPTRACE_BIN").map_or_else(default, PathBuf::from);
    if !path.is_file() {
        eprintln!(
            "no binary {}: `cargo build --release` makes one, TCPTRACE_BIN names another",
            path.display()
        );
        return None;
    }
    Some(TestTarget::Binary(path))
}

/// A scenario that failed and runs again at the end, alone.
struct ScenarioRetry {
    scenario: &'static Scenario,
    /// One for each failed run.
    failures: Vec<FailedRun>,
}

struct FailedRun {
    message: String,
    hidden: u64,
}

/// The results of all scenarios.
#[derive(Default)]
struct ScenarioTally {
    passed: u32,
    failed: u32,
    skipped: u32,
    retries: Vec<ScenarioRetry>,
    /// Passed only when run again, without an explanation: a defect of the program or of the test.
    flaky: Vec<String>,
    /// Passed only when run again, and the kernel hid events in each failed run.
    excused: Vec<String>,
}

impl ScenarioTally {
    /// Adds a run; `failures` are the earlier runs of the scenario.
    fn add(&mut self, report: ScenarioReport, mut failures: Vec<FailedRun>) {
        let (name, seconds) = (report.scenario.name, report.took.as_secs_f64());
        match report.outcome {
            ScenarioOutcome::Passed if failures.is_empty() => {
                self.passed += 1;
                println!("ok {name} ({seconds:.1} s)");
            }
            ScenarioOutcome::Passed => self.add_late(name, &failures),
            ScenarioOutcome::Skipped(reason) => {
                self.skipped += 1;
                println!("skipped {name}: {reason}");
            }
            ScenarioOutcome::TimedOut => {
                self.failed += 1;
                println!("FAILED {name}: time-out after {seconds:.0} s");
            }
            ScenarioOutcome::Failed(message) if failures.len() + 1 == RUNS => {
                self.failed += 1;
                println!("FAILED {name} ({seconds:.1} s): {}", in_one_line(&message));
            }
            ScenarioOutcome::Failed(message) => {
                println!("again {name}, {} events hidden by the kernel: {message}", report.hidden);
                failures.push(FailedRun { message, hidden: report.hidden });
                self.retries.push(ScenarioRetry { scenario: report.scenario, failures });
            }
        }
    }

    fn add_late(&mut self, name: &str, failures: &[FailedRun]) {
        let runs = failures.len() + 1;
        let message = failures.first().map(|failure| in_one_line(&failure.message)).unwrap_or_default();
        let hidden = failures.iter().map(|failure| failure.hidden).sum::<u64>();
        println!("ok {name}, in run {runs}");
        if failures.iter().all(|failure| failure.hidden > 0) {
            self.excused.push(format!("{name}: {hidden} events hidden by the kernel: {message}"));
        } else {
            self.flaky.push(format!("{name}: passed in run {runs} only: {message}"));
        }
    }

    /// Prints the closing lines; returns whether nothing failed and nothing is flaky.
    fn close(&self) -> bool {
        self.excused.iter().for_each(|line| println!("excused {line}"));
        self.flaky.iter().for_each(|line| println!("flaky {line}"));
        println!(
            "live: {} passed, {} failed, {} skipped, {} flaky, {} excused",
            self.passed,
            self.failed,
            self.skipped,
            self.flaky.len(),
            self.excused.len()
        );
        self.failed == 0 && self.flaky.is_empty()
    }
}

/// Joins the lines of a message: the first alone often explains nothing.
fn in_one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" | ")
}

/// Maximum runs of a scenario. Passing late is no success, but it shows that the failure is not permanent.
const RUNS: usize = 3;

/// Runs the scenarios, and those that fail again at the end.
fn run_all(chosen: &[&'static Scenario], target: &TestTarget) -> bool {
    let of_pace = |pace| chosen.iter().copied().filter(move |scenario| scenario.pace == pace);
    let (reports, incoming) = channel();
    let mut tally = ScenarioTally::default();
    let hidden = hidden_events::HiddenEvents::now();
    for scenario in of_pace(ScenarioPace::Alone) {
        tally.add(run_one(scenario, target), Vec::new());
    }
    let queue = Mutex::new(of_pace(ScenarioPace::Short).collect::<VecDeque<_>>());
    std::thread::scope(|scope| {
        for scenario in of_pace(ScenarioPace::Waiting) {
            let reports = reports.clone();
            scope.spawn(move || reports.send(run_one(scenario, target)));
        }
        for _ in 0..pool_size() {
            let (reports, queue) = (reports.clone(), &queue);
            scope.spawn(move || drain(queue, target, &reports));
        }
        drop(reports);
        for report in &incoming {
            tally.add(report, Vec::new());
        }
    });
    while let Some(ScenarioRetry { scenario, failures }) = tally.retries.pop() {
        tally.add(run_one(scenario, target), failures);
    }
    // Those of scenarios whose threads never ended.
    kill_children();
    println!("{} events hidden by the kernel in all", hidden.count());
    tally.close()
}

fn drain(queue: &Mutex<VecDeque<&'static Scenario>>, target: &TestTarget, reports: &Sender<ScenarioReport>) {
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
    while let Some(scenario) = next() {
        // The receiver outlives every sender.
        reports.send(run_one(scenario, target)).ok();
    }
}

fn run_one(scenario: &'static Scenario, target: &TestTarget) -> ScenarioReport {
    let hidden = hidden_events::HiddenEvents::now();
    let started = Instant::now();
    let run = {
        let target = target.clone();
        move || run(scenario, target)
    };
    let outcome = run_within(scenario.name, time_limit(), run);
    ScenarioReport { scenario, outcome, took: started.elapsed(), hidden: hidden.count() }
}

/// The time-out of a scenario: three times the slowest, and below the time that the console of a guest may be silent.
fn time_limit() -> Duration {
    let longer =
        ["TCPTRACE_FLOOD_SECONDS", "TCPTRACE_CHURN_SECONDS", "TCPTRACE_RECORDER_SECONDS"].map(|name| {
            std::env::var(name).ok().and_then(|seconds| seconds.parse::<u64>().ok()).unwrap_or_default()
        });
    Duration::from_secs(240 + longer.iter().sum::<u64>())
}

fn run_within(
    name: &str,
    limit: Duration,
    run: impl FnOnce() -> ScenarioOutcome + Send + 'static,
) -> ScenarioOutcome {
    let (sender, receiver) = channel();
    let thread = Builder::new().name(name.into()).spawn(move || {
        // After a time-out nobody receives.
        sender.send(ThreadMessage::Started(gettid())).ok();
        sender.send(ThreadMessage::Ended(run())).ok();
    });
    if let Err(error) = thread {
        return ScenarioOutcome::Failed(format!("cannot start its thread: {error}"));
    }
    let deadline = Instant::now() + limit;
    let mut id = None;
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(ThreadMessage::Started(thread)) => id = Some(thread),
            Ok(ThreadMessage::Ended(outcome)) => return outcome,
            Err(RecvTimeoutError::Disconnected) => return ScenarioOutcome::Failed("its thread ended".into()),
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    // A thread cannot be killed, but its children can: often it waits for one of them.
    if let Some(thread) = id {
        kill_children_of(thread);
    }
    receiver.recv_timeout(soon()).ok();
    ScenarioOutcome::TimedOut
}

/// Kills the processes that a thread started.
fn kill_children_of(thread: impl fmt::Display) {
    let path = format!("/proc/self/task/{thread}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    for child in children.split(' ').filter_map(|id| Pid::from_raw(id.parse().ok()?)) {
        kill_process(child, Signal::KILL).ok();
    }
}

/// Kills the processes that any thread of a scenario left.
fn kill_children() {
    for thread in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        kill_children_of(thread.file_name().display());
    }
}

fn run(scenario: &Scenario, target: TestTarget) -> ScenarioOutcome {
    if !rustix::process::geteuid().is_root() {
        return ScenarioOutcome::Skipped("needs root, for a network namespace".into());
    }
    let run = AssertUnwindSafe(|| Lab::enter(target).and_then(|lab| (scenario.run)(&lab)));
    match catch_unwind(run) {
        Ok(Ok(())) => ScenarioOutcome::Passed,
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => ScenarioOutcome::Skipped(reason.clone()),
            None => ScenarioOutcome::Failed(format!("{error:#}")),
        },
        Err(panic) => ScenarioOutcome::Failed(panic_message(&*panic)),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".into())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn scenario() -> &'static Scenario {
        &Scenario { name: "a::b", run: |_| Ok(()), pace: ScenarioPace::Short }
    }

    fn tally(runs: &[(bool, u64)]) -> ScenarioTally {
        let mut tally = ScenarioTally::default();
        for &(passes, hidden) in runs {
            let failures = tally.retries.pop().map(|retry| retry.failures).unwrap_or_default();
            let outcome = if passes {
                ScenarioOutcome::Passed
            } else {
                ScenarioOutcome::Failed("first\nsecond".into())
            };
            let scenario = scenario();
            tally.add(ScenarioReport { scenario, outcome, took: Duration::ZERO, hidden }, failures);
        }
        assert!(tally.retries.is_empty());
        tally
    }

    #[test]
    fn a_late_pass_is_flaky_and_no_success() {
        let tally = tally(&[(false, 0), (true, 0)]);
        assert_eq!(tally.flaky, ["a::b: passed in run 2 only: first | second"]);
        assert_eq!((tally.passed, tally.failed, tally.excused.len()), (0, 0, 0));
        assert!(!tally.close());
    }

    #[test]
    fn a_late_pass_is_excused_where_the_kernel_hid_events_in_every_failed_run() {
        let excused = tally(&[(false, 3), (false, 4), (true, 0)]);
        assert_eq!(excused.excused, ["a::b: 7 events hidden by the kernel: first | second"]);
        assert_eq!((excused.passed, excused.flaky.len()), (0, 0));
        assert!(excused.close());
        assert!(!tally(&[(false, 3), (false, 0), (true, 5)]).close(), "the second failure is not explained");
    }

    #[test]
    fn three_failures_are_a_failure_even_if_the_kernel_hid_events() {
        let tally = tally(&[(false, 3), (false, 3), (false, 3)]);
        assert_eq!((tally.failed, tally.excused.len()), (1, 0));
        assert!(!tally.close());
    }

    #[test]
    fn a_time_out_is_a_failure_and_kills_the_children() {
        let (ended, has_ended) = channel();
        let outcome = run_within("hangs", Duration::from_millis(200), move || {
            let mut child = Command::new("sleep").arg("600").spawn().unwrap();
            ended.send(child.wait().unwrap()).unwrap();
            ScenarioOutcome::Passed
        });
        assert!(matches!(outcome, ScenarioOutcome::TimedOut));
        assert_eq!(has_ended.recv().unwrap().code(), None, "a signal ended it");
        let mut tally = ScenarioTally::default();
        let report = ScenarioReport { scenario: scenario(), outcome, took: Duration::ZERO, hidden: 1 };
        tally.add(report, Vec::new());
        assert_eq!((tally.failed, tally.retries.len()), (1, 0));
    }

    #[test]
    fn a_filter_that_matches_nothing_fails() {
        let table = scenario();
        assert_eq!(unmatched(std::slice::from_ref(table), &["b", "c"]), ["c"]);
    }
}
