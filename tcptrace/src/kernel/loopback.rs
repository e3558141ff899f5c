//! Creates one loopback connection to trace: it passes through every common state and ends in TIME_WAIT.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketType, sockopt, sockopt::Timeout};

/// Most time for the peer's FIN; microseconds are normal.
const LOOPBACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Both ends, not yet connected.
pub struct Loopback {
    listener: TcpListener,
    client: OwnedFd,
}

impl Loopback {
    /// Creates both ends, which have their ports from then on.
    pub fn prepare() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no loopback listener")?;
        let client = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        rustix::net::bind(&client, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self { listener, client })
    }

    /// The client's cookie.
    pub fn cookie(&self) -> Result<u64> {
        Ok(sockopt::socket_cookie(&self.client)?)
    }

    /// The listener's port.
    pub fn server_port(&self) -> Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// The client's port.
    pub fn client_port(&self) -> Result<u16> {
        Ok(SocketAddr::try_from(rustix::net::getsockname(&self.client)?)?.port())
    }

    /// Connects, accepts, closes the client's direction first and then the server, so that the client ends in
    /// TIME_WAIT. The client is held until then: older kernels show an orphan's step from FIN_WAIT2 late.
    pub fn run(self) -> Result<()> {
        rustix::net::connect(&self.client, &self.listener.local_addr()?).context("no loopback connection")?;
        let (server, _) = self.listener.accept()?;
        rustix::net::shutdown(&self.client, Shutdown::Write)?;
        drop(server);
        sockopt::set_socket_timeout(&self.client, Timeout::Recv, Some(LOOPBACK_TIMEOUT))?;
        rustix::net::recv(&self.client, &mut [0_u8], RecvFlags::empty()).context("its FIN did not come")?;
        Ok(())
    }
}
