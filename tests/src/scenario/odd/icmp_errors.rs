//! ICMP errors about an established connection: they end nothing themselves, and what ends it must not be taken for a RST.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{Close, CloseWait, Established, FinWait1};

use super::{OddCase, OddLab, case};
use crate::clock::{Span, hold};
use crate::event::{EventCloser, EventEndReason};
use crate::expect::step;
use crate::icmp::{PORT, PROHIBITED, Unreachable};
use crate::pair::{ConnectedPair, IpFamily, both_families};
use crate::wire::Wire;
use crate::{filter, icmp, kernel, option};

pub(super) const CASES: &[OddCase] = &[
    case("port-unreachable in ESTABLISHED, then TCP_USER_TIMEOUT", port_then_timeout),
    case("admin-prohibited in ESTABLISHED, then TCP_USER_TIMEOUT", prohibited_then_timeout),
    case("IP_RECVERR, then close with unread data", error_then_unread),
    case("IP_RECVERR, then SO_LINGER 0", error_then_linger),
    case("IP_RECVERR, then an orderly close", error_then_close),
    case("ICMP error, then a RST", error_then_reset),
];

/// For `TCP_USER_TIMEOUT`, which is set after the ICMP error: however slow the machine is, the error comes first.
const TIMEOUT: Duration = Duration::from_millis(500);

const PSH: u8 = 0x08;

fn port_then_timeout(stage: &OddLab) -> Result<()> {
    soft_error_then_timeout(stage, PORT, [ErrorKind::ConnectionRefused; 2])
}

fn prohibited_then_timeout(stage: &OddLab) -> Result<()> {
    soft_error_then_timeout(stage, PROHIBITED, [ErrorKind::HostUnreachable, ErrorKind::PermissionDenied])
}

/// The peer is lost, an ICMP error answers a segment, and `TCP_USER_TIMEOUT` expires: the socket's error is that of the ICMP
/// message (`sk_err_soft`), and there is no RST.
fn soft_error_then_timeout(stage: &OddLab, error: Unreachable, kinds: [ErrorKind; 2]) -> Result<()> {
    for (family, expected) in IpFamily::BOTH.into_iter().zip(kinds) {
        let wire = Wire::open(family.loopback())?;
        let pair = ConnectedPair::open(family)?;
        let (local, remote) = (pair.client.local()?, pair.server.local()?);
        filter::drop_segments(pair.server.socket()?)?;
        let write = Span::of(|| pair.client.write());
        write.0?;
        let data = wire.wait(local, remote, PSH)?;
        let ended = kernel::counts("TCPAbortOnTimeout", 1, || {
            kernel::counts("OutRsts", 0, || {
                icmp::send(error, local, remote, data.seq)?;
                pair.client.socket()?.set_tcp_user_timeout(Some(TIMEOUT))?;
                pair.client.ends(write.1)
            })
        })?;
        let kind = pair.client.socket()?.take_error()?.map(|error| error.kind());
        ensure!(kind == Some(expected), "the error is {kind:?}");
        let ended =
            step(Established, Close, ended).ended(EventEndReason::Timeout).closer(EventCloser::TimedOut);
        stage.expect(&pair.client.expected, &pair.client_steps(&[ended]))?;
        close_deserted(stage, pair)?;
    }
    Ok(())
}

/// The server closes; its FIN finds no socket, and a RST answers it.
fn close_deserted(stage: &OddLab, mut pair: ConnectedPair) -> Result<()> {
    filter::accept_all(pair.server.socket()?)?;
    let (shut, reset) = kernel::counts("OutRsts", 1, || {
        let shut = pair.server.shutdown_write()?;
        Ok((shut, pair.server.ends(shut)?))
    })?;
    stage.add_unended("OutRsts", 1, "a FIN to a connection that is no more");
    let _ = shut;
    pair.server.close();
    let steps = [
        step(Established, FinWait1, shut),
        step(FinWait1, Close, reset).ended(EventEndReason::ResetReceived).closer(EventCloser::Local),
    ];
    stage.expect(&pair.server.expected, &pair.server_steps(&steps))
}

/// An established pair whose client has the error of an ICMP message, by `IP_RECVERR`.
fn with_error(family: IpFamily) -> Result<ConnectedPair> {
    let wire = Wire::open(family.loopback())?;
    let pair = ConnectedPair::open(family)?;
    let name = if family == IpFamily::V4 { option::IP_RECVERR } else { option::IPV6_RECVERR };
    option::set(pair.client.socket()?, name, 1)?;
    let (local, remote) = (pair.client.local()?, pair.server.local()?);
    let syn = wire.wait(local, remote, filter::SYN)?;
    icmp::send(PROHIBITED, local, remote, syn.next_seq)?;
    ensure!(
        kernel::find(pair.client.id(), local, remote)?.is_some_and(|socket| socket.state == Established),
        "the ICMP error ended the connection"
    );
    Ok(pair)
}

fn error_then_unread(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = with_error(family)?;
        pair.server.write()?;
        // Readable by the error already: the byte itself is what counts.
        crate::clock::wait_for("the byte in the queue", crate::clock::soon(), || {
            Ok(rustix::io::ioctl_fionread(pair.client.socket()?)
                .is_ok_and(|unread| unread == 1)
                .then_some(()))
        })?;
        let closed = kernel::counts("TCPAbortOnClose", 1, || {
            kernel::counts("OutRsts", 1, || Ok(pair.client.close()))
        })?;
        reset_out(stage, &pair, closed, EventEndReason::ResetSentUnread)?;
    }
    Ok(())
}

fn error_then_linger(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = with_error(family)?;
        let closed = kernel::counts("TCPAbortOnData", 1, || {
            kernel::counts("OutRsts", 1, || pair.client.close_with_reset())
        })?;
        reset_out(stage, &pair, closed, EventEndReason::ResetSentLinger)?;
    }
    Ok(())
}

fn reset_out(stage: &OddLab, pair: &ConnectedPair, closed: Span, reason: EventEndReason) -> Result<()> {
    let ended = pair.server.ends(closed)?;
    let sent = step(Established, Close, closed).ended(reason).closer(EventCloser::ResetSent);
    stage.expect(&pair.client.expected, &pair.client_steps(&[sent]))?;
    let received = step(Established, Close, ended)
        .by_listener()
        .ended(EventEndReason::ResetReceived)
        .closer(EventCloser::ResetReceived);
    stage.expect(&pair.server.expected, &pair.server_steps(&[received]))
}

/// The error of the ICMP message is still the socket's when the last ACK comes.
fn error_then_close(stage: &OddLab) -> Result<()> {
    use tcptrace_common::state::TcpState::LastAck;
    for family in IpFamily::BOTH {
        let mut pair = with_error(family)?;
        let orphaned = pair.server.close_to_orphan()?;
        let received = pair.client.reaches(CloseWait, orphaned.closed)?;
        let (answered, ended) = kernel::counts("OutRsts", 0, || {
            let answered = pair.client.close();
            Ok((answered, pair.client.ends(answered)?))
        })?;
        let steps = [
            step(Established, CloseWait, received).closer(EventCloser::Remote),
            step(CloseWait, LastAck, answered),
            step(LastAck, Close, ended).ended(EventEndReason::Closed).closer(EventCloser::Remote),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
    }
    Ok(())
}

/// A soft error is left on the socket, and later a RST does come.
fn error_then_reset(stage: &OddLab) -> Result<()> {
    both_families(|family| {
        let wire = Wire::open(family.loopback())?;
        let mut pair = ConnectedPair::open(family)?;
        let (local, remote) = (pair.client.local()?, pair.server.local()?);
        let syn = wire.wait(local, remote, filter::SYN)?;
        icmp::send(PROHIBITED, local, remote, syn.next_seq)?;
        hold(Duration::from_millis(10));
        let reset = pair.server.close_with_reset()?;
        let ended = pair.client.ends(reset)?;
        let sent = step(Established, Close, reset)
            .ended(EventEndReason::ResetSentLinger)
            .closer(EventCloser::ResetSent);
        stage.expect(&pair.server.expected, &pair.server_steps(&[sent]))?;
        let received = step(Established, Close, ended)
            .ended(EventEndReason::ResetReceived)
            .closer(EventCloser::ResetReceived);
        stage.expect(&pair.client.expected, &pair.client_steps(&[received]))
    })
}
