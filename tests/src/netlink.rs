//! One netlink request and its answers, as bytes.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Sends `body` as one message and returns the bodies of all answers. With [`ACK`] there are none; an error the kernel
/// reports is the `Errno` in the error.
pub fn request(protocol: Option<Protocol>, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Vec<u8>>> {
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    answers(&socket)
}

fn answers(socket: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut bodies = Vec::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER {
            let size = word(rest, 0)? as usize;
            let kind = (word(rest, 4)? & 0xffff) as u16;
            let body = rest.get(HEADER..size).context("a netlink message longer than its datagram")?;
            match kind {
                NLMSG_DONE => return Ok(bodies),
                NLMSG_ERROR => match word(body, 0)?.cast_signed() {
                    0 => return Ok(bodies),
                    error => bail!(Errno::from_raw_os_error(-error)),
                },
                _ => bodies.push(body.to_vec()),
            }
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// The 32-bit number at `offset`, in this machine's byte order.
pub fn word(bytes: &[u8], offset: usize) -> Result<u32> {
    let four = bytes.get(offset..offset + 4).context("a netlink message cut short")?;
    Ok(u32::from_ne_bytes(four.try_into()?))
}
