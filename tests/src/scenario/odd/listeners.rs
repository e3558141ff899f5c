//! Listeners: killed, shared, with a handshake in progress that moves from one to another, and with handshakes of a special
//! kind.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use socket2::Socket;
use tcptrace_common::state::TcpState::{Close, Established, Listen, SynRecv};

use super::parts::start_connect;
use super::{OddCase, OddLab, case};
use crate::clock::{Span, hold, jiffy, soon, wait_for};
use crate::event::{EventCloser, EventEndReason, EventRole};
use crate::expect::{ExpectedSocket, step};
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::{filter, kernel, netns, option};

pub(super) const CASES: &[OddCase] = &[
    case("ss -K on a listener", killed),
    case("TCP_DEFER_ACCEPT", deferred),
    case("SO_REUSEPORT", shared),
    case("syncookies", syncookies),
    case("a RST in SYN_RECV", request_reset),
];

/// These need `tcp_migrate_req`, which is younger than the oldest kernel.
pub(super) const MIGRATION: &[OddCase] = &[
    case("migrated out of the accept queue", migrated_from_queue),
    case("migrated in SYN_RECV", migrated_in_syn_recv),
];

fn killed(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let start_ns = crate::clock::now_ns();
        let mut listener = TestSocket::listen((family.loopback(), 0).into())?;
        let made = Span::since(start_ns);
        listener.expected.began = Some(made);
        let id = listener.id();
        let socket =
            kernel::sockets()?.into_iter().find(|socket| socket.cookie == id).context("the listener")?;
        let (killed, span) = kernel::counts("OutRsts", 0, || Ok(Span::of(|| kernel::destroy(&socket))))?;
        killed?;
        ensure!(!kernel::sockets()?.iter().any(|socket| socket.cookie == id), "it listens on");
        let reason = kernel::by_error_report(EventEndReason::Killed, EventEndReason::ListenerClosed);
        let steps = [step(Close, Listen, made), step(Listen, Close, span).ended(reason)];
        stage.expect(&listener.expected, &steps)?;
    }
    Ok(())
}

/// The client is connected, and the server's handshake lasts until there is something to read.
fn deferred(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let listener = TestSocket::listen((family.loopback(), 0).into())?;
        option::set(listener.socket()?, option::TCP_DEFER_ACCEPT, 30)?;
        let (client, connecting) = start_connect(family.socket()?, listener.local()?)?;
        client.wait(Established)?;
        let connected = Span::since(connecting.start_ns);
        ensure!(kernel::count(SynRecv)? == 1, "no handshake in progress");
        hold(5 * jiffy());
        ensure!(kernel::count(SynRecv)? == 1, "no handshake in progress");
        let (written, write) = Span::of(|| client.write());
        written?;
        let (server, _) = listener.socket()?.accept()?;
        let accepted = Span::since(write.start_ns);
        let mut server = TestSocket::new("server", EventRole::Inbound, server)?;
        server.expected.began = Some(connected);
        let steps = [
            step(Listen, SynRecv, connected).by_listener(),
            step(SynRecv, Established, accepted).by_listener(),
        ];
        stage.expect(&server.expected, &steps)?;
        let mut pair = ConnectedPair { listener, client, server, connecting };
        std::io::Read::read_exact(&mut pair.server.socket()?, &mut [0])?;
        pair.close_client_first()?;
        pair.server.wait_end(soon())?;
    }
    Ok(())
}

/// A listener that shares its port.
fn sharing(address: SocketAddr) -> Result<TestSocket> {
    let family = if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
    let socket: Socket = family.socket()?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(8)?;
    TestSocket::new("sharing listener", EventRole::Listener, socket)
}

fn shared(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let first = sharing((family.loopback(), 0).into())?;
        let second = sharing(first.local()?)?;
        for listener in [&first, &second] {
            listener.socket()?.set_nonblocking(true)?;
        }
        for _ in 0..8 {
            let (client, connecting) = start_connect(family.socket()?, first.local()?)?;
            let (server, _) = wait_for("one of both to accept", soon(), || {
                Ok(first
                    .socket()?
                    .accept()
                    .or_else(|_| second.socket().map_err(std::io::Error::other)?.accept())
                    .ok())
            })?;
            let connecting = Span::since(connecting.start_ns);
            let mut server = TestSocket::new("server", EventRole::Inbound, server)?;
            server.expected.began = Some(connecting);
            let mut client = client;
            client.wait(Established)?;
            let closed = client.close_with_reset()?;
            let ended = server.ends(closed)?;
            let steps = [
                step(Listen, SynRecv, connecting).by_listener(),
                step(SynRecv, Established, connecting).by_listener(),
                step(Established, Close, ended)
                    .by_listener()
                    .ended(EventEndReason::ResetReceived)
                    .closer(EventCloser::ResetReceived),
            ];
            stage.expect(&server.expected, &steps)?;
        }
    }
    Ok(())
}

/// Two listeners on one port, the second of which came after the handshake: only the first can have it.
fn handshake_at_the_first(
    family: IpFamily,
    half: bool,
) -> Result<(TestSocket, TestSocket, TestSocket, Span)> {
    let first = sharing((family.loopback(), 0).into())?;
    if half {
        filter::accept_only(first.socket()?, filter::SYN)?;
    }
    let (client, connecting) = start_connect(family.socket()?, first.local()?)?;
    client.wait(Established)?;
    let in_queue = if half { SynRecv } else { Established };
    let (local, remote) = (first.local()?, client.local()?);
    wait_for("the handshake", soon(), || {
        let is_expected = |socket: &kernel::DiagSocket| {
            (socket.local, socket.remote, socket.state) == (local, remote, in_queue)
        };
        Ok(kernel::sockets()?.iter().any(is_expected).then_some(()))
    })?;
    let connecting = Span::since(connecting.start_ns);
    let second = sharing(local)?;
    Ok((first, second, client, connecting))
}

/// Linux 5.10 has the setting, from a backport, and migrates nothing: the counter tells.
fn migrate() -> Result<netns::Sysctl> {
    kernel::counter("TCPMigrateReqSuccess")
        .and_then(|_| netns::sysctl_for_now("tcp_migrate_req", "1"))
        .map_err(|error| crate::lab::Skip(format!("{error:#}")).into())
}

fn migrated_from_queue(stage: &OddLab) -> Result<()> {
    let _setting = migrate()?;
    for family in IpFamily::BOTH {
        let (mut first, second, client, connecting) = handshake_at_the_first(family, false)?;
        kernel::counts("TCPMigrateReqSuccess", 1, || kernel::counts("OutRsts", 0, || Ok(first.close())))?;
        accepted_by_the_second(stage, &second, client, connecting, connecting)?;
    }
    Ok(())
}

fn migrated_in_syn_recv(stage: &OddLab) -> Result<()> {
    let _setting = migrate()?;
    for family in IpFamily::BOTH {
        let (mut first, second, client, connecting) = handshake_at_the_first(family, true)?;
        first.close();
        hold(5 * jiffy());
        let (written, write) = Span::of(|| client.write());
        written?;
        accepted_by_the_second(stage, &second, client, connecting, write)?;
    }
    Ok(())
}

/// One socket from the SYN on, however many listeners it passes.
fn accepted_by_the_second(
    stage: &OddLab,
    second: &TestSocket,
    client: TestSocket,
    connecting: Span,
    last_ack: Span,
) -> Result<()> {
    let (server, peer) = second.socket()?.accept()?;
    let established = last_ack.to(Span::since(last_ack.start_ns));
    ensure!(peer.as_socket() == client.expected.local, "another client");
    let mut server = TestSocket::new("migrated", EventRole::Inbound, server)?;
    server.expected.began = Some(connecting);
    let mut client = client;
    let closed = client.close_with_reset()?;
    let ended = server.ends(closed)?;
    let steps = [
        step(Listen, SynRecv, connecting).by_listener(),
        step(SynRecv, Established, established).by_listener(),
        step(Established, Close, ended)
            .by_listener()
            .ended(EventEndReason::ResetReceived)
            .closer(EventCloser::ResetReceived),
    ];
    stage.expect(&server.expected, &steps)?;
    // And nothing else under those addresses.
    let (local, remote) = (server.local()?, client.local()?);
    let ended = |event: &crate::event::EventLine| {
        (event.saddr, event.sport, event.dport) == (local.ip(), local.port(), remote.port())
            && event.to == Close
    };
    let ends = stage.events(1, ended)?;
    stage.need(ends.len() == 1, "one end of one handshake").with_context(|| format!("{ends:?}"))
}

fn syncookies(stage: &OddLab) -> Result<()> {
    // 2: always.
    let _setting = netns::sysctl_for_now("tcp_syncookies", "2")?;
    for family in IpFamily::BOTH {
        let mut pair = kernel::counts("SyncookiesRecv", 1, || ConnectedPair::open(family))?;
        stage.expect(&pair.client.expected, &pair.client_steps(&[]))?;
        stage.expect(&pair.server.expected, &pair.server_steps(&[]))?;
        pair.close_client_first()?;
        pair.server.wait_end(soon())?;
    }
    Ok(())
}

/// The client takes its SYN back with a RST.
fn request_reset(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let listener = TestSocket::listen((family.loopback(), 0).into())?;
        filter::accept_only(listener.socket()?, filter::SYN | filter::RST)?;
        let (mut client, connecting) = start_connect(family.socket()?, listener.local()?)?;
        client.wait(Established)?;
        let connected = Span::since(connecting.start_ns);
        let request = ExpectedSocket {
            label: "request",
            id: None,
            remote: client.expected.local,
            role: Some(EventRole::Inbound),
            ..listener.expected.clone()
        };
        let ended = kernel::counts("AttemptFails", 1, || {
            let reset = client.close_with_reset()?;
            wait_for("the end of the request", soon(), || Ok((kernel::count(SynRecv)? == 0).then_some(())))?;
            Ok(Span::since(reset.start_ns))
        })?;
        let steps = [
            step(Listen, SynRecv, connected).by_listener(),
            step(SynRecv, Close, ended).by_listener().ended(EventEndReason::Dropped),
        ];
        stage.expect(&request, &steps)?;
    }
    stage.add_unended("AttemptFails", 2, "a RST in SYN_RECV");
    Ok(())
}
