//! Every socket followed now: ids in, places out, which stay the same as long as the socket is there.
//!
//! The sockets lie in one row; what is looked for, and made larger when there are many, is a table of numbers. So a
//! socket takes its own bytes and some 20 to 40 more, and a million of them are no reason to stop for a moment.

use std::{
    hash::{BuildHasherDefault, Hasher},
    ops::{Index, IndexMut},
};

use hashbrown::HashMap;
use slab::Slab;

use super::Socket;
use crate::model::SocketId;

/// The table of sockets.
#[derive(Clone, Debug, Default)]
pub(super) struct Sockets {
    slots: HashMap<SocketId, u32, BuildHasherDefault<ByNeighbours>>,
    sockets: Slab<Socket>,
}

/// Where a socket is, from when it is put in until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: SocketId,
    slot: u32,
}

impl Sockets {
    /// What one takes, in bytes, with its place in a table that is between half and wholly full.
    pub(super) const SOCKET_BYTES: usize = size_of::<Socket>() + (size_of::<(SocketId, u32)>() + 1) * 3 / 2;

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn find(&self, id: SocketId) -> Option<Place> {
        self.slots.get(&id).map(|&slot| Place { id, slot })
    }

    pub(super) fn contains(&self, id: SocketId) -> bool {
        self.slots.contains_key(&id)
    }

    pub(super) fn get(&self, id: SocketId) -> Option<&Socket> {
        self.find(id).map(|at| &self[at])
    }

    pub(super) fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.find(id).map(|at| &mut self[at])
    }

    /// Puts one in; its id must be new.
    pub(super) fn insert(&mut self, id: SocketId, socket: Socket) -> Place {
        let slot = self.sockets.insert(socket) as u32;
        self.slots.insert(id, slot);
        Place { id, slot }
    }

    /// Gives the socket at `at` another id, which must be new.
    pub(super) fn rename(&mut self, at: Place, id: SocketId) -> Place {
        self.slots.remove(&at.id);
        self.slots.insert(id, at.slot);
        Place { id, ..at }
    }

    pub(super) fn remove(&mut self, at: Place) -> Socket {
        self.slots.remove(&at.id);
        self.sockets.remove(at.slot as usize)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketId, &Socket)> {
        self.slots.iter().map(|(&id, &slot)| (id, &self.sockets[slot as usize]))
    }

    /// The same, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Socket> {
        self.sockets.iter_mut().map(|(_, socket)| socket)
    }
}

impl Index<Place> for Sockets {
    type Output = Socket;

    fn index(&self, at: Place) -> &Socket {
        &self.sockets[at.slot as usize]
    }
}

impl IndexMut<Place> for Sockets {
    fn index_mut(&mut self, at: Place) -> &mut Socket {
        &mut self.sockets[at.slot as usize]
    }
}

/// Hashes ids such that sixteen that follow each other are neighbours in the table. The kernel counts cookies up,
/// in turns of 4,096 per CPU: sockets made together are looked for together. Nobody can choose a cookie.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ByNeighbours(u64);

impl Hasher for ByNeighbours {
    fn write_u64(&mut self, id: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        const NEIGHBOURS: u64 = 16;
        // The table takes its place from the low bits, and compares the highest seven before it looks at a key.
        let block = (id / NEIGHBOURS).wrapping_mul(ODD) >> 20;
        let tag = id.wrapping_mul(ODD) & (0x7f << 57);
        self.0 = tag | ((block * NEIGHBOURS) & !(0x7f << 57)) | (id % NEIGHBOURS);
    }

    /// Ids are one word each.
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
