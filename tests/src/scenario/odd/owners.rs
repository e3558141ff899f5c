//! Sockets that change their owner: passed to an unrelated process, kept over `exec`, used through `io_uring`.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tcptrace_common::state::TcpState::{CloseWait, Established, FinWait1, FinWait2, TimeWait};

use super::{OddCase, OddLab, case};
use crate::clock::{Span, now_ns, soon, wait_for};
use crate::event::{EventCloser, EventOwner, EventRole};
use crate::expect::step;
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::process::{self, StartChild as _};
use crate::ring::IoUring;

pub(super) const CASES: &[OddCase] =
    &[case("passed by SCM_RIGHTS", passed), case("kept over exec", kept_over_exec)];

/// This needs `io_uring`, which a host may refuse.
pub(super) const IO_URING: &[OddCase] = &[case("io_uring", by_io_uring)];

/// The argument that makes this program the receiver of a socket.
pub const RECEIVE: &str = "--receive-socket";

/// The receiver: receives a socket on its standard input, confirms it, and sends the FIN on request.
pub fn receive_socket() -> Result<()> {
    let mut stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&stream, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::empty())?;
    let socket = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let socket = socket2::Socket::from(socket.context("no descriptor came")?);
    stream.write_all(b"!")?;
    stream.read_exact(&mut [0])?;
    socket.shutdown(Shutdown::Write)?;
    stream.write_all(b"!")?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

fn passed(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(RECEIVE)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .start()
            .context("start the receiver")?;
        let socket = pair.client.take()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [socket.as_fd()];
        ensure!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)), "no room for a descriptor");
        sendmsg(&ours, &[IoSlice::new(b"!")], &mut ancillary, SendFlags::empty())?;
        ours.read_exact(&mut [0])?;
        process::close(socket);
        ensure!(pair.client.diag()?.state == Established, "the connection is gone");
        let start_ns = now_ns();
        ours.write_all(b"!")?;
        ours.read_exact(&mut [0])?;
        let shut = Span::since(start_ns);
        let acknowledged = pair.client.reaches(FinWait2, shut)?;
        pair.server.wait(CloseWait)?;
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        let receiver = child.id();
        ours.write_all(b"!")?;
        ensure!(child.wait()?.success(), "the receiver failed");
        let steps = [
            step(Established, FinWait1, shut),
            step(FinWait1, FinWait2, acknowledged).held(),
            step(FinWait2, TimeWait, time_wait).held().closer(EventCloser::Local),
        ]
        .map(|step| step.owner(EventOwner::Exact, receiver));
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
        pair.server.wait_end(soon())?;
    }
    Ok(())
}

/// The process continues under another name.
fn kept_over_exec(stage: &OddLab) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let socket = OwnedFd::from(pair.client.take()?);
        let mut child = Command::new("sh")
            .args(["-c", "exec head -c 1"])
            .stdin(socket)
            .stdout(Stdio::null())
            .start()
            .context("start sh")?;
        let comm = format!("/proc/{}/comm", child.id());
        wait_for("exec", soon(), || Ok((std::fs::read_to_string(&comm)? == "head\n").then_some(())))?;
        let pid = child.id();
        let start_ns = now_ns();
        pair.server.write()?;
        child.wait()?;
        let closed = Span::since(start_ns);
        let acknowledged = pair.client.reaches(FinWait2, closed)?;
        pair.server.wait(CloseWait)?;
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        let steps = [
            step(Established, FinWait1, closed),
            step(FinWait1, FinWait2, acknowledged).orphan(),
            step(FinWait2, TimeWait, time_wait).orphan().by_segment().closer(EventCloser::Local),
        ]
        .map(|step| step.owner(EventOwner::Exact, pid));
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
        let seen = stage.events_of(&pair.client.expected, 1, |event| event.from == Established)?;
        ensure!(seen.iter().all(|event| event.comm.as_deref() == Some("head")), "its name: {seen:?}");
        pair.server.wait_end(soon())?;
    }
    Ok(())
}

/// Kernel threads connect and shut down on behalf of this process.
fn by_io_uring(stage: &OddLab) -> Result<()> {
    let mut ring = IoUring::new()?;
    for family in IpFamily::BOTH {
        let listener = TestSocket::listen((family.loopback(), 0).into())?;
        let socket = family.socket()?;
        let target = listener.local()?;
        let start_ns = now_ns();
        ring.connect(&socket, target)?;
        let (server, _) = listener.socket()?.accept()?;
        let connecting = Span::since(start_ns);
        let client = TestSocket::new("client", EventRole::Outbound, socket)?;
        let mut server = TestSocket::new("server", EventRole::Inbound, server)?;
        server.expected.began = Some(connecting);
        let mut pair = ConnectedPair { listener, client, server, connecting };
        let (shut, span) = Span::of(|| ring.shut_down(pair.client.socket()?));
        shut?;
        let acknowledged = pair.client.reaches(FinWait2, span)?;
        pair.server.wait(CloseWait)?;
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        let steps = [
            step(Established, FinWait1, span),
            step(FinWait1, FinWait2, acknowledged).held(),
            step(FinWait2, TimeWait, time_wait).held().closer(EventCloser::Local),
        ];
        stage.expect(&pair.client.expected, &pair.client_steps(&steps))?;
        pair.server.wait_end(soon())?;
    }
    Ok(())
}
