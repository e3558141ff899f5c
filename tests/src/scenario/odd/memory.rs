//! More orphans than `tcp_max_orphans`: a close becomes a RST. The setting is global, so it is lowered for the time of
//! one `close()`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tcptrace_common::state::TcpState::{Close, CloseWait, Established, FinWait1, LastAck};

use super::{OddCase, OddLab, case};
use crate::clock::{Span, hold, soon, wait_for};
use crate::event::{EventCloser, EventEndReason};
use crate::expect::step;
use crate::lab::Skip;
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::{filter, kernel};

pub(super) const CASES: &[OddCase] =
    &[case("tcp_max_orphans in FIN_WAIT1", in_fin_wait1), case("tcp_max_orphans in LAST_ACK", in_last_ack)];

const PATH: &str = "/proc/sys/net/ipv4/tcp_max_orphans";

/// Runs `close` while no orphan is allowed. Only the first network namespace has the setting: a thread enters it.
fn without_orphans<T: Send>(close: impl FnOnce() -> T + Send) -> Result<T> {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (lowered, is_lowered) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let setter = scope.spawn(move || -> Result<()> {
            // This process's first thread has never left the namespace it was started in.
            let first = fs::File::open("/proc/self/ns/net")?;
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&first), Some(LinkNameSpaceType::Network))?;
            let before = fs::read_to_string(PATH).map_err(|error| Skip(format!("{PATH}: {error}")))?;
            fs::write(PATH, "0").with_context(|| format!("write {PATH}"))?;
            lowered.send(()).ok();
            released.recv().ok();
            fs::write(PATH, before).with_context(|| format!("write {PATH}"))
        });
        let closed = is_lowered.recv().is_ok().then(close);
        drop(release);
        setter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        closed.context("the setting was not lowered")
    })
}

/// The kernel compares with a count of orphans that a timer refreshes: tries until it has seen one.
fn until_forbidden<T>(mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_for("a close that tcp_max_orphans forbids", soon(), || {
        let result = attempt()?;
        if result.is_none() {
            hold(Duration::from_millis(50));
        }
        Ok(result)
    })
}

/// An orphan that the kernel counts: until it is dropped, its peer drops every segment.
struct UnackedOrphan(ConnectedPair);

impl UnackedOrphan {
    fn make() -> Result<Self> {
        let mut pair = ConnectedPair::open(IpFamily::V4)?;
        filter::drop_segments(pair.server.socket()?)?;
        pair.client.close();
        pair.client.wait(FinWait1)?;
        Ok(Self(pair))
    }

    fn end(mut self) -> Result<()> {
        filter::accept_all(self.0.server.socket()?)?;
        self.0.server.wait(CloseWait)?;
        self.0.server.close();
        self.0.server.wait_end(soon())
    }
}

/// Closes once; returns whether a RST went out because of `tcp_max_orphans`. Then waits for `peer`: if the ACK of the FIN
/// finds no socket, a second RST answers it.
fn reset_for_memory(
    stage: &OddLab,
    peer: &TestSocket,
    close: impl FnOnce() -> Span + Send,
) -> Result<Option<(Span, Span)>> {
    let (aborted, resets) = (kernel::counter("TCPAbortOnMemory")?, kernel::counter("OutRsts")?);
    let closed = without_orphans(close)?;
    let aborted = kernel::counter("TCPAbortOnMemory")? - aborted;
    if aborted == 0 {
        return Ok(None);
    }
    let ended = peer.ends(closed)?;
    let resets = kernel::counter("OutRsts")? - resets;
    ensure!(aborted == 1 && (1..=2).contains(&resets), "{aborted} TCPAbortOnMemory, {resets} OutRsts");
    stage.add_unended("OutRsts", resets - 1, "the ACK of a FIN that met nobody any more");
    Ok(Some((closed, ended)))
}

fn in_fin_wait1(stage: &OddLab) -> Result<()> {
    let orphan = UnackedOrphan::make()?;
    for family in IpFamily::BOTH {
        let (pair, closed, ended) = until_forbidden(|| {
            let mut pair = ConnectedPair::open(family)?;
            let forbidden = reset_for_memory(stage, &pair.server, || pair.client.close())?;
            Ok(forbidden.map(|(closed, ended)| (pair, closed, ended)))
        })?;
        let steps = [
            step(Established, FinWait1, closed),
            step(FinWait1, Close, closed).ended(EventEndReason::ResetSentMemory).closer(EventCloser::Local),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
        let last = stage.events_of(&pair.server.expected, 1, |event| event.to == Close)?;
        let reasons: Vec<_> = last.iter().filter_map(|event| event.end_reason).collect();
        stage
            .need(reasons == [EventEndReason::ResetReceived], "a RST at the peer")
            .with_context(|| format!("{reasons:?} by {ended:?}"))?;
    }
    orphan.end()
}

fn in_last_ack(stage: &OddLab) -> Result<()> {
    let orphan = UnackedOrphan::make()?;
    for family in IpFamily::BOTH {
        let (pair, received, closed) = until_forbidden(|| {
            let mut pair = ConnectedPair::open(family)?;
            let shut = pair.client.shutdown_write()?;
            let received = pair.server.reaches(CloseWait, shut)?;
            // Or the ACK of the FIN ends LAST_ACK before the orphans are counted.
            filter::drop_segments(pair.server.socket()?)?;
            let forbidden = reset_for_memory(stage, &pair.client, || pair.server.close())?;
            pair.client.close();
            Ok(forbidden.map(|(closed, _)| (pair, received, closed)))
        })?;
        let steps = [
            step(Established, CloseWait, received).by_listener(),
            step(CloseWait, LastAck, closed),
            step(LastAck, Close, closed).ended(EventEndReason::ResetSentMemory).closer(EventCloser::Remote),
        ];
        stage.expect(&pair.server.expected, &pair.server_steps(&steps))?;
    }
    orphan.end()
}
