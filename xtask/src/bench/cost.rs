//! The cost of a run, and its row of the table.

use std::time::Duration;

use super::load::Load;
use super::spread::Spread;
use super::tracer::{BpfRunTime, ProcessCost};

/// One run of one tracer.
pub struct CaseCost {
    /// While nothing else was measured.
    pub load: Load,
    /// While the kernel counted the time of programs.
    pub counted: Load,
    /// From its start until it traced.
    pub start: Duration,
    pub spent: ProcessCost,
    pub in_kernel: BpfRunTime,
    /// Records, lines or counts in its output, of both loads.
    pub records: u64,
    pub lost: u64,
    /// Bytes of a recording.
    pub written_bytes: Option<u64>,
}

impl CaseCost {
    /// Records per operation of the load.
    fn records_each(&self) -> f64 {
        self.records as f64 / (self.load.done + self.counted.done) as f64
    }

    /// Time in the kernel per operation of the load, net of as many runs of an empty program.
    pub fn net_ebpf_ns(&self, empty_ns: f64) -> f64 {
        (self.in_kernel.ns as f64 - self.in_kernel.runs as f64 * empty_ns) / self.counted.done as f64
    }

    /// CPU time of the process per operation of the load, system calls included.
    pub fn cpu_ns(&self) -> f64 {
        self.spent.cpu_ns as f64 / self.load.done as f64
    }
}

pub fn head(unit: &str) -> String {
    let columns = [
        String::new(),
        format!("{unit}/s kept"),
        "times bpftrace's cost".into(),
        format!("records a {}", unit.trim_end_matches('s')),
        "lost".into(),
        format!("eBPF, net ns a {}", unit.trim_end_matches('s')),
        "eBPF, net ns a record".into(),
        "CPU of the process, ns a record".into(),
        "of one core".into(),
        "resident, MiB".into(),
        "bytes a record".into(),
        "ms until it traces".into(),
    ];
    format!("| {} |\n|---|{}", columns.join(" | "), "---:|".repeat(columns.len() - 1))
}

/// The cost of a case that kept `kept` of the throughput: time added to each operation, relative to the time of one.
pub fn added_time(kept: &[f64]) -> Option<f64> {
    Some(1.0 / Spread::of(kept).median()? - 1.0)
}

/// A row of medians; `baseline` is the [`added_time`] of the case to compare with, `empty_ns` the time of one run of an empty
/// program.
pub fn row(name: &str, kept: &[f64], costs: &[CaseCost], baseline: Option<f64>, empty_ns: f64) -> String {
    let column = |decimals: usize, value: &dyn Fn(&CaseCost) -> Option<f64>| {
        Spread::of(&costs.iter().filter_map(value).collect::<Vec<_>>()).decimals(decimals)
    };
    let per_record = |cost: &CaseCost, value: f64| (cost.records > 0).then(|| value / cost.records_each());
    [
        format!("| {name}"),
        Spread::of(kept).decimals(3),
        match (added_time(kept), baseline) {
            (Some(added), Some(baseline)) if baseline > 0.0 => format!("{:.2}", added / baseline),
            _ => "-".into(),
        },
        column(1, &|cost| Some(cost.records_each())),
        column(0, &|cost| Some(cost.lost as f64)),
        column(0, &|cost| Some(cost.net_ebpf_ns(empty_ns))),
        column(0, &|cost| per_record(cost, cost.net_ebpf_ns(empty_ns))),
        column(0, &|cost| per_record(cost, cost.cpu_ns())),
        column(2, &|cost| Some(cost.spent.cpu_ns as f64 / cost.load.elapsed_ns as f64)),
        column(0, &|cost| Some(cost.spent.resident_peak_bytes as f64 / f64::from(1 << 20))),
        column(1, &|cost| Some(cost.written_bytes? as f64 / cost.records as f64)),
        column(0, &|cost| Some(cost.start.as_secs_f64() * 1e3)),
    ]
    .join(" | ")
        + " |"
}
