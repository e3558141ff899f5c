//! Early ends of timewait sockets, and closes that create none.

use std::time::Duration;

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{
    Close, CloseWait, Established, FinWait1, FinWait2, LastAck, TimeWait,
};

use crate::clock::{Span, hold, now_ns, soon, wait_for};
use crate::event::EventEndReason;
use crate::expect::step;
use crate::lab::Lab;
use crate::pair::{ConnectedPair, IpFamily, TestSocket, both_families};
use crate::wire::{Segment, Wire, forge};
use crate::{filter, kernel, netns};

/// With `tcp_tw_reuse` an outgoing connect takes the tuple over, once the `TIME_WAIT` is a second old.
pub fn reused_by_connect(lab: &Lab) -> Result<()> {
    netns::sysctl("tcp_tw_reuse", "1")?;
    let tracer = lab.trace()?;
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let closing = pair.close_client_first()?;
        pair.server.wait_end(soon())?;
        // Only the port that is in TIME_WAIT is left to connect from.
        let port = pair.client.local()?.port();
        netns::sysctl("ip_local_port_range", &format!("{port} {port}"))?;
        hold(Duration::from_millis(1_100));
        let target = pair.listener.local()?;
        let (second, reused) = kernel::counts("TWRecycled", 1, || {
            wait_for("a connect that reuses the port", soon(), || {
                let socket = family.socket()?;
                let (result, span) = Span::of(|| socket.connect(&target.into()));
                Ok(result.ok().map(|()| (socket, span)))
            })
        })?;
        netns::sysctl("ip_local_port_range", "32768 60999")?;
        let mut second = TestSocket::new("second client", crate::event::EventRole::Outbound, second)?;
        ensure!(second.local()? == pair.client.local()?, "it took another port");
        ensure!(pair.client.find_diag()?.is_none(), "the TIME_WAIT is still there");
        let closed = second.close();
        second.reaches(FinWait2, closed)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(
                &[&closing.steps()[..], &[step(TimeWait, Close, reused).ended(EventEndReason::Reused)]]
                    .concat(),
            ),
        )?;
    }
    tracer.finish()
}

/// A server in `TIME_WAIT` gets a new SYN from the same address and port.
pub fn reopened_by_syn(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open_from_own_port(family)?;
        let orphaned = pair.server.close_to_orphan()?;
        pair.client.wait(CloseWait)?;
        let answered = pair.client.close();
        let time_wait = pair.server.reaches(TimeWait, answered)?;
        pair.client.wait_end(soon())?;
        let client = pair.same_client(family)?;
        let first = pair.server.expected.clone();
        let first_steps = pair.server_steps(&[]);
        let again = ConnectedPair::open_to(pair.listener, client)?;
        ensure!(pair.server.find_diag()?.is_none(), "the TIME_WAIT is still there");
        ensure!(again.server.id() != pair.server.id(), "the same cookie");
        tracer.expect(
            &first,
            &[
                &first_steps[..],
                &orphaned.then([
                    step(FinWait2, TimeWait, time_wait).orphan().by_segment(),
                    step(TimeWait, Close, again.connecting).ended(EventEndReason::Reopened),
                ]),
            ]
            .concat(),
        )?;
        tracer.expect(&again.server.expected, &again.server_steps(&[]))
    })?;
    tracer.finish()
}

/// A RST with the right sequence number assassinates a `TIME_WAIT` (RFC 1337).
pub fn time_wait_reset(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let wire = Wire::open(family.loopback())?;
        let mut pair = ConnectedPair::open(family)?;
        let closing = pair.close_client_first()?;
        let (client, server) = (pair.client.local()?, pair.server.local()?);
        let fin = wire.wait(server, client, filter::FIN)?;
        pair.server.wait_end(soon())?;
        let start_ns = now_ns();
        forge(Segment { seq: fin.next_seq, flags: filter::RST, ..fin })?;
        let reset = pair.client.ends(Span::since(start_ns))?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(
                &[
                    &closing.steps()[..],
                    &[step(TimeWait, Close, reset).ended(EventEndReason::Reset).by_segment()],
                ]
                .concat(),
            ),
        )
    })?;
    tracer.finish()
}

/// The peer of an orphan `FIN_WAIT2` answers with a RST instead of a FIN.
pub fn fin_wait2_reset(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let orphaned = pair.client.close_to_orphan()?;
        pair.server.wait(CloseWait)?;
        let reset = pair.server.close_with_reset()?;
        let ended = pair.client.ends(reset)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(
                &orphaned
                    .then([step(FinWait2, Close, ended).orphan().ended(EventEndReason::Reset).by_segment()]),
            ),
        )
    })?;
    tracer.finish()
}

/// The peer of an orphan `FIN_WAIT2` sends data that no process can read: the kernel answers with a RST.
pub fn fin_wait2_gets_data(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let orphaned = pair.client.close_to_orphan()?;
        let received = pair.server.reaches(CloseWait, orphaned.closed)?;
        let (written, write) = Span::of(|| pair.server.write());
        written?;
        let ended = pair.client.ends(write)?;
        let server_reset = pair.server.ends(write)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(
                &orphaned.then([step(FinWait2, Close, ended)
                    .orphan()
                    .ended(EventEndReason::Aborted)
                    .by_segment()]),
            ),
        )?;
        tracer.expect(
            &pair.server.expected,
            &pair.server_steps(&[
                step(Established, CloseWait, received).by_listener(),
                step(CloseWait, Close, server_reset).by_listener().ended(EventEndReason::ResetReceived),
            ]),
        )
    })?;
    tracer.finish()
}

/// `tcp_max_tw_buckets` leaves room for one timewait socket: the next closes create none.
pub fn overflow(lab: &Lab) -> Result<()> {
    netns::sysctl("tcp_max_tw_buckets", "1")?;
    let tracer = lab.trace()?;
    let mut first = ConnectedPair::open(IpFamily::V4)?;
    first.close_client_first()?;
    ensure!(kernel::count(TimeWait)? == 1, "the one timewait socket that fits");
    for family in IpFamily::BOTH {
        let mut orphan = ConnectedPair::open(family)?;
        let (closed, ended) = orphan.close_client_into_overflow()?;
        tracer.expect(
            &orphan.client.expected,
            &orphan.client_steps(&[
                step(Established, FinWait1, closed),
                step(FinWait1, FinWait2, ended).orphan(),
                step(FinWait2, Close, ended).orphan().ended(EventEndReason::Overflow),
            ]),
        )?;

        let mut held = ConnectedPair::open(family)?;
        let shut = held.client.shutdown_write()?;
        let acknowledged = held.client.reaches(FinWait2, shut)?;
        let ended = kernel::counts("TCPTimeWaitOverflow", 1, || {
            let answered = held.server.close();
            held.client.ends(answered)
        })?;
        tracer.expect(
            &held.client.expected,
            &held.client_steps(&[
                step(Established, FinWait1, shut),
                step(FinWait1, FinWait2, acknowledged).held(),
                step(FinWait2, Close, ended).held().ended(EventEndReason::Overflow),
            ]),
        )?;
    }
    tracer.finish()
}

/// `ss -K` on a `TIME_WAIT`.
pub fn time_wait_killed(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let closing = pair.close_client_first()?;
        let timewait = pair.client.diag()?;
        let (killed, kill) = Span::of(|| kernel::destroy(&timewait));
        killed?;
        let ended = pair.client.ends(kill)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(
                &[&closing.steps()[..], &[step(TimeWait, Close, ended).ended(EventEndReason::Killed)]]
                    .concat(),
            ),
        )
    })?;
    tracer.finish()
}

/// `ss -K` on an orphan `FIN_WAIT2`.
pub fn fin_wait2_killed(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut pair = ConnectedPair::open(family)?;
        let orphaned = pair.client.close_to_orphan()?;
        let timewait = pair.client.diag()?;
        let (killed, kill) = Span::of(|| kernel::destroy(&timewait));
        killed?;
        let ended = pair.client.ends(kill)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(
                &orphaned.then([step(FinWait2, Close, ended).orphan().ended(EventEndReason::Killed)]),
            ),
        )
    })?;
    tracer.finish()
}

/// `ss -K` on an open connection; its peer gets a RST.
pub fn established_killed(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let pair = ConnectedPair::open(family)?;
        let socket = pair.client.diag()?;
        let (killed, kill) = Span::of(|| kernel::destroy(&socket));
        killed?;
        let ended = pair.client.ends(kill)?;
        let peer_ended = pair.server.ends(kill)?;
        tracer.expect(
            &pair.client.expected,
            &pair.client_steps(&[step(Established, Close, ended).ended(EventEndReason::Killed)]),
        )?;
        tracer.expect(
            &pair.server.expected,
            &pair.server_steps(&[step(Established, Close, peer_ended)
                .by_listener()
                .ended(EventEndReason::ResetReceived)]),
        )
    })?;
    tracer.finish()
}

/// A namespace goes away with its `TIME_WAIT`s in it.
pub fn namespace_purged(lab: &Lab) -> Result<()> {
    const PAIRS: usize = 8;
    let tracer = lab.trace()?;
    let inner = || -> Result<Vec<_>> {
        netns::enter_new()?;
        let mut closed = Vec::new();
        for number in 0..PAIRS {
            let mut pair = ConnectedPair::open(IpFamily::BOTH[number % 2])?;
            let closing = pair.close_client_first()?;
            let answered = pair.server.ends(closing.time_wait)?;
            closed.push((pair.client.expected.clone(), pair.client_steps(&closing.steps()), answered));
        }
        ensure!(kernel::count(TimeWait)? == PAIRS, "{} TIME_WAIT", kernel::count(TimeWait)?);
        Ok(closed)
    };
    let closed = std::thread::scope(|scope| {
        let thread = scope.spawn(inner);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    for (socket, steps, answered) in closed {
        let purged = Span { start_ns: answered.start_ns, end_ns: now_ns() + soon().as_nanos() as u64 };
        let last = step(TimeWait, Close, purged).ended(EventEndReason::Purged);
        tracer.expect(&socket, &[&steps[..], &[last]].concat())?;
    }
    tracer.finish()
}

/// The peer gets no timewait socket and answers our FIN with a RST, which ends `LAST_ACK`.
pub fn last_ack_reset(lab: &Lab) -> Result<()> {
    netns::sysctl("tcp_max_tw_buckets", "1")?;
    let tracer = lab.trace()?;
    let mut first = ConnectedPair::open(IpFamily::V4)?;
    first.close_client_first()?;
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let (closed, _) = pair.close_client_into_overflow()?;
        let received = pair.server.reaches(CloseWait, closed)?;
        let answered = pair.server.close();
        let ended = pair.server.ends(answered)?;
        tracer.expect(
            &pair.server.expected,
            &pair.server_steps(&[
                step(Established, CloseWait, received).by_listener(),
                step(CloseWait, LastAck, answered),
                step(LastAck, Close, ended).ended(EventEndReason::ResetReceived),
            ]),
        )?;
    }
    tracer.finish()
}
