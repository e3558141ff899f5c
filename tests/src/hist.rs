//! What a running `tcptrace hist --json --interval` prints.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::lab::Lab;
use crate::pictures::Pictures;

/// What the scenarios look at of a `tcptrace.hist.v1` document.
#[derive(Clone, Debug, Deserialize)]
pub struct Document {
    /// The histograms, those of all sockets without a key.
    pub histograms: Vec<Histogram>,
    /// Who closed, by group.
    pub closes: Vec<Closes>,
}

/// One histogram. Lengths are nanoseconds.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct Histogram {
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

/// Who closed the connections of one group.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct Closes {
    pub key: Option<String>,
    pub role: Option<String>,
    pub closers: Closers,
}

/// Connections by who closed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct Closers {
    pub local: u64,
    pub remote: u64,
    pub both: u64,
    pub reset_received: u64,
    pub reset_sent: u64,
    pub timed_out: u64,
    pub refused: u64,
}

/// A running `hist`.
pub type Hist = Pictures<Document>;

/// Starts it over the scenario's namespace and waits until it traces.
pub fn start(lab: &Lab, by: &str) -> Result<Hist> {
    let netns = lab.netns().to_string();
    Pictures::start(lab, &["hist", "--json", "--interval", "200ms", "--by", by, "--netns", &netns])
}

/// A group of the tracer's own namespace.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// `127.0.0.1:80`
    pub service: &'a str,
    /// The second key, where there is one.
    pub comm: Option<&'a str>,
    /// `inbound` or `outbound`.
    pub role: &'a str,
}

impl Document {
    /// The histogram of `group` in `state`.
    pub fn histogram(&self, group: Group<'_>, state: &str) -> Result<&Histogram> {
        let key = group.key();
        let found = self.histograms.iter().find(|of| {
            (of.state.as_str(), of.key.as_deref(), of.role.as_deref())
                == (state, Some(&key), Some(group.role))
                && of.split.is_none()
        });
        found.with_context(|| format!("no histogram of {state} for {key} {}", group.role))
    }

    /// Who closed the connections of `group`.
    pub fn closers(&self, group: Group<'_>) -> Result<Closers> {
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

impl Group<'_> {
    /// As tcptrace writes it.
    fn key(self) -> String {
        let comm = self.comm.map(|comm| format!(" / {comm}")).unwrap_or_default();
        format!("{}{comm}", self.service)
    }
}
