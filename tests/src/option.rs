//! Socket options by number: those that no crate at hand knows.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

/// A level and a name, as in `setsockopt(2)`.
pub type SocketOption = (libc::c_int, libc::c_int);

/// `TCP_REPAIR`: a connection restored from a checkpoint; state changes send nothing.
pub const TCP_REPAIR: SocketOption = (libc::IPPROTO_TCP, libc::TCP_REPAIR);
/// How long an orphan stays in `FIN_WAIT2`, in seconds; below 0: not at all.
pub const TCP_LINGER2: SocketOption = (libc::IPPROTO_TCP, libc::TCP_LINGER2);
/// `TCP_DEFER_ACCEPT`: handshakes complete with the first data.
pub const TCP_DEFER_ACCEPT: SocketOption = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
/// ICMP errors become errors of the socket.
pub const IP_RECVERR: SocketOption = (libc::IPPROTO_IP, libc::IP_RECVERR);
/// The same for IPv6.
pub const IPV6_RECVERR: SocketOption = (libc::IPPROTO_IPV6, libc::IPV6_RECVERR);

/// `bind()` leaves the choice of the port to `connect()`.
pub const IP_BIND_ADDRESS_NO_PORT: SocketOption = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);

/// `IP_LOCAL_PORT_RANGE` (6.3): the lowest and, shifted by 16, the highest port that `connect()` chooses.
pub const IP_LOCAL_PORT_RANGE: SocketOption = (libc::IPPROTO_IP, 51);

/// Sets an option that is a number.
pub fn set(socket: &impl AsRawFd, (level, name): SocketOption, value: i32) -> Result<()> {
    // SAFETY: the kernel reads `size_of::<i32>()` bytes at `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<i32>() as u32)
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error()).with_context(|| format!("setsockopt({level}, {name}, {value})"))
}
