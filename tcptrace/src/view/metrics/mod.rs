//! Metrics for Prometheus: a [`Snapshot`] in, `OpenMetrics` text out.
//!
//! Every metric is one row of [`METRICS`] (and of docs/metrics.md): its name, its unit, its help, and where its samples
//! come from. Labels are bounded: states, roles and reasons by their nature; services and destinations by the places
//! that there are for them, see [`crate::aggregate::Aggregate::with_places`].
//!
//! Counters never fall while the tracer runs. What is counted by service is therefore never counted for the "other"
//! services together: which ones these are changes with the places. The total is a metric of its own.

mod rows;
mod samples;

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::aggregate::{DestinationPorts, Group, GroupKey, Snapshot};
pub use rows::METRICS;
use samples::Samples;

/// The media type of what [`write()`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What tracing costs this host so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnCost {
    /// CPU time of the process, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory of the process that is resident, in bytes.
    pub resident_bytes: u64,
    /// Time in eBPF programs and their runs, where the kernel counts them (`kernel.bpf_stats_enabled`).
    pub ebpf: Option<EbpfCost>,
}

/// What the eBPF programs cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EbpfCost {
    /// Time in them, in nanoseconds.
    pub run_time_ns: u64,
    /// How often they ran.
    pub runs: u64,
}

/// What the metrics are taken from.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The sockets.
    pub snapshot: Arc<Snapshot>,
    /// What it costs to know.
    pub cost: OwnCost,
}

/// One metric.
pub struct Metric {
    /// Without its unit and without what the format appends to counters.
    name: &'static str,
    unit: Option<&'static Unit>,
    kind: MetricType,
    help: &'static str,
    samples: fn(&Shown, &mut Samples<'_>) -> fmt::Result,
}

impl Metric {
    /// As Prometheus knows it: `tcptrace_dwell_seconds`, `tcptrace_records_total`.
    pub fn full_name(&self) -> String {
        let unit = self.unit.map_or(String::new(), |unit| format!("_{}", unit.as_str()));
        let suffix = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        format!("{}{unit}{suffix}", self.name)
    }

    /// `counter`, `gauge`, `histogram`, `info`.
    pub fn kind(&self) -> &str {
        self.kind.as_str()
    }

    /// What it says, in a sentence.
    pub fn help(&self) -> &'static str {
        self.help
    }
}

/// Writes every metric.
pub fn write(out: &mut String, shown: Shown) -> fmt::Result {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(shown));
    text::encode(out, &registry)
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in &METRICS {
            let encoder = encoder.encode_descriptor(metric.name, metric.help, metric.unit, metric.kind)?;
            (metric.samples)(self, &mut Samples::new(encoder, metric.kind))?;
        }
        Ok(())
    }
}

impl Shown {
    /// The services that have samples of their own.
    fn services(&self) -> impl Iterator<Item = &Group> {
        self.snapshot.groups.iter().filter(|group| group.has_place)
    }

    /// How many services have none.
    fn other_services(&self) -> u64 {
        let hidden =
            self.snapshot.groups.iter().filter(|group| !group.has_place && group.id != GroupKey::OTHER);
        self.snapshot.other_groups + hidden.count() as u64
    }

    /// The destinations that have samples of their own.
    fn destinations(&self) -> impl Iterator<Item = &DestinationPorts> {
        self.snapshot.ports.destinations.iter().filter(|row| row.has_place)
    }
}

#[cfg(test)]
mod tests;
