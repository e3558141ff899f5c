//! Twenty thousand connections as fast as one thread makes them: nothing may be missing.

use anyhow::{Result, ensure};
use rustix::net::RecvFlags;
use tcptrace_common::state::TcpState::{Close, Established, Listen, SynRecv, SynSent, TimeWait};

use crate::kernel;
use crate::lab::Lab;
use crate::netns;
use crate::pair::{End, Family};
use crate::scenario::seed::Counts;

const CONNECTIONS: usize = 20_000;

/// Compares the number of transitions of each kind with the kernel's counters, and the chain of each socket with itself.
pub fn storm(lab: &Lab) -> Result<()> {
    netns::sysctl("ip_local_port_range", "1024 65535")?;
    let tracer = lab.trace()?;
    kernel::counts("ActiveOpens", CONNECTIONS as u64, || {
        kernel::counts("PassiveOpens", CONNECTIONS as u64, || {
            Family::BOTH.into_iter().try_for_each(connections)
        })
    })?;
    crate::clock::wait_for("all to be in TIME_WAIT", crate::clock::SOON, || {
        Ok((kernel::count(TimeWait)? == CONNECTIONS).then_some(()))
    })?;
    if !tracer.is_present() {
        return Ok(());
    }
    let top = Counts::ask(lab, &["top", "--once"])?;
    let now = kernel::count(TimeWait)?;
    ensure!(top.of(TimeWait) == now, "top counts {} TIME_WAIT, the kernel {now}", top.of(TimeWait));
    for (from, to) in [
        (None, SynSent),
        (Some(Listen), SynRecv),
        (Some(SynRecv), Established),
        (None, TimeWait),
        (Some(SynSent), Established),
    ] {
        let seen = tracer.events(CONNECTIONS, |event| {
            event.netns == lab.netns() && event.to == to && from.is_none_or(|from| event.from == from)
        })?;
        ensure!(seen.len() == CONNECTIONS, "{} of {CONNECTIONS} went to {}", seen.len(), to.name());
    }
    let servers = tracer.events(CONNECTIONS, |event| {
        event.netns == lab.netns() && event.to == Close && event.from != TimeWait
    })?;
    ensure!(servers.len() >= CONNECTIONS, "{} of {CONNECTIONS} servers ended", servers.len());
    tracer.finish()
}

/// Half of the connections, one after the other; the client closes first.
fn connections(family: Family) -> Result<()> {
    let listener = End::listen((family.loopback(), 1_023).into())?;
    let target = listener.local()?.into();
    for _ in 0..CONNECTIONS / Family::BOTH.len() {
        let client = family.socket()?;
        client.connect(&target)?;
        let (server, _) = listener.socket()?.accept()?;
        drop(client);
        // Its FIN must be there before ours goes out: else both ends are the first to close.
        let (length, _) = rustix::net::recv(&server, &mut [0], RecvFlags::empty())?;
        ensure!(length == 0, "no end of the stream");
        drop(server);
    }
    Ok(())
}
