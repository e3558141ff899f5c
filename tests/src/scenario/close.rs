//! The orderly ways to close: each state of RFC 9293, figure 5, held for a known time.

use std::time::Duration;

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{
    Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, TimeWait,
};

use crate::clock::{Span, hold, jiffy, late, now_ns, soon, timer_granularity};
use crate::event::EventEndReason;
use crate::expect::step;
use crate::lab::Lab;
use crate::pair::{ConnectedPair, IpFamily, TestSocket, both_families};
use crate::{filter, kernel, netns};

const MINUTE: Duration = Duration::from_secs(60);
const HELD: Duration = Duration::from_millis(300);

/// When a timewait timer expired: the known bounds, and the possible dwell before.
struct Expiry {
    at: Span,
    longest: Duration,
}

/// Waits for the end of `end`, whose timer was armed for `length` in `armed`, and checks its time.
fn expires(end: &TestSocket, armed: Span, length: Duration) -> Result<Expiry> {
    end.wait_end(2 * length + soon())?;
    let ended_ns = now_ns();
    let at = armed.later(length, length + timer_granularity(length) + jiffy());
    ensure!(at.holds(ended_ns, late()), "gone at {ended_ns}, not within {at:?}");
    Ok(Expiry {
        at: Span { end_ns: ended_ns, ..at },
        longest: Duration::from_nanos(ended_ns - armed.start_ns),
    })
}

/// A complete connection, from all three sockets; the client's `TIME_WAIT` lasts a minute.
pub fn active_close_until_expiry(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    kernel::counts("TW", 2, || {
        both_families(|family| {
            let mut pair = ConnectedPair::open(family)?;
            let orphaned = pair.client.close_to_orphan()?;
            let server_received = pair.server.reaches(CloseWait, orphaned.closed)?;
            let answered = pair.server.close();
            let time_wait = pair.client.reaches(TimeWait, answered)?;
            let server_ended = pair.server.ends(answered)?;
            let unlistened = pair.listener.close();
            let expired = expires(&pair.client, time_wait, MINUTE)?;

            tracer.expect(
                &pair.client.expected,
                &pair.client_steps(
                    &orphaned.then([
                        step(FinWait2, TimeWait, time_wait).orphan().by_segment(),
                        step(TimeWait, Close, expired.at)
                            .dwelt(MINUTE, expired.longest)
                            .ended(EventEndReason::Expired),
                    ]),
                ),
            )?;
            tracer.expect(
                &pair.server.expected,
                &pair.server_steps(&[
                    step(Established, CloseWait, server_received).by_listener(),
                    step(CloseWait, LastAck, answered),
                    step(LastAck, Close, server_ended).ended(EventEndReason::Closed),
                ]),
            )?;
            let before = Span { start_ns: 0, end_ns: pair.connecting.start_ns };
            tracer.expect(
                &pair.listener.expected,
                &[
                    step(Close, Listen, before),
                    step(Listen, Close, unlistened).ended(EventEndReason::ListenerClosed),
                ],
            )
        })
    })?;
    tracer.finish()
}

/// The peer's FIN comes 100 ms after ours was acknowledged: the timewait socket changes its state and no timer is touched.
pub fn late_fin_in_the_same_timer_bucket(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let orphaned = pair.client.close_to_orphan()?;
        hold(Duration::from_millis(100));
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(&orphaned.then([step(FinWait2, TimeWait, time_wait).orphan().by_segment()])),
        )
    })?;
    tracer.finish()
}

/// The peer's FIN comes so late that the timewait socket's timer moves to another bucket; then the minute runs from there.
pub fn late_fin_in_a_later_timer_bucket(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let orphaned = pair.client.close_to_orphan()?;
        hold(timer_granularity(MINUTE) + HELD);
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        let left = pair.client.diag()?.expires;
        ensure!(left + HELD > MINUTE, "the timer was not armed again: {left:?} left");
        let expired = expires(&pair.client, time_wait, MINUTE)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(
                &orphaned.then([
                    step(FinWait2, TimeWait, time_wait).orphan(),
                    step(TimeWait, Close, expired.at)
                        .dwelt(MINUTE, expired.longest)
                        .ended(EventEndReason::Expired),
                ]),
            ),
        )
    })?;
    tracer.finish()
}

/// Our last ACK is dropped and the peer repeats its FIN: each time the minute starts again.
pub fn repeated_fin_extends_time_wait(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let orphaned = pair.client.close_to_orphan()?;
        pair.server.wait(CloseWait)?;
        filter::drop_segments(pair.server.socket()?)?;
        let answered = pair.server.shutdown_write()?;
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        hold(timer_granularity(MINUTE) + HELD);
        let (result, accepting) = Span::of(|| filter::accept_all(pair.server.socket()?));
        result?;
        // The next repeated FIN is answered, and the server is done.
        let repeated = pair.server.ends(accepting)?;
        let expired = expires(&pair.client, repeated, MINUTE)?;
        let longer = Duration::from_nanos(repeated.start_ns - time_wait.end_ns);
        let longest = Duration::from_nanos(expired.at.end_ns - time_wait.start_ns);
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(
                &orphaned.then([
                    step(FinWait2, TimeWait, time_wait).orphan().by_segment(),
                    step(TimeWait, Close, expired.at)
                        .dwelt(MINUTE + longer, longest)
                        .ended(EventEndReason::Expired)
                        .extended(),
                ]),
            ),
        )
    })?;
    tracer.finish()
}

/// The peer never closes: the orphan gives up after `tcp_fin_timeout`.
pub fn orphan_times_out(lab: &Lab) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(3);
    netns::sysctl("tcp_fin_timeout", "3")?;
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let orphaned = pair.client.close_to_orphan()?;
        let expired = expires(&pair.client, orphaned.acknowledged, TIMEOUT)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(
                &orphaned.then([step(FinWait2, Close, expired.at)
                    .dwelt(TIMEOUT, expired.longest)
                    .orphan()
                    .ended(EventEndReason::Expired)]),
            ),
        )
    })?;
    tracer.finish()
}

/// With `tcp_fin_timeout` over a minute the orphan stays a full socket for a while: its state changes without a timewait socket
/// in `FIN_WAIT2`.
pub fn orphan_as_a_full_socket(lab: &Lab) -> Result<()> {
    netns::sysctl("tcp_fin_timeout", "90")?;
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let orphaned = pair.client.close_to_orphan()?;
        let left = pair.client.diag()?.expires;
        ensure!(left < MINUTE, "a timewait socket already: {left:?} left");
        hold(HELD);
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(&orphaned.then([step(FinWait2, TimeWait, time_wait).orphan()])),
        )
    })?;
    tracer.finish()
}

/// We shut down only our direction and keep the socket; the peer takes its time.
pub fn held_fin_wait2(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let shut = pair.client.shutdown_write()?;
        let acknowledged = pair.client.reaches(FinWait2, shut)?;
        pair.client.ensure_orphan(false)?;
        hold(HELD);
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(&[
                step(Established, FinWait1, shut),
                step(FinWait1, FinWait2, acknowledged).held(),
                step(FinWait2, TimeWait, time_wait).held(),
            ]),
        )
    })?;
    tracer.finish()
}

/// Both FINs are lost once, so that each end sends its own before it receives the other's.
pub fn simultaneous_close(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let pair = ConnectedPair::open(family)?;
        filter::drop_segments(pair.client.socket()?)?;
        filter::drop_segments(pair.server.socket()?)?;
        let client_shut = pair.client.shutdown_write()?;
        let server_shut = pair.server.shutdown_write()?;
        // The client repeats its FIN, the server receives it; the ACK to the client is dropped.
        let (result, server_hears) = Span::of(|| filter::accept_all(pair.server.socket()?));
        result?;
        let closing = pair.server.reaches(Closing, server_hears)?;
        hold(HELD);
        // The server repeats its FIN, which acknowledges the client's, and the client acknowledges it.
        let (result, client_hears) = Span::of(|| filter::accept_all(pair.client.socket()?));
        result?;
        let client_done = pair.client.reaches(TimeWait, client_hears)?;
        let server_done = pair.server.reaches(TimeWait, client_hears)?;
        tracer.expect(
            &pair.server.expected,
            &pair.server_steps(&[
                step(Established, FinWait1, server_shut),
                step(FinWait1, Closing, closing),
                step(Closing, TimeWait, server_done),
            ]),
        )?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(&[
                step(Established, FinWait1, client_shut),
                step(FinWait1, FinWait2, client_done).held(),
                step(FinWait2, TimeWait, client_done).held(),
            ]),
        )
    })?;
    tracer.finish()
}

/// The peer has closed, our process does not notice for a while.
pub fn close_wait_held(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let closed = pair.client.close();
        let received = pair.server.reaches(CloseWait, closed)?;
        hold(HELD);
        let answered = pair.server.close();
        let ended = pair.server.ends(answered)?;
        tracer.expect(
            &pair.server.expected,
            &pair.server_steps(&[
                step(Established, CloseWait, received).by_listener(),
                step(CloseWait, LastAck, answered),
                step(LastAck, Close, ended).ended(EventEndReason::Closed),
            ]),
        )
    })?;
    tracer.finish()
}

/// The peer's kernel acknowledges nothing: `FIN_WAIT1` lasts as long as we like.
pub fn fin_wait1_held(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        filter::drop_segments(pair.server.socket()?)?;
        let closed = pair.client.close();
        pair.client.wait(FinWait1)?;
        hold(HELD);
        let (result, accepting) = Span::of(|| filter::accept_all(pair.server.socket()?));
        result?;
        let acknowledged = pair.client.reaches(FinWait2, accepting)?;
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(&[
                step(Established, FinWait1, closed),
                step(FinWait1, FinWait2, acknowledged).orphan(),
                step(FinWait2, TimeWait, time_wait).orphan().by_segment(),
            ]),
        )
    })?;
    tracer.finish()
}

/// A dual-stack listener and an IPv4 client: `AF_INET6` sockets, IPv4 on the wire, one id each from the SYN to the end.
pub fn mapped_addresses(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    let socket = IpFamily::V6.socket()?;
    socket.set_only_v6(false)?;
    socket.bind(&"[::]:0".parse::<std::net::SocketAddr>()?.into())?;
    socket.listen(1)?;
    let mut listener = TestSocket::new("dual-stack listener", crate::event::EventRole::Listener, socket)?;
    let port = listener.local()?.port();
    listener.expected.local = Some((IpFamily::V4.loopback(), port).into());
    // The client is an AF_INET6 socket as well, connected to ::ffff:127.0.0.1.
    let client = IpFamily::V6.socket()?;
    client.set_only_v6(false)?;
    let target: std::net::SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse()?;
    let mut pair = ConnectedPair::open_to_address(listener, client, target)?;
    let orphaned = pair.server.close_to_orphan()?;
    let received = pair.client.reaches(CloseWait, orphaned.closed)?;
    let answered = pair.client.close();
    let time_wait = pair.server.reaches(TimeWait, answered)?;
    let ended = pair.client.ends(answered)?;
    tracer.expect(
        &pair.server.expected,
        &pair.server_steps(&orphaned.then([step(FinWait2, TimeWait, time_wait).orphan().by_segment()])),
    )?;
    tracer.expect(
        &pair.client.expected,
        &pair.client_steps(&[
            step(Established, CloseWait, received),
            step(CloseWait, LastAck, answered),
            step(LastAck, Close, ended).ended(EventEndReason::Closed),
        ]),
    )?;
    tracer.finish()
}
