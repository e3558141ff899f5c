//! Handshakes that end well, badly, or not at all.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use socket2::Socket;
use tcptrace_common::state::TcpState::{Close, Established, Listen, SynRecv, SynSent};

use crate::clock::{Span, hold, jiffy};
use crate::event::{EventEndReason, EventRole};
use crate::expect::{ExpectedSocket, step};
use crate::lab::Lab;
use crate::pair::{ConnectedPair, IpFamily, TestSocket, both_families};
use crate::tracer::LiveTracer;
use crate::{filter, kernel, netns};

/// Nobody listens.
pub fn refused(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut listener = TestSocket::listen((family.loopback(), 0).into())?;
        listener.close();
        let client = fails_to_connect(family.socket()?, &listener, ErrorKind::ConnectionRefused)?;
        client.is_traced(&tracer, EventEndReason::Refused)
    })?;
    tracer.finish()
}

/// Nobody answers: one SYN, one more after a second, and two seconds later the end.
pub fn syn_timeout(lab: &Lab) -> Result<()> {
    netns::sysctl("tcp_syn_retries", "1")?;
    let tracer = lab.trace()?;
    both_families(|family| {
        let listener = TestSocket::listen((family.loopback(), 0).into())?;
        filter::drop_segments(listener.socket()?)?;
        let client = fails_to_connect(family.socket()?, &listener, ErrorKind::TimedOut)?;
        let span = client.connecting;
        let least = Duration::from_millis(1_900);
        ensure!(span.end_ns - span.start_ns > least.as_nanos() as u64, "the SYN was not repeated");
        let most = Duration::from_nanos(span.end_ns - span.start_ns);
        tracer.expect(
            &client.expected,
            &[
                step(Close, SynSent, span),
                step(SynSent, Close, span).dwelt(least, most).ended(EventEndReason::Timeout),
            ],
        )
    })?;
    tracer.finish()
}

/// Every ACK that would end the handshake is lost: the request waits a second, then two, and is dropped.
pub fn syn_recv_timeout(lab: &Lab) -> Result<()> {
    netns::sysctl("tcp_synack_retries", "1")?;
    let tracer = lab.trace()?;
    both_families(|family| {
        let (listener, client, connected) = half_open(family, filter::SYN)?;
        let request = request_of(&listener, &client);
        let ended = wait_request_end(&request, connected)?;
        let least = Duration::from_millis(2_900);
        let longest = Duration::from_nanos(ended.end_ns - ended.start_ns);
        ensure!(longest > least, "the SYN-ACK was not repeated");
        tracer.expect(
            &request,
            &[
                step(Listen, SynRecv, connected).by_listener(),
                step(SynRecv, Close, ended)
                    .dwelt(least, longest)
                    .by_listener()
                    .ended(EventEndReason::Timeout),
            ],
        )
    })?;
    tracer.finish()
}

/// The client takes its SYN back with a RST.
pub fn syn_recv_reset(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let (listener, mut client, connected) = half_open(family, filter::SYN | filter::RST)?;
        let request = request_of(&listener, &client);
        let reset = client.close_with_reset()?;
        let ended = wait_request_end(&request, reset)?;
        tracer.expect(
            &request,
            &[
                step(Listen, SynRecv, connected).by_listener(),
                step(SynRecv, Close, ended).by_listener().ended(EventEndReason::Dropped),
            ],
        )
    })?;
    tracer.finish()
}

/// The ACK is late: `SYN_RECV` lasts until the listener receives segments again, and it is the same socket afterwards.
pub fn syn_recv_held(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let (listener, client, connected) = half_open(family, filter::SYN)?;
        hold(Duration::from_millis(300));
        filter::accept_all(listener.socket()?)?;
        let (written, write) = Span::of(|| client.write());
        written?;
        let (server, _) = listener.socket()?.accept()?;
        let mut server = TestSocket::new("server", EventRole::Inbound, server)?;
        server.expected.began = Some(connected);
        let accepted = Span::since(write.start_ns);
        tracer.expect(
            &server.expected,
            &[
                step(Listen, SynRecv, connected).by_listener(),
                step(SynRecv, Established, accepted).by_listener(),
            ],
        )
    })?;
    tracer.finish()
}

/// All local ports to a destination are taken.
pub fn no_port_left(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    for family in IpFamily::BOTH {
        let listener = TestSocket::listen((family.loopback(), 7_000).into())?;
        netns::sysctl("ip_local_port_range", "41000 41001")?;
        let first = ConnectedPair::open_to(listener, family.socket()?)?;
        let second = ConnectedPair::open_to(first.listener, family.socket()?)?;
        let third = fails_to_connect(family.socket()?, &second.listener, ErrorKind::AddrNotAvailable)?;
        third.is_traced(&tracer, EventEndReason::NoPort)?;
    }
    tracer.finish()
}

/// Syncookies leave no request behind: `SYN_RECV` begins and ends with the last ACK.
pub fn syncookies(lab: &Lab) -> Result<()> {
    // 2: always.
    netns::sysctl("tcp_syncookies", "2")?;
    let tracer = lab.trace()?;
    for family in IpFamily::BOTH {
        let pair = kernel::counts("SyncookiesRecv", 1, || ConnectedPair::open(family))?;
        tracer.expect(&pair.client.expected, &pair.client_steps(&[]))?;
        tracer.expect(&pair.server.expected, &pair.server_steps(&[]))?;
    }
    tracer.finish()
}

/// A connect that failed.
struct FailedConnect {
    connecting: Span,
    expected: ExpectedSocket,
}

impl FailedConnect {
    /// It was in `SYN_SENT` and ended by `reason`, both within `connect()`.
    fn is_traced(&self, tracer: &LiveTracer, reason: EventEndReason) -> Result<()> {
        let (begin, end) =
            (step(Close, SynSent, self.connecting), step(SynSent, Close, self.connecting).ended(reason));
        tracer.expect(&self.expected, &[begin, end])
    }
}

fn fails_to_connect(socket: Socket, listener: &TestSocket, kind: ErrorKind) -> Result<FailedConnect> {
    let target = listener.local()?;
    // No other connection begins within the precision of the times that tell this one from it.
    hold(3 * jiffy());
    let (result, connecting) = Span::of(|| socket.connect(&target.into()));
    match result {
        Ok(()) => bail!("connect to {target} succeeded"),
        Err(error) => ensure!(error.kind() == kind, "connect to {target}: {error}, not {kind:?}"),
    }
    let client = TestSocket::new("client", EventRole::Outbound, socket)?;
    let jiffy_ns = jiffy().as_nanos() as u64;
    let began = Span { start_ns: connecting.start_ns - jiffy_ns, end_ns: connecting.end_ns + jiffy_ns };
    let expected =
        ExpectedSocket { local: None, remote: Some(target), began: Some(began), ..client.expected };
    Ok(FailedConnect { connecting, expected })
}

/// A handshake whose last ACK is dropped: the listener receives only segments with one of `flags`.
fn half_open(family: IpFamily, flags: u8) -> Result<(TestSocket, TestSocket, Span)> {
    let listener = TestSocket::listen((family.loopback(), 0).into())?;
    filter::accept_only(listener.socket()?, flags)?;
    let client = family.socket()?;
    let target = listener.local()?;
    let (result, connected) = Span::of(|| client.connect(&target.into()));
    result?;
    let client = TestSocket::new("client", EventRole::Outbound, client)?;
    ensure!(kernel::count(SynRecv)? > 0, "no handshake in progress");
    Ok((listener, client, connected))
}

fn request_of(listener: &TestSocket, client: &TestSocket) -> ExpectedSocket {
    ExpectedSocket {
        label: "request",
        id: None,
        local: listener.expected.local,
        remote: client.expected.local,
        role: Some(EventRole::Inbound),
        ..listener.expected.clone()
    }
}

fn wait_request_end(request: &ExpectedSocket, cause: Span) -> Result<Span> {
    let is_expected = |socket: &kernel::DiagSocket| {
        socket.state == SynRecv
            && Some(socket.local) == request.local
            && Some(socket.remote) == request.remote
    };
    crate::clock::wait_for("the end of the request", crate::clock::soon(), || {
        Ok((!kernel::sockets()?.iter().any(is_expected)).then_some(()))
    })?;
    Ok(Span::since(cause.start_ns))
}
