//! What is constant about this host while tracing: names, boot, clocks. Out comes a [`HostFacts`].

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::system::uname;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::sysctl_files;
use crate::model::{Nanos, NetnsId, record::HostFacts, text};

/// The facts about this host, as the calling thread sees it. `segments` and `limits` are left
/// empty: what a trace sees is known to whoever starts it.
pub fn facts() -> HostFacts {
    let uname = uname();
    HostFacts {
        host: text::from_kernel(uname.nodename().to_bytes()),
        kernel: text::from_kernel(uname.release().to_bytes()),
        boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| text::sanitise(id.trim()).into_owned())
            .unwrap_or_default(),
        clock_offset_ns: clock_offset_ns(),
        netns: own_netns().unwrap_or_default().0,
        sysctls: sysctls(),
        sysctl_lines: sysctl_files::lines(),
        memory_bytes: memory_bytes(),
        ..HostFacts::default()
    }
}

/// Settings that decide how long a state lasts, how many sockets may be in it, and which ports there are.
pub(super) const SYSCTLS: [&str; 26] = [
    "net.core.somaxconn",
    "net.ipv4.ip_autobind_reuse",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_challenge_ack_limit",
    "net.ipv4.tcp_ehash_entries",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_max_orphans",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_migrate_req",
    "net.ipv4.tcp_orphan_retries",
    "net.ipv4.tcp_retries2",
    "net.ipv4.tcp_rfc1337",
    "net.ipv4.tcp_syn_retries",
    "net.ipv4.tcp_synack_retries",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_timestamps",
    // Gone since 4.12: a kernel, or a file, that has it must be told of.
    "net.ipv4.tcp_tw_recycle",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_tw_reuse_delay",
    // Alibaba Cloud Linux.
    "net.ipv4.tcp_tw_timeout",
];

/// Those of them that this kernel has, in the network namespace of the calling thread.
pub fn sysctls() -> BTreeMap<String, String> {
    let read = |name: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = std::fs::read_to_string(path).ok()?;
        Some((name.to_owned(), text::sanitise(&value.trim().replace('\t', " ")).into_owned()))
    };
    SYSCTLS.into_iter().filter_map(read).collect()
}

/// Memory of this host; 0 where `/proc` does not say.
fn memory_bytes() -> u64 {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// `CLOCK_MONOTONIC`, the clock of every record.
pub fn monotonic_now() -> Nanos {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// The network namespace of the calling thread. Fails where `/proc` is not mounted.
pub fn own_netns() -> io::Result<NetnsId> {
    // A namespace's inode number is 32 bits wide: `ns_common.inum`.
    Path::new("/proc/thread-self/ns/net").metadata().map(|meta| NetnsId(meta.ino() as u32))
}

/// Wall-clock time at monotonic 0, from the tightest of a few readings: one that was interrupted
/// between its two clocks is off by the interruption.
fn clock_offset_ns() -> u64 {
    const READINGS: usize = 16;
    let reading = || {
        let before = monotonic_now().0;
        let wall = nanos(clock_gettime(ClockId::Realtime)).0;
        let width = monotonic_now().0 - before;
        (width, wall.saturating_sub(before + width / 2))
    };
    std::iter::repeat_with(reading).take(READINGS).min().map_or(0, |(_, offset)| offset)
}

/// A clock's reading in nanoseconds; times before the clock's zero count as zero.
fn nanos(time: Timespec) -> Nanos {
    Nanos((time.tv_sec.max(0) as u64).saturating_mul(Nanos::SECOND.0).saturating_add(time.tv_nsec as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_and_offset_make_the_wall_clock() {
        let offset = clock_offset_ns();
        let wall = nanos(clock_gettime(ClockId::Realtime)).0;
        assert!(wall.abs_diff(offset + monotonic_now().0) < Nanos::SECOND.0);
    }

    #[test]
    fn facts_are_this_host() {
        let facts = facts();
        assert_eq!(facts.boot_id.len(), 36);
        assert!(!facts.kernel.is_empty());
        assert_ne!(facts.netns, 0);
        assert!(facts.memory_bytes > 1 << 20);
    }
}
