//! How many sockets were in every state over time: looks at the counts in, means and peaks out.

use super::{CLOSERS, Distribution, dwells::Dwells};
use crate::{
    lifecycle::{EndReason, Role},
    model::{TcpState, record::Process},
};

/// What was seen of a group's states so far.
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

    pub(super) fn look<N: Into<u64> + Copy>(&mut self, counts: &[N; TcpState::COUNT]) {
        for (state, &count) in counts.iter().enumerate() {
            self.sums[state] += count.into();
            self.most[state] = self.most[state].max(count.into());
        }
    }

    /// Adds `other`. Two peaks need not have come together: the higher one is what the sum reached at least.
    pub(super) fn merge(&mut self, other: &Self) {
        for state in 0..TcpState::COUNT {
            self.entered[state] += other.entered[state];
            self.sums[state] += other.sums[state];
            self.most[state] = self.most[state].max(other.most[state]);
        }
    }

    /// Every state in which there is or was anything.
    pub(super) fn states(
        &self,
        now: &[u64; TcpState::COUNT],
        looks: u64,
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
                mean: if looks == 0 { 0.0 } else { self.sums[at] as f64 / looks as f64 },
                most,
                dwells,
            })
        };
        TcpState::ALL.into_iter().filter(|&state| state != TcpState::Close).filter_map(summary).collect()
    }
}

/// The sockets that share one key, over the whole time.
#[derive(Clone, Debug)]
pub struct GroupSummary {
    /// The key as text, sanitised.
    pub key: String,
    /// Which side opened the connections.
    pub role: Role,
    /// The process that owns most of them, where one is known.
    pub process: Option<Process>,
    /// Every state in which there was anything.
    pub states: Vec<StateSummary>,
    /// Connections ended meanwhile, indexed by `Closer as usize`.
    pub closed: [u64; CLOSERS],
    /// Sockets ended, indexed by `EndReason as usize`, minisockets apart.
    pub ended: [u64; EndReason::COUNT],
    /// Dwells that were added to the others' for want of memory.
    pub dwells_elsewhere: u64,
}

/// The sockets of a group in one state, over the whole time.
#[derive(Clone, Debug)]
pub struct StateSummary {
    /// The state.
    pub state: TcpState,
    /// How many entered it.
    pub entered: u64,
    /// How many were in it in the mean of all looks.
    pub mean: f64,
    /// How many were in it at most, of all looks.
    pub most: u64,
    /// How long they stayed.
    pub dwells: Distribution,
}
