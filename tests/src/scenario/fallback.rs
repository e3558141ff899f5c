//! Kernels without a hook or with hidden symbols: less precise output, marked as such.

use anyhow::Result;

use crate::lab::{Lab, WITHOUT_SEGMENTS};
use crate::pair::{ConnectedPair, both_families};
use crate::tracer::TracerFormat;

/// Without the hook that shows segments, the step to `TIME_WAIT` inside a timewait socket is an upper bound, found
/// by a sweep.
pub fn late_fin_without_segments(lab: &Lab) -> Result<()> {
    traced(lab, &["events", "--json", WITHOUT_SEGMENTS])
}

/// Without kernel symbols the handlers are learned from an own connection, and nothing is less exact.
pub fn hidden_symbols(lab: &Lab) -> Result<()> {
    traced(lab, &["events", "--json", "--without=kallsyms"])
}

fn traced(lab: &Lab, args: &[&str]) -> Result<()> {
    let tracer = lab.trace_with(args, TracerFormat::Json)?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let closing = pair.close_client_first()?;
        tracer.expect(&pair.client.expected, &pair.client_steps(&closing.steps()))
    })?;
    tracer.finish()
}
