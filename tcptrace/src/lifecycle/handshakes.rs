//! Table of handshakes in progress.

use hashbrown::HashMap;

use crate::model::{NetnsId, SocketId, Tuple};

/// Handshakes by tuple, hashed with a random seed: the sender of a SYN chooses one end.
#[derive(Clone, Debug, Default)]
pub struct Handshakes {
    by_tuple: HashMap<(NetnsId, Tuple), Handshake>,
    made: u64,
}

/// One handshake.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    /// Its socket.
    pub id: SocketId,
    /// Kernel address: distinguishes a second request socket with the same tuple from this one.
    pub object: u64,
}

impl Handshake {
    /// Whether a record about the request socket at this address is about this handshake. The kernel cancels the timer of a
    /// request socket after another one may have taken its place (`reqsk_queue_unlink()`).
    pub const fn may_be(&self, object: u64) -> bool {
        self.object == 0 || self.object == object
    }
}

impl Handshakes {
    /// Number of handshakes in progress.
    pub fn len(&self) -> usize {
        self.by_tuple.len()
    }

    fn key(netns: NetnsId, tuple: &Tuple) -> (NetnsId, Tuple) {
        // The request socket carries the interface of the SYN, the child the interface it is bound to.
        (netns, tuple.without_interface())
    }

    /// The handshake with this tuple.
    pub fn get(&self, netns: NetnsId, tuple: &Tuple) -> Option<Handshake> {
        self.by_tuple.get(&Self::key(netns, tuple)).copied()
    }

    /// The id of the handshake with this tuple.
    pub fn id_of(&self, netns: NetnsId, tuple: &Tuple) -> Option<SocketId> {
        self.get(netns, tuple).map(|handshake| handshake.id)
    }

    /// Adds a handshake, or replaces the one with this tuple.
    pub fn insert(&mut self, id: SocketId, object: u64, netns: NetnsId, tuple: &Tuple) {
        self.by_tuple.insert(Self::key(netns, tuple), Handshake { id, object });
    }

    /// Adds a handshake from the seed, which carries no kernel address.
    pub fn seed(&mut self, id: SocketId, netns: NetnsId, tuple: &Tuple) {
        self.insert(id, 0, netns, tuple);
    }

    /// Kernel address of the handshake `id`; 0 while it is not known.
    pub fn object_of(&self, id: SocketId, netns: NetnsId, tuple: &Tuple) -> u64 {
        self.get(netns, tuple).filter(|handshake| handshake.id == id).map_or(0, |handshake| handshake.object)
    }

    /// Restores a handshake from a checkpoint.
    pub fn restore_handshake(&mut self, id: SocketId, object: u64, netns: NetnsId, tuple: &Tuple) {
        self.insert(id, object, netns, tuple);
    }

    /// Number of ids assigned so far.
    pub const fn made(&self) -> u64 {
        self.made
    }

    /// Continues the numbering after `made` ids.
    pub fn go_on_from(&mut self, made: u64) {
        self.made = self.made.max(made);
    }

    /// Assigns an id.
    pub fn next_id(&mut self) -> SocketId {
        self.made = self.made.wrapping_add(1);
        SocketId::handshake(self.made)
    }

    /// Removes the handshake `id`.
    pub fn forget(&mut self, id: SocketId, netns: NetnsId, tuple: &Tuple) {
        let key = Self::key(netns, tuple);
        if self.by_tuple.get(&key).is_some_and(|handshake| handshake.id == id) {
            self.by_tuple.remove(&key);
        }
    }
}
