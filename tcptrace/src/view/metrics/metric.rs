//! Defines a metric, and the input of its samples.

use std::{fmt, sync::Arc};

use prometheus_client::{metrics::MetricType, registry::Unit};

use super::samples::Samples;
use crate::{
    aggregate::{DestinationPorts, Group, GroupKey, Snapshot},
    model::own_cost::OwnCost,
};

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
    pub(super) name: &'static str,
    pub(super) unit: Option<&'static Unit>,
    pub(super) kind: MetricType,
    pub(super) help: &'static str,
    pub(super) samples: fn(&MetricsInput, &mut Samples<'_>) -> fmt::Result,
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

impl MetricsInput {
    /// Services that have samples of their own.
    pub(super) fn services(&self) -> impl Iterator<Item = &Group> {
        self.snapshot.groups.iter().filter(|group| group.has_place)
    }

    /// Number of services without samples of their own.
    pub(super) fn other_services(&self) -> u64 {
        let hidden =
            self.snapshot.groups.iter().filter(|group| !group.has_place && group.id != GroupKey::OTHER);
        self.snapshot.other_groups + hidden.count() as u64
    }

    /// Destinations that have samples of their own.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &DestinationPorts> {
        self.snapshot.ports.destinations.iter().filter(|row| row.has_place)
    }
}
