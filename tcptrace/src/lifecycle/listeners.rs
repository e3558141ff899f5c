//! Finds the listener that accepted a connection.

use std::collections::BTreeSet;

use hashbrown::{HashMap, hash_map::Entry};

use crate::model::{Addr, NetnsId, SocketId, Tuple};

/// Listening sockets by namespace, port, address and id.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    by_local_end: BTreeSet<(NetnsId, u16, Addr, SocketId)>,
    /// Keys as inserted: a listener may learn its port later.
    places: HashMap<SocketId, (NetnsId, u16, Addr)>,
}

/// One listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Socket id.
    pub id: SocketId,
    /// Local address.
    pub addr: Addr,
}

impl Listeners {
    /// Number of listeners.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a listener; a second call has no effect.
    pub fn insert(&mut self, id: SocketId, netns: NetnsId, tuple: &Tuple) {
        if let Entry::Vacant(vacant) = self.places.entry(id) {
            let (netns, port, addr) = *vacant.insert((netns, tuple.sport, tuple.saddr));
            self.by_local_end.insert((netns, port, addr, id));
        }
    }

    /// Removes a listener.
    pub fn remove(&mut self, id: SocketId) {
        if let Some((netns, port, addr)) = self.places.remove(&id) {
            self.by_local_end.remove(&(netns, port, addr, id));
        }
    }

    /// The listener for the local end of `tuple`: one bound to exactly this address, else one bound to any. Of several
    /// (`SO_REUSEPORT`) the lowest id wins, so that every recording gives the same one.
    pub fn find(&self, netns: NetnsId, tuple: &Tuple) -> Option<Listener> {
        if self.places.is_empty() {
            return None;
        }
        let on = |addr| {
            let first = (netns, tuple.sport, addr, SocketId(0));
            let last = (netns, tuple.sport, addr, SocketId(u64::MAX));
            self.by_local_end.range(first..=last).next().map(|&(_, _, addr, id)| Listener { id, addr })
        };
        let any = || Addr::ANY_FORMS.into_iter().filter_map(on).min_by_key(|listener| listener.id);
        on(tuple.saddr).or_else(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_listener_address_precedes_any_in_both_forms() {
        let at = |last: u8, port| Tuple {
            saddr: std::net::IpAddr::from([10, 0, 0, last]).into(),
            daddr: Addr::ANY,
            sport: port,
            dport: 0,
            ifindex: 0,
        };
        let [any_6, any_4] = Addr::ANY_FORMS;
        let mut listeners = Listeners::default();
        let netns = NetnsId(1);
        listeners.insert(SocketId(9), netns, &at(1, 80));
        listeners.insert(SocketId(8), netns, &at(1, 80));
        listeners.insert(SocketId(3), netns, &Tuple { saddr: any_4, ..at(0, 80) });
        listeners.insert(SocketId(2), netns, &Tuple { saddr: any_6, ..at(0, 80) });
        let found =
            |listeners: &Listeners, netns, tuple| listeners.find(netns, &tuple).map(|found| found.id.0);
        assert_eq!(found(&listeners, netns, at(1, 80)), Some(8));
        assert_eq!(found(&listeners, netns, at(7, 80)), Some(2));
        assert_eq!(found(&listeners, netns, at(1, 81)), None);
        assert_eq!(found(&listeners, NetnsId(2), at(1, 80)), None);
        listeners.remove(SocketId(8));
        listeners.remove(SocketId(2));
        assert_eq!(found(&listeners, netns, at(1, 80)), Some(9));
        assert_eq!(found(&listeners, netns, at(7, 80)), Some(3));
        assert_eq!(listeners.len(), 2);
    }
}
