//! Kernels without a hook or with hidden symbols: less precise output, marked as such.

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{
    self, Close, CloseWait, Established, FinWait1, FinWait2, LastAck, SynRecv, TimeWait,
};

use crate::event::EventLine;
use crate::lab::{Lab, WITHOUT_SEGMENTS};
use crate::pair::{ConnectedPair, IpFamily, both_families};
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

/// Without the kernel's cookies the ids are made in user space, and nothing is less exact: of new sockets, and of sockets that
/// are older than the tracer.
pub fn no_cookies(lab: &Lab) -> Result<()> {
    let mut older = ConnectedPair::open(IpFamily::V4)?;
    let tracer = lab.trace_with(&["events", "--json", "--without=cookies"], TracerFormat::Json)?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let closing = pair.close_client_first()?;
        tracer.expect(&pair.client.expected, &pair.client_steps(&closing.steps()))?;
        let ended = tracer.events_of(&pair.server.expected, 5, |_| true)?;
        ensure!(
            !tracer.is_present() || ended.iter().map(|event| event.to).eq(SERVER),
            "the server's states: {ended:#?}"
        );
        let of_server = |event: &EventLine| event.netns == lab.netns() && event.id == pair.server.id();
        ensure!(tracer.events(0, of_server)?.is_empty(), "it knows the cookies");
        Ok(())
    })?;
    let closing = older.close_client_first()?;
    let seen = tracer.events_of(&older.client.expected, 3, |_| true)?;
    ensure!(
        !tracer.is_present() || seen.iter().map(|event| event.to).eq([FinWait1, FinWait2, TimeWait]),
        "{seen:#?} by {closing:?}"
    );
    tracer.finish()
}

/// The states of a server that closes second.
const SERVER: [TcpState; 5] = [SynRecv, Established, CloseWait, LastAck, Close];

fn traced(lab: &Lab, args: &[&str]) -> Result<()> {
    let tracer = lab.trace_with(args, TracerFormat::Json)?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let closing = pair.close_client_first()?;
        tracer.expect(&pair.client.expected, &pair.client_steps(&closing.steps()))
    })?;
    tracer.finish()
}
