//! Thousands of connections as fast as one thread makes them: nothing may be missing.

use anyhow::{Context, Result, ensure};
use rustix::net::RecvFlags;
use tcptrace_common::state::TcpState::{Close, Established, Listen, SynRecv, SynSent, TimeWait};

use crate::clock::{is_emulated, soon, wait_for};
use crate::event::EventEndReason;
use crate::lab::Lab;
use crate::pair::{IpFamily, TestSocket};
use crate::scenario::seed::{SocketCounts, counts_by_kernel};
use crate::tracer::{LiveTracer, TracerFormat};
use crate::{kernel, netns, process};

/// All of them must be there when the first TIME_WAIT ends.
fn connections() -> usize {
    if is_emulated() { 2_000 } else { 20_000 }
}

/// Compares the number of transitions of each kind with the kernel's counters, and the chain of each socket with itself.
pub fn storm(lab: &Lab) -> Result<()> {
    netns::sysctl("ip_local_port_range", "1024 65535")?;
    // By default it follows the machine's memory.
    netns::sysctl("tcp_max_tw_buckets", "262144")?;
    // Only its own namespace: a storm elsewhere on the host must not keep the reader of the lines behind.
    let netns = lab.netns().to_string();
    let tracer = lab.trace_with(&["events", "--format", "json", "--netns", &netns], TracerFormat::Json)?;
    // Over loopback a TIME_WAIT of more than a second may be reused (tcp_tw_reuse is 2 by default).
    let reused_before = kernel::counter("TWRecycled")?;
    kernel::counts("ActiveOpens", connections() as u64, || {
        kernel::counts("PassiveOpens", connections() as u64, || {
            IpFamily::BOTH
                .into_iter()
                .try_for_each(|family| make_connections(family, connections() / IpFamily::BOTH.len()))
        })
    })?;
    let reused = (kernel::counter("TWRecycled")? - reused_before) as usize;
    let left = connections() - reused;
    let settled =
        wait_for("all to be in TIME_WAIT", soon(), || Ok((kernel::count(TimeWait)? == left).then_some(())));
    settled.with_context(|| format!("{left} expected, the kernel has {:?}", counts_by_kernel()))?;
    if !tracer.is_present() {
        return Ok(());
    }
    let reported = compare(lab, &tracer, reused);
    let summary = tracer.stop()?;
    reported.with_context(|| format!("stderr:\n    {summary}"))
}

fn compare(lab: &Lab, tracer: &LiveTracer, reused: usize) -> Result<()> {
    let all = connections();
    let steps = [(Close, SynSent), (SynSent, Established), (Listen, SynRecv), (SynRecv, Established)];
    for (from, to) in steps {
        let seen = tracer.count(lab.netns(), all, |event| (event.from, event.to) == (from, to))?;
        ensure!(seen == all, "{seen} of {all} {} -> {}", from.name(), to.name());
    }
    let entered = tracer.count(lab.netns(), all, |event| event.to == TimeWait)?;
    ensure!(entered == all, "{entered} of {all} went to TIME_WAIT");
    for (reason, expected) in [(EventEndReason::Closed, all), (EventEndReason::Reused, reused)] {
        let ended = tracer.count(lab.netns(), expected, |event| event.end_reason == Some(reason))?;
        ensure!(ended == expected, "{ended} of {expected} ended {reason:?}");
    }
    let top = SocketCounts::query(lab, &["top", "--once"])?.of(TimeWait);
    let kernel = kernel::count(TimeWait)?;
    ensure!(top == kernel, "top counts {top} TIME_WAIT, the kernel {kernel}");
    Ok(())
}

/// The port that [`make_connections`] connects to.
pub(super) const SERVER_PORT: u16 = 1_023;

/// Makes `connections` connections, one after the other; the client closes first.
pub(super) fn make_connections(family: IpFamily, connections: usize) -> Result<()> {
    let listener = TestSocket::listen((family.loopback(), SERVER_PORT).into())?;
    let target = listener.local()?.into();
    for _ in 0..connections {
        let client = family.socket()?;
        client.connect(&target)?;
        let (server, _) = listener.socket()?.accept()?;
        process::close(client);
        // Its FIN must be there before ours goes out: else both ends are the first to close.
        let (length, _) = rustix::net::recv(&server, &mut [0], RecvFlags::empty())?;
        ensure!(length == 0, "no end of the stream");
        process::close(server);
    }
    Ok(())
}
