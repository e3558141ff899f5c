//! Renders a [`Snapshot`] as `OpenMetrics` text for Prometheus.
//!
//! Every metric is one row of [`METRICS`] (and of docs/metrics.md): name, unit, help, and the source of its samples.
//! Labels are bounded: states, roles and reasons are enums; services and destinations have a limited number of places,
//! see [`crate::aggregate::Aggregate::with_places`].
//!
//! Counters never decrease while the tracer runs. Counters by service therefore have no sample for the "other" services
//! together, because a service can move into or out of that set. The total is a metric of its own.

pub mod format;
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
    model::own_cost::OwnCost,
};
pub use rows::METRICS;
use samples::Samples;

/// Input of the metrics.
#[derive(Clone, Debug)]
pub struct MetricsInput {
    /// The snapshot of the sockets.
    pub snapshot: Arc<Snapshot>,
    /// Cost of tracing.
    pub cost: OwnCost,
}

/// One metric.
pub struct Metric {
    /// Name without unit and without the suffix of its type.
    name: &'static str,
    unit: Option<&'static Unit>,
    kind: MetricType,
    help: &'static str,
    samples: fn(&MetricsInput, &mut Samples<'_>) -> fmt::Result,
}

impl Metric {
    /// Full name: `tcptrace_dwell_seconds`, `tcptrace_records_total`.
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

    /// Help text, one sentence.
    pub fn help(&self) -> &'static str {
        self.help
    }
}

/// Writes every metric.
pub fn write(out: &mut String, shown: MetricsInput) -> fmt::Result {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(shown));
    text::encode(out, &registry)
}

impl Collector for MetricsInput {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in &METRICS {
            let encoder = encoder.encode_descriptor(metric.name, metric.help, metric.unit, metric.kind)?;
            (metric.samples)(self, &mut Samples::new(encoder, metric.kind))?;
        }
        Ok(())
    }
}

impl MetricsInput {
    /// Services that have samples of their own.
    fn services(&self) -> impl Iterator<Item = &Group> {
        self.snapshot.groups.iter().filter(|group| group.has_place)
    }

    /// Number of services without samples of their own.
    fn other_services(&self) -> u64 {
        let hidden =
            self.snapshot.groups.iter().filter(|group| !group.has_place && group.id != GroupKey::OTHER);
        self.snapshot.other_groups + hidden.count() as u64
    }

    /// Destinations that have samples of their own.
    fn destinations(&self) -> impl Iterator<Item = &DestinationPorts> {
        self.snapshot.ports.destinations.iter().filter(|row| row.has_place)
    }
}

#[cfg(test)]
mod tests;
