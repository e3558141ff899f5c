//! A connection over loopback with all three sockets at hand: listener, client, server.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use tcptrace_common::state::TcpState;

use crate::clock::{Span, now_ns, soon, wait_for};
use crate::event::EventRole;
use crate::expect::{ExpectedSocket, ExpectedStep, step};
use crate::process::while_none_starts;
use crate::{filter, kernel, netns};

/// The address family of a scenario's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamily {
    /// 127.0.0.1
    V4,
    /// `::1`
    V6,
}

impl IpFamily {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The loopback address.
    pub const fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        }
    }

    /// An unbound TCP socket.
    pub fn socket(self) -> Result<Socket> {
        let domain = if self == Self::V4 { Domain::IPV4 } else { Domain::IPV6 };
        Socket::new(domain, Type::STREAM, None).context("socket()")
    }

    /// A TCP socket bound to a port that no other socket has, not even one in `TIME_WAIT`, and its address. `connect()` may choose
    /// a port that another connection has, to another remote end.
    pub fn bound_socket(self) -> Result<(Socket, SocketAddr)> {
        let socket = self.socket()?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(self.loopback(), 0).into())?;
        let local = socket.local_addr()?.as_socket().context("an address")?;
        Ok((socket, local))
    }
}

/// Runs `scenario` for both families at once, in this thread's namespace.
pub fn both_families(scenario: impl Fn(IpFamily) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let runs = IpFamily::BOTH.map(|family| {
            (
                family,
                scope.spawn({
                    let scenario = &scenario;
                    move || scenario(family)
                }),
            )
        });
        for (family, run) in runs {
            let result = run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.with_context(|| format!("{family:?}"))?;
        }
        Ok(())
    })
}

/// A socket and its expectation.
pub struct TestSocket {
    socket: Option<Socket>,
    /// Its identity in the tracer's events.
    pub expected: ExpectedSocket,
}

impl TestSocket {
    /// Wraps a socket; the kernel gives its cookie and addresses.
    pub fn new(label: &'static str, role: EventRole, socket: Socket) -> Result<Self> {
        let address = |address: socket2::SockAddr| {
            address.as_socket().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
        };
        let expected = ExpectedSocket {
            label,
            id: Some(socket.cookie()?),
            netns: netns::current()?,
            local: socket.local_addr().ok().and_then(address),
            remote: socket.peer_addr().ok().and_then(address),
            began: None,
            role: Some(role),
            known_ns: now_ns(),
        };
        Ok(Self { socket: Some(socket), expected })
    }

    /// A listener on `address`.
    pub fn listen(address: SocketAddr) -> Result<Self> {
        let family = if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
        let socket = family.socket()?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into()).with_context(|| format!("bind to {address}"))?;
        socket.listen(128)?;
        Self::new("listener", EventRole::Listener, socket)
    }

    /// The cookie.
    pub fn id(&self) -> u64 {
        self.expected.id.unwrap_or_default()
    }

    /// The local address and port.
    pub fn local(&self) -> Result<SocketAddr> {
        self.expected.local.context("a local address")
    }

    /// The open socket.
    pub fn socket(&self) -> Result<&Socket> {
        self.socket.as_ref().context("an open socket")
    }

    /// Moves the socket out; its expectation stays.
    pub fn take(&mut self) -> Result<Socket> {
        self.socket.take().context("an open socket")
    }

    /// Closes the socket.
    pub fn close(&mut self) -> Span {
        while_none_starts(|| Span::of(|| drop(self.socket.take())).1)
    }

    /// Closes the socket, and waits until its FIN is acknowledged: an orphan in `FIN_WAIT2`.
    pub fn close_to_orphan(&mut self) -> Result<Orphaned> {
        let closed = self.close();
        let acknowledged = self.reaches(TcpState::FinWait2, closed)?;
        self.ensure_orphan(true)?;
        Ok(Orphaned { closed, acknowledged })
    }

    /// Closes the socket with a RST instead of a FIN.
    pub fn close_with_reset(&mut self) -> Result<Span> {
        self.socket()?.set_linger(Some(Duration::ZERO))?;
        Ok(self.close())
    }

    /// Sends the FIN and keeps the socket.
    pub fn shutdown_write(&self) -> Result<Span> {
        let (result, span) =
            Span::of(|| self.socket.as_ref().map(|socket| socket.shutdown(std::net::Shutdown::Write)));
        result.context("an open socket")?.context("shutdown(SHUT_WR)")?;
        Ok(span)
    }

    /// Sends one byte.
    pub fn write(&self) -> Result<()> {
        self.socket()?.write_all(b"!").context("write")
    }

    /// Waits until there is something to read, without reading it.
    pub fn wait_readable(&self) -> Result<()> {
        let socket = self.socket()?;
        socket.set_read_timeout(Some(soon()))?;
        rustix::net::recv(socket, &mut [0], rustix::net::RecvFlags::PEEK).context("peek")?;
        Ok(())
    }

    /// Its `sock_diag` entry, if it exists.
    pub fn find_diag(&self) -> Result<Option<kernel::DiagSocket>> {
        let remote = self.expected.remote.context("a remote address")?;
        kernel::find(self.id(), self.local()?, remote)
    }

    /// Its `sock_diag` entry.
    pub fn diag(&self) -> Result<kernel::DiagSocket> {
        self.find_diag()?.with_context(|| format!("sock_diag has no {}", self.expected.label))
    }

    /// Waits until `sock_diag` shows the socket in `state`.
    pub fn wait(&self, state: TcpState) -> Result<()> {
        wait_for(&format!("{} in {}", self.expected.label, state.name()), soon(), || {
            Ok((self.find_diag()?.map(|socket| socket.state) == Some(state)).then_some(()))
        })
    }

    /// The same, as the span from the start of `cause` until then.
    pub fn reaches(&self, state: TcpState, cause: Span) -> Result<Span> {
        self.wait(state)?;
        Ok(Span::since(cause.start_ns))
    }

    /// Waits until `sock_diag` no longer lists the socket, and the kernel is done with its end.
    pub fn wait_end(&self, bound: Duration) -> Result<()> {
        wait_for(&format!("the end of the {}", self.expected.label), bound, || {
            Ok(self.find_diag()?.is_none().then_some(()))
        })?;
        // tcp_set_state() takes it off the list, then changes the state; counters come later still, and a process that reads
        // SO_ERROR before clears the error. All of that happens under the socket's lock, which this waits for.
        if let Some(socket) = &self.socket {
            socket.set_keepalive(socket.keepalive()?)?;
        }
        Ok(())
    }

    /// The same, as the span from the start of `cause` until then.
    pub fn ends(&self, cause: Span) -> Result<Span> {
        self.wait_end(soon())?;
        Ok(Span::since(cause.start_ns))
    }

    /// Checks with the kernel whether a process has the socket open.
    pub fn ensure_orphan(&self, orphan: bool) -> Result<()> {
        let inode = self.diag()?.inode;
        ensure!((inode == 0) == orphan, "{} has inode {inode}", self.expected.label);
        Ok(())
    }
}

impl Drop for TestSocket {
    fn drop(&mut self) {
        self.close();
    }
}

/// The spans of a close that the peer has acknowledged and not answered yet.
#[derive(Clone, Copy, Debug)]
pub struct Orphaned {
    /// It closed.
    pub closed: Span,
    /// Its FIN was acknowledged.
    pub acknowledged: Span,
}

impl Orphaned {
    /// The steps from `ESTABLISHED` to `FIN_WAIT2`, and `rest`.
    pub fn then<const N: usize>(&self, rest: [ExpectedStep; N]) -> Vec<ExpectedStep> {
        use TcpState::{Established, FinWait1, FinWait2};
        let steps =
            [step(Established, FinWait1, self.closed), step(FinWait1, FinWait2, self.acknowledged).orphan()];
        steps.into_iter().chain(rest).collect()
    }
}

/// An established connection.
pub struct ConnectedPair {
    /// The listener of the server.
    pub listener: TestSocket,
    /// The end that connected.
    pub client: TestSocket,
    /// The end that was accepted.
    pub server: TestSocket,
    /// From before `connect()` until after `accept()`.
    pub connecting: Span,
}

impl ConnectedPair {
    /// A new socket with the address and port of the client, which was a [bound socket](IpFamily::bound_socket) and has closed.
    pub fn same_client(&self, family: IpFamily) -> Result<Socket> {
        let client = family.socket()?;
        client.set_reuse_address(true)?;
        // The kernel may still be giving the port back; both sockets allow to share it.
        client.bind(&self.client.local()?.into()).context("the port of the closed client")?;
        Ok(client)
    }

    /// Connects over loopback, to a port the kernel chooses.
    pub fn open(family: IpFamily) -> Result<Self> {
        let listener = TestSocket::listen(SocketAddr::new(family.loopback(), 0))?;
        Self::open_to(listener, family.socket()?)
    }

    /// Connects over loopback, from a port of its own: [`same_client`](Self::same_client) can connect again.
    pub fn open_from_own_port(family: IpFamily) -> Result<Self> {
        let listener = TestSocket::listen(SocketAddr::new(family.loopback(), 0))?;
        Self::open_to(listener, family.bound_socket()?.0)
    }

    /// Connects `client` to `listener`.
    pub fn open_to(listener: TestSocket, client: Socket) -> Result<Self> {
        let target = listener.local()?;
        Self::open_to_address(listener, client, target)
    }

    /// Connects `client` to `listener` by way of another of its addresses.
    pub fn open_to_address(listener: TestSocket, client: Socket, target: SocketAddr) -> Result<Self> {
        let start_ns = now_ns();
        client.connect(&target.into()).with_context(|| format!("connect to {target}"))?;
        let (server, _) = listener.socket()?.accept().context("accept")?;
        let connecting = Span::since(start_ns);
        let client = TestSocket::new("client", EventRole::Outbound, client)?;
        let mut server = TestSocket::new("server", EventRole::Inbound, server)?;
        server.expected.began = Some(connecting);
        Ok(Self { listener, client, server, connecting })
    }

    /// The client closes, then the server; returns once the client is in `TIME_WAIT`, with the spans in which the client's
    /// FIN, the server's FIN and the step into `TIME_WAIT` happened.
    pub fn close_client_first(&mut self) -> Result<ClosedFirst> {
        let closed = self.client.close();
        let acknowledged = self.client.reaches(TcpState::FinWait2, closed)?;
        self.server.wait(TcpState::CloseWait)?;
        let answered = self.server.close();
        let time_wait = self.client.reaches(TcpState::TimeWait, answered)?;
        Ok(ClosedFirst { closed, acknowledged, time_wait })
    }

    /// The client closes, and the ACK of its FIN finds that `tcp_max_tw_buckets` allows no timewait socket: the spans of the
    /// close and of the end. The server drops the first FIN: an ACK that arrives while `close()` ends would leave a full socket in
    /// `FIN_WAIT2` for `tcp_fin_timeout` (`tcp_rcv_state_process()`).
    pub fn close_client_into_overflow(&mut self) -> Result<(Span, Span)> {
        kernel::counts("TCPTimeWaitOverflow", 1, || {
            filter::drop_segments(self.server.socket()?)?;
            let closed = self.client.close();
            filter::accept_all(self.server.socket()?)?;
            Ok((closed, self.client.ends(closed)?))
        })
    }

    /// The steps of the client from `connect()` on.
    pub fn client_steps(&self, rest: &[ExpectedStep]) -> Vec<ExpectedStep> {
        let opening = [
            step(TcpState::Close, TcpState::SynSent, self.connecting),
            step(TcpState::SynSent, TcpState::Established, self.connecting),
        ];
        [&opening, rest].concat()
    }

    /// The steps of the server from the SYN on.
    pub fn server_steps(&self, rest: &[ExpectedStep]) -> Vec<ExpectedStep> {
        let opening = [
            step(TcpState::Listen, TcpState::SynRecv, self.connecting).by_listener(),
            step(TcpState::SynRecv, TcpState::Established, self.connecting).by_listener(),
        ];
        [&opening, rest].concat()
    }
}

/// The spans of a close that leaves one end, closed by its process, in `TIME_WAIT`.
#[derive(Clone, Copy, Debug)]
pub struct ClosedFirst {
    /// It closed.
    pub closed: Span,
    /// Its FIN was acknowledged.
    pub acknowledged: Span,
    /// The peer's FIN came.
    pub time_wait: Span,
}

impl ClosedFirst {
    /// The steps from `ESTABLISHED` to `TIME_WAIT`.
    pub fn steps(&self) -> [ExpectedStep; 3] {
        use TcpState::{Established, FinWait1, FinWait2, TimeWait};
        [
            step(Established, FinWait1, self.closed),
            step(FinWait1, FinWait2, self.acknowledged).orphan(),
            step(FinWait2, TimeWait, self.time_wait).orphan().by_segment(),
        ]
    }
}
