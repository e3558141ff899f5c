//! Classic BPF on a TCP socket: segments it drops are lost in front of the socket (`tcp_filter()`), as on a bad network.
//! The filter sees the segment from its TCP header on, and is inherited by accepted sockets.

use anyhow::{Context, Result};
use socket2::{SockFilter, Socket};

/// The FIN flag of the TCP header.
pub const FIN: u8 = 0x01;
/// The SYN flag.
pub const SYN: u8 = 0x02;
/// The RST flag.
pub const RST: u8 = 0x04;
/// The ACK flag.
pub const ACK: u8 = 0x10;

const FLAGS_OFFSET: u32 = 13;
const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
const JUMP_IF_SET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Drops every segment before it reaches the socket.
pub fn drop_segments(socket: &Socket) -> Result<()> {
    attach(socket, &[SockFilter::new(RETURN, 0, 0, 0)])
}

/// Drops every segment without one of these flags.
pub fn accept_only(socket: &Socket, flags: u8) -> Result<()> {
    attach(
        socket,
        &[
            SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_OFFSET),
            SockFilter::new(JUMP_IF_SET, 0, 1, u32::from(flags)),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
        ],
    )
}

/// Removes the filter.
pub fn accept_all(socket: &Socket) -> Result<()> {
    socket.detach_filter().context("SO_DETACH_FILTER")
}

fn attach(socket: &Socket, filter: &[SockFilter]) -> Result<()> {
    socket.attach_filter(filter).context("SO_ATTACH_FILTER")
}
