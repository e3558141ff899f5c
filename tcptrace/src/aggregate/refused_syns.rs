//! SYNs that met a TIME_WAIT and did not reopen it: `tcp_timewait_state_process()` accepts a newer timestamp or a higher sequence
//! number only. How long their clients then waited is the time until a SYN between the same ends begins a handshake.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use tcptrace_common::record::RawRecord;

use crate::model::{Addr, Endpoint, Nanos, NetnsId};

/// Connections whose SYN was refused and not accepted yet. Clients repeat a SYN for two minutes.
const MAX_WAITING: usize = 4096;

type Ends = (NetnsId, Endpoint, Endpoint);

/// Refused SYNs of all listeners.
#[derive(Clone, Debug, Default)]
pub(super) struct SynsAtTimeWait {
    refused: BTreeMap<(NetnsId, Endpoint), RefusedSyns>,
    /// The first refused SYN of each connection. Randomly seeded: a peer chooses its port.
    waiting: HashMap<Ends, Nanos>,
}

/// Refused SYNs of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedSyns {
    /// SYNs.
    pub syns: u64,
    /// Connections that they were to open.
    pub connects: u64,
    /// Those that were accepted later.
    pub accepted: u64,
    /// The longest time from the first refused SYN of one to its acceptance.
    pub longest_stall: Nanos,
    /// The peer of the latest.
    pub peer: Endpoint,
}

/// The local end of the socket of a record.
pub(super) fn local_end(raw: &RawRecord) -> Endpoint {
    Endpoint { addr: Addr(raw.saddr), port: raw.sport, ifindex: 0 }
}

fn ends(raw: &RawRecord) -> Ends {
    let peer = Endpoint { addr: Addr(raw.daddr), port: raw.dport, ifindex: 0 };
    (NetnsId(raw.netns), local_end(raw), peer)
}

impl SynsAtTimeWait {
    /// Number of listeners.
    pub(super) fn len(&self) -> usize {
        self.refused.len()
    }

    /// Counts a refused SYN; returns whether there was room among `most` listeners.
    pub(super) fn refuse(&mut self, raw: &RawRecord, most: usize) -> bool {
        let ends @ (netns, local, peer) = ends(raw);
        if self.refused.len() >= most && !self.refused.contains_key(&(netns, local)) {
            return false;
        }
        if self.waiting.len() >= MAX_WAITING {
            // These clients have given up, or their stall stays unknown.
            self.waiting.clear();
        }
        let is_first = !self.waiting.contains_key(&ends);
        self.waiting.entry(ends).or_insert(Nanos(raw.ts_ns));
        let none = RefusedSyns { syns: 0, connects: 0, accepted: 0, longest_stall: Nanos(0), peer };
        let of = self.refused.entry((netns, local)).or_insert(none);
        of.syns += 1;
        of.connects += u64::from(is_first);
        of.peer = peer;
        true
    }

    /// Whether a SYN between these ends was refused.
    pub(super) fn waits(&self, raw: &RawRecord) -> bool {
        !self.waiting.is_empty() && self.waiting.contains_key(&ends(raw))
    }

    /// A handshake between these ends begins.
    pub(super) fn accept(&mut self, raw: &RawRecord) {
        let ends @ (netns, local, _) = ends(raw);
        let Some(since) = self.waiting.remove(&ends) else { return };
        if let Some(of) = self.refused.get_mut(&(netns, local)) {
            of.accepted += 1;
            of.longest_stall = of.longest_stall.max(Nanos(raw.ts_ns).since(since));
        }
    }

    /// Evicts listeners of namespaces that no longer exist.
    pub(super) fn retain(&mut self, has_sockets: impl Fn(NetnsId) -> bool) {
        self.refused.retain(|(netns, _), _| has_sockets(*netns));
        self.waiting.retain(|(netns, _, _), _| has_sockets(*netns));
    }

    /// All of them.
    pub(super) fn refused(&self) -> impl Iterator<Item = (NetnsId, Endpoint, RefusedSyns)> {
        self.refused.iter().map(|(&(netns, local), &refused)| (netns, local, refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ts_ns: u64, dport: u16) -> RawRecord {
        RawRecord {
            ts_ns,
            cookie: 0,
            object: 0,
            arg0: 0,
            arg1: 0,
            saddr: [1; 16],
            daddr: [2; 16],
            netns: 7,
            ifindex: 0,
            sport: 80,
            dport,
            kind: 0,
            old: 0,
            new: 0,
            flags: 0,
        }
    }

    #[test]
    fn stall_is_the_time_from_the_first_refused_syn_to_the_handshake() {
        let mut syns = SynsAtTimeWait::default();
        for (ts, port) in [(10, 1), (1_010, 1), (2_000, 2)] {
            assert!(syns.refuse(&record(ts, port), 4));
        }
        assert!(syns.waits(&record(3_010, 1)) && !syns.waits(&record(3_010, 3)));
        syns.accept(&record(3_010, 1));
        let [(netns, local, refused)] = syns.refused().collect::<Vec<_>>().try_into().expect("one listener");
        assert_eq!((netns, local.port), (NetnsId(7), 80));
        assert_eq!((refused.syns, refused.connects, refused.accepted), (3, 2, 1));
        assert_eq!((refused.longest_stall, refused.peer.port), (Nanos(3_000), 2));
    }

    #[test]
    fn listeners_and_connections_are_bounded() {
        let mut syns = SynsAtTimeWait::default();
        assert!(syns.refuse(&record(1, 1), 1));
        assert!(!syns.refuse(&RawRecord { sport: 81, ..record(1, 1) }, 1));
        for port in 0..20_000 {
            assert!(syns.refuse(&record(1, port), 1));
            assert!(syns.waiting.len() <= MAX_WAITING);
        }
        syns.retain(|_| false);
        assert_eq!((syns.len(), syns.waiting.len()), (0, 0));
    }
}
