//! Indexes rekeyed timewait sockets: another socket has their cookie, because one descriptor connected again, with
//! `AF_UNSPEC` in between. Each gets a new id, and is found by its cookie and tuple.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::model::{NetnsId, SocketId, Tuple};

/// Namespace, tuple and cookie.
type Key = (NetnsId, Tuple, u64);

/// The rekeyed timewait sockets.
#[derive(Clone, Debug, Default)]
pub struct Rekeyed {
    by_ends: BTreeMap<Key, SocketId>,
    keys: HashMap<SocketId, Key>,
    made: u64,
}

impl Rekeyed {
    /// Number of rekeyed sockets.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Number of ids assigned so far.
    pub const fn made(&self) -> u64 {
        self.made
    }

    /// Continues the numbering after `made` ids.
    pub fn go_on_from(&mut self, made: u64) {
        self.made = self.made.max(made);
    }

    /// Assigns the next id.
    pub const fn next_id(&mut self) -> SocketId {
        self.made = self.made.wrapping_add(1);
        SocketId::rekeyed(self.made)
    }

    /// Adds the timewait socket `id`. It hides an earlier one with the same tuple and cookie, whose end was missed.
    pub fn insert(&mut self, id: SocketId, cookie: u64, netns: NetnsId, tuple: &Tuple) {
        let key = (netns, tuple.without_interface(), cookie);
        self.by_ends.insert(key, id);
        self.keys.insert(id, key);
    }

    /// The socket with this cookie and this tuple.
    pub fn find(&self, cookie: u64, netns: NetnsId, tuple: &Tuple) -> Option<SocketId> {
        if self.keys.is_empty() {
            return None;
        }
        self.by_ends.get(&(netns, tuple.without_interface(), cookie)).copied()
    }

    /// The socket with this tuple, whatever its cookie.
    pub fn with_ends(&self, netns: NetnsId, tuple: &Tuple) -> Option<SocketId> {
        let key = |cookie| (netns, tuple.without_interface(), cookie);
        self.by_ends.range(key(0)..=key(u64::MAX)).next().map(|(_, &id)| id)
    }

    /// The cookie of `id`, if it was rekeyed.
    pub fn cookie_of(&self, id: SocketId) -> Option<u64> {
        self.keys.get(&id).map(|&(_, _, cookie)| cookie)
    }

    /// All ids and their cookies, by id.
    pub fn cookies(&self) -> Vec<(SocketId, u64)> {
        let mut all: Vec<_> = self.keys.iter().map(|(&id, &(_, _, cookie))| (id, cookie)).collect();
        all.sort_unstable();
        all
    }

    /// Removes a socket that ended.
    pub fn forget(&mut self, id: SocketId) {
        if let Some(key) = self.keys.remove(&id)
            && self.by_ends.get(&key) == Some(&id)
        {
            self.by_ends.remove(&key);
        }
    }
}
