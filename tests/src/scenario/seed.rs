//! Sockets older than the tracer, and two tracers at once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tcptrace_common::state::TcpState::{
    self, Close, CloseWait, Established, FinWait1, FinWait2, LastAck, TimeWait,
};

use crate::clock::{Span, now_ns};
use crate::event::{EndReason, Owner};
use crate::expect::{Step, step};
use crate::kernel;
use crate::lab::Lab;
use crate::pair::{Family, Pair, both_families};

/// What `states` and `top --once` say alike.
#[derive(Deserialize)]
pub struct Counts {
    states: Vec<Count>,
}

#[derive(Deserialize)]
struct Count {
    state: String,
    count: usize,
}

impl Counts {
    /// What `tcptrace ARGS --json --netns INUM` says about this scenario's namespace.
    pub fn ask(lab: &Lab, args: &[&str]) -> Result<Self> {
        let netns = lab.netns().to_string();
        let output = lab.run(&[args, &["--json", "--netns", &netns]].concat())?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{args:?} ended with {}: {stderr}", output.status);
        serde_json::from_slice(&output.stdout).with_context(|| format!("the answer to {args:?}"))
    }

    /// States that have any sockets, and how many.
    pub fn present(&self) -> BTreeMap<String, usize> {
        self.states.iter().filter(|row| row.count > 0).map(|row| (row.state.clone(), row.count)).collect()
    }

    /// How many sockets are in `state`.
    pub fn of(&self, state: TcpState) -> usize {
        self.present().get(state.name()).copied().unwrap_or_default()
    }
}

/// The same from the kernel.
pub fn counts_by_kernel() -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for socket in kernel::sockets()? {
        *counts.entry(socket.state.name().to_owned()).or_default() += 1;
    }
    Ok(counts)
}

/// One socket in every lasting state is there before the tracer; then each of them moves on.
pub fn older_than_the_tracer(lab: &Lab) -> Result<()> {
    let birth_ns = now_ns();
    let mut all = Vec::new();
    for family in Family::BOTH {
        let mut time_wait = Pair::open(family)?;
        time_wait.close_client_first()?;
        let mut orphan = Pair::open(family)?;
        let closed = orphan.client.close();
        orphan.client.reaches(FinWait2, closed)?;
        let held = Pair::open(family)?;
        held.client.shutdown_write()?;
        held.client.wait(FinWait2)?;
        all.push((time_wait, orphan, held, Pair::open(family)?));
    }
    let before = counts_by_kernel()?;
    let tracer = lab.trace()?;
    ensure!(counts_by_kernel()? == before, "the sockets did not stay as they were");
    if tracer.is_present() {
        let states = Counts::ask(lab, &["states"])?;
        ensure!(states.present() == before, "states: {:?}, kernel: {before:?}", states.present());
    }

    let me = std::process::id();
    let known = |step: Step| step.dwelt(Duration::ZERO, Duration::from_nanos(now_ns() - birth_ns)).seeded();
    for (_time_wait, mut orphan, mut held, mut open) in all {
        let answered = orphan.server.close();
        let gone = orphan.server.vanishes(answered)?;
        let stepped = orphan.client.reaches(TimeWait, answered)?;
        tracer.expect(
            &seeded(&orphan.client.subject),
            &[known(step(FinWait2, TimeWait, stepped)).any_owner().orphan().inside_minisocket()],
        )?;
        tracer.expect(
            &seeded(&orphan.server.subject),
            &[known(step(CloseWait, LastAck, answered)), step(LastAck, Close, gone).ended(EndReason::Closed)],
        )?;

        let answered = held.server.close();
        let stepped = held.client.reaches(TimeWait, answered)?;
        tracer.expect(
            &seeded(&held.client.subject),
            &[known(step(FinWait2, TimeWait, stepped)).owner(Owner::Proc, me).held()],
        )?;

        let closed = open.client.close();
        let acknowledged = open.client.reaches(FinWait2, closed)?;
        let heard = open.server.reaches(CloseWait, closed)?;
        tracer.expect(
            &seeded(&open.client.subject),
            &[known(step(Established, FinWait1, closed)), step(FinWait1, FinWait2, acknowledged).orphan()],
        )?;
        tracer.expect(
            &seeded(&open.server.subject),
            &[known(step(Established, CloseWait, heard)).owner(Owner::Proc, me)],
        )?;
    }
    tracer.finish()
}

/// A `TIME_WAIT` that is older than the tracer, and killed: when it began is inferred from its timer.
pub fn time_wait_killed(lab: &Lab) -> Result<()> {
    let birth_ns = now_ns();
    let mut pairs = Vec::new();
    for family in Family::BOTH {
        let mut pair = Pair::open(family)?;
        pair.close_client_first()?;
        pairs.push(pair);
    }
    let tracer = lab.trace()?;
    for pair in pairs {
        let minisocket = pair.client.diag()?;
        let (killed, kill) = Span::of(|| kernel::destroy(&minisocket));
        killed?;
        let gone = pair.client.vanishes(kill)?;
        let longest = Duration::from_nanos(now_ns() - birth_ns);
        tracer.expect(
            &seeded(&pair.client.subject),
            &[step(TimeWait, Close, gone)
                .dwelt(Duration::ZERO, longest)
                .inferred()
                .any_owner()
                .ended(EndReason::Killed)],
        )?;
    }
    tracer.finish()
}

/// Two tracers see the same.
pub fn two_tracers(lab: &Lab) -> Result<()> {
    let tracers = [lab.trace()?, lab.trace()?];
    both_families(|family| {
        let mut pair = Pair::open(family)?;
        let closing = pair.close_client_first()?;
        tracers
            .iter()
            .try_for_each(|tracer| tracer.expect(&pair.client.subject, &pair.client_steps(&closing.steps())))
    })?;
    tracers.into_iter().try_for_each(crate::tracer::Tracer::finish)
}

/// Which end it is can only be guessed.
fn seeded(subject: &crate::expect::Subject) -> crate::expect::Subject {
    crate::expect::Subject { role: None, ..subject.clone() }
}
