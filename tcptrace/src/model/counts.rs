//! Counts sockets per state.

use super::TcpState;

/// Sockets per state at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    by_state: [u64; TcpState::COUNT],
    orphan_fin_wait2: u64,
}

impl StateCounts {
    /// Counts one socket in `state`. Orphans in `FIN_WAIT2` use [`Self::add_orphan_fin_wait2`] instead.
    pub fn add(&mut self, state: TcpState) {
        self.by_state[state.index()] += 1;
    }

    /// Counts one `FIN_WAIT2` that no process holds.
    pub fn add_orphan_fin_wait2(&mut self) {
        self.add(TcpState::FinWait2);
        self.orphan_fin_wait2 += 1;
    }

    /// Adds every count of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.by_state.iter_mut().zip(other.by_state) {
            *mine += theirs;
        }
        self.orphan_fin_wait2 += other.orphan_fin_wait2;
    }

    /// Sockets in `state`.
    pub const fn get(&self, state: TcpState) -> u64 {
        self.by_state[state.index()]
    }

    /// Sockets in `FIN_WAIT2` that no process holds; `tcp_fin_timeout` ends them.
    pub const fn orphan_fin_wait2(&self) -> u64 {
        self.orphan_fin_wait2
    }

    /// Sockets in `FIN_WAIT2` that a process still holds; only the process or the peer ends them.
    pub const fn held_fin_wait2(&self) -> u64 {
        self.get(TcpState::FinWait2) - self.orphan_fin_wait2
    }

    /// All sockets, listeners included, as `ss -tan` lists them.
    pub fn total(&self) -> u64 {
        self.by_state.iter().sum()
    }
}
