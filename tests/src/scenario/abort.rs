//! The disorderly ways to close: a RST goes out or comes in, or the peer is lost.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{Close, Established};

use crate::clock::Span;
use crate::event::EventEndReason;
use crate::expect::step;
use crate::lab::Lab;
use crate::pair::{ConnectedPair, IpFamily, both_families};
use crate::{filter, kernel};

/// `SO_LINGER` 0.
pub fn linger_zero(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let reset = kernel::counts("TCPAbortOnData", 1, || pair.client.close_with_reset())?;
        let ended = pair.server.ends(reset)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(&[step(Established, Close, reset).ended(EventEndReason::ResetSentLinger)]),
        )?;
        tracer.expect(
            &pair.server.expected,
            &pair.server_steps(&[step(Established, Close, ended)
                .by_listener()
                .ended(EventEndReason::ResetReceived)]),
        )?;
    }
    tracer.finish()
}

/// Closed before everything was read.
pub fn unread_bytes(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        pair.client.write()?;
        pair.server.wait_readable()?;
        let reset = kernel::counts("TCPAbortOnClose", 1, || Ok(pair.server.close()))?;
        let ended = pair.client.ends(reset)?;
        tracer.expect(
            &pair.server.expected,
            &pair.server_steps(&[step(Established, Close, reset).ended(EventEndReason::ResetSentUnread)]),
        )?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(&[step(Established, Close, ended).ended(EventEndReason::ResetReceived)]),
        )?;
    }
    tracer.finish()
}

/// Nothing is acknowledged any more, and `TCP_USER_TIMEOUT` runs out.
pub fn lost_peer(lab: &Lab) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let tracer = lab.trace()?;
    both_families(|family| {
        let pair = ConnectedPair::open(family)?;
        filter::drop_segments(pair.server.socket()?)?;
        pair.client.socket()?.set_tcp_user_timeout(Some(TIMEOUT))?;
        let (written, write) = Span::of(|| pair.client.write());
        written?;
        let ended = pair.client.ends(write)?;
        let error = pair.client.socket()?.take_error()?.map(|error| error.kind());
        ensure!(error == Some(ErrorKind::TimedOut), "the error is {error:?}");
        let late = Span { start_ns: write.start_ns + TIMEOUT.as_nanos() as u64, ..ended };
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(&[step(Established, Close, late).ended(EventEndReason::Timeout)]),
        )
    })?;
    tracer.finish()
}
