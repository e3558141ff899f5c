//! The local ports of a network namespace that sockets hold by `bind()` without a connection.

use serde::{Deserialize, Serialize};

use super::{Addr, nat::addr_text, record::Process};

/// Most local addresses in one record.
pub const MAX_ADDRS: usize = 256;
/// Most ranges of ports in one record.
pub const MAX_RANGES: usize = 1 << 14;
/// Most processes of a local address in one record.
pub const MAX_HOLDERS: usize = 4;

/// What one poll found in a namespace: sockets that `bind()` gave a port, and that neither listen nor connect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPorts {
    /// Those with the most ports first.
    pub addrs: Vec<BoundAddr>,
    /// Ports that `addrs` leaves out because of its limits.
    #[serde(default)]
    pub other_ports: u64,
}

/// The ports of one local address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundAddr {
    /// The address; [`Addr::ANY`] for every address of the host.
    #[serde(with = "addr_text")]
    pub saddr: Addr,
    /// First and last port of each range, ascending.
    pub ports: Vec<(u16, u16)>,
    /// The processes that hold the most sockets.
    pub holders: Vec<PortHolder>,
}

/// A process that holds bound sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortHolder {
    /// Process id.
    pub pid: u32,
    /// Its kernel name. Untrusted.
    pub comm: String,
    /// cgroup v2 id, 0 when unknown.
    #[serde(default)]
    pub cgroup: u64,
    /// Its sockets.
    pub sockets: u64,
}

impl PortHolder {
    /// The process.
    pub fn process(&self) -> Process {
        Process::new(self.pid, &*self.comm, self.cgroup)
    }
}

impl BoundAddr {
    /// Every port; the ranges of a recording may overlap.
    pub fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.ports.iter().flat_map(|&(first, last)| first..=last)
    }
}
