//! Mean and peak of sockets per state over the trace, from periodic samples of the counts.

use super::{Distribution, dwells::Dwells};
use crate::{
    lifecycle::{Closer, EndReason, Role},
    model::{TcpState, record::Process},
};

/// Samples of the states of a group.
#[derive(Clone, Debug, Default)]
pub(super) struct OverTime {
    entered: [u64; TcpState::COUNT],
    sums: [u64; TcpState::COUNT],
    most: [u64; TcpState::COUNT],
}

impl OverTime {
    pub(super) const fn enter(&mut self, state: TcpState) {
        self.entered[state.index()] += 1;
    }

    pub(super) fn sample<N: Into<u64> + Copy>(&mut self, counts: &[N; TcpState::COUNT]) {
        for (state, &count) in counts.iter().enumerate() {
            self.sums[state] += count.into();
            self.most[state] = self.most[state].max(count.into());
        }
    }

    /// Adds `other`. The peaks may not coincide, so the higher one is a lower bound for the peak of the sum.
    pub(super) fn merge(&mut self, other: &Self) {
        for state in 0..TcpState::COUNT {
            self.entered[state] += other.entered[state];
            self.sums[state] += other.sums[state];
            self.most[state] = self.most[state].max(other.most[state]);
        }
    }

    /// Every state that has or had sockets.
    pub(super) fn states(
        &self,
        now: &[u64; TcpState::COUNT],
        samples: u64,
        dwells: impl Fn(TcpState) -> Dwells,
    ) -> Vec<StateSummary> {
        let summary = |state: TcpState| {
            let at = state.index();
            let dwells = dwells(state).distribution();
            let (entered, most) = (self.entered[at], self.most[at]);
            let is_empty = entered + most + now[at] == 0 && dwells.is_empty();
            (!is_empty).then(|| StateSummary {
                state,
                entered,
                mean: if samples == 0 { 0.0 } else { self.sums[at] as f64 / samples as f64 },
                most,
                dwells,
            })
        };
        TcpState::ALL.into_iter().filter(|&state| state != TcpState::Close).filter_map(summary).collect()
    }
}

/// Sockets with one key, over the trace.
#[derive(Clone, Debug)]
pub struct GroupSummary {
    /// The key as text, sanitised.
    pub key: String,
    /// Which side opened the connections.
    pub role: Role,
    /// The process that owns most of them, if known.
    pub process: Option<Process>,
    /// Every state that had sockets or dwells.
    pub states: Vec<StateSummary>,
    /// Connections that closed during the trace, indexed by `Closer as usize`.
    pub closed: [u64; Closer::COUNT],
    /// Sockets ended, indexed by `EndReason as usize`, without timewait sockets.
    pub ended: [u64; EndReason::COUNT],
    /// Dwells moved to "other" to save memory.
    pub dwells_elsewhere: u64,
}

/// Sockets of a group in one state, over the trace.
#[derive(Clone, Debug)]
pub struct StateSummary {
    /// The state.
    pub state: TcpState,
    /// Sockets that entered it.
    pub entered: u64,
    /// Mean over all samples.
    pub mean: f64,
    /// Maximum of all samples.
    pub most: u64,
    /// Dwells in the state.
    pub dwells: Distribution,
}
