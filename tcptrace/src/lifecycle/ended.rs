//! Remembers sockets that end while the seed is being read, so that the seed does not bring them back.

use hashbrown::HashSet;
use tcptrace_common::record as raw;

use crate::model::{NetnsId, SeedSocket, Tuple, record::SeedObject};

/// Sockets that ended while the seed was being read.
#[derive(Clone, Debug, Default)]
pub(super) struct EndedInSeed {
    ended: HashSet<Ended>,
}

/// A socket that ended but may still be in the seed. A peer chooses tuples, so they are hashed with a random seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ended {
    /// A full socket, by its cookie.
    Full(u64),
    /// A timewait socket, by its cookie and tuple.
    Timewait(u64, NetnsId, Tuple),
    /// A request socket, by its tuple.
    Request(NetnsId, Tuple),
}

impl Ended {
    pub(super) const fn timewait(raw: &raw::RawRecord) -> Self {
        Self::Timewait(raw.cookie, NetnsId(raw.netns), Tuple::of(raw).without_interface())
    }

    pub(super) const fn request(netns: NetnsId, tuple: &Tuple) -> Self {
        Self::Request(netns, tuple.without_interface())
    }
}

impl EndedInSeed {
    pub(super) fn len(&self) -> usize {
        self.ended.len()
    }

    /// Remembers a socket; `false`: there are `most` already.
    pub(super) fn insert(&mut self, ended: Ended, most: usize) -> bool {
        if self.ended.len() < most {
            self.ended.insert(ended);
        }
        self.contains(&ended)
    }

    pub(super) fn contains(&self, ended: &Ended) -> bool {
        self.ended.contains(ended)
    }

    /// Whether the socket that `seed` lists has ended, as the listed kernel object or as a later one.
    pub(super) fn has(&self, seed: &SeedSocket) -> bool {
        let SeedSocket { id, netns, ref tuple, object, .. } = *seed;
        let tuple = tuple.without_interface();
        let is_timewait = matches!(object, SeedObject::Timewait { .. });
        let is_request = matches!(object, SeedObject::Request { .. });
        self.contains(&Ended::Timewait(id.0, netns, tuple))
            || !is_timewait && self.contains(&Ended::Full(id.0))
            || is_request && self.contains(&Ended::Request(netns, tuple))
    }
}
