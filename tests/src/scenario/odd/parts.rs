//! Set-up shared by several cases.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use rustix::io::Errno;
use socket2::Socket;

use crate::clock::Span;
use crate::event::EventRole;
use crate::filter;
use crate::pair::{IpFamily, TestSocket};

/// Starts to connect and does not wait: the client is in `SYN_SENT`, or past it.
pub fn start_connect(socket: Socket, target: SocketAddr) -> Result<(TestSocket, Span)> {
    socket.set_nonblocking(true)?;
    let (result, span) = Span::of(|| socket.connect(&target.into()));
    if let Err(error) = result
        && error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error())
    {
        bail!("connect to {target}: {error}");
    }
    let mut client = TestSocket::new("client", EventRole::Outbound, socket)?;
    client.expected.remote = Some(target);
    Ok((client, span))
}

/// A client whose SYN nobody answers.
pub struct Unanswered {
    /// Drops every segment.
    pub listener: TestSocket,
    /// In `SYN_SENT`.
    pub client: TestSocket,
    /// The call of `connect()`.
    pub connecting: Span,
}

impl Unanswered {
    /// Connects to a listener that drops every segment.
    pub fn begin(family: IpFamily) -> Result<Self> {
        let listener = TestSocket::listen((family.loopback(), 0).into())?;
        filter::drop_segments(listener.socket()?)?;
        let (client, connecting) = start_connect(family.socket()?, listener.local()?)?;
        client.wait(tcptrace_common::state::TcpState::SynSent)?;
        Ok(Self { listener, client, connecting })
    }
}
