//! A network namespace for the calling thread and the threads and processes it starts. It vanishes with the last of them.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::netlink;

const RTM_NEWLINK: u16 = 16;
const IFF_UP: u32 = 1;
/// The loopback device is the first of every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Moves this thread into a new namespace with `lo` up; returns the inode number that names it.
pub fn enter_new() -> Result<u32> {
    // SAFETY: only the network namespace is unshared; no memory and no file descriptor is.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("unshare(CLONE_NEWNET)")?;
    let mut ifinfomsg = [0_u8; 16];
    ifinfomsg[4..8].copy_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    ifinfomsg[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
    ifinfomsg[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    netlink::request(None, RTM_NEWLINK, netlink::ACK, &ifinfomsg).context("set lo up")?;
    current()
}

/// The inode number of this thread's namespace.
pub fn current() -> Result<u32> {
    let metadata = fs::metadata("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")?;
    Ok(metadata.ino() as u32)
}

/// Sets `/proc/sys/net/ipv4/NAME` of this thread's namespace.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    fs::write(&path, value).with_context(|| format!("write {value:?} to {path}"))
}
