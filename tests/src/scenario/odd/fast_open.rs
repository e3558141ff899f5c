//! TCP fast open (RFC 7413): data in the SYN, and a server's end that is a full socket while still in `SYN_RECV`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::SendFlags;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tcptrace_common::state::TcpState::{Close, CloseWait, Established, LastAck, Listen, SynRecv, SynSent};

use super::{OddCase, OddLab, case};
use crate::clock::{Span, hold};
use crate::event::{EventCloser, EventEndReason, EventRole};
use crate::expect::step;
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::{filter, kernel, netns};

pub(super) const CASES: &[OddCase] = &[
    case("fast open", orderly),
    case("fast-open child in SYN_RECV: SO_LINGER 0", child_lingers),
    case("fast-open child in SYN_RECV: unread data", child_unread),
    case("fast-open child in SYN_RECV: killed", child_killed),
];

/// Client (1), data without a cookie (4); server (2), without a cookie (0x200), on every listener (0x400).
const WITHOUT_COOKIES: &str = "1543";
/// How long a child stays in `SYN_RECV`: longer than the slack of expected times, shorter than the first retransmission.
const STAY: Duration = Duration::from_millis(300);
const MSG_FASTOPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);

/// Connects with a byte in the SYN. If `drops_answers`, the client drops every answer.
fn open(family: IpFamily, drops_answers: bool) -> Result<ConnectedPair> {
    let listener = TestSocket::listen((family.loopback(), 0).into())?;
    let target: SocketAddr = listener.local()?;
    let client = family.socket()?;
    if drops_answers {
        filter::drop_segments(&client)?;
    }
    client.set_nonblocking(true)?;
    let (server, connecting) = kernel::counts("TCPFastOpenPassive", 1, || {
        let (sent, span) = Span::of(|| rustix::net::sendto(&client, b"!", MSG_FASTOPEN, &target));
        match sent {
            Ok(1) | Err(rustix::io::Errno::INPROGRESS) => {}
            other => anyhow::bail!("sendto(MSG_FASTOPEN): {other:?}"),
        }
        Ok((listener.socket()?.accept().context("accept")?.0, Span::since(span.start_ns)))
    })?;
    let mut client = TestSocket::new("client", EventRole::Outbound, client)?;
    client.expected.remote = Some(target);
    let mut server = TestSocket::new("server", EventRole::Inbound, server)?;
    server.expected.began = Some(connecting);
    let pair = ConnectedPair { listener, client, server, connecting };
    if drops_answers {
        pair.server.wait(SynRecv)?;
        pair.client.wait(SynSent)?;
    }
    Ok(pair)
}

fn orderly(stage: &OddLab) -> Result<()> {
    let _setting = netns::sysctl_for_now("tcp_fastopen", WITHOUT_COOKIES)?;
    for family in IpFamily::BOTH {
        let mut pair = kernel::counts("TCPFastOpenActive", 1, || open(family, false))?;
        pair.server.socket()?.set_nonblocking(false)?;
        std::io::Read::read_exact(&mut pair.server.socket()?, &mut [0])?;
        let closing = pair.close_client_first()?;
        let ended = pair.server.ends(closing.time_wait)?;
        let span = Span { start_ns: closing.closed.start_ns, ..ended };
        stage.expect(&pair.client.expected, &pair.client_steps(&closing.steps()))?;
        let steps = [
            step(Established, CloseWait, span).by_listener().closer(EventCloser::Remote),
            step(CloseWait, LastAck, span),
            step(LastAck, Close, span).ended(EventEndReason::Closed).closer(EventCloser::Remote),
        ];
        stage.expect(&pair.server.expected, &pair.server_steps(&steps))?;
    }
    Ok(())
}

/// Before 6.15 the kernel reports only the listener of a child in `SYN_RECV`: the child is seen when it leaves the state.
fn shows_children_at_once() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// The child ends by `act` while its client drops segments; the kernel counts `counter` and one RST.
fn child_resets(
    stage: &OddLab,
    counter: &str,
    reason: EventEndReason,
    act: impl Fn(&mut TestSocket) -> Result<Span>,
) -> Result<()> {
    let _setting = netns::sysctl_for_now("tcp_fastopen", WITHOUT_COOKIES)?;
    for family in IpFamily::BOTH {
        let all = sched_getaffinity(None)?;
        // The kernel creates and ends the child on two CPUs, where there are two.
        stay_on(&all, 0)?;
        let mut pair = open(family, true)?;
        stay_on(&all, 1)?;
        hold(STAY);
        let failed = kernel::counter("AttemptFails")?;
        let closed = kernel::counts(counter, 1, || kernel::counts("OutRsts", 1, || act(&mut pair.server)))?;
        sched_setaffinity(None, &all)?;
        let failed = kernel::counter("AttemptFails")? - failed;
        stage.add_unended("AttemptFails", failed, "a fast-open child in SYN_RECV");
        ensure!(pair.server.find_diag()?.is_none(), "the child is still there");
        let steps = [
            step(
                Listen,
                SynRecv,
                if shows_children_at_once() { pair.connecting } else { pair.connecting.to(closed) },
            )
            .by_listener(),
            step(SynRecv, Close, closed).pid(std::process::id()).ended(reason).closer(EventCloser::ResetSent),
        ];
        stage.expect(&pair.server.expected, &steps)?;
        let given_up = pair.client.close();
        let steps = [
            step(Close, SynSent, pair.connecting),
            step(SynSent, Close, given_up).ended(EventEndReason::Abandoned).closer(EventCloser::None),
        ];
        stage.expect(&pair.client.expected, &steps)?;
    }
    Ok(())
}

/// Moves this thread to one of these CPUs.
fn stay_on(all: &CpuSet, number: usize) -> Result<()> {
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu));
    let Some(cpu) = cpus.nth(number) else { return Ok(()) };
    let mut one = CpuSet::new();
    one.set(cpu);
    Ok(sched_setaffinity(None, &one)?)
}

fn child_lingers(stage: &OddLab) -> Result<()> {
    child_resets(stage, "TCPAbortOnData", EventEndReason::ResetSentLinger, |server| {
        std::io::Read::read_exact(&mut server.socket()?, &mut [0])?;
        server.close_with_reset()
    })
}

fn child_unread(stage: &OddLab) -> Result<()> {
    child_resets(stage, "TCPAbortOnClose", EventEndReason::ResetSentUnread, |server| Ok(server.close()))
}

fn child_killed(stage: &OddLab) -> Result<()> {
    child_resets(stage, "OutRsts", EventEndReason::Killed, |server| {
        let socket = server.diag()?;
        let (killed, span) = Span::of(|| kernel::destroy(&socket));
        killed?;
        server.ends(span)
    })
}
