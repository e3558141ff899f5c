//! Differences between the table of sockets and a sweep, until another sweep confirms them.

use hashbrown::{HashMap, HashSet};

use crate::model::{NetnsId, SocketId, Tuple};

/// The current sweep, and the suspicions that the last one left to confirm.
#[derive(Clone, Debug, Default)]
pub struct SweepComparison {
    /// Number of completed full sweeps.
    pub complete: u32,
    pub suspects: HashMap<Suspect, Suspicion>,
    /// Orphans that the current FIN_WAIT2 sweep has listed.
    pub listed_in_fin_wait2: HashSet<SocketId>,
    /// Namespaces that are being destroyed: they can no longer be listed.
    pub dying: HashSet<NetnsId>,
}

/// Subject of a suspicion. A peer chooses tuples, so they are hashed with a random seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suspect {
    /// A tracked socket.
    Tracked(SocketId),
    /// An untracked full socket, by its cookie.
    Full(SocketId),
    /// An untracked request or timewait socket, by its tuple: hooks report no cookie for a request socket, and several
    /// timewait sockets may share one.
    Ends(NetnsId, Tuple),
}

impl Suspect {
    /// An untracked request or timewait socket.
    pub const fn with_ends(netns: NetnsId, tuple: &Tuple) -> Self {
        Self::Ends(netns, tuple.without_interface())
    }
}

/// One suspicion.
#[derive(Clone, Copy, Debug)]
pub struct Suspicion {
    /// Kind.
    pub of: Difference,
    /// Number of the sweep that raised it.
    pub sweep: u32,
}

/// Difference between the table and a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Listed, but not in the table.
    Unknown,
    /// Listed in another state.
    Otherwise,
    /// In the table, but not listed.
    Gone,
}

impl SweepComparison {
    /// Most suspicions at once; later sweeps raise the rest.
    const MAX_SUSPECTS: usize = 1 << 20;

    /// Most dying namespaces at once.
    const MAX_DYING: usize = 1 << 10;

    /// Number of the current or next sweep, modulo 256, as in [`Socket::listed`](super::Socket::listed).
    pub const fn number(&self) -> u8 {
        self.complete as u8
    }

    /// Number of entries in all its tables.
    pub fn len(&self) -> usize {
        self.suspects.len() + self.listed_in_fin_wait2.len() + self.dying.len()
    }

    /// Namespace `netns` is being destroyed.
    pub fn add_dying_namespace(&mut self, netns: NetnsId) {
        if self.dying.len() < Self::MAX_DYING {
            self.dying.insert(netns);
        }
    }

    /// Raises a suspicion; returns whether it confirms one from the previous sweep.
    pub fn suspect(&mut self, suspect: Suspect, of: Difference) -> bool {
        match self.suspects.get(&suspect) {
            Some(before) if before.of == of && before.sweep < self.complete => {
                self.suspects.remove(&suspect);
                return true;
            }
            // Listed twice in one sweep.
            Some(before) if before.of == of => {}
            _ if self.suspects.len() >= Self::MAX_SUSPECTS => {}
            _ => {
                self.suspects.insert(suspect, Suspicion { of, sweep: self.complete });
            }
        }
        false
    }

    /// Removes a suspicion.
    pub fn clear(&mut self, suspect: Suspect) {
        if !self.suspects.is_empty() {
            self.suspects.remove(&suspect);
        }
    }
}
