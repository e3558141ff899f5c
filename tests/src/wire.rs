//! The segments of this namespace as they arrive, and forged ones: raw sockets for both families.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::{soon, wait_for};

const HEADER: usize = 20;

/// The header of a forged segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// From this address and port.
    pub source: SocketAddr,
    /// To this address and port.
    pub target: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags, see [`crate::filter`].
    pub flags: u8,
    /// Sequence number after this segment: its payload, SYN and FIN counted.
    pub next_seq: u32,
}

/// Listens to all segments of one family, from its creation on.
pub struct Wire {
    socket: Socket,
    local: IpAddr,
}

impl Wire {
    /// Opens the raw socket for the family of `local`, the only address in the namespace.
    pub fn open(local: IpAddr) -> Result<Self> {
        let socket = Socket::new(domain(local), Type::RAW, Some(Protocol::TCP)).context("raw socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(10)))?;
        Ok(Self { socket, local })
    }

    /// The next segment from `source` to `target` with all of `flags`; earlier ones are discarded.
    pub fn wait(&self, source: SocketAddr, target: SocketAddr, flags: u8) -> Result<Segment> {
        wait_for(&format!("a segment with flags {flags:#x} from {source}"), soon(), || {
            Ok(self.next()?.filter(|segment| {
                segment.source == source && segment.target == target && segment.flags & flags == flags
            }))
        })
    }

    fn next(&self) -> Result<Option<Segment>> {
        let mut buffer = [0_u8; 2048];
        let length = match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error).context("raw receive"),
        };
        // Raw IPv4 sockets deliver the IP header, raw IPv6 sockets don't.
        let start = if self.local.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
        Ok(parse(&buffer[start..length], self.local))
    }
}

/// Puts a segment without payload and options on the wire.
pub fn forge(segment: Segment) -> Result<()> {
    forge_with(segment, &[])
}

/// As [`forge`], with the timestamp option (RFC 7323, 3.2).
pub fn forge_with_timestamp(segment: Segment, timestamp: u32) -> Result<()> {
    // Two NOPs align it; no timestamp is echoed.
    let mut options = [1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0];
    options[4..8].copy_from_slice(&timestamp.to_be_bytes());
    forge_with(segment, &options)
}

fn forge_with(segment: Segment, options: &[u8]) -> Result<()> {
    let Segment { source, target, seq, ack, flags, .. } = segment;
    let mut bytes = vec![0_u8; HEADER];
    bytes.extend(options);
    bytes[0..2].copy_from_slice(&source.port().to_be_bytes());
    bytes[2..4].copy_from_slice(&target.port().to_be_bytes());
    bytes[4..8].copy_from_slice(&seq.to_be_bytes());
    bytes[8..12].copy_from_slice(&ack.to_be_bytes());
    bytes[12] = (bytes.len() as u8 / 4) << 4;
    bytes[13] = flags;
    let sum = checksum(&bytes, source.ip(), target.ip());
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    let socket = Socket::new(domain(source.ip()), Type::RAW, Some(Protocol::TCP)).context("raw socket")?;
    socket.bind(&SocketAddr::new(source.ip(), 0).into())?;
    socket.send_to(&bytes, &SocketAddr::new(target.ip(), 0).into()).context("send a forged segment")?;
    Ok(())
}

fn domain(ip: IpAddr) -> Domain {
    if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

fn parse(tcp: &[u8], local: IpAddr) -> Option<Segment> {
    let short = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    let flags = *tcp.get(13)?;
    let payload = tcp.len() as u32 - u32::from(tcp.get(12)? >> 4) * 4;
    let counted = u32::from(flags & crate::filter::FIN != 0) + u32::from(flags & crate::filter::SYN != 0);
    Some(Segment {
        source: SocketAddr::new(local, short(0)?),
        target: SocketAddr::new(local, short(2)?),
        seq: long(4)?,
        ack: long(8)?,
        flags,
        next_seq: long(4)?.wrapping_add(payload + counted),
    })
}

/// The TCP checksum with its pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
fn checksum(tcp: &[u8], source: IpAddr, target: IpAddr) -> u16 {
    let mut bytes = Vec::with_capacity(64);
    for ip in [source, target] {
        match ip {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend([0, 6, 0, tcp.len() as u8]);
    bytes.extend(tcp);
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
