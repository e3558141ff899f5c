//! What is seen where the kernel lacks a hook or hides its symbols: less exact, and said to be.

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{Established, FinWait1, FinWait2, TimeWait};

use crate::clock::jiffy;
use crate::expect::step;
use crate::lab::Lab;
use crate::pair::{Pair, both_families};
use crate::tracer::Format;

/// Without the hook that shows segments, the step to `TIME_WAIT` inside a minisocket is an upper bound, found
/// by looking again.
pub fn late_fin_without_segments(lab: &Lab) -> Result<()> {
    let tracer = lab.trace_with(&["events", "--json", "--without", "segment"], Format::Json)?;
    both_families(|family| {
        let mut pair = Pair::open(family)?;
        let closed = pair.client.close();
        pair.client.reaches(FinWait2, closed)?;
        pair.client.ensure_orphan(true)?;
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        let port = pair.client.subject.local.map(|local| local.port());
        let steps = tracer
            .events(1, |event| Some(event.sport) == port && event.from == FinWait2 && event.to == TimeWait)?;
        for step in steps {
            ensure!(step.inferred && step.orphan == Some(true), "not said to be inferred: {step}");
            ensure!(
                step.ts_ns + jiffy().as_nanos() as u64 >= time_wait.start_ns,
                "earlier than it was, so no upper bound: {step}"
            );
        }
        Ok(())
    })?;
    tracer.finish()
}

/// Without kernel symbols the handlers are learned from an own connection, and nothing is less exact.
pub fn hidden_symbols(lab: &Lab) -> Result<()> {
    let tracer = lab.trace_with(&["events", "--json", "--without", "kallsyms"], Format::Json)?;
    both_families(|family| {
        let mut pair = Pair::open(family)?;
        let closed = pair.client.close();
        let acknowledged = pair.client.reaches(FinWait2, closed)?;
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        tracer.expect(
            &pair.client.subject,
            &pair.client_steps(&[
                step(Established, FinWait1, closed),
                step(FinWait1, FinWait2, acknowledged).orphan(),
                step(FinWait2, TimeWait, time_wait).orphan(),
            ]),
        )
    })?;
    tracer.finish()
}
