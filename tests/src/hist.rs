//! The output of `tcptrace hist --json --interval`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::json_snapshots::JsonSnapshots;
use crate::lab::Lab;

/// The fields of a `tcptrace.hist.v1` document that scenarios use.
#[derive(Clone, Debug, Deserialize)]
pub struct HistDocument {
    /// The histograms, those of all sockets without a key.
    pub histograms: Vec<DwellHistogram>,
    /// Closers by group.
    pub closes: Vec<GroupClosers>,
    /// Losses by cause.
    pub loss: BTreeMap<String, u64>,
}

/// One histogram. Lengths are nanoseconds.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct DwellHistogram {
    pub state: String,
    pub key: Option<String>,
    pub role: Option<String>,
    pub split: Option<String>,
    pub count: u64,
    pub min_ns: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
    pub open_now: Option<u64>,
    pub buckets: Vec<(u64, u64)>,
}

/// The closers of one group.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct GroupClosers {
    pub key: Option<String>,
    pub role: Option<String>,
    pub closers: CloserCounts,
}

/// Connections by the end that closed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct CloserCounts {
    pub local: u64,
    pub remote: u64,
    pub both: u64,
    pub reset_received: u64,
    pub reset_sent: u64,
    pub timed_out: u64,
    pub refused: u64,
}

/// A running `hist`.
pub type Hist = JsonSnapshots<HistDocument>;

/// Starts it over the scenario's namespace and waits until it traces.
pub fn start(lab: &Lab, by: &str) -> Result<Hist> {
    let netns = lab.netns().to_string();
    JsonSnapshots::start(lab, &["hist", "--json", "--interval", "200ms", "--by", by, "--netns", &netns])
}

/// A group of the tracer's own namespace.
#[derive(Clone, Copy, Debug)]
pub struct HistGroup<'a> {
    /// `127.0.0.1:80`
    pub service: &'a str,
    /// The second key, where there is one.
    pub comm: Option<&'a str>,
    /// `inbound` or `outbound`.
    pub role: &'a str,
}

impl HistDocument {
    /// The histogram of `group` in `state`.
    pub fn histogram(&self, group: HistGroup<'_>, state: &str) -> Result<&DwellHistogram> {
        let key = group.key();
        let found = self.histograms.iter().find(|of| {
            (of.state.as_str(), of.key.as_deref(), of.role.as_deref())
                == (state, Some(&key), Some(group.role))
                && of.split.is_none()
        });
        found.with_context(|| format!("no histogram of {state} for {key} {}", group.role))
    }

    /// The closers of `group`.
    pub fn closers(&self, group: HistGroup<'_>) -> Result<CloserCounts> {
        let key = group.key();
        let found = self
            .closes
            .iter()
            .find(|of| (of.key.as_deref(), of.role.as_deref()) == (Some(&key), Some(group.role)));
        found.map(|of| of.closers).with_context(|| {
            let known: Vec<_> = self.closes.iter().map(|of| (&of.key, &of.role)).collect();
            format!("no closes of {key} {} among {known:?}", group.role)
        })
    }
}

impl HistGroup<'_> {
    /// As tcptrace writes it.
    fn key(self) -> String {
        let comm = self.comm.map(|comm| format!(" / {comm}")).unwrap_or_default();
        format!("{}{comm}", self.service)
    }
}
