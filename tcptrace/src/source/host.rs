//! Reads the facts about this host that stay constant during a trace (names, boot id, clocks) into
//! [`HostFacts`].

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::system::uname;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::sysctl_files;
use crate::model::{ClockStep, Nanos, NetnsId, Record, record::HostFacts, text};

/// The facts about this host, as the calling thread sees it. The caller fills in `segments` and `limits`, which
/// depend on the trace.
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

/// Those of `SYSCTLS` that exist in the network namespace of the calling thread.
pub fn sysctls() -> BTreeMap<String, String> {
    let read = |name: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = std::fs::read_to_string(path).ok()?;
        Some((name.to_owned(), text::sanitise(&value.trim().replace('\t', " ")).into_owned()))
    };
    sysctl_files::SYSCTLS.into_iter().filter_map(read).collect()
}

/// Memory of this host; 0 if `/proc` does not show it.
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

fn clock_offset_ns() -> u64 {
    ClockReading::tightest(ClockReading::now).offset_ns
}

/// Both clocks, read in immediate succession.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct ClockReading {
    /// Duration of the reading, which bounds the error of the offset.
    width_ns: u64,
    /// Wall-clock time at monotonic 0.
    offset_ns: u64,
    at: Nanos,
}

impl ClockReading {
    fn now() -> Self {
        let at = monotonic_now();
        let wall = nanos(clock_gettime(ClockId::Realtime)).0;
        let width_ns = monotonic_now().since(at).0;
        Self { width_ns, offset_ns: wall.saturating_sub(at.0 + width_ns / 2), at }
    }

    /// The best of several readings: an interruption between the two clocks adds its length to the error.
    fn tightest(read: impl FnMut() -> Self) -> Self {
        const READINGS: usize = 16;
        std::iter::repeat_with(read).take(READINGS).min().unwrap_or_default()
    }
}

/// Detects that the wall clock was set or that the host was suspended, which `CLOCK_MONOTONIC` does not count.
/// Rate adjustments (`adjtimex`) apply to both clocks, so nothing else changes the offset between them.
#[derive(Debug)]
pub struct ClockWatch {
    offset_ns: u64,
}

impl ClockWatch {
    /// Smaller steps are ignored until they add up to this.
    const MIN_STEP_NS: u64 = 1_000_000;

    /// Starts from the offset in `facts`.
    pub const fn new(facts: &HostFacts) -> Self {
        Self { offset_ns: facts.clock_offset_ns }
    }

    /// The step since the last call, as a record.
    pub fn poll(&mut self) -> Option<Record> {
        self.compare(ClockReading::now)
    }

    fn compare(&mut self, mut read: impl FnMut() -> ClockReading) -> Option<Record> {
        let known = self.offset_ns;
        let has_stepped =
            |reading: ClockReading| reading.offset_ns.abs_diff(known) > Self::MIN_STEP_NS + reading.width_ns;
        if !has_stepped(read()) {
            return None;
        }
        let reading = Some(ClockReading::tightest(read)).filter(|&reading| has_stepped(reading))?;
        self.offset_ns = reading.offset_ns;
        Some(Record::ClockStep(ClockStep { ts: reading.at, offset_ns: reading.offset_ns }))
    }
}

/// A clock's reading in nanoseconds; times before the clock's zero count as zero.
fn nanos(time: Timespec) -> Nanos {
    Nanos((time.tv_sec.max(0) as u64).saturating_mul(Nanos::SECOND.0).saturating_add(time.tv_nsec as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_plus_offset_is_the_wall_clock() {
        let offset = clock_offset_ns();
        let wall = nanos(clock_gettime(ClockId::Realtime)).0;
        assert!(wall.abs_diff(offset + monotonic_now().0) < Nanos::SECOND.0);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_reported_once() {
        let s = Nanos::SECOND.0;
        let facts = HostFacts { clock_offset_ns: 100 * s, ..HostFacts::default() };
        let mut watch = ClockWatch::new(&facts);
        let mut poll = |readings: &[(u64, u64)]| {
            let mut left = readings.iter().copied().cycle();
            let step = watch.compare(|| {
                let (width_ns, offset_ns) = left.next().expect("an endless iterator");
                ClockReading { width_ns, offset_ns, at: Nanos(7) }
            });
            step.map(|record| match record {
                Record::ClockStep(step) => (step.ts.0, step.offset_ns),
                other => panic!("{other:?} is no step"),
            })
        };
        assert_eq!(poll(&[(50, 100 * s)]), None);
        // An interruption between the two readings is no step.
        assert_eq!(poll(&[(2 * s, 101 * s)]), None);
        assert_eq!(poll(&[(50, 100 * s + 900_000)]), None);
        // Forward, as after a suspend; reported once.
        assert_eq!(poll(&[(90, 3700 * s + 8), (50, 3700 * s)]), Some((7, 3700 * s)));
        assert_eq!(poll(&[(50, 3700 * s)]), None);
        assert_eq!(poll(&[(50, 10 * s)]), Some((7, 10 * s)));
        // Small steps are reported once their sum is large enough.
        assert_eq!(poll(&[(50, 10 * s + 700_000)]), None);
        assert_eq!(poll(&[(50, 10 * s + 1_400_000)]), Some((7, 10 * s + 1_400_000)));
        // The tightest reading shows that it was only an interruption.
        assert_eq!(poll(&[(50, 12 * s), (40, 10 * s + 1_400_000)]), None);
    }

    #[test]
    fn the_clock_of_this_host_does_not_step() {
        let facts = facts();
        let mut watch = ClockWatch::new(&facts);
        assert!((0..1000).all(|_| watch.poll().is_none()));
    }

    #[test]
    fn facts_describe_this_host() {
        let facts = facts();
        assert_eq!(facts.boot_id.len(), 36);
        assert!(!facts.kernel.is_empty());
        assert_ne!(facts.netns, 0);
        assert!(facts.memory_bytes > 1 << 20);
    }
}
