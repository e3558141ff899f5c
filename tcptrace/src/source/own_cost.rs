//! Measures the CPU time, memory and eBPF run time that tcptrace itself uses, from this process's files in
//! `/proc`.
//!
//! It is read on demand and is not part of the record stream: it does not describe sockets, and in a replay it
//! would describe another process.

use std::{fs, io};

use rustix::time::{ClockId, clock_gettime};

use crate::model::own_cost::{EbpfCost, OwnCost};

/// The cost so far. Unreadable parts count as zero.
pub fn now() -> OwnCost {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    OwnCost {
        cpu_ns: cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64,
        resident_bytes: resident_bytes().unwrap_or_default(),
        ebpf: ebpf().ok().filter(|cost| cost.runs > 0),
    }
}

/// From `status`, in KiB: pages of `statm` need the size of a page, which a program with file capabilities can't read before 6.4.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Sums the kernel's run statistics of the programs that this process holds.
fn ebpf() -> io::Result<EbpfCost> {
    let mut sum = EbpfCost::default();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // It may have been closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if let Some(cost) = of_program(&text) {
            sum.run_time_ns += cost.run_time_ns;
            sum.runs += cost.runs;
        }
    }
    Ok(sum)
}

/// Reads the `fdinfo` of a program; `None` for any other descriptor. A link also names its program, but has no
/// counts.
fn of_program(fdinfo: &str) -> Option<EbpfCost> {
    let value = |name: &str| {
        fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
    };
    Some(EbpfCost { run_time_ns: value("run_time_ns")?, runs: value("run_cnt")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_distinguished_from_other_descriptors() {
        let program = "pos:\t0\nprog_type:\t26\nrun_time_ns:\t840\nrun_cnt:\t7\nrecursion_misses:\t0\n";
        assert_eq!(of_program(program), Some(EbpfCost { run_time_ns: 840, runs: 7 }));
        assert_eq!(of_program("pos:\t0\nlink_type:\ttracing\nprog_id:\t5\n"), None);
    }

    #[test]
    fn this_process_has_a_cost() {
        let cost = now();
        assert!(cost.cpu_ns > 0 && cost.resident_bytes > 1 << 16, "{cost:?}");
    }
}
