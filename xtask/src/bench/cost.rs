//! What a run cost, and the row it makes.

use std::time::Duration;

use super::load::Load;
use super::spread::Spread;
use super::tracer::{InKernel, Spent};

/// One run of one tracer.
pub struct Cost {
    /// Made while nothing else was measured.
    pub load: Load,
    /// Made while the kernel counted the time of programs.
    pub counted: Load,
    /// Until it traced.
    pub start: Duration,
    pub spent: Spent,
    pub in_kernel: InKernel,
    /// Records, lines or counts in its output, of both loads.
    pub told: u64,
    pub lost: u64,
    /// Bytes of a recording.
    pub written_bytes: Option<u64>,
}

impl Cost {
    /// Records for one thing that the load did.
    fn told_each(&self) -> f64 {
        self.told as f64 / (self.load.done + self.counted.done) as f64
    }

    /// Time in the kernel for one thing that the load did, net of what as many runs of an empty program take.
    pub fn net_ebpf_ns(&self, empty_ns: f64) -> f64 {
        (self.in_kernel.ns as f64 - self.in_kernel.runs as f64 * empty_ns) / self.counted.done as f64
    }

    /// CPU time of the process for one thing that the load did, its system calls included.
    pub fn cpu_ns(&self) -> f64 {
        self.spent.cpu_ns as f64 / self.load.done as f64
    }
}

pub fn head(what: &str) -> String {
    let columns = [
        String::new(),
        format!("{what}/s kept"),
        format!("records a {}", what.trim_end_matches('s')),
        "lost".into(),
        format!("eBPF, net ns a {}", what.trim_end_matches('s')),
        "eBPF, net ns a record".into(),
        "CPU of the process, ns a record".into(),
        "of one core".into(),
        "resident, MiB".into(),
        "bytes a record".into(),
        "ms until it traces".into(),
    ];
    format!("| {} |\n|---|{}", columns.join(" | "), "---:|".repeat(columns.len() - 1))
}

/// A row of medians; `empty_ns` is what one run of an empty program takes.
pub fn row(name: &str, kept: &[f64], costs: &[Cost], empty_ns: f64) -> String {
    let column = |decimals: usize, value: &dyn Fn(&Cost) -> Option<f64>| {
        Spread::of(&costs.iter().filter_map(value).collect::<Vec<_>>()).decimals(decimals)
    };
    let told = |cost: &Cost, value: f64| (cost.told > 0).then(|| value / cost.told_each());
    [
        format!("| {name}"),
        Spread::of(kept).decimals(3),
        column(1, &|cost| Some(cost.told_each())),
        column(0, &|cost| Some(cost.lost as f64)),
        column(0, &|cost| Some(cost.net_ebpf_ns(empty_ns))),
        column(0, &|cost| told(cost, cost.net_ebpf_ns(empty_ns))),
        column(0, &|cost| told(cost, cost.cpu_ns())),
        column(2, &|cost| Some(cost.spent.cpu_ns as f64 / cost.load.elapsed_ns as f64)),
        column(0, &|cost| Some(cost.spent.resident_peak_bytes as f64 / f64::from(1 << 20))),
        column(1, &|cost| Some(cost.written_bytes? as f64 / cost.told as f64)),
        column(0, &|cost| Some(cost.start.as_secs_f64() * 1e3)),
    ]
    .join(" | ")
        + " |"
}
