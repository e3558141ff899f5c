//! RSTs that this host sends after its own FIN, or in place of one.

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{
    Close, CloseWait, Established, FinWait1, FinWait2, LastAck, SynRecv, TimeWait,
};

use super::parts::start_connect;
use super::{OddCase, OddLab, case};
use crate::clock::{Span, soon, wait_for};
use crate::event::{EventCloser, EventEndReason, EventRole};
use crate::expect::step;
use crate::pair::{ConnectedPair, IpFamily, Orphaned, TestSocket};
use crate::{filter, kernel, option};

pub(super) const CASES: &[OddCase] = &[
    case("data after close, in FIN_WAIT1", data_in_fin_wait1),
    case("data after close, in an orphan FIN_WAIT2", data_in_orphan_fin_wait2),
    case("data after close, in an orphan FIN_WAIT2 that is a full socket", data_in_full_fin_wait2),
    case("data after shutdown(RDWR), in a held FIN_WAIT2", data_in_held_fin_wait2),
    case("unread data in ESTABLISHED", unread_in_established),
    case("SO_LINGER 0 in ESTABLISHED", linger_in_established),
    case("unread data in CLOSE_WAIT", unread_in_close_wait),
    case("unread data in LAST_ACK", unread_in_last_ack),
    case("SO_LINGER 0 in LAST_ACK, with unsent data", linger_in_last_ack),
    case("SO_LINGER 0 in LAST_ACK, all sent", linger_in_last_ack_all_sent),
    case("TCP_LINGER2 below 0, at close", linger2_at_close),
    case("TCP_LINGER2 below 0, at the ACK of the FIN", linger2_at_ack),
    case("connect(AF_UNSPEC) in ESTABLISHED", disconnected),
    case("listener closed before accept", never_accepted),
    case("killed in ESTABLISHED", killed),
];

/// The client leaves while the server streams: its FIN is not acknowledged yet when the next data comes.
fn data_in_fin_wait1(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        filter::accept_only(pair.server.socket()?, filter::RST)?;
        let closed = pair.client.close();
        pair.client.wait(FinWait1)?;
        let (reset, ended) = kernel::counts("TCPAbortOnData", 1, || {
            kernel::counts("OutRsts", 1, || {
                let (written, write) = Span::of(|| pair.server.write());
                written?;
                Ok((pair.client.ends(write)?, pair.server.ends(write)?))
            })
        })?;
        let steps = [
            step(Established, FinWait1, closed),
            step(FinWait1, Close, reset).ended(EventEndReason::Aborted).closer(EventCloser::Local),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
        stage.expect(&pair.server.expected, &pair.server_steps(&[received_reset(Established, ended)]))?;
    }
    Ok(())
}

fn received_reset(from: tcptrace_common::state::TcpState, ended: Span) -> crate::expect::ExpectedStep {
    let closer = if from == CloseWait { EventCloser::Remote } else { EventCloser::ResetReceived };
    step(from, Close, ended).by_listener().ended(EventEndReason::ResetReceived).closer(closer)
}

/// The server writes to a client that is an orphan in `FIN_WAIT2`; the orphan ends, and its peer too.
fn writes_to_orphan(stage: &OddLab, mut pair: ConnectedPair, counted: u64) -> Result<()> {
    let orphaned: Orphaned = pair.client.close_to_orphan()?;
    let received = pair.server.reaches(CloseWait, orphaned.closed)?;
    let (reset, ended) = kernel::counts("TCPAbortOnData", counted, || {
        kernel::counts("OutRsts", 1, || {
            let (written, write) = Span::of(|| pair.server.write());
            written?;
            Ok((pair.client.ends(write)?, pair.server.ends(write)?))
        })
    })?;
    let mut last =
        step(FinWait2, Close, reset).orphan().ended(EventEndReason::Aborted).closer(EventCloser::Local);
    if counted == 0 {
        last = last.by_segment();
    }
    stage.expect(&pair.client.expected, &pair.client_steps(&orphaned.then([last])))?;
    let steps = [step(Established, CloseWait, received).by_listener(), received_reset(CloseWait, ended)];
    stage.expect(&pair.server.expected, &pair.server_steps(&steps))
}

fn data_in_orphan_fin_wait2(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        // tcp_timewait_state_process() answers with a RST and counts nothing.
        writes_to_orphan(stage, ConnectedPair::open(family)?, 0)?;
    }
    Ok(())
}

fn data_in_full_fin_wait2(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let pair = ConnectedPair::open(family)?;
        // More than a minute: the orphan waits for the rest as a full socket first.
        option::set(pair.client.socket()?, option::TCP_LINGER2, 90)?;
        writes_to_orphan(stage, pair, 1)?;
    }
    stage.add_unended("TCPAbortOnData", 2, "data to an orphan FIN_WAIT2 that is a full socket");
    Ok(())
}

fn data_in_held_fin_wait2(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let pair = ConnectedPair::open(family)?;
        let (shut, span) =
            Span::of(|| pair.client.socket().map(|socket| socket.shutdown(std::net::Shutdown::Both)));
        shut??;
        let acknowledged = pair.client.reaches(FinWait2, span)?;
        pair.client.ensure_orphan(false)?;
        let received = pair.server.reaches(CloseWait, span)?;
        let (reset, ended) = kernel::counts("TCPAbortOnData", 1, || {
            kernel::counts("OutRsts", 1, || {
                let (written, write) = Span::of(|| pair.server.write());
                written?;
                Ok((pair.client.ends(write)?, pair.server.ends(write)?))
            })
        })?;
        let steps = [
            step(Established, FinWait1, span),
            step(FinWait1, FinWait2, acknowledged).held(),
            step(FinWait2, Close, reset).held().ended(EventEndReason::Aborted).closer(EventCloser::Local),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
        let steps = [step(Established, CloseWait, received).by_listener(), received_reset(CloseWait, ended)];
        stage.expect(&pair.server.expected, &pair.server_steps(&steps))?;
    }
    Ok(())
}

fn unread_in_established(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        pair.client.write()?;
        pair.server.wait_readable()?;
        let closed = kernel::counts("TCPAbortOnClose", 1, || {
            kernel::counts("OutRsts", 1, || Ok(pair.server.close()))
        })?;
        let ended = pair.client.ends(closed)?;
        let sent = step(Established, Close, closed)
            .ended(EventEndReason::ResetSentUnread)
            .closer(EventCloser::ResetSent);
        stage.expect(&pair.server.expected, &pair.server_steps(&[sent]))?;
        let received = step(Established, Close, ended)
            .ended(EventEndReason::ResetReceived)
            .closer(EventCloser::ResetReceived);
        stage.expect(&pair.client.expected, &pair.client_steps(&[received]))?;
    }
    Ok(())
}

fn linger_in_established(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let closed = kernel::counts("TCPAbortOnData", 1, || {
            kernel::counts("OutRsts", 1, || pair.client.close_with_reset())
        })?;
        let ended = pair.server.ends(closed)?;
        let sent = step(Established, Close, closed)
            .ended(EventEndReason::ResetSentLinger)
            .closer(EventCloser::ResetSent);
        stage.expect(&pair.client.expected, &pair.client_steps(&[sent]))?;
        stage.expect(&pair.server.expected, &pair.server_steps(&[received_reset(Established, ended)]))?;
    }
    Ok(())
}

/// The client has written a byte, closed, and is an orphan in `FIN_WAIT2`.
fn unread_and_closed(family: IpFamily) -> Result<(ConnectedPair, Orphaned, Span)> {
    let mut pair = ConnectedPair::open(family)?;
    pair.client.write()?;
    pair.server.wait_readable()?;
    let orphaned = pair.client.close_to_orphan()?;
    let received = pair.server.reaches(CloseWait, orphaned.closed)?;
    Ok((pair, orphaned, received))
}

fn unread_in_close_wait(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let (mut pair, orphaned, received) = unread_and_closed(family)?;
        let closed = kernel::counts("TCPAbortOnClose", 1, || {
            kernel::counts("OutRsts", 1, || Ok(pair.server.close()))
        })?;
        let ended = pair.client.ends(closed)?;
        let steps = [
            step(Established, CloseWait, received).by_listener(),
            step(CloseWait, Close, closed).ended(EventEndReason::ResetSentUnread).closer(EventCloser::Remote),
        ];
        stage.expect(&pair.server.expected, &pair.server_steps(&steps))?;
        let last = step(FinWait2, Close, ended).orphan().ended(EventEndReason::Reset).by_segment();
        stage.expect(
            &pair.client.expected,
            &pair.client_steps(&orphaned.then([last.closer(EventCloser::Local)])),
        )?;
    }
    Ok(())
}

/// The server sends its FIN, does not receive the last ACK, and closes with a byte unread.
fn unread_in_last_ack(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let (mut pair, orphaned, received) = unread_and_closed(family)?;
        filter::drop_segments(pair.server.socket()?)?;
        let shut = pair.server.shutdown_write()?;
        let time_wait = pair.client.reaches(TimeWait, shut)?;
        pair.server.wait(LastAck)?;
        let closed = kernel::counts("TCPAbortOnClose", 1, || {
            kernel::counts("OutRsts", 1, || Ok(pair.server.close()))
        })?;
        let ended = pair.client.ends(closed)?;
        let steps = [
            step(Established, CloseWait, received).by_listener(),
            step(CloseWait, LastAck, shut),
            step(LastAck, Close, closed).ended(EventEndReason::ResetSentUnread).closer(EventCloser::Remote),
        ];
        stage.expect(&pair.server.expected, &pair.server_steps(&steps))?;
        let rest = [
            step(FinWait2, TimeWait, time_wait).orphan().by_segment(),
            step(TimeWait, Close, ended).ended(EventEndReason::Reset).by_segment(),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&orphaned.then(rest)))?;
    }
    Ok(())
}

/// The client has shut down its direction and does not read; the server has written until nothing more fits.
fn full_pipe(family: IpFamily) -> Result<(ConnectedPair, Span, Span, Span)> {
    let listener = TestSocket::listen((family.loopback(), 0).into())?;
    let client = family.socket()?;
    client.set_recv_buffer_size(4096)?;
    let pair = ConnectedPair::open_to(listener, client)?;
    let shut = pair.client.shutdown_write()?;
    let acknowledged = pair.client.reaches(FinWait2, shut)?;
    let received = pair.server.reaches(CloseWait, shut)?;
    let server = pair.server.socket()?;
    server.set_nonblocking(true)?;
    while server.send(&[0; 16384]).is_ok() {}
    Ok((pair, shut, acknowledged, received))
}

fn linger_in_last_ack(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let (mut pair, client_shut, acknowledged, received) = full_pipe(family)?;
        let shut = pair.server.shutdown_write()?;
        pair.server.wait(LastAck)?;
        let resets = kernel::counter("OutRsts")?;
        let (closed, ended) = kernel::counts("TCPAbortOnData", 1, || {
            let closed = pair.server.close_with_reset()?;
            Ok((closed, pair.client.ends(closed)?))
        })?;
        // A RST beyond what came is challenged (RFC 5961), and the challenge ACK finds no socket: one more RST.
        let resets = kernel::counter("OutRsts")? - resets;
        ensure!((1..=2).contains(&resets), "{resets} RSTs");
        stage.add_unended("OutRsts", resets - 1, "the answer to a challenge ACK");
        let steps = [
            step(Established, CloseWait, received).by_listener(),
            step(CloseWait, LastAck, shut),
            step(LastAck, Close, closed).ended(EventEndReason::ResetSentLinger).closer(EventCloser::Remote),
        ];
        stage.expect(&pair.server.expected, &pair.server_steps(&steps))?;
        let steps = [
            step(Established, FinWait1, client_shut),
            step(FinWait1, FinWait2, acknowledged).held(),
            step(FinWait2, Close, ended)
                .held()
                .ended(EventEndReason::ResetReceived)
                .closer(EventCloser::Local),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
    }
    Ok(())
}

/// The FIN is sent, and not acknowledged: `SO_LINGER` 0 sends nothing more (`tcp_disconnect()`), though it is counted.
fn linger_in_last_ack_all_sent(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let orphaned = pair.client.close_to_orphan()?;
        let received = pair.server.reaches(CloseWait, orphaned.closed)?;
        filter::drop_segments(pair.server.socket()?)?;
        let shut = pair.server.shutdown_write()?;
        pair.client.reaches(TimeWait, shut)?;
        pair.server.wait(LastAck)?;
        let closed = kernel::counts("TCPAbortOnData", 1, || {
            kernel::counts("OutRsts", 0, || pair.server.close_with_reset())
        })?;
        ensure!(pair.client.find_diag()?.is_some(), "the peer got a RST");
        let steps = [
            step(Established, CloseWait, received).by_listener(),
            step(CloseWait, LastAck, shut),
            step(LastAck, Close, closed)
                .ended(kernel::by_error_report(EventEndReason::Silent, EventEndReason::Unexplained))
                .closer(EventCloser::Remote),
        ];
        stage.expect(&pair.server.expected, &pair.server_steps(&steps))?;
    }
    stage.add_unended("TCPAbortOnData", 2, "SO_LINGER 0 in LAST_ACK, all sent: counted, and no RST");
    Ok(())
}

/// Held in `FIN_WAIT2`, closed: a RST instead of a wait.
fn linger2_at_close(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        option::set(pair.client.socket()?, option::TCP_LINGER2, -1)?;
        let shut = pair.client.shutdown_write()?;
        let acknowledged = pair.client.reaches(FinWait2, shut)?;
        let received = pair.server.reaches(CloseWait, shut)?;
        let closed = kernel::counts("TCPAbortOnLinger", 1, || {
            kernel::counts("OutRsts", 1, || Ok(pair.client.close()))
        })?;
        let ended = pair.server.ends(closed)?;
        let steps = [
            step(Established, FinWait1, shut),
            step(FinWait1, FinWait2, acknowledged).held(),
            // It has no descriptor any more when it ends, and no wait without one began.
            step(FinWait2, Close, closed).ended(EventEndReason::ResetSentLinger2).closer(EventCloser::Local),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
        let steps = [step(Established, CloseWait, received).by_listener(), received_reset(CloseWait, ended)];
        stage.expect(&pair.server.expected, &pair.server_steps(&steps))?;
    }
    Ok(())
}

/// Closed, and the ACK of the FIN comes: for the kernel it is `TCP_ABORT_ON_DATA`, as if data had come.
fn linger2_at_ack(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        option::set(pair.client.socket()?, option::TCP_LINGER2, -1)?;
        let (closed, ended, peer_ended) = kernel::counts("TCPAbortOnData", 1, || {
            kernel::counts("OutRsts", 1, || {
                let closed = pair.client.close();
                Ok((closed, pair.client.ends(closed)?, pair.server.ends(closed)?))
            })
        })?;
        let steps = [
            step(Established, FinWait1, closed),
            step(FinWait1, FinWait2, ended).orphan(),
            step(FinWait2, Close, ended).orphan().ended(EventEndReason::Aborted).closer(EventCloser::Local),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
        let steps =
            [step(Established, CloseWait, peer_ended).by_listener(), received_reset(CloseWait, peer_ended)];
        stage.expect(&pair.server.expected, &pair.server_steps(&steps))?;
    }
    stage.add_unended("TCPAbortOnData", 2, "TCP_LINGER2 below 0 at the ACK of the FIN");
    Ok(())
}

fn disconnected(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let pair = ConnectedPair::open(family)?;
        let (result, span) = kernel::counts("OutRsts", 1, || {
            Ok(Span::of(|| pair.client.socket().map(rustix::net::connect_unspec)))
        })?;
        result??;
        let ended = pair.server.ends(span)?;
        let sent =
            step(Established, Close, span).ended(EventEndReason::Disconnected).closer(EventCloser::ResetSent);
        stage.expect(&pair.client.expected, &pair.client_steps(&[sent]))?;
        stage.expect(&pair.server.expected, &pair.server_steps(&[received_reset(Established, ended)]))?;
    }
    Ok(())
}

/// The handshake is complete and waits in the accept queue of a listener that closes.
fn never_accepted(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut listener = TestSocket::listen((family.loopback(), 0).into())?;
        let target = listener.local()?;
        let (client, connecting) = start_connect(family.socket()?, target)?;
        client.wait(Established)?;
        let local = client.local()?;
        let queued = wait_for("the server's end", soon(), || {
            let mut all = kernel::sockets()?.into_iter();
            Ok(all.find(|socket| (socket.local, socket.remote, socket.state) == (target, local, Established)))
        })?;
        let established = Span::since(connecting.start_ns);
        let closed = kernel::counts("OutRsts", 1, || Ok(listener.close()))?;
        let ended = client.ends(closed)?;
        let server = crate::expect::ExpectedSocket {
            label: "never accepted",
            id: Some(queued.cookie),
            local: Some(target),
            remote: Some(local),
            began: Some(established),
            role: Some(EventRole::Inbound),
            known_ns: established.end_ns,
            ..listener.expected.clone()
        };
        let steps = [
            step(tcptrace_common::state::TcpState::Listen, SynRecv, established).by_listener(),
            step(SynRecv, Established, established).by_listener(),
            step(Established, Close, closed)
                .pid(std::process::id())
                .ended(EventEndReason::Disconnected)
                .closer(EventCloser::ResetSent),
        ];
        stage.expect(&server, &steps)?;
        let seen = stage.events_of(&client.expected, 1, |event| event.from == Established)?;
        ensure!(
            seen.iter().all(|event| event.end_reason == Some(EventEndReason::ResetReceived)),
            "{seen:?} by {ended:?}"
        );
    }
    Ok(())
}

fn killed(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let pair = ConnectedPair::open(family)?;
        let socket = pair.client.diag()?;
        let (killed, span) = kernel::counts("OutRsts", 1, || Ok(Span::of(|| kernel::destroy(&socket))))?;
        killed?;
        let (ended, peer_ended) = (pair.client.ends(span)?, pair.server.ends(span)?);
        let killed =
            step(Established, Close, ended).ended(EventEndReason::Killed).closer(EventCloser::ResetSent);
        stage.expect(&pair.client.expected, &pair.client_steps(&[killed]))?;
        stage
            .expect(&pair.server.expected, &pair.server_steps(&[received_reset(Established, peer_ended)]))?;
    }
    Ok(())
}
