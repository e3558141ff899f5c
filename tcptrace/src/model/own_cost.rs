//! The cost of tracing on this host.

/// Cost of tracing on this host so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnCost {
    /// CPU time of the process, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory of the process, in bytes.
    pub resident_bytes: u64,
    /// Cost of the eBPF programs, if the kernel counts it (`kernel.bpf_stats_enabled`).
    pub ebpf: Option<EbpfCost>,
}

/// Cost of the eBPF programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EbpfCost {
    /// Run time, in nanoseconds.
    pub run_time_ns: u64,
    /// Number of runs.
    pub runs: u64,
}
