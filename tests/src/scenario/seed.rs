//! Sockets older than the tracer, and two tracers at once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tcptrace_common::state::TcpState::{
    self, Close, CloseWait, Established, FinWait1, FinWait2, LastAck, TimeWait,
};

use crate::clock::{Span, now_ns};
use crate::event::{EventEndReason, EventOwner};
use crate::expect::{ExpectedStep, step};
use crate::kernel;
use crate::lab::Lab;
use crate::pair::{ConnectedPair, IpFamily, both_families};

/// Sockets by state, from `states` or `top --once`.
#[derive(Deserialize)]
pub struct SocketCounts {
    states: Vec<StateCountRow>,
}

#[derive(Deserialize)]
struct StateCountRow {
    state: String,
    count: usize,
}

impl SocketCounts {
    /// The counts of `tcptrace ARGS --json --netns INUM` for this scenario's namespace.
    pub fn query(lab: &Lab, args: &[&str]) -> Result<Self> {
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

/// One socket in every lasting state exists before the tracer; then each changes its state.
pub fn older_than_the_tracer(lab: &Lab) -> Result<()> {
    let birth_ns = now_ns();
    let mut all = Vec::new();
    for family in IpFamily::BOTH {
        let mut time_wait = ConnectedPair::open(family)?;
        time_wait.close_client_first()?;
        let mut orphan = ConnectedPair::open(family)?;
        let closed = orphan.client.close();
        orphan.client.reaches(FinWait2, closed)?;
        let held = ConnectedPair::open(family)?;
        held.client.shutdown_write()?;
        held.client.wait(FinWait2)?;
        all.push((time_wait, orphan, held, ConnectedPair::open(family)?));
    }
    let before = counts_by_kernel()?;
    let tracer = lab.trace()?;
    ensure!(counts_by_kernel()? == before, "the sockets did not stay as they were");
    if tracer.is_present() {
        let states = SocketCounts::query(lab, &["states"])?;
        ensure!(states.present() == before, "states: {:?}, kernel: {before:?}", states.present());
    }

    let me = std::process::id();
    let known =
        |step: ExpectedStep| step.dwelt(Duration::ZERO, Duration::from_nanos(now_ns() - birth_ns)).seeded();
    for (_time_wait, mut orphan, mut held, mut open) in all {
        let answered = orphan.server.close();
        let ended = orphan.server.ends(answered)?;
        let stepped = orphan.client.reaches(TimeWait, answered)?;
        tracer.expect(
            &seeded(&orphan.client.expected),
            &[known(step(FinWait2, TimeWait, stepped)).any_owner().orphan().by_segment()],
        )?;
        tracer.expect(
            &seeded(&orphan.server.expected),
            &[
                known(step(CloseWait, LastAck, answered)),
                step(LastAck, Close, ended).ended(EventEndReason::Closed),
            ],
        )?;

        let answered = held.server.close();
        let stepped = held.client.reaches(TimeWait, answered)?;
        tracer.expect(
            &seeded(&held.client.expected),
            &[known(step(FinWait2, TimeWait, stepped)).owner(EventOwner::Proc, me).held()],
        )?;

        let closed = open.client.close();
        let acknowledged = open.client.reaches(FinWait2, closed)?;
        let received = open.server.reaches(CloseWait, closed)?;
        tracer.expect(
            &seeded(&open.client.expected),
            &[known(step(Established, FinWait1, closed)), step(FinWait1, FinWait2, acknowledged).orphan()],
        )?;
        tracer.expect(
            &seeded(&open.server.expected),
            &[known(step(Established, CloseWait, received)).owner(EventOwner::Proc, me)],
        )?;
    }
    tracer.finish()
}

/// A `TIME_WAIT` that is older than the tracer, and killed: when it began is inferred from its timer.
pub fn time_wait_killed(lab: &Lab) -> Result<()> {
    let birth_ns = now_ns();
    let mut pairs = Vec::new();
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        pair.close_client_first()?;
        pairs.push(pair);
    }
    let tracer = lab.trace()?;
    for pair in pairs {
        let timewait = pair.client.diag()?;
        let (killed, kill) = Span::of(|| kernel::destroy(&timewait));
        killed?;
        let ended = pair.client.ends(kill)?;
        let longest = Duration::from_nanos(now_ns() - birth_ns);
        tracer.expect(
            &seeded(&pair.client.expected),
            &[step(TimeWait, Close, ended)
                .dwelt(Duration::ZERO, longest)
                .inferred()
                .any_owner()
                .ended(EventEndReason::Killed)],
        )?;
    }
    tracer.finish()
}

/// Two tracers report the same events.
pub fn two_tracers(lab: &Lab) -> Result<()> {
    let tracers = [lab.trace()?, lab.trace()?];
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let closing = pair.close_client_first()?;
        tracers
            .iter()
            .try_for_each(|tracer| tracer.expect(&pair.client.expected, &pair.client_steps(&closing.steps())))
    })?;
    tracers.into_iter().try_for_each(crate::tracer::LiveTracer::finish)
}

/// The role can only be guessed.
fn seeded(socket: &crate::expect::ExpectedSocket) -> crate::expect::ExpectedSocket {
    crate::expect::ExpectedSocket { role: None, ..socket.clone() }
}
