//! Renders a [`Snapshot`](crate::aggregate::Snapshot) as `OpenMetrics` text for Prometheus.
//!
//! Every metric is one row of [`METRICS`] (and of docs/metrics.md): name, unit, help, and the source of its samples.
//! Labels are bounded: states, roles and reasons are enums; services and destinations have a limited number of places,
//! see [`crate::aggregate::Aggregate::with_places`].
//!
//! Counters never decrease while the tracer runs. Counters by service therefore have no sample for the "other" services
//! together, because a service can move into or out of that set. The total is a metric of its own.

pub mod format;
mod metric;
mod rows;
mod samples;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

pub use metric::{Metric, MetricsInput};
pub use rows::METRICS;
use samples::Samples;

/// Writes every metric.
pub fn write(out: &mut String, shown: MetricsInput) -> fmt::Result {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(shown));
    text::encode(out, &registry)
}

impl Collector for MetricsInput {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in METRICS {
            let encoder = encoder.encode_descriptor(metric.name, metric.help, metric.unit, metric.kind)?;
            (metric.samples)(self, &mut Samples::new(encoder, metric.kind))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
