//! Failed connects, and why they ended.

use std::io::ErrorKind;
use std::net::Shutdown;

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{Close, SynSent};

use super::parts::{Unanswered, start_connect};
use super::{OddCase, OddLab, case};
use crate::clock::{Span, soon};
use crate::event::{EventCloser, EventEndReason};
use crate::expect::step;
use crate::icmp::Unreachable;
use crate::pair::{IpFamily, TestSocket, both_families};
use crate::wire::Wire;
use crate::{filter, icmp, kernel, netns};

pub(super) const CASES: &[OddCase] = &[
    case("shutdown in SYN_SENT", shut_down),
    case("connect(AF_UNSPEC) in SYN_SENT", abandoned),
    case("close in SYN_SENT", closed),
    case("close in SYN_SENT with SO_LINGER 0", closed_with_linger),
    case("refused", refused),
    case("every ICMP error in SYN_SENT", icmp_errors),
    case("no answer at all", unanswered),
    case("killed in SYN_SENT", killed),
    case("no local port", no_port),
];

/// The attempt ends by `act`, which the kernel does not count as a failed one.
fn given_up(stage: &OddLab, act: impl Fn(&mut TestSocket) -> Result<()>) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut attempt = Unanswered::begin(family)?;
        let ended = kernel::counts("AttemptFails", 0, || {
            kernel::counts("OutRsts", 0, || {
                let (acted, span) = Span::of(|| act(&mut attempt.client));
                acted?;
                attempt.client.ends(span)
            })
        })?;
        let steps = [
            step(Close, SynSent, attempt.connecting),
            step(SynSent, Close, ended).ended(EventEndReason::Abandoned).closer(EventCloser::None),
        ];
        stage.expect(&attempt.client.expected, &steps)?;
    }
    Ok(())
}

fn shut_down(stage: &OddLab) -> Result<()> {
    given_up(stage, |client| Ok(client.socket()?.shutdown(Shutdown::Both)?))
}

fn abandoned(stage: &OddLab) -> Result<()> {
    given_up(stage, |client| Ok(rustix::net::connect_unspec(client.socket()?)?))
}

fn closed(stage: &OddLab) -> Result<()> {
    given_up(stage, |client| {
        client.close();
        Ok(())
    })
}

/// The kernel counts discarded data, and sends nothing: there is no connection yet.
fn closed_with_linger(stage: &OddLab) -> Result<()> {
    kernel::counts("TCPAbortOnData", 2, || given_up(stage, |client| client.close_with_reset().map(drop)))?;
    stage.add_unended("TCPAbortOnData", 2, "SO_LINGER 0 in SYN_SENT: counted, and nothing to reset");
    Ok(())
}

fn refused(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut listener = TestSocket::listen((family.loopback(), 0).into())?;
        let target = listener.local()?;
        listener.close();
        let (mut client, span) = kernel::counts("AttemptFails", 1, || {
            kernel::counts("OutRsts", 1, || {
                let (client, span) = start_connect(family.socket()?, target)?;
                let ended = client.ends(span)?;
                Ok((client, ended))
            })
        })?;
        client.expected.began = Some(span);
        let error = client.socket()?.take_error()?.map(|error| error.kind());
        ensure!(error == Some(ErrorKind::ConnectionRefused), "the error is {error:?}");
        let steps = [
            step(Close, SynSent, span),
            step(SynSent, Close, span).ended(EventEndReason::Refused).closer(EventCloser::Refused),
        ];
        stage.expect(&client.expected, &steps)?;
    }
    Ok(())
}

/// Codes of "destination unreachable" that end an attempt: all but "fragmentation needed".
fn codes(family: IpFamily) -> Vec<Unreachable> {
    let highest = if family == IpFamily::V4 { 15 } else { 6 };
    (0..=highest)
        .filter(|&code| family == IpFamily::V6 || code != 4)
        .map(|code| Unreachable { v4: code, v6: code })
        .collect()
}

/// A router or a firewall reports by ICMP that the SYN did not arrive, without a RST.
fn icmp_errors(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        for error in codes(family) {
            let wire = Wire::open(family.loopback())?;
            let attempt = Unanswered::begin(family)?;
            let (local, remote) = (attempt.client.local()?, attempt.listener.local()?);
            let syn = wire.wait(local, remote, filter::SYN)?;
            let ended = kernel::counts("AttemptFails", 1, || {
                kernel::counts("OutRsts", 0, || {
                    let (sent, span) = Span::of(|| icmp::send(error, local, remote, syn.seq));
                    sent?;
                    attempt.client.ends(span)
                })
            })?;
            let errno = attempt.client.socket()?.take_error()?;
            ensure!(errno.is_some(), "no error after {error:?}");
            let steps = [
                step(Close, SynSent, attempt.connecting),
                step(SynSent, Close, ended).ended(EventEndReason::Unreachable),
            ];
            stage.expect(&attempt.client.expected, &steps).map_err(|wrong| {
                wrong.context(format!(
                    "{family:?} {error:?}, {}",
                    errno.map(|e| e.to_string()).unwrap_or_default()
                ))
            })?;
        }
    }
    Ok(())
}

fn unanswered(stage: &OddLab) -> Result<()> {
    let _retries = netns::sysctl_for_now("tcp_syn_retries", "1")?;
    kernel::counts("TCPAbortOnTimeout", 2, || {
        both_families(|family| {
            let attempt = Unanswered::begin(family)?;
            let ended = attempt.client.ends(attempt.connecting)?;
            let steps = [
                step(Close, SynSent, attempt.connecting),
                step(SynSent, Close, ended).ended(EventEndReason::Timeout).closer(EventCloser::TimedOut),
            ];
            stage.expect(&attempt.client.expected, &steps)
        })
    })
}

fn killed(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let attempt = Unanswered::begin(family)?;
        let socket = attempt.client.diag()?;
        let ended = kernel::counts("AttemptFails", 1, || {
            kernel::counts("OutRsts", 0, || {
                let (destroyed, span) = Span::of(|| kernel::destroy(&socket));
                destroyed?;
                attempt.client.ends(span)
            })
        })?;
        let steps = [
            step(Close, SynSent, attempt.connecting),
            step(SynSent, Close, ended).ended(EventEndReason::Killed),
        ];
        stage.expect(&attempt.client.expected, &steps)?;
    }
    Ok(())
}

/// The only port of the range is taken: `connect()` itself fails.
fn no_port(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let first = crate::pair::ConnectedPair::open(family)?;
        let port = first.client.local()?.port();
        let range = netns::sysctl_for_now("ip_local_port_range", &format!("{port} {port}"))?;
        let socket = family.socket()?;
        let target = first.listener.local()?;
        let (result, span) =
            kernel::counts("AttemptFails", 0, || Ok(Span::of(|| socket.connect(&target.into()))))?;
        drop(range);
        let error = result.err().map(|error| error.kind());
        ensure!(error == Some(ErrorKind::AddrNotAvailable), "the error is {error:?}");
        let mut client = TestSocket::new("client", crate::event::EventRole::Outbound, socket)?;
        client.expected.local = None;
        client.expected.remote = Some(target);
        client.expected.began = Some(span);
        let steps = [
            step(Close, SynSent, span),
            step(SynSent, Close, span).ended(EventEndReason::NoPort).closer(EventCloser::None),
        ];
        stage.expect(&client.expected, &steps)?;
        let mut first = first;
        first.close_client_first()?;
        first.server.wait_end(soon())?;
    }
    Ok(())
}
