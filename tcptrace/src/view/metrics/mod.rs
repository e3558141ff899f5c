//! Metrics for Prometheus: a [`Snapshot`] in, `OpenMetrics` text out.
//!
//! Every metric is one row of [`METRICS`] (and of docs/metrics.md): its name, its unit, its help, and where its samples
//! come from. Labels are bounded: states, roles and reasons by their nature; services and destinations by
//! [`Shown::most`].
//!
//! Counters never fall while the tracer runs. What is counted by service is therefore never counted for the "other"
//! services together: which ones these are changes from picture to picture. The total is a metric of its own.

mod rows;
mod samples;

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    aggregate::{DestinationPorts, Group, GroupKey, Snapshot},
    model::TcpState,
};
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
    /// Services, and destinations, that have samples of their own.
    pub most: usize,
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
    /// The services with the most sockets that want attention, and all others together at the end.
    fn services(&self) -> Vec<&Group> {
        let mut groups: Vec<&Group> = self.snapshot.groups.iter().collect();
        groups.sort_by_key(|group| {
            (group.id == GroupKey::OTHER, std::cmp::Reverse(busy(group)), group.key.clone())
        });
        let named = groups.iter().take_while(|group| group.id != GroupKey::OTHER).count();
        groups.truncate(named.min(self.most));
        groups
    }

    /// The destinations that run out of ports first.
    fn destinations(&self) -> &[DestinationPorts] {
        let all = &self.snapshot.ports.destinations;
        &all[..all.len().min(self.most)]
    }
}

/// Sockets of a service, listeners apart: they say nothing about its traffic.
fn busy(group: &Group) -> u64 {
    group.counts.iter().sum::<u64>() - group.counts[TcpState::Listen.index()]
}

#[cfg(test)]
mod tests;
