//! Handshakes that end well, badly, or not at all.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use socket2::Socket;
use tcptrace_common::state::TcpState::{Close, Established, Listen, SynRecv, SynSent};

use crate::clock::{Span, hold};
use crate::event::{EndReason, Role};
use crate::expect::{Subject, step};
use crate::lab::Lab;
use crate::pair::{End, Family, Pair, both_families};
use crate::tracer::Tracer;
use crate::{filter, kernel, netns};

/// Nobody listens.
pub fn refused(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let mut listener = End::listen((family.loopback(), 0).into())?;
        listener.close();
        let client = fails_to_connect(family.socket()?, &listener, ErrorKind::ConnectionRefused)?;
        client.is_traced(&tracer, EndReason::Refused)
    })?;
    tracer.finish()
}

/// Nobody answers: one SYN, one more after a second, and two seconds later the end.
pub fn syn_timeout(lab: &Lab) -> Result<()> {
    netns::sysctl("tcp_syn_retries", "1")?;
    let tracer = lab.trace()?;
    both_families(|family| {
        let listener = End::listen((family.loopback(), 0).into())?;
        filter::deafen(listener.socket()?)?;
        let client = fails_to_connect(family.socket()?, &listener, ErrorKind::TimedOut)?;
        let whole = client.connecting;
        let least = Duration::from_millis(1_900);
        ensure!(whole.end_ns - whole.start_ns > least.as_nanos() as u64, "the SYN was not repeated");
        let most = Duration::from_nanos(whole.end_ns - whole.start_ns);
        tracer.expect(
            &client.subject,
            &[
                step(Close, SynSent, whole),
                step(SynSent, Close, whole).dwelt(least, most).ended(EndReason::Timeout),
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
        let gone = wait_request_gone(&request, connected)?;
        let least = Duration::from_millis(2_900);
        let longest = Duration::from_nanos(gone.end_ns - gone.start_ns);
        ensure!(longest > least, "the SYN-ACK was not repeated");
        tracer.expect(
            &request,
            &[
                step(Listen, SynRecv, connected).by_listener(),
                step(SynRecv, Close, gone).dwelt(least, longest).by_listener().ended(EndReason::Timeout),
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
        let gone = wait_request_gone(&request, reset)?;
        tracer.expect(
            &request,
            &[
                step(Listen, SynRecv, connected).by_listener(),
                step(SynRecv, Close, gone).by_listener().ended(EndReason::Dropped),
            ],
        )
    })?;
    tracer.finish()
}

/// The ACK is late: `SYN_RECV` lasts until the listener hears again, and is the same socket afterwards.
pub fn syn_recv_held(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    both_families(|family| {
        let (listener, client, connected) = half_open(family, filter::SYN)?;
        hold(Duration::from_millis(300));
        filter::hear(listener.socket()?)?;
        let (written, write) = Span::of(|| client.write());
        written?;
        let (server, _) = listener.socket()?.accept()?;
        let mut server = End::new("server", Role::Inbound, server)?;
        server.subject.handshake = Some(connected);
        let accepted = Span::since(write.start_ns);
        tracer.expect(
            &server.subject,
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
    for family in Family::BOTH {
        let listener = End::listen((family.loopback(), 7_000).into())?;
        netns::sysctl("ip_local_port_range", "41000 41001")?;
        let first = Pair::open_to(listener, family.socket()?)?;
        let second = Pair::open_to(first.listener, family.socket()?)?;
        let third = fails_to_connect(family.socket()?, &second.listener, ErrorKind::AddrNotAvailable)?;
        third.is_traced(&tracer, EndReason::NoPort)?;
    }
    tracer.finish()
}

/// Syncookies leave no request behind: `SYN_RECV` begins and ends with the last ACK.
pub fn syncookies(lab: &Lab) -> Result<()> {
    // 2: always.
    netns::sysctl("tcp_syncookies", "2")?;
    let tracer = lab.trace()?;
    for family in Family::BOTH {
        let pair = kernel::counts("SyncookiesRecv", 1, || Pair::open(family))?;
        tracer.expect(&pair.client.subject, &pair.client_steps(&[]))?;
        tracer.expect(&pair.server.subject, &pair.server_steps(&[]))?;
    }
    tracer.finish()
}

/// A connect that failed.
struct Failed {
    connecting: Span,
    subject: Subject,
}

impl Failed {
    /// It was in `SYN_SENT` and ended by `reason`, both within `connect()`.
    fn is_traced(&self, tracer: &Tracer, reason: EndReason) -> Result<()> {
        let (begin, end) =
            (step(Close, SynSent, self.connecting), step(SynSent, Close, self.connecting).ended(reason));
        tracer.expect(&self.subject, &[begin, end])
    }
}

fn fails_to_connect(socket: Socket, listener: &End, kind: ErrorKind) -> Result<Failed> {
    let target = listener.local()?;
    let (result, connecting) = Span::of(|| socket.connect(&target.into()));
    match result {
        Ok(()) => bail!("connect to {target} succeeded"),
        Err(error) => ensure!(error.kind() == kind, "connect to {target}: {error}, not {kind:?}"),
    }
    let client = End::new("client", Role::Outbound, socket)?;
    let subject = Subject { local: None, remote: Some(target), ..client.subject };
    Ok(Failed { connecting, subject })
}

/// A handshake whose last ACK the listener does not hear: it hears only segments with one of `flags`.
fn half_open(family: Family, flags: u8) -> Result<(End, End, Span)> {
    let listener = End::listen((family.loopback(), 0).into())?;
    filter::hear_only(listener.socket()?, flags)?;
    let client = family.socket()?;
    let target = listener.local()?;
    let (result, connected) = Span::of(|| client.connect(&target.into()));
    result?;
    let client = End::new("client", Role::Outbound, client)?;
    ensure!(kernel::count(SynRecv)? > 0, "no handshake in progress");
    Ok((listener, client, connected))
}

fn request_of(listener: &End, client: &End) -> Subject {
    Subject {
        label: "request",
        id: None,
        local: listener.subject.local,
        remote: client.subject.local,
        role: Some(Role::Inbound),
        ..listener.subject.clone()
    }
}

fn wait_request_gone(request: &Subject, cause: Span) -> Result<Span> {
    let there = |socket: &kernel::Socket| {
        socket.state == SynRecv
            && Some(socket.local) == request.local
            && Some(socket.remote) == request.remote
    };
    crate::clock::wait_for("the end of the request", crate::clock::soon(), || {
        Ok((!kernel::sockets()?.iter().any(there)).then_some(()))
    })?;
    Ok(Span::since(cause.start_ns))
}
