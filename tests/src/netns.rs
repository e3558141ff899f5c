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
    set_loopback(Link::Up)?;
    current()
}

/// Whether an interface passes segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It does.
    Up,
    /// It does not.
    Down,
}

/// Sets the loopback device of this thread's namespace up or down.
pub fn set_loopback(link: Link) -> Result<()> {
    let flags = if link == Link::Up { IFF_UP } else { 0 };
    let mut ifinfomsg = [0_u8; 16];
    ifinfomsg[4..8].copy_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    ifinfomsg[8..12].copy_from_slice(&flags.to_ne_bytes());
    ifinfomsg[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    netlink::request(None, RTM_NEWLINK, netlink::ACK, &ifinfomsg)
        .with_context(|| format!("set lo {link:?}"))?;
    Ok(())
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

/// Makes every TIME_WAIT of this thread's namespace last its minute: no `connect()` reuses one that a second's boundary has
/// passed, and no RST ends one. A CPU that stands still for 200 ms sends a FIN twice; the second ACK for it may find its
/// socket gone, and the answer is a RST.
pub fn keep_time_wait() -> Result<()> {
    sysctl("tcp_tw_reuse", "0")?;
    sysctl("tcp_rfc1337", "1")
}

/// A `sysctl` until the guard is dropped.
pub fn sysctl_for_now(name: &str, value: &str) -> Result<Sysctl> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    let before = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    sysctl(name, value)?;
    Ok(Sysctl { path, before })
}

/// Puts a setting back.
#[must_use]
pub struct Sysctl {
    path: String,
    before: String,
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        // The namespace, and the setting with it, ends with the scenario.
        fs::write(&self.path, &self.before).ok();
    }
}
