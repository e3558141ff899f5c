//! Which listener a connection came through.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use crate::model::{Addr, NetnsId, SocketId, Tuple};

/// Listening sockets by namespace and port.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    by_port: FxHashMap<(NetnsId, u16), Vec<Listener>>,
    /// Where each is: what is known of its port later may differ.
    places: FxHashMap<SocketId, (NetnsId, u16)>,
}

/// One listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its id.
    pub id: SocketId,
    /// The address it waits on.
    pub addr: Addr,
}

impl Listeners {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_port.values().map(Vec::len).sum()
    }

    /// Adds a listener; again is harmless.
    pub fn insert(&mut self, id: SocketId, netns: NetnsId, tuple: &Tuple) {
        if let Entry::Vacant(vacant) = self.places.entry(id) {
            let place = *vacant.insert((netns, tuple.sport));
            // By id: of several that share an address (`SO_REUSEPORT`) the same one is found in every recording.
            let listeners = self.by_port.entry(place).or_default();
            let at = listeners.partition_point(|listener| listener.id < id);
            listeners.insert(at, Listener { id, addr: tuple.saddr });
        }
    }

    /// Forgets a listener.
    pub fn remove(&mut self, id: SocketId) {
        let Some(key) = self.places.remove(&id) else { return };
        if let Some(listeners) = self.by_port.get_mut(&key) {
            listeners.retain(|listener| listener.id != id);
            if listeners.is_empty() {
                self.by_port.remove(&key);
            }
        }
    }

    /// The listener behind the local end of `tuple`: the one with the very address, else one that
    /// waits on any.
    pub fn find(&self, netns: NetnsId, tuple: &Tuple) -> Option<Listener> {
        let listeners = self.by_port.get(&(netns, tuple.sport))?;
        let exact = listeners.iter().find(|listener| listener.addr == tuple.saddr);
        exact.or_else(|| listeners.iter().find(|listener| listener.addr.is_any())).copied()
    }
}
