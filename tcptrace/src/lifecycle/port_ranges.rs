//! Local port ranges of network namespaces, which show the side that chose a port.

use rustc_hash::FxHashMap;

use super::{Role, Socket};
use crate::model::{NetnsId, Record, Tuple, sysctls};

/// Local port ranges of network namespaces, from records.
#[derive(Clone, Debug, Default)]
pub(super) struct PortRanges(FxHashMap<NetnsId, (u16, u16)>);

impl PortRanges {
    /// Most namespaces kept.
    pub(super) const MOST: usize = 1 << 14;

    pub(super) fn take(&mut self, record: &Record) {
        let (netns, sysctls) = match record {
            // The namespace is gone.
            Record::NetnsSettings { netns, sysctls, .. } if sysctls.is_empty() => {
                self.0.remove(netns);
                return;
            }
            Record::NetnsSettings { netns, sysctls, .. } => (*netns, sysctls),
            // Older recordings carry only this.
            Record::Host(facts) if !self.0.contains_key(&NetnsId(facts.netns)) => {
                (NetnsId(facts.netns), &facts.sysctls)
            }
            _ => return,
        };
        if let Some(range) = sysctls::local_port_range(sysctls)
            && (self.0.len() < Self::MOST || self.0.contains_key(&netns))
        {
            self.0.insert(netns, range);
        }
    }

    /// The role of a connection without a known listener. `connect()` chooses ports in the range, so when only the
    /// remote port is in it, the peer connected to a listener that is gone.
    pub(super) fn role_of(&self, socket: &Socket) -> Role {
        let Tuple { sport, dport, .. } = socket.tuple;
        match self.0.get(&socket.netns) {
            Some(&(low, high)) if !(low..=high).contains(&sport) && (low..=high).contains(&dport) => {
                Role::Inbound
            }
            _ => Role::Outbound,
        }
    }
}
