//! Keeps the set of followed network namespaces: those that tcptrace has visited. The seed lists the sockets of each that
//! exists when the trace begins, and one that is first visited later is younger. A socket that appears in any other may be
//! older than the trace, and could not be seeded: this is not a loss.

use hashbrown::HashSet;

use crate::model::{NetnsId, Record};

/// The followed namespaces.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespaces {
    followed: HashSet<NetnsId>,
}

impl Namespaces {
    /// Most namespaces kept. The kernel gives the lowest free number to a new namespace, so this bounds concurrent
    /// ones; a socket in a namespace beyond it counts as older than the trace.
    const MOST: usize = 1 << 16;

    pub(super) fn len(&self) -> usize {
        self.followed.len()
    }

    /// Follows `netns`, which was visited.
    pub(super) fn follow(&mut self, netns: NetnsId) {
        if self.followed.len() < Self::MOST {
            self.followed.insert(netns);
        }
    }

    /// Follows the namespaces that records show as visited.
    pub(super) fn take(&mut self, record: &Record) {
        match record {
            Record::NetnsSettings { netns, .. } => self.follow(*netns),
            Record::Seed(seed) => self.follow(seed.netns),
            _ => {}
        }
    }

    /// Whether `netns` is followed.
    pub(super) fn contains(&self, netns: NetnsId) -> bool {
        self.followed.contains(&netns)
    }

    /// All of them, by number.
    pub(super) fn sorted(&self) -> Vec<NetnsId> {
        let mut all: Vec<_> = self.followed.iter().copied().collect();
        all.sort_unstable();
        all
    }
}
