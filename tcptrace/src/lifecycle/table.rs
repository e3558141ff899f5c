//! Table of tracked sockets, by id.
//!
//! Sockets live in a slab; a hash index maps ids to slots, so growing the index moves 16 bytes per socket and causes no
//! pause at a million sockets. A socket takes its own size plus 20 to 40 bytes. Slots are stable until removal.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    ops::{Index, IndexMut},
};

use hashbrown::HashMap;
use slab::Slab;

use super::Socket;
use crate::model::SocketId;

/// The table of sockets.
#[derive(Clone, Debug, Default)]
pub(super) struct Sockets {
    slots: HashMap<SocketId, u32, BlockHasherBuilder>,
    sockets: Slab<Socket>,
}

/// Position of a socket, valid from insertion to removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotRef {
    pub(super) id: SocketId,
    slot: u32,
}

impl Sockets {
    /// Bytes per socket, with its index entry in a hash table that is between half full and full.
    pub(super) const SOCKET_BYTES: usize = size_of::<Socket>() + (size_of::<(SocketId, u32)>() + 1) * 3 / 2;

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn find(&self, id: SocketId) -> Option<SlotRef> {
        self.slots.get(&id).map(|&slot| SlotRef { id, slot })
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

    /// Inserts a socket; its id must be new.
    pub(super) fn insert(&mut self, id: SocketId, socket: Socket) -> SlotRef {
        let slot = self.sockets.insert(socket) as u32;
        self.slots.insert(id, slot);
        SlotRef { id, slot }
    }

    /// Gives the socket at `at` another id, which must be new.
    pub(super) fn rename(&mut self, at: SlotRef, id: SocketId) -> SlotRef {
        self.slots.remove(&at.id);
        self.slots.insert(id, at.slot);
        SlotRef { id, ..at }
    }

    pub(super) fn remove(&mut self, at: SlotRef) -> Socket {
        self.slots.remove(&at.id);
        self.sockets.remove(at.slot as usize)
    }

    /// Iterates over all sockets, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketId, &Socket)> {
        self.slots.iter().map(|(&id, &slot)| (id, &self.sockets[slot as usize]))
    }

    /// The ids of the sockets for which `test` holds, in no order. It reads sockets in the order of memory, ids only if there are
    /// any: in the order of ids each of millions of sockets misses the cache, and the rings fill meanwhile.
    pub(super) fn select(&self, test: impl Fn(&Socket) -> bool) -> Vec<SocketId> {
        let mut selected = vec![false; self.sockets.capacity()];
        let mut count = 0;
        for (slot, socket) in &self.sockets {
            selected[slot] = test(socket);
            count += usize::from(selected[slot]);
        }
        if count == 0 {
            return Vec::new();
        }
        self.slots.iter().filter(|&(_, &slot)| selected[slot as usize]).map(|(&id, _)| id).collect()
    }

    /// Iterates mutably over all sockets, in no order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Socket> {
        self.sockets.iter_mut().map(|(_, socket)| socket)
    }
}

impl Index<SlotRef> for Sockets {
    type Output = Socket;

    fn index(&self, at: SlotRef) -> &Socket {
        &self.sockets[at.slot as usize]
    }
}

impl IndexMut<SlotRef> for Sockets {
    fn index_mut(&mut self, at: SlotRef) -> &mut Socket {
        &mut self.sockets[at.slot as usize]
    }
}

/// Hashes ids so that sixteen consecutive ids are adjacent in the index. The kernel allocates cookies in ascending
/// batches of 4,096 per CPU, so sockets created together share cache lines. A random seed places each block of
/// sixteen, because the author of a recording chooses its ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockHasherBuilder {
    seed: [u64; 2],
}

impl Default for BlockHasherBuilder {
    fn default() -> Self {
        let random = |n: u64| RandomState::new().hash_one(n);
        Self { seed: [random(0), random(1) | 1] }
    }
}

impl BuildHasher for BlockHasherBuilder {
    type Hasher = BlockHasher;

    fn build_hasher(&self) -> BlockHasher {
        BlockHasher { seed: self.seed, hash: 0 }
    }
}

/// Hasher for one id.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockHasher {
    seed: [u64; 2],
    hash: u64,
}

impl Hasher for BlockHasher {
    fn write_u64(&mut self, id: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        const IDS_PER_BLOCK: u64 = 16;
        // hashbrown takes the bucket from the low bits and compares the top seven bits before the key.
        let product = u128::from((id / IDS_PER_BLOCK) ^ self.seed[0]) * u128::from(self.seed[1]);
        let block = (product >> 64) as u64 ^ product as u64;
        // Ids in equal steps change only a part of the product: without a second one, half of the buckets stay empty with one
        // seed in fourteen for steps of 2^16 and more, with one in a thousand for the next id.
        let block = (block ^ block >> 32).wrapping_mul(ODD);
        let block = block ^ block >> 32;
        let tag = id.wrapping_mul(ODD) & (0x7f << 57);
        self.hash = tag | (block.wrapping_mul(IDS_PER_BLOCK) & !(0x7f << 57)) | (id % IDS_PER_BLOCK);
    }

    /// Fallback: ids are hashed as one `u64`.
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.hash.rotate_left(8) ^ u64::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}
