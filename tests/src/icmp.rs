//! ICMP errors about a segment, forged through a raw socket: as a router or a firewall on the way sends them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// "Destination unreachable" of ICMP.
const UNREACHABLE_V4: u8 = 3;
/// The same of `ICMPv6`.
const UNREACHABLE_V6: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const HEADER: usize = 8;

/// An ICMP error, as its code in either family.
#[derive(Clone, Copy, Debug)]
pub struct Unreachable {
    /// Code of ICMP.
    pub v4: u8,
    /// Code of `ICMPv6`.
    pub v6: u8,
}

/// No process on that port: `ECONNREFUSED`.
pub const PORT: Unreachable = Unreachable { v4: 3, v6: 4 };
/// A firewall forbids it: `EHOSTUNREACH`; `EACCES` in IPv6.
pub const PROHIBITED: Unreachable = Unreachable { v4: 13, v6: 1 };

/// Sends `source` the error that its segment `seq` to `target` did not arrive.
pub fn send(error: Unreachable, source: SocketAddr, target: SocketAddr, seq: u32) -> Result<()> {
    let (domain, protocol, message) = match (source.ip(), target.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut message = header(UNREACHABLE_V4, error.v4);
            message.extend(ip_header_v4(from, to));
            message.extend(quoted(source, target, seq));
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            (Domain::IPV4, Protocol::ICMPV4, message)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            // The kernel fills in the checksum of ICMPv6.
            let mut message = header(UNREACHABLE_V6, error.v6);
            message.extend(ip_header_v6(from, to));
            message.extend(quoted(source, target, seq));
            (Domain::IPV6, Protocol::ICMPV6, message)
        }
        _ => anyhow::bail!("{source} and {target} are of two families"),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("raw socket")?;
    socket.send_to(&message, &SocketAddr::new(source.ip(), 0).into()).context("send an ICMP error")?;
    Ok(())
}

fn header(kind: u8, code: u8) -> Vec<u8> {
    let mut header = vec![0; HEADER];
    header[..2].copy_from_slice(&[kind, code]);
    header
}

/// As much of the segment as an error must quote: ports and sequence number.
fn quoted(source: SocketAddr, target: SocketAddr, seq: u32) -> Vec<u8> {
    [&source.port().to_be_bytes()[..], &target.port().to_be_bytes(), &seq.to_be_bytes()].concat()
}

fn ip_header_v4(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, IPPROTO_TCP, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn ip_header_v6(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 20, IPPROTO_TCP, 64];
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

/// RFC 1071; the length is even.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
