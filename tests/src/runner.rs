//! Runs the scenarios of a table, each on a thread and in a namespace of its own, and reports.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::clock::is_emulated;
use crate::lab::{Lab, Skip, Subject};

/// How many short scenarios run at a time.
fn pool() -> usize {
    if is_emulated() { 1 } else { 4 }
}

const USAGE: &str = "usage: live [--list] [--traffic] [NAME...]
  --list     name the scenarios
  --traffic  make the traffic and check it with the kernel, without the tracer
TCPTRACE_BIN names the binary under test; default: target/release/tcptrace";

/// How much of the machine and of the clock a scenario takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Waits a minute for a timer: all of these start first and at once.
    Waits,
    /// Over in seconds.
    Short,
    /// Loads the machine: runs before all others, with nothing beside it.
    Alone,
}

/// One row of the table of scenarios.
pub struct Scenario {
    /// What it is called on the command line and in the report.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Lab) -> Result<()>,
    /// When it runs.
    pub pace: Pace,
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

struct Report {
    scenario: &'static Scenario,
    outcome: Outcome,
    took: Duration,
}

/// Does what the command line asks for; returns whether nothing failed.
pub fn main(table: &'static [Scenario]) -> bool {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (flags, names): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with('-'));
    if let Some(unknown) = flags.iter().find(|flag| !["--list", "--traffic"].contains(&flag.as_str())) {
        eprintln!("unknown option {unknown}\n{USAGE}");
        return false;
    }
    let chosen: Vec<&'static Scenario> = table
        .iter()
        .filter(|scenario| names.is_empty() || names.iter().any(|name| scenario.name.contains(name.as_str())))
        .collect();
    if flags.iter().any(|flag| *flag == "--list") {
        for scenario in chosen {
            println!("{}", scenario.name);
        }
        return true;
    }
    let subject =
        if flags.iter().any(|flag| *flag == "--traffic") { Some(Subject::Traffic) } else { binary() };
    subject.is_some_and(|subject| run_all(&chosen, &subject))
}

fn binary() -> Option<Subject> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/release/tcptrace");
    let path = std::env::var_os("TCPTRACE_BIN").map_or_else(default, PathBuf::from);
    if !path.is_file() {
        eprintln!(
            "no binary {}: `cargo build --release` makes one, TCPTRACE_BIN names another",
            path.display()
        );
        return None;
    }
    Some(Subject::Binary(path))
}

/// What became of all scenarios.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
    /// Those that failed and run again at the end, with nothing beside them.
    again: Vec<&'static Scenario>,
}

impl Tally {
    fn take(&mut self, report: Report, is_last: bool) {
        let (name, seconds) = (report.scenario.name, report.took.as_secs_f64());
        match report.outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("ok {name} ({seconds:.1} s)");
            }
            Outcome::Skipped(reason) => {
                self.skipped += 1;
                println!("skipped {name}: {reason}");
            }
            Outcome::Failed(message) if is_last => {
                self.failed += 1;
                println!("FAILED {name} ({seconds:.1} s)\n    {message}");
            }
            Outcome::Failed(message) => {
                println!("again {name}: {message}");
                self.again.push(report.scenario);
            }
        }
    }
}

/// Runs the scenarios, and what fails again in the end, said aloud: a kernel was seen to run no BPF program at all for
/// every event of one softirq, now and then, which no tracer can help and the tracer counts as healed. What fails three
/// times is a defect.
fn run_all(chosen: &[&'static Scenario], subject: &Subject) -> bool {
    let of_pace = |pace| chosen.iter().copied().filter(move |scenario| scenario.pace == pace);
    let (reports, incoming) = channel();
    let mut tally = Tally::default();
    for scenario in of_pace(Pace::Alone) {
        tally.take(run_one(scenario, subject), false);
    }
    let queue = Mutex::new(of_pace(Pace::Short).collect::<VecDeque<_>>());
    std::thread::scope(|scope| {
        for scenario in of_pace(Pace::Waits) {
            let reports = reports.clone();
            scope.spawn(move || reports.send(run_one(scenario, subject)));
        }
        for _ in 0..pool() {
            let (reports, queue) = (reports.clone(), &queue);
            scope.spawn(move || drain(queue, subject, &reports));
        }
        drop(reports);
        for report in &incoming {
            tally.take(report, false);
        }
    });
    for is_last in [false, true] {
        for scenario in std::mem::take(&mut tally.again) {
            tally.take(run_one(scenario, subject), is_last);
        }
    }
    println!("live: {} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    tally.failed == 0
}

fn drain(queue: &Mutex<VecDeque<&'static Scenario>>, subject: &Subject, reports: &Sender<Report>) {
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
    while let Some(scenario) = next() {
        // The receiver outlives every sender.
        reports.send(run_one(scenario, subject)).ok();
    }
}

fn run_one(scenario: &'static Scenario, subject: &Subject) -> Report {
    let started = Instant::now();
    let subject = subject.clone();
    let thread = Builder::new().name(scenario.name.into()).spawn(move || {
        if !rustix::process::geteuid().is_root() {
            return Outcome::Skipped("needs root, to make a network namespace".into());
        }
        let run = AssertUnwindSafe(|| Lab::enter(subject).and_then(|lab| (scenario.run)(&lab)));
        match catch_unwind(run) {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(error)) => match error.downcast_ref::<Skip>() {
                Some(Skip(reason)) => Outcome::Skipped(reason.clone()),
                None => Outcome::Failed(format!("{error:#}")),
            },
            Err(panic) => Outcome::Failed(panic_message(&*panic)),
        }
    });
    let outcome = match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Outcome::Failed(panic_message(&*panic)),
        Err(error) => Outcome::Failed(format!("no thread: {error}")),
    };
    Report { scenario, outcome, took: started.elapsed() }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".into())
}
