//! Connections of a special kind: made by both sides at once, given up by a timer, over special addresses, MPTCP.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tcptrace_common::state::TcpState::{
    Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent, TimeWait,
};

use super::parts::start_connect;
use super::{OddCase, OddLab, case};
use crate::clock::{Span, now_ns, soon, wait_for};
use crate::event::{EventCloser, EventEndReason, EventRole};
use crate::expect::{ExpectedSocket, step};
use crate::lab::Skip;
use crate::pair::{ConnectedPair, IpFamily, TestSocket, both_families};
use crate::{filter, kernel, netlink, netns, process};

pub(super) const CASES: &[OddCase] = &[
    case("simultaneous open", simultaneous_open),
    case("connected to itself: simultaneous open and close", to_itself),
    case("keepalive", keepalive),
    case("TCP_USER_TIMEOUT", user_timeout),
    case("IPv4 in IPv6 sockets", mapped),
    case("link-local", link_local),
];

/// This needs a kernel with MPTCP.
pub(super) const MPTCP: &[OddCase] = &[case("MPTCP", mptcp)];

/// A RST answers the first SYN and is dropped before its sender; then the other side connects as well.
fn simultaneous_open(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let (socket, first_address) = family.bound_socket()?;
        let (other, second_address) = family.bound_socket()?;
        filter::drop_segments(&socket)?;
        let (mut first, connecting) = kernel::counts("OutRsts", 1, || start_connect(socket, second_address))?;
        stage.add_unended("OutRsts", 1, "a SYN to a socket that has not connected yet");
        first.wait(SynSent)?;
        filter::accept_all(first.socket()?)?;
        let (mut second, crossed) = start_connect(other, first_address)?;
        let established = first.reaches(Established, crossed)?;
        second.wait(Established)?;
        let closed = second.close_with_reset()?;
        let ended = first.ends(closed)?;
        let steps = [
            step(Close, SynSent, connecting),
            step(SynSent, SynRecv, established),
            step(SynRecv, Established, established),
            step(Established, Close, ended)
                .ended(EventEndReason::ResetReceived)
                .closer(EventCloser::ResetReceived),
        ];
        stage.expect(&first.expected, &steps)?;
        let steps = [
            step(Close, SynSent, crossed),
            step(SynSent, Established, established),
            step(Established, Close, closed)
                .ended(EventEndReason::ResetSentLinger)
                .closer(EventCloser::ResetSent),
        ];
        stage.expect(&second.expected, &steps)?;
        first.close();
    }
    Ok(())
}

/// One socket is both ends.
fn to_itself(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let (socket, address) = family.bound_socket()?;
        let (mut end, connecting) = start_connect(socket, address)?;
        let connecting = end.reaches(Established, connecting)?;
        let closed = end.close();
        let time_wait = end.reaches(TimeWait, closed)?;
        let steps = [
            step(Close, SynSent, connecting),
            step(SynSent, SynRecv, connecting),
            step(SynRecv, Established, connecting),
            step(Established, FinWait1, closed),
            step(FinWait1, Closing, time_wait),
            step(Closing, TimeWait, time_wait).closer(EventCloser::Both),
        ];
        stage.expect(&end.expected, &steps)?;
    }
    Ok(())
}

/// The peer drops every segment: a probe after a second, and a RST a second later.
fn keepalive(stage: &OddLab) -> Result<()> {
    const SECOND: Duration = Duration::from_secs(1);
    kernel::counts("OutRsts", 2, || {
        kernel::counts("TCPAbortOnTimeout", 2, || {
            both_families(|family| {
                let mut pair = ConnectedPair::open(family)?;
                filter::drop_segments(pair.server.socket()?)?;
                let start_ns = now_ns();
                let probes = TcpKeepalive::new().with_time(SECOND).with_interval(SECOND).with_retries(1);
                pair.client.socket()?.set_tcp_keepalive(&probes)?;
                let ended = pair.client.ends(Span::since(start_ns))?;
                ensure!(
                    ended.end_ns - ended.start_ns > 2 * SECOND.as_nanos() as u64 - 100_000_000,
                    "no probe"
                );
                let ended = step(Established, Close, ended)
                    .ended(EventEndReason::Timeout)
                    .closer(EventCloser::TimedOut);
                stage.expect(&pair.client.expected, &pair.client_steps(&[ended]))?;
                quietly_killed(&mut pair.server)
            })
        })
    })?;
    stage.add_unended("OutRsts", 2, "a keepalive that gave up");
    Ok(())
}

/// Ends a socket whose peer has ended, without a segment.
fn quietly_killed(end: &mut TestSocket) -> Result<()> {
    crate::option::set(end.socket()?, crate::option::TCP_REPAIR, 1)?;
    end.close();
    Ok(())
}

fn user_timeout(stage: &OddLab) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_millis(500);
    kernel::counts("OutRsts", 0, || {
        kernel::counts("TCPAbortOnTimeout", 2, || {
            both_families(|family| {
                let mut pair = ConnectedPair::open(family)?;
                filter::drop_segments(pair.server.socket()?)?;
                pair.client.socket()?.set_tcp_user_timeout(Some(TIMEOUT))?;
                let (written, write) = Span::of(|| pair.client.write());
                written?;
                let ended = pair.client.ends(write)?;
                let ended = step(Established, Close, ended)
                    .ended(EventEndReason::Timeout)
                    .closer(EventCloser::TimedOut);
                stage.expect(&pair.client.expected, &pair.client_steps(&[ended]))?;
                quietly_killed(&mut pair.server)
            })
        })
    })
}

/// A dual-stack listener and an `AF_INET6` client over IPv4, with every reason that needs a segment.
fn mapped(stage: &OddLab) -> Result<()> {
    for reset in [false, true] {
        let socket = IpFamily::V6.socket()?;
        socket.set_only_v6(false)?;
        socket.bind(&"[::]:0".parse::<SocketAddr>()?.into())?;
        socket.listen(1)?;
        let mut listener = TestSocket::new("dual-stack listener", EventRole::Listener, socket)?;
        let port = listener.local()?.port();
        listener.expected.local = Some((IpFamily::V4.loopback(), port).into());
        let client = IpFamily::V6.socket()?;
        client.set_only_v6(false)?;
        let target: SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse()?;
        let mut pair = ConnectedPair::open_to_address(listener, client, target)?;
        if reset {
            let closed = pair.client.close_with_reset()?;
            let ended = pair.server.ends(closed)?;
            let sent = step(Established, Close, closed)
                .ended(EventEndReason::ResetSentLinger)
                .closer(EventCloser::ResetSent);
            stage.expect(&pair.client.expected, &pair.client_steps(&[sent]))?;
            let received = step(Established, Close, ended).by_listener().ended(EventEndReason::ResetReceived);
            stage.expect(
                &pair.server.expected,
                &pair.server_steps(&[received.closer(EventCloser::ResetReceived)]),
            )?;
            continue;
        }
        let orphaned = pair.server.close_to_orphan()?;
        let received = pair.client.reaches(CloseWait, orphaned.closed)?;
        let answered = pair.client.close();
        let time_wait = pair.server.reaches(TimeWait, answered)?;
        let ended = pair.client.ends(answered)?;
        let last = step(FinWait2, TimeWait, time_wait).orphan().by_segment().closer(EventCloser::Local);
        stage.expect(&pair.server.expected, &pair.server_steps(&orphaned.then([last])))?;
        let steps = [
            step(Established, CloseWait, received),
            step(CloseWait, LastAck, answered),
            step(LastAck, Close, ended).ended(EventEndReason::Closed).closer(EventCloser::Remote),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
    }
    Ok(())
}

const RTM_NEWADDR: u16 = 20;
const NLM_F_CREATE: u16 = 0x400;
const IFA_LOCAL: u16 = 2;
/// No search for another host with that address: loopback has none.
const IFA_F_NODAD: u8 = 2;
const SCOPE_LINK: u8 = 253;
const LOOPBACK_INDEX: u32 = 1;
const AF_INET6: u8 = 10;

fn add_link_local(address: Ipv6Addr) -> Result<()> {
    let mut message = vec![AF_INET6, 64, IFA_F_NODAD, SCOPE_LINK];
    message.extend(LOOPBACK_INDEX.to_ne_bytes());
    message.extend(20_u16.to_ne_bytes());
    message.extend(IFA_LOCAL.to_ne_bytes());
    message.extend(address.octets());
    netlink::request(None, RTM_NEWADDR, netlink::ACK | NLM_F_CREATE, &message)
        .context("a link-local address")?;
    // A kernel worker adds the route; before that the SYN is answered by an ICMP error.
    let local_route = format!("{:032x} 80 ", address.to_bits());
    wait_for("a route to a link-local address", soon(), || {
        let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
        Ok(routes.lines().any(|line| line.starts_with(&local_route)).then_some(()))
    })
}

fn link_local(stage: &OddLab) -> Result<()> {
    let address: Ipv6Addr = "fe80::1".parse()?;
    add_link_local(address)?;
    let socket = IpFamily::V6.socket()?;
    socket.bind(&SocketAddr::from(SocketAddrV6::new(address, 0, 0, LOOPBACK_INDEX)).into())?;
    socket.listen(1)?;
    let listener = TestSocket::new("link-local listener", EventRole::Listener, socket)?;
    let target = SocketAddrV6::new(address, listener.local()?.port(), 0, LOOPBACK_INDEX).into();
    let mut pair = ConnectedPair::open_to_address(listener, IpFamily::V6.socket()?, target)?;
    // Such a socket is bound to its device, which a lookup must name: this reads the whole dump.
    let reaches = |end: &TestSocket, state, cause: Span| -> Result<Span> {
        let id = end.id();
        wait_for(&format!("{} in {state:?}", end.expected.label), soon(), || {
            let all = kernel::sockets()?;
            let now = all.iter().find(|socket| socket.cookie == id).map(|socket| socket.state);
            Ok((now == state).then_some(()))
        })?;
        Ok(Span::since(cause.start_ns))
    };
    let closed = pair.client.close();
    let acknowledged = reaches(&pair.client, Some(FinWait2), closed)?;
    let received = reaches(&pair.server, Some(CloseWait), closed)?;
    let answered = pair.server.close();
    let time_wait = reaches(&pair.client, Some(TimeWait), answered)?;
    let ended = reaches(&pair.server, None, answered)?;
    let steps = [
        step(Established, FinWait1, closed),
        step(FinWait1, FinWait2, acknowledged).orphan(),
        step(FinWait2, TimeWait, time_wait).orphan().by_segment().closer(EventCloser::Local),
    ];
    stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
    let steps = [
        step(Established, CloseWait, received).by_listener(),
        step(CloseWait, LastAck, answered),
        step(LastAck, Close, ended).ended(EventEndReason::Closed).closer(EventCloser::Remote),
    ];
    stage.expect(&pair.server.expected, &pair.server_steps(&steps))
}

const IPPROTO_MPTCP: i32 = 262;

/// The subflows are TCP sockets of their own, without a descriptor; a worker of the kernel closes them.
fn mptcp(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let domain = if family == IpFamily::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = || {
            Socket::new(domain, Type::STREAM, Some(Protocol::from(IPPROTO_MPTCP)))
                .map_err(|error| Skip(format!("no MPTCP: {error}")))
        };
        let listener = socket()?;
        listener.bind(&SocketAddr::new(family.loopback(), 0).into())?;
        listener.listen(1)?;
        let target = listener.local_addr()?.as_socket().context("an address")?;
        let client = socket()?;
        // Its port is known since the first state change: the subflow has no descriptor for `SO_COOKIE`.
        client.bind(&SocketAddr::new(family.loopback(), 0).into())?;
        let (server, connecting) = kernel::counts("MPCapableSYNRX", 1, || {
            let start_ns = now_ns();
            client.connect(&target.into())?;
            Ok((listener.accept()?.0, Span::since(start_ns)))
        })?;
        let local = client.local_addr()?.as_socket().context("an address")?;
        let expected = |label, local, remote, role| -> Result<ExpectedSocket> {
            Ok(ExpectedSocket {
                label,
                id: None,
                netns: netns::current()?,
                local,
                remote,
                began: None,
                role,
                known_ns: now_ns(),
            })
        };
        let client_end = expected("MPTCP client", Some(local), Some(target), Some(EventRole::Outbound))?;
        let server_end = expected("MPTCP server", Some(target), Some(local), Some(EventRole::Inbound))?;
        let steps = [step(Close, SynSent, connecting), step(SynSent, Established, connecting)];
        stage.expect(&client_end, &steps)?;
        let steps = [
            step(Listen, SynRecv, connecting).by_listener(),
            step(SynRecv, Established, connecting).by_listener(),
        ];
        stage.expect(&server_end, &steps)?;
        process::close((client, server));
        let is_expected = |socket: &kernel::DiagSocket| {
            socket.remote.port() == target.port() && socket.state != TimeWait
                || socket.local.port() == target.port() && ![Listen, TimeWait].contains(&socket.state)
        };
        wait_for("the end of the subflows", soon(), || {
            Ok((!kernel::sockets()?.iter().any(is_expected)).then_some(()))
        })?;
        let id_of_end = |event: &crate::event::EventLine| client_end.owns(event) || server_end.owns(event);
        let events = stage.events(8, id_of_end)?;
        let strangers: Vec<_> = events.iter().filter(|event| event.pid != Some(std::process::id())).collect();
        ensure!(strangers.is_empty(), "not this process's: {strangers:?}");
        let reset = |event: &&crate::event::EventLine| {
            event.to == Close && ![None, Some(EventEndReason::Closed)].contains(&event.end_reason)
        };
        let resets: Vec<_> = events.iter().filter(reset).collect();
        ensure!(resets.is_empty(), "an orderly close: {resets:?}");
    }
    Ok(())
}
