//! The output of `tcptrace ports --json --interval`.

use anyhow::Result;
use serde::Deserialize;

use crate::json_snapshots::JsonSnapshots;
use crate::lab::Lab;

/// The fields of a `tcptrace.ports.v1` document that scenarios use.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct PortsDocument {
    pub taken_at: String,
    pub netns: Vec<PortsNetns>,
    pub destinations: Vec<PortsDestination>,
    pub binds: Vec<PortsBinds>,
}

/// The budget of a namespace.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct PortsNetns {
    pub netns: u32,
    pub range: Option<(u16, u16)>,
    pub reserved: Option<u64>,
    pub taken_by_bind: u64,
    pub available: Option<u64>,
    pub tcp_tw_reuse: Option<u8>,
}

/// One destination.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct PortsDestination {
    pub netns: u32,
    pub saddr: String,
    pub daddr: String,
    pub dport: u16,
    pub backends: Vec<PortsBackend>,
    pub used: u64,
    pub available: Option<u64>,
    pub time_wait: u64,
    pub bound: u64,
    pub outside_range: u64,
    pub entered_per_s: Option<f64>,
    pub predicted: Option<u64>,
    pub exhausted_in_ns: Option<u64>,
    pub connect_failures: Option<u64>,
    pub free_at_failure: Option<u64>,
    pub slow_above: Option<u64>,
    pub connect_search_ns: Option<PortSearch>,
    pub tw_reuse: PortsReuse,
    pub processes: Vec<PortsProcess>,
}

/// Where NAT sends the connections to a destination.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct PortsBackend {
    pub daddr: String,
    pub dport: u16,
    pub used: u64,
}

/// The ports that `bind()` holds at a local address.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct PortsBinds {
    pub netns: u32,
    pub saddr: String,
    pub bound: u64,
    pub available: Option<u64>,
    pub open: u64,
    pub idle: Option<u64>,
    pub connected: u64,
    pub processes: Vec<PortsProcess>,
}

/// The effect of `tcp_tw_reuse`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct PortsReuse {
    pub effect: String,
    pub reusable: u64,
    pub reused: Option<u64>,
}

/// How long `connect()` searched.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct PortSearch {
    pub p50: u64,
    pub count: u64,
}

/// A process that opened connections.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct PortsProcess {
    pub pid: u32,
    pub comm: String,
}

/// A running `ports`.
pub type PortsRun = JsonSnapshots<PortsDocument>;

/// Starts it over all namespaces and waits until it traces.
pub fn start(lab: &Lab) -> Result<PortsRun> {
    JsonSnapshots::start(lab, &["ports", "--json", "--interval", "100ms"])
}

impl PortsDocument {
    /// The ports that `bind()` holds at this address.
    pub fn binds(&self, netns: u32, saddr: &str) -> Option<&PortsBinds> {
        self.binds.iter().find(|row| (row.netns, &*row.saddr) == (netns, saddr))
    }

    /// The destination with these ends in this namespace.
    pub fn find(&self, netns: u32, saddr: &str, daddr: &str, dport: u16) -> Option<&PortsDestination> {
        self.destinations
            .iter()
            .find(|row| (row.netns, &*row.saddr, &*row.daddr, row.dport) == (netns, saddr, daddr, dport))
    }
}
