//! The hosts, and the likely reason why an end has no peer.

use hashbrown::HashMap;

use super::{connection::UnmatchedReason, end::ConnectionEnd, nat::TranslatedEnds, offsets::ClockOffsets};
use crate::model::{Addr, record::HostFacts};

/// Most addresses of hosts kept.
const MAX_ADDRESSES: usize = 1 << 18;
/// A connection so near to the beginning or the end of a recording is probably not in it.
const EDGE_NS: u64 = 1_000_000_000;

/// All hosts and their addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct JoinHosts {
    hosts: Vec<JoinHost>,
    /// The host of the last call.
    last: usize,
    addresses: HashMap<Addr, u16>,
}

#[derive(Clone, Debug)]
struct JoinHost {
    name: String,
    boot_id: String,
    began_ns: u64,
    until_ns: u64,
    lost: u64,
}

impl JoinHosts {
    /// The number of `host`, whose records reach to `ts_ns`; 0: unknown.
    pub(super) fn number(&mut self, host: &HostFacts, ts_ns: u64) -> u16 {
        let is_it = |known: &JoinHost| known.name == host.host && known.boot_id == host.boot_id;
        if !self.hosts.get(self.last).is_some_and(is_it) {
            self.last = self.hosts.iter().position(is_it).unwrap_or_else(|| {
                self.hosts.push(JoinHost {
                    name: host.host.clone(),
                    boot_id: host.boot_id.clone(),
                    began_ns: u64::MAX,
                    until_ns: 0,
                    lost: 0,
                });
                self.hosts.len() - 1
            });
        }
        let known = &mut self.hosts[self.last];
        if ts_ns > 0 {
            known.began_ns = known.began_ns.min(ts_ns);
            known.until_ns = known.until_ns.max(ts_ns);
        }
        self.last as u16
    }

    /// Notes how many records of `host` are lost.
    pub(super) fn lost(&mut self, host: &HostFacts, lost: u64) {
        let number = self.number(host, 0);
        self.hosts[usize::from(number)].lost = lost;
    }

    /// Notes an address of a host.
    pub(super) fn has_address(&mut self, host: u16, addr: Addr) {
        if self.addresses.len() < MAX_ADDRESSES {
            self.addresses.entry(addr).or_insert(host);
        }
    }

    /// When its records begin.
    pub(super) fn began_ns(&self, host: u16) -> u64 {
        self.hosts[usize::from(host)].began_ns
    }

    /// When its records end.
    pub(super) fn until_ns(&self, host: u16) -> u64 {
        self.hosts[usize::from(host)].until_ns
    }

    /// Its name. Untrusted.
    pub(super) fn name(&self, host: u16) -> &str {
        &self.hosts[usize::from(host)].name
    }

    /// The likely reason why `end` has no peer.
    pub(super) fn reason(
        &self,
        end: &ConnectionEnd,
        nat: &TranslatedEnds,
        offsets: &mut ClockOffsets,
    ) -> UnmatchedReason {
        if !end.is_connection() {
            return UnmatchedReason::NotEstablished;
        }
        let remote = end.tuple.daddr;
        let peer = if remote.is_loopback() { Some(end.host) } else { self.addresses.get(&remote).copied() };
        let Some(peer) = peer else {
            let is_translated = nat.is_translated(remote);
            return if is_translated { UnmatchedReason::Nat } else { UnmatchedReason::PeerNotRecorded };
        };
        let ahead_ns = offsets.ahead_ns(peer, end.host).unwrap_or(0);
        let at_peer = |ns: u64| ns.saturating_add_signed(ahead_ns);
        let host = &self.hosts[usize::from(peer)];
        let began_ns = end.established_ns.map(at_peer);
        if began_ns.is_none_or(|began_ns| began_ns < host.began_ns.saturating_add(EDGE_NS)) {
            UnmatchedReason::BeforeRecording
        } else if began_ns.is_some_and(|began_ns| began_ns.saturating_add(EDGE_NS) > host.until_ns) {
            UnmatchedReason::AfterRecording
        } else if nat.is_translated(remote) {
            UnmatchedReason::Nat
        } else if host.lost > 0 {
            UnmatchedReason::Lost
        } else {
            UnmatchedReason::Unexplained
        }
    }
}
