//! Writes the samples of one metric. Duplicate labels would make Prometheus drop the entire scrape, so only the first
//! sample with the same labels is written.

use std::{collections::BTreeSet, fmt};

use prometheus_client::{
    encoding::{MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::aggregate::Distribution;

/// Upper bounds of the dwell buckets, in seconds: decades, and closer ones around the 60 s of TIME_WAIT and common
/// timeouts.
const BOUNDS_S: [f64; 16] =
    [0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 59.0, 63.0, 120.0, 300.0, 900.0, 3_600.0, 43_200.0];

/// Pairs of name and value.
pub type Labels<'a> = [(&'a str, &'a str)];

/// Writer for the samples of one metric.
pub struct Samples<'a> {
    encoder: MetricEncoder<'a>,
    kind: MetricType,
    written: BTreeSet<Vec<String>>,
}

impl<'a> Samples<'a> {
    pub(super) fn new(encoder: MetricEncoder<'a>, kind: MetricType) -> Self {
        Self { encoder, kind, written: BTreeSet::new() }
    }

    /// Writes an integer.
    pub fn number(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        self.with(labels, |encoder, kind| match kind {
            MetricType::Counter => encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None),
            _ => encoder.encode_gauge(&value),
        })
    }

    /// Writes a value in seconds.
    pub fn seconds(&mut self, labels: &Labels<'_>, ns: u64) -> fmt::Result {
        let value = ns as f64 / 1e9;
        self.with(labels, |encoder, kind| match kind {
            MetricType::Counter => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
            _ => encoder.encode_gauge(&value),
        })
    }

    /// Writes an info: facts as labels.
    pub fn info(&mut self, labels: &Labels<'_>) -> fmt::Result {
        self.encoder.encode_info(&labels)
    }

    /// Writes a histogram of dwells. A source bucket, 0.1% wide, counts by its upper end.
    pub fn dwells(&mut self, labels: &Labels<'_>, distribution: &Distribution) -> fmt::Result {
        let mut buckets: Vec<(f64, u64)> = BOUNDS_S.iter().map(|&bound| (bound, 0)).collect();
        buckets.push((f64::INFINITY, 0));
        for bucket in distribution.buckets() {
            let seconds = bucket.highest.0 as f64 / 1e9;
            let place = BOUNDS_S.partition_point(|&bound| bound < seconds);
            buckets[place].1 += bucket.count;
        }
        let sum = distribution.sum_ns as f64 / 1e9;
        self.with(labels, |encoder, _| {
            encoder.encode_histogram::<NoLabelSet>(sum, distribution.count, &buckets, None)
        })
    }

    fn with(
        &mut self,
        labels: &Labels<'_>,
        encode: impl FnOnce(&mut MetricEncoder<'_>, MetricType) -> fmt::Result,
    ) -> fmt::Result {
        if !self.written.insert(labels.iter().map(|(_, value)| (*value).to_owned()).collect()) {
            return Ok(());
        }
        if labels.is_empty() {
            return encode(&mut self.encoder, self.kind);
        }
        encode(&mut self.encoder.encode_family(&labels)?, self.kind)
    }
}
