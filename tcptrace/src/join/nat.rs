//! Translated addresses, from the records of connection tracking tables: which client appears as which address, and which
//! destination is which backend.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::end::EndKey;
use crate::model::{Addr, nat::Conntrack};

/// Most translations kept; further ones are not used.
const MAX_TRANSLATIONS: usize = 1 << 16;
/// Most keys under which the other end of one connection is looked for.
const MAX_KEYS: usize = 16;

type AddrPort = (Addr, u16);

/// Translations seen so far, in both directions.
#[derive(Clone, Debug, Default)]
pub(super) struct TranslatedEnds {
    /// Client and the server as it is reached: the client's translated addresses.
    sources: HashMap<(Addr, AddrPort), BTreeSet<Addr>>,
    /// Translated address and the server: the clients.
    clients: HashMap<(Addr, AddrPort), BTreeSet<Addr>>,
    /// Client and the destination that it connects to: the backends.
    backends: HashMap<(Addr, AddrPort), BTreeSet<AddrPort>>,
    /// Client and backend: the destinations.
    destinations: HashMap<(Addr, AddrPort), BTreeSet<AddrPort>>,
    /// Addresses in place of others.
    translated: BTreeSet<Addr>,
    count: usize,
}

impl TranslatedEnds {
    /// Adds what one poll of a connection tracking table found.
    pub(super) fn add(&mut self, conntrack: &Conntrack) {
        for translation in &conntrack.translations {
            let server = (translation.daddr, translation.dport);
            for source in &translation.sources {
                let is_new = insert(&mut self.sources, (source.saddr, server), translation.snat_addr)
                    | insert(&mut self.clients, (translation.snat_addr, server), source.saddr);
                self.note(is_new, translation.snat_addr);
            }
        }
        for backend in &conntrack.backends {
            let (wanted, reached) = ((backend.daddr, backend.dport), (backend.addr, backend.port));
            let is_new = insert(&mut self.backends, (backend.saddr, wanted), reached)
                | insert(&mut self.destinations, (backend.saddr, reached), wanted);
            self.note(is_new, backend.daddr);
        }
        if self.count > MAX_TRANSLATIONS {
            *self = Self::default();
        }
    }

    fn note(&mut self, is_new: bool, translated: Addr) {
        if is_new {
            self.count += 1;
            self.translated.insert(translated);
        }
    }

    /// Whether `addr` stands for others.
    pub(super) fn is_translated(&self, addr: Addr) -> bool {
        self.translated.contains(&addr)
    }

    /// Other keys that the other end of the connection `key` may have. Its port is the same on both sides: NAT keeps it where
    /// it is free.
    pub(super) fn peers(&self, key: &EndKey) -> Vec<EndKey> {
        if self.count == 0 {
            return Vec::new();
        }
        let (local, remote) = (key.local, key.remote);
        let mut keys = Vec::new();
        // As a client: the server sees another source, or is another one.
        let backends = self.backends.get(&(local.0, remote)).into_iter().flatten().copied();
        for server in backends.chain([remote]) {
            let sources = self.sources.get(&(local.0, server)).into_iter().flatten().copied();
            keys.extend(sources.chain([local.0]).map(|source| (server, (source, local.1))));
        }
        // As a server: the client has another address, or connects to another one.
        let clients = self.clients.get(&(remote.0, local)).into_iter().flatten().copied();
        for client in clients.chain([remote.0]) {
            let wanted = self.destinations.get(&(client, local)).into_iter().flatten().copied();
            keys.extend(wanted.chain([local]).map(|wanted| ((client, remote.1), wanted)));
        }
        let keys = keys.into_iter().map(|(local, remote)| EndKey { scope: (0, 0), local, remote });
        keys.filter(|other| *other != key.reversed()).take(MAX_KEYS).collect()
    }
}

fn insert<V: Ord>(map: &mut HashMap<(Addr, AddrPort), BTreeSet<V>>, key: (Addr, AddrPort), value: V) -> bool {
    map.entry(key).or_default().insert(value)
}
