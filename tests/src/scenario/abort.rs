//! The disorderly ways to close: a RST goes out or comes in, or the peer is heard no more.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{Close, Established};

use crate::clock::Span;
use crate::event::EndReason;
use crate::expect::step;
use crate::lab::Lab;
use crate::pair::{Family, Pair, both_families};
use crate::{filter, kernel};

/// `SO_LINGER` 0.
pub fn linger_zero(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    for family in Family::BOTH {
        let mut pair = Pair::open(family)?;
        let reset = kernel::counts("TCPAbortOnData", 1, || pair.client.close_with_reset())?;
        let gone = pair.server.vanishes(reset)?;
        tracer.expect(
            &pair.client.subject,
            &pair.client_steps(&[step(Established, Close, reset).ended(EndReason::ResetSentLinger)]),
        )?;
        tracer.expect(
            &pair.server.subject,
            &pair.server_steps(&[step(Established, Close, gone)
                .by_listener()
                .ended(EndReason::ResetReceived)]),
        )?;
    }
    tracer.finish()
}

/// Closed before everything was read.
pub fn unread_bytes(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    for family in Family::BOTH {
        let mut pair = Pair::open(family)?;
        pair.client.write()?;
        pair.server.wait_readable()?;
        let reset = kernel::counts("TCPAbortOnClose", 1, || Ok(pair.server.close()))?;
        let gone = pair.client.vanishes(reset)?;
        tracer.expect(
            &pair.server.subject,
            &pair.server_steps(&[step(Established, Close, reset).ended(EndReason::ResetSentUnread)]),
        )?;
        tracer.expect(
            &pair.client.subject,
            &pair.client_steps(&[step(Established, Close, gone).ended(EndReason::ResetReceived)]),
        )?;
    }
    tracer.finish()
}

/// Nothing is acknowledged any more, and `TCP_USER_TIMEOUT` runs out.
pub fn peer_unheard(lab: &Lab) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let tracer = lab.trace()?;
    both_families(|family| {
        let pair = Pair::open(family)?;
        filter::deafen(pair.server.socket()?)?;
        pair.client.socket()?.set_tcp_user_timeout(Some(TIMEOUT))?;
        let (written, write) = Span::of(|| pair.client.write());
        written?;
        let gone = pair.client.vanishes(write)?;
        let error = pair.client.socket()?.take_error()?.map(|error| error.kind());
        ensure!(error == Some(ErrorKind::TimedOut), "the error is {error:?}");
        let late = Span { start_ns: write.start_ns + TIMEOUT.as_nanos() as u64, ..gone };
        tracer.expect(
            &pair.client.subject,
            &pair.client_steps(&[step(Established, Close, late).ended(EndReason::Timeout)]),
        )
    })?;
    tracer.finish()
}
