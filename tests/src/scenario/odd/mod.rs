//! Odd connections: rare ways in which a connection begins, ends or changes its owner.
//!
//! A case makes its traffic, proves it by the kernel's counters and `sock_diag`, and states the expected states, end reason,
//! closer and owner. [`counters()`] runs them all and compares the kernel's counters and ftrace with the events of tcptrace.

mod attempts;
mod counters;
mod fast_open;
mod icmp_errors;
mod kinds;
mod listeners;
mod memory;
mod owners;
mod parts;
mod resets;
mod time_wait;

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

pub use owners::{RECEIVE, receive_socket};

use crate::clock::is_emulated;
use crate::event::EventLine;
use crate::expect::{ExpectedSocket, ExpectedStep};
use crate::lab::{Lab, Skip};
use crate::tracer::LiveTracer;

/// One odd kind of connection.
#[derive(Clone, Copy)]
struct OddCase {
    name: &'static str,
    run: fn(&OddLab) -> Result<()>,
}

const fn case(name: &'static str, run: fn(&OddLab) -> Result<()>) -> OddCase {
    OddCase { name, run }
}

/// Every case, by theme.
const ALL: &[&[OddCase]] = &[
    attempts::CASES,
    icmp_errors::CASES,
    resets::CASES,
    memory::CASES,
    time_wait::CASES,
    fast_open::CASES,
    listeners::CASES,
    listeners::MIGRATION,
    kinds::CASES,
    kinds::MPTCP,
    owners::CASES,
    owners::IO_URING,
];

/// Counts of the kernel that end no socket, with the cause.
#[derive(Clone)]
struct UnendedCount {
    counter: &'static str,
    by: u64,
    why: &'static str,
}

/// The environment of a case.
struct OddLab {
    tracer: LiveTracer,
    unended: Mutex<Vec<UnendedCount>>,
}

impl OddLab {
    fn new(lab: &Lab) -> Result<Self> {
        Ok(Self { tracer: lab.trace()?, unended: Mutex::default() })
    }

    fn expect(&self, socket: &ExpectedSocket, steps: &[ExpectedStep]) -> Result<()> {
        self.tracer.expect(socket, steps)
    }

    fn events(&self, count: usize, test: impl Fn(&EventLine) -> bool) -> Result<Vec<EventLine>> {
        self.tracer.events(count, test)
    }

    fn events_of(
        &self,
        socket: &ExpectedSocket,
        count: usize,
        test: impl Fn(&EventLine) -> bool,
    ) -> Result<Vec<EventLine>> {
        self.tracer.events_of(socket, count, test)
    }

    /// Checks a condition about the tracer, where there is one.
    fn need(&self, right: bool, what: &str) -> Result<()> {
        if self.tracer.is_present() && !right {
            bail!("not true: {what}");
        }
        Ok(())
    }

    fn unended(&self) -> Vec<UnendedCount> {
        self.unended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds `by` counts of `counter` that the kernel makes without ending a socket, as the case has proved.
    fn add_unended(&self, counter: &'static str, by: u64, why: &'static str) {
        let mut unended = self.unended.lock().unwrap_or_else(PoisonError::into_inner);
        match unended.iter_mut().find(|known| (known.counter, known.why) == (counter, why)) {
            Some(known) => known.by += by,
            None => unended.push(UnendedCount { counter, by, why }),
        }
    }
}

/// The failed and skipped cases.
#[derive(Default)]
struct CaseOutcomes {
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl CaseOutcomes {
    fn of(stage: &OddLab, cases: &[OddCase]) -> Self {
        let mut outcomes = Self::default();
        for case in cases {
            let Err(error) = (case.run)(stage) else { continue };
            // At once: each failing case may wait a minute, and together they exceed the time of the scenario.
            println!("   {}: {error:#}", case.name);
            match error.downcast_ref::<Skip>() {
                Some(Skip(reason)) => outcomes.skipped.push(format!("{}: {reason}", case.name)),
                None => outcomes.failed.push(format!("{}: {error:#}", case.name)),
            }
        }
        outcomes
    }

    /// A case that was skipped makes the scenario a skipped one, however many passed.
    fn verdict(self) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("{} cases:\n  {}", self.failed.len(), self.failed.join("\n  "));
        }
        if !self.skipped.is_empty() {
            bail!(Skip(self.skipped.join("; ")));
        }
        Ok(())
    }
}

fn run(lab: &Lab, cases: &[OddCase]) -> Result<()> {
    if is_emulated() {
        bail!(Skip("odd::counters runs the same cases, and an emulated machine is slow".into()));
    }
    let stage = OddLab::new(lab)?;
    let outcomes = CaseOutcomes::of(&stage, cases);
    let finished = stage.tracer.finish().context("the whole namespace");
    outcomes.verdict().and(finished)
}

macro_rules! scenarios {
    ($($(#[$doc:meta])* $name:ident: $cases:expr;)*) => {
        $($(#[$doc])* pub fn $name(lab: &Lab) -> Result<()> {
            run(lab, $cases)
        })*
    };
}

scenarios! {
    /// Connects that fail or are abandoned.
    attempts: attempts::CASES;
    /// ICMP errors about an established connection.
    icmp: icmp_errors::CASES;
    /// RSTs after the FIN, or in place of one.
    resets: resets::CASES;
    /// `tcp_max_orphans`.
    orphans: memory::CASES;
    /// Ends of `TIME_WAIT`, and `TCP_REPAIR`.
    time_wait: time_wait::CASES;
    /// Fast open.
    fast_open: fast_open::CASES;
    /// Listeners.
    listeners: listeners::CASES;
    /// Handshakes that move to another listener.
    migration: listeners::MIGRATION;
    /// Simultaneous open and close, timers, addresses.
    kinds: kinds::CASES;
    /// MPTCP.
    mptcp: kinds::MPTCP;
    /// Sockets that change owners.
    owners: owners::CASES;
    /// `io_uring`.
    io_uring: owners::IO_URING;
}

pub use counters::counters;
