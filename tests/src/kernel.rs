//! The kernel's view of the sockets of this thread's namespace: `sock_diag` and the counters in /proc/net.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use tcptrace_common::state::TcpState;

use crate::event::EventEndReason;
use crate::lab::Skip;
use crate::netlink::{self, word};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ID: usize = 4;
const ID_LENGTH: usize = 48;

/// One socket of a `sock_diag` answer.
#[derive(Clone, Debug)]
pub struct DiagSocket {
    /// `AF_INET` or `AF_INET6`.
    family: u8,
    /// `struct inet_diag_sockid`, as received.
    sockid: [u8; ID_LENGTH],
    /// Its state; a timewait socket's is its substate.
    pub state: TcpState,
    /// The socket cookie.
    pub cookie: u64,
    /// Local end, IPv4 where it is IPv4 on the wire.
    pub local: SocketAddr,
    /// Remote end.
    pub remote: SocketAddr,
    /// 0 for a socket no process has open: a timewait socket, an orphan, a handshake.
    pub inode: u32,
    /// Time left on the timer that runs, if one does.
    pub expires: Duration,
}

/// Every TCP socket of this namespace.
pub fn sockets() -> Result<Vec<DiagSocket>> {
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for body in sock_diag(SOCK_DIAG_BY_FAMILY, netlink::DUMP, family, &any_socket())? {
            all.push(decode(&body)?);
        }
    }
    Ok(all)
}

/// How many sockets of this namespace are in `state`.
pub fn count(state: TcpState) -> Result<usize> {
    Ok(sockets()?.iter().filter(|socket| socket.state == state).count())
}

/// The socket with this cookie between these addresses, if it exists: one lookup in the kernel's hash.
pub fn find(cookie: u64, local: SocketAddr, remote: SocketAddr) -> Result<Option<DiagSocket>> {
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut sockid = any_socket();
    sockid[0..2].copy_from_slice(&local.port().to_be_bytes());
    sockid[2..4].copy_from_slice(&remote.port().to_be_bytes());
    for (ip, place) in [(local.ip(), 4), (remote.ip(), 20)] {
        match ip {
            IpAddr::V4(v4) => sockid[place..place + 4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => sockid[place..place + 16].copy_from_slice(&v6.octets()),
        }
    }
    let answers = match sock_diag(SOCK_DIAG_BY_FAMILY, netlink::ACK, family, &sockid) {
        Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::NOENT) => return Ok(None),
        answers => answers?,
    };
    let socket = answers.first().map(|body| decode(body)).transpose()?;
    // The lookup falls back on a listener, or finds the next socket with these addresses.
    Ok(socket.filter(|socket| socket.cookie == cookie))
}

/// Ends a socket the way `ss -K` does.
pub fn destroy(socket: &DiagSocket) -> Result<()> {
    match sock_diag(SOCK_DESTROY, netlink::ACK, socket.family, &socket.sockid) {
        Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::OPNOTSUPP) => {
            bail!(Skip(format!("this kernel can't kill a socket in {}", socket.state.name())))
        }
        answer => answer.map(drop).context("SOCK_DESTROY"),
    }
}

/// A counter of this namespace by its name in /proc/net/netstat or /proc/net/snmp, such as `TWRecycled`.
pub fn counter(name: &str) -> Result<u64> {
    for file in ["netstat", "snmp"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.chunks_exact(2) {
            let mut columns = pair[0].split_whitespace().zip(pair[1].split_whitespace());
            if let Some((_, value)) = columns.find(|(column, _)| *column == name) {
                return value.parse().with_context(|| format!("counter {name}"));
            }
        }
    }
    bail!("this kernel has no counter {name}")
}

/// The first two numbers of the running kernel's release.
pub fn version() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The end reason that only the error of a closed socket shows; before 5.14 nothing reports that, and it is `otherwise`.
pub fn by_error_report(reason: EventEndReason, otherwise: EventEndReason) -> EventEndReason {
    if version() >= (5, 14) { reason } else { otherwise }
}

/// Runs `action` and checks by how much it moved the counter.
pub fn counts<T>(name: &str, by: u64, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = counter(name)?;
    let result = action()?;
    let moved = counter(name)? - before;
    if moved != by {
        bail!("the kernel counts {moved} {name}, not {by}");
    }
    Ok(result)
}

fn any_socket() -> [u8; ID_LENGTH] {
    let mut sockid = [0; ID_LENGTH];
    sockid[40..].fill(0xff); // INET_DIAG_NOCOOKIE
    sockid
}

fn sock_diag(kind: u16, flags: u16, family: u8, sockid: &[u8; ID_LENGTH]) -> Result<Vec<Vec<u8>>> {
    let mut request = vec![family, IPPROTO_TCP, 0, 0];
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(sockid);
    netlink::request(Some(rustix::net::netlink::SOCK_DIAG), kind, flags, &request)
}

fn decode(body: &[u8]) -> Result<DiagSocket> {
    let &[family, raw_state, ..] = body else { bail!("an empty sock_diag answer") };
    let sockid: [u8; ID_LENGTH] =
        body.get(ID..ID + ID_LENGTH).context("a sock_diag answer cut short")?.try_into()?;
    let port = |at: usize| u16::from_be_bytes([sockid[at], sockid[at + 1]]);
    Ok(DiagSocket {
        family,
        state: TcpState::from_kernel(raw_state).with_context(|| format!("state {raw_state}"))?,
        cookie: u64::from(word(&sockid, 40)?) | u64::from(word(&sockid, 44)?) << 32,
        local: SocketAddr::new(ip(family, &sockid[4..20]), port(0)),
        remote: SocketAddr::new(ip(family, &sockid[20..36]), port(2)),
        expires: Duration::from_millis(u64::from(word(body, ID + ID_LENGTH)?)),
        inode: word(body, ID + ID_LENGTH + 16)?,
        sockid,
    })
}

fn ip(family: u8, bytes: &[u8]) -> IpAddr {
    if family == AF_INET {
        return Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into();
    }
    let octets: [u8; 16] = bytes.try_into().unwrap_or_default();
    Ipv6Addr::from(octets).to_canonical()
}
