//! Counts the events that the kernel hid from every BPF program: in, the tracepoints that tcptrace uses; out, their hits
//! less the runs and the counted misses of a program of the tests.
//!
//! The hardened kernel of the test machine runs no BPF tracing program while `current` is a thread of PID 1, and does not
//! count that. No tracer can help it, so a scenario in which it happened may run again, and as many transitions may be
//! healed. Mainline's `__bpf_trace_run()` counts every run that it refuses: there the difference is 0 and excuses nothing.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::clock::is_emulated;

/// The tracepoints whose events tcptrace needs: group and name. `timer_cancel` is not one: it comes before each expiry, and
/// its format has no timer function.
const TRACEPOINTS: [(&str, &str); 4] = [
    ("sock", "inet_sock_set_state"),
    ("timer", "timer_start"),
    ("timer", "timer_expire_entry"),
    ("skb", "kfree_skb"),
];
/// The functions of TCP's timers among all timers of the kernel.
const TCP_TIMERS: [&str; 2] = ["tw_timer_handler", "reqsk_timer_handler"];
/// `LOCALVERSION` of the hardened kernel. No other kernel may excuse anything.
const HARDENED: &str = "-fc-";
/// Maximum number of readings until two agree.
const READINGS: u32 = 100;

/// The number of events hidden since the first call, if the counts can be read at one moment.
pub fn hidden() -> Option<u64> {
    static COUNTER: LazyLock<Option<HiddenEventCounter>> = LazyLock::new(|| {
        let release = rustix::system::uname();
        if is_emulated() || !release.release().to_string_lossy().contains(HARDENED) {
            return None;
        }
        HiddenEventCounter::start()
            .inspect_err(|error| println!("hidden events are not counted: {error:#}"))
            .ok()
    });
    COUNTER.as_ref()?.read()
}

/// Hidden events between two moments.
#[derive(Clone, Copy, Debug)]
pub struct HiddenEvents(Option<u64>);

impl HiddenEvents {
    /// From now on.
    pub fn now() -> Self {
        Self(hidden())
    }

    /// Their number; 0 where they cannot be counted.
    pub fn count(self) -> u64 {
        let now = self.0.and_then(|_| hidden());
        self.0.zip(now).map_or(0, |(before, now)| now.saturating_sub(before))
    }
}

struct HiddenEventCounter {
    points: Vec<TracepointCounter>,
    /// Runs are counted as long as it is open.
    _statistics: OwnedFd,
}

impl HiddenEventCounter {
    fn start() -> Result<Self> {
        let tracefs = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen(tracefs)")?;
        fsconfig_create(tracefs.as_fd()).context("fsconfig(tracefs)")?;
        // The file system is not attached: it disappears with the descriptor.
        let tracefs = fsmount(tracefs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let statistics = bpf(ENABLE_STATS, &0_u32.to_ne_bytes()).context("BPF_ENABLE_STATS")?;
        let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
        let cpus = cpus(&online).with_context(|| format!("CPUs online: {online}"))?;
        let points = TRACEPOINTS.iter().map(|&(group, name)| {
            let id = openat(
                &tracefs,
                format!("events/{group}/{name}/id"),
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let id = io::read_to_string(fs::File::from(id))?;
            let filter = if group == "timer" { Some(of_tcp_on_init()?) } else { None };
            TracepointCounter::start(name, id.trim().parse()?, &cpus, filter.as_deref()).context(name)
        });
        Ok(Self { points: points.collect::<Result<_>>()?, _statistics: statistics })
    }

    /// `None` if events never stop, or something can't be read: then nothing is excused.
    fn read(&self) -> Option<u64> {
        self.points.iter().map(|point| point.hidden().ok().flatten()).sum()
    }
}

/// One tracepoint: a perf counter for each CPU, and a program that does nothing.
struct TracepointCounter {
    hits: Vec<fs::File>,
    /// At a timer's tracepoint: the hits by TCP's timers on PID 1, an upper bound of the hidden ones.
    tcp_hits: Option<Vec<fs::File>>,
    program: OwnedFd,
    _link: OwnedFd,
    /// Hits before the program was attached.
    before: u64,
}

impl TracepointCounter {
    fn start(name: &str, id: u64, cpus: &[u32], filter: Option<&CStr>) -> Result<Self> {
        let hits = counters(id, cpus)?;
        let tcp_hits = filter.map(|filter| {
            let counters = counters(id, cpus)?;
            counters.iter().try_for_each(|counter| set_filter(counter, filter))?;
            io::Result::Ok(counters)
        });
        let tcp_hits = tcp_hits.transpose().context("set a filter")?;
        let program = load_program().context("BPF_PROG_LOAD")?;
        let link = attach(&program, name).context("BPF_RAW_TRACEPOINT_OPEN")?;
        let mut point = Self { hits, tcp_hits, program, _link: link, before: 0 };
        point.before = point.hits_without_run()?.context("too many events")?;
        Ok(point)
    }

    fn hidden(&self) -> Result<Option<u64>> {
        let tcp_hits = self.tcp_hits.as_ref().map(|counters| sum(counters)).transpose()?;
        Ok(self.hits_without_run()?.map(|hidden| hidden.min(tcp_hits.unwrap_or(u64::MAX))))
    }

    /// Hits for which no program ran.
    fn hits_without_run(&self) -> Result<Option<u64>> {
        let read = || anyhow::Ok((sum(&self.hits)?, self.runs()?));
        let mut previous = read()?;
        for _ in 0..READINGS {
            let (hits, runs) = read()?;
            // Two equal readings: no event was counted on one side and not yet on the other.
            if (hits, runs) == previous {
                return Ok(Some(hits.saturating_sub(runs + self.before)));
            }
            previous = (hits, runs);
        }
        Ok(None)
    }

    /// Runs and counted misses of the program.
    fn runs(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.program.as_raw_fd()))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            value.with_context(|| format!("no {name} in {text}"))
        };
        Ok(field("run_cnt:")? + field("recursion_misses:")?)
    }
}

/// A counter of the tracepoint on each CPU.
fn counters(id: u64, cpus: &[u32]) -> io::Result<Vec<fs::File>> {
    cpus.iter().map(|&cpu| perf_event_open(id, cpu).map(fs::File::from)).collect()
}

fn sum(counters: &[fs::File]) -> io::Result<u64> {
    let mut sum = 0;
    for mut counter in counters {
        let mut count = [0; 8];
        io::Read::read_exact(&mut counter, &mut count)?;
        sum += u64::from_ne_bytes(count);
    }
    Ok(sum)
}

/// The filter for events of TCP's timers while `current` has the name of a thread of PID 1.
fn of_tcp_on_init() -> Result<CString> {
    let mut names = BTreeSet::new();
    for thread in fs::read_dir("/proc/1/task")? {
        names.insert(fs::read_to_string(thread?.path().join("comm"))?.trim_end().replace('"', "?"));
    }
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let address = |symbol: &str| {
        let found =
            symbols.lines().find_map(|line| line.strip_suffix(symbol)?.strip_suffix(' ')?.split(' ').next());
        found.with_context(|| format!("no {symbol} in /proc/kallsyms"))
    };
    let functions = TCP_TIMERS.iter().map(|symbol| Ok(format!("function == 0x{}", address(symbol)?)));
    let functions = functions.collect::<Result<Vec<_>>>()?.join(" || ");
    let names = names.iter().map(|name| format!("comm == \"{name}\"")).collect::<Vec<_>>().join(" || ");
    Ok(CString::new(format!("({functions}) && ({names})"))?)
}

/// Numbers of CPUs, from `0-3,5`.
fn cpus(online: &str) -> Option<Vec<u32>> {
    let ranges = online.trim().split(',').map(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        Some(from.parse::<u32>().ok()?..=to.parse().ok()?)
    });
    Some(ranges.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
}

// Numbers of <linux/bpf.h> and <linux/perf_event.h>.
const PROG_LOAD: i32 = 5;
const RAW_TRACEPOINT_OPEN: i32 = 17;
const ENABLE_STATS: i32 = 32;
const PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: u64 = 8;
const PERF_EVENT_IOC_SET_FILTER: libc::c_ulong = 0x4008_2406;

/// `r0 = 0; exit`
fn load_program() -> io::Result<OwnedFd> {
    let instructions = [0xb7_u64, 0x95];
    let license = c"GPL";
    let mut attr = [0; 48];
    attr[..4].copy_from_slice(&PROG_TYPE_RAW_TRACEPOINT.to_ne_bytes());
    attr[4..8].copy_from_slice(&(instructions.len() as u32).to_ne_bytes());
    attr[8..16].copy_from_slice(&(instructions.as_ptr() as u64).to_ne_bytes());
    attr[16..24].copy_from_slice(&(license.as_ptr() as u64).to_ne_bytes());
    bpf(PROG_LOAD, &attr)
}

fn attach(program: &OwnedFd, tracepoint: &str) -> Result<OwnedFd> {
    let name = CString::new(tracepoint)?;
    let mut attr = [0; 16];
    attr[..8].copy_from_slice(&(name.as_ptr() as u64).to_ne_bytes());
    attr[8..12].copy_from_slice(&program.as_raw_fd().to_ne_bytes());
    Ok(bpf(RAW_TRACEPOINT_OPEN, &attr)?)
}

fn bpf(command: i32, attr: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attr.len()` bytes of `attr`, and what it points to lives in the caller; all three commands
    // return a new descriptor or an error.
    descriptor(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), attr.len()) })
}

/// Counts the hits of the tracepoint on one CPU.
fn perf_event_open(id: u64, cpu: u32) -> io::Result<OwnedFd> {
    let mut attr = [0_u8; 64];
    attr[..4].copy_from_slice(&PERF_TYPE_TRACEPOINT.to_ne_bytes());
    attr[4..8].copy_from_slice(&64_u32.to_ne_bytes());
    attr[8..16].copy_from_slice(&id.to_ne_bytes());
    let (every_process, no_group) = (-1_i32, -1_i32);
    // SAFETY: the kernel reads 64 bytes of `attr`, the value of its size field, and returns a new descriptor or an error.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attr.as_ptr(),
            every_process,
            cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    })
}

fn set_filter(counter: &fs::File, filter: &CStr) -> io::Result<()> {
    // SAFETY: the kernel reads the string up to its end.
    let result = unsafe { libc::ioctl(counter.as_raw_fd(), PERF_EVENT_IOC_SET_FILTER, filter.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn descriptor(returned: libc::c_long) -> io::Result<OwnedFd> {
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call has just returned it: it is open and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(returned as i32) })
}

#[cfg(test)]
mod tests {
    use super::cpus;

    #[test]
    fn a_list_of_cpus_is_parsed() {
        assert_eq!(cpus("0-3,5\n"), Some(vec![0, 1, 2, 3, 5]));
        assert_eq!(cpus("0"), Some(vec![0]));
        assert_eq!(cpus("none"), None);
    }
}
