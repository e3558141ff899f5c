//! Ends of `TIME_WAIT` that leave nothing behind, and of connections that were closed in `TCP_REPAIR`.

use std::time::Duration;

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{
    Close, CloseWait, Established, FinWait1, FinWait2, SynSent, TimeWait,
};

use super::parts::start_connect;
use super::{OddCase, OddLab, case};
use crate::clock::{Span, hold, soon, wait_for};
use crate::event::{EventCloser, EventEndReason, EventRole};
use crate::expect::step;
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::wire::{Segment, Wire, forge};
use crate::{filter, kernel, netns, option};

pub(super) const CASES: &[OddCase] = &[
    case("TIME_WAIT ended by a SYN that a full accept queue drops", reopened_into_a_full_queue),
    case("TIME_WAIT reopened by a SYN", reopened),
    case("TIME_WAIT reused by connect", reused),
    case("TIME_WAIT that never was", overflow),
    case("TIME_WAIT reset", reset),
    case("TIME_WAIT killed", killed),
    case("closed in TCP_REPAIR", closed_in_repair),
    case("made and closed in TCP_REPAIR", made_in_repair),
];

/// A server in `TIME_WAIT` whose listener has this backlog.
fn server_in_time_wait(
    family: IpFamily,
    backlog: i32,
) -> Result<(ConnectedPair, Vec<crate::expect::ExpectedStep>)> {
    let (socket, _) = family.bound_socket()?;
    socket.listen(backlog)?;
    let listener = TestSocket::new("listener", EventRole::Listener, socket)?;
    let mut pair = ConnectedPair::open_to(listener, family.bound_socket()?.0)?;
    let orphaned = pair.server.close_to_orphan()?;
    pair.client.wait(CloseWait)?;
    let answered = pair.client.close();
    let time_wait = pair.server.reaches(TimeWait, answered)?;
    pair.client.wait_end(soon())?;
    let steps =
        pair.server_steps(&orphaned.then([step(FinWait2, TimeWait, time_wait).orphan().by_segment()]));
    Ok((pair, steps))
}

fn reopened_into_a_full_queue(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let (pair, steps) = server_in_time_wait(family, 0)?;
        let target = pair.listener.local()?;
        // One connection that nobody accepts fills a queue of length 0.
        let (filler, _) = start_connect(family.socket()?, target)?;
        filler.wait(Established)?;
        wait_for("the filler in the queue", soon(), || {
            let in_queue =
                |socket: &kernel::DiagSocket| socket.local == target && socket.state == Established;
            Ok(kernel::sockets()?.iter().any(in_queue).then_some(()))
        })?;
        let (mut client, connecting) =
            kernel::counts("ListenOverflows", 1, || start_connect(pair.same_client(family)?, target))?;
        client.wait(SynSent)?;
        ensure!(pair.server.find_diag()?.is_none(), "the TIME_WAIT is still there");
        let given_up = client.close();
        let ended =
            step(TimeWait, Close, connecting).ended(EventEndReason::Reopened).closer(EventCloser::Local);
        stage.expect(&pair.server.expected, &[&steps[..], &[ended.by_segment()]].concat())?;
        let attempt = [
            step(Close, SynSent, connecting),
            step(SynSent, Close, given_up).ended(EventEndReason::Abandoned),
        ];
        stage.expect(&client.expected, &attempt)?;
    }
    Ok(())
}

fn reopened(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let (pair, steps) = server_in_time_wait(family, 8)?;
        let (first, client) = (pair.server.expected.clone(), pair.same_client(family)?);
        let mut again = ConnectedPair::open_to(pair.listener, client)?;
        let ended = step(TimeWait, Close, again.connecting)
            .ended(EventEndReason::Reopened)
            .closer(EventCloser::Local);
        stage.expect(&first, &[&steps[..], &[ended]].concat())?;
        stage.expect(&again.server.expected, &again.server_steps(&[]))?;
        again.close_client_first()?;
        again.server.wait_end(soon())?;
    }
    Ok(())
}

fn reused(stage: &OddLab) -> Result<()> {
    let _reuse = netns::sysctl_for_now("tcp_tw_reuse", "1")?;
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let closing = pair.close_client_first()?;
        pair.server.wait_end(soon())?;
        let port = pair.client.local()?.port();
        let range = netns::sysctl_for_now("ip_local_port_range", &format!("{port} {port}"))?;
        hold(Duration::from_millis(1_100));
        let target = pair.listener.local()?;
        let (second, reused) = kernel::counts("TWRecycled", 1, || {
            wait_for("a connect that reuses the port", soon(), || {
                let socket = family.socket()?;
                let (result, span) = Span::of(|| socket.connect(&target.into()));
                Ok(result.ok().map(|()| (socket, span)))
            })
        })?;
        drop(range);
        let mut second = TestSocket::new("second client", EventRole::Outbound, second)?;
        let ended = step(TimeWait, Close, reused).ended(EventEndReason::Reused).closer(EventCloser::Local);
        stage
            .expect(&pair.client.expected, &pair.client_steps(&[&closing.steps()[..], &[ended]].concat()))?;
        second.close_to_orphan()?;
    }
    Ok(())
}

fn overflow(stage: &OddLab) -> Result<()> {
    let _buckets = netns::sysctl_for_now("tcp_max_tw_buckets", "0")?;
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let (closed, ended) = pair.close_client_into_overflow()?;
        let steps = [
            step(Established, FinWait1, closed),
            step(FinWait1, FinWait2, ended).orphan(),
            step(FinWait2, Close, ended).orphan().ended(EventEndReason::Overflow).closer(EventCloser::Local),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
        kernel::counts("OutRsts", 1, || {
            pair.server.wait(CloseWait)?;
            let answered = pair.server.close();
            pair.server.ends(answered)
        })?;
        stage.add_unended("OutRsts", 1, "a FIN to a TIME_WAIT that never was");
    }
    Ok(())
}

fn reset(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let wire = Wire::open(family.loopback())?;
        let mut pair = ConnectedPair::open(family)?;
        let closing = pair.close_client_first()?;
        let (client, server) = (pair.client.local()?, pair.server.local()?);
        let fin = wire.wait(server, client, filter::FIN)?;
        pair.server.wait_end(soon())?;
        let (forged, span) = Span::of(|| forge(Segment { seq: fin.next_seq, flags: filter::RST, ..fin }));
        forged?;
        let ended = pair.client.ends(span)?;
        let ended =
            step(TimeWait, Close, ended).ended(EventEndReason::Reset).closer(EventCloser::Local).by_segment();
        stage
            .expect(&pair.client.expected, &pair.client_steps(&[&closing.steps()[..], &[ended]].concat()))?;
    }
    Ok(())
}

fn killed(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let closing = pair.close_client_first()?;
        let timewait = pair.client.diag()?;
        let (killed, span) = kernel::counts("OutRsts", 0, || Ok(Span::of(|| kernel::destroy(&timewait))))?;
        killed?;
        let ended = pair.client.ends(span)?;
        let ended = step(TimeWait, Close, ended).ended(EventEndReason::Killed).closer(EventCloser::Local);
        stage
            .expect(&pair.client.expected, &pair.client_steps(&[&closing.steps()[..], &[ended]].concat()))?;
    }
    Ok(())
}

fn silent_end() -> EventEndReason {
    kernel::by_error_report(EventEndReason::Silent, EventEndReason::Unexplained)
}

/// Like the end of a checkpointed container: nothing is sent, and the peer is not informed.
fn closed_in_repair(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        // Unread data makes no RST of it either.
        pair.client.write()?;
        pair.server.wait_readable()?;
        option::set(pair.server.socket()?, option::TCP_REPAIR, 1)?;
        let closed = kernel::counts("OutRsts", 0, || Ok(pair.server.close()))?;
        let silent = step(Established, Close, closed).ended(silent_end()).closer(EventCloser::None);
        stage.expect(&pair.server.expected, &pair.server_steps(&[silent]))?;
        let (shut, ended) = kernel::counts("OutRsts", 1, || {
            let shut = pair.client.close();
            Ok((shut, pair.client.ends(shut)?))
        })?;
        stage.add_unended("OutRsts", 1, "a FIN to a connection closed in TCP_REPAIR");
        let steps = [
            step(Established, FinWait1, shut),
            step(FinWait1, Close, ended).ended(EventEndReason::ResetReceived).closer(EventCloser::Local),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
    }
    Ok(())
}

/// Like a connection of a restored container: no segment and no peer.
fn made_in_repair(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let (socket, local) = family.bound_socket()?;
        let (peer, remote) = family.bound_socket()?;
        option::set(&socket, option::TCP_REPAIR, 1)?;
        let (mut end, connecting) = kernel::counts("OutSegs", 0, || start_connect(socket, remote))?;
        ensure!(
            end.find_diag()?.is_some_and(|socket| socket.state == Established),
            "{local} is not ESTABLISHED"
        );
        let closed = kernel::counts("OutSegs", 0, || Ok(end.close()))?;
        drop(peer);
        let steps = [
            step(Close, SynSent, connecting),
            step(SynSent, Established, connecting),
            step(Established, Close, closed).ended(silent_end()).closer(EventCloser::None),
        ];
        stage.expect(&end.expected, &steps)?;
    }
    Ok(())
}
