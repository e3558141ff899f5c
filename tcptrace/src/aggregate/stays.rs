//! The stays of a group's sockets that have ended: [`Departure`]s in, dwells per state and reason out.
//!
//! A group with few of them keeps them as they are; one with many has histograms, made from them. So
//! nothing is lost on the way, and a hundred thousand peers with one connection each stay small.

use std::borrow::Cow;

use super::{
    TimeWaitEnds,
    departure::{Departure, Split},
    dwells::Dwells,
    snapshot::{DwellQuantiles, StateDwells},
};
use crate::{
    lifecycle::{EndReason, Event, Phase},
    model::TcpState,
};

/// Which dwells are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those of TIME_WAIT and FIN_WAIT2.
    #[default]
    Minisockets,
    /// Those of every state.
    Every,
    /// Those of every state for all sockets together, by role; of the groups as [`Scope::Minisockets`].
    Roles,
    /// The same, and how many sockets were in every state over time: for [`super::Aggregate::summary`].
    Whole,
    /// None, and sockets are not even counted: for those who only want to know what was lost.
    Nothing,
}

impl Scope {
    /// Whether a group keeps anything of a socket that leaves a state by `event`.
    pub(super) fn keeps(self, event: &Event<'_>) -> bool {
        self != Self::Minisockets || is_split(event.from) || event.end_reason.is_some()
    }

    /// Which dwells each group keeps.
    pub(super) fn of_groups(self) -> Self {
        if self == Self::Roles { Self::Minisockets } else { self }
    }
}

/// So many departures are kept as they are.
const FEW: usize = 16;

/// Roughly what a histogram and a bucket of it take, in bytes.
const HISTOGRAM_BYTES: usize = 192;
const BUCKET_BYTES: usize = 24;

/// What is remembered of the stays that have ended.
#[derive(Clone, Debug)]
pub(super) enum Stays {
    Few(Vec<Departure>),
    Many(Box<Histograms>),
}

impl Default for Stays {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Stays {
    /// Takes one in; returns by how many bytes the histograms grew.
    pub(super) fn take(&mut self, departure: Departure, scope: Scope) -> usize {
        match self {
            Self::Few(few) if few.len() < FEW => {
                if few.len() == few.capacity() {
                    few.reserve_exact(few.len().max(4));
                }
                few.push(departure);
                0
            }
            Self::Few(_) => {
                let mut histograms = self.histograms(scope).into_owned();
                histograms.take(departure, scope);
                let size = histograms.size();
                *self = Self::Many(Box::new(histograms));
                size
            }
            Self::Many(histograms) => histograms.take(departure, scope),
        }
    }

    /// Whether none has ended, kept or not.
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Few(few) if few.is_empty())
    }

    /// How many there are, the parts of one counted as well.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Few(few) => few.len() as u64,
            Self::Many(histograms) => histograms.kinds.iter().map(|(_, dwells)| dwells.total()).sum(),
        }
    }

    /// Bytes that histograms take; 0 where there are none.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Few(_) => 0,
            Self::Many(histograms) => histograms.size(),
        }
    }

    pub(super) fn histograms(&self, scope: Scope) -> Cow<'_, Histograms> {
        match self {
            Self::Few(few) => {
                let mut histograms = Histograms::default();
                for &departure in few {
                    histograms.take(departure, scope);
                }
                Cow::Owned(histograms)
            }
            Self::Many(histograms) => Cow::Borrowed(histograms),
        }
    }

    /// Adds them to `sum`.
    pub(super) fn add_to(&self, sum: &mut Histograms, scope: Scope) {
        match self {
            Self::Few(few) => {
                for &departure in few {
                    sum.take(departure, scope);
                }
            }
            Self::Many(histograms) => sum.merge(histograms),
        }
    }
}

/// A state, and how its dwells are told apart; only TIME_WAIT and FIN_WAIT2 are split.
type Kind = (TcpState, Option<Split>);

/// Histograms of dwells, and the ends of sockets.
#[derive(Clone, Debug, Default)]
pub(super) struct Histograms {
    kinds: Vec<(Kind, Dwells)>,
    ended: [u64; EndReason::COUNT],
    /// The same for minisockets that ended in FIN_WAIT2.
    orphans_ended: [u64; EndReason::COUNT],
    /// The same for sockets that ended in SYN_SENT.
    connects_ended: [u64; EndReason::COUNT],
}

/// The states that minisockets are in.
const fn is_split(state: TcpState) -> bool {
    matches!(state, TcpState::TimeWait | TcpState::FinWait2)
}

impl Histograms {
    /// Takes one in; returns by how many bytes this grew.
    pub(super) fn take(&mut self, departure: Departure, scope: Scope) -> usize {
        let state = departure.state();
        match departure.end() {
            Some((reason, Phase::Minisocket)) if state == TcpState::FinWait2 => {
                self.orphans_ended[reason as usize] += 1;
            }
            Some((_, Phase::Minisocket)) | None => {}
            Some((reason, _)) => {
                self.ended[reason as usize] += 1;
                self.connects_ended[reason as usize] += u64::from(state == TcpState::SynSent);
            }
        }
        if scope == Scope::Minisockets && !is_split(state) {
            return 0;
        }
        let kinds = self.kinds.len();
        let dwells = self.of_kind((state, is_split(state).then(|| departure.split())));
        let mut growth = usize::from(dwells.record(departure.dwell())) * BUCKET_BYTES;
        growth += (self.kinds.len() - kinds) * HISTOGRAM_BYTES;
        growth
    }

    fn of_kind(&mut self, kind: Kind) -> &mut Dwells {
        let index = self.kinds.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            self.kinds.push((kind, Dwells::default()));
            self.kinds.len() - 1
        });
        &mut self.kinds[index].1
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (kind, dwells) in &other.kinds {
            self.of_kind(*kind).merge(dwells);
        }
        for (mine, theirs) in self.ended.iter_mut().zip(other.ended) {
            *mine += theirs;
        }
        for (mine, theirs) in self.orphans_ended.iter_mut().zip(other.orphans_ended) {
            *mine += theirs;
        }
        for (mine, theirs) in self.connects_ended.iter_mut().zip(other.connects_ended) {
            *mine += theirs;
        }
    }

    fn size(&self) -> usize {
        self.kinds.iter().map(|(_, dwells)| HISTOGRAM_BYTES + dwells.buckets() * BUCKET_BYTES).sum()
    }

    /// Sockets that ended, minisockets apart, indexed by `EndReason as usize`.
    pub(super) const fn ended(&self) -> [u64; EndReason::COUNT] {
        self.ended
    }

    /// Minisockets that ended in FIN_WAIT2, indexed likewise.
    pub(super) const fn orphans_ended(&self) -> [u64; EndReason::COUNT] {
        self.orphans_ended
    }

    /// Sockets that ended in SYN_SENT, indexed likewise.
    pub(super) const fn connects_ended(&self) -> [u64; EndReason::COUNT] {
        self.connects_ended
    }

    /// All dwells in `state`, the parts of them not counted again.
    pub(super) fn whole(&self, state: TcpState) -> Dwells {
        let mut sum = Dwells::default();
        for ((of, split), dwells) in &self.kinds {
            if *of == state && !split.is_some_and(Split::is_part) {
                sum.merge(dwells);
            }
        }
        sum
    }

    /// How the minisockets in `state` ended.
    pub(super) fn ends(&self, state: TcpState) -> TimeWaitEnds {
        let mut ends = TimeWaitEnds::default();
        for ((of, split), dwells) in &self.kinds {
            if let (true, Some(Split::Ended(reason))) = (*of == state, split) {
                ends.count(*reason, dwells.total());
            }
        }
        ends
    }

    /// Quantiles of `state`, and how many dwells are not among them.
    pub(super) fn quantiles(&self, state: TcpState) -> (DwellQuantiles, u64) {
        let dwells = self.whole(state);
        (DwellQuantiles::of(&dwells.distribution()), dwells.not_exact())
    }

    /// Every state with dwells or with sockets in it now, and its parts.
    pub(super) fn states(&self, now: &[u64; TcpState::COUNT], orphans_now: u64) -> Vec<StateDwells> {
        let mut states = Vec::new();
        for state in TcpState::ALL {
            let distribution = self.whole(state).distribution();
            let open_now = now[state.index()];
            if distribution.is_empty() && open_now == 0 {
                continue;
            }
            states.push(StateDwells { state, split: None, open_now: Some(open_now), distribution });
            let mut parts: Vec<_> = self
                .kinds
                .iter()
                .filter_map(|((of, split), dwells)| {
                    split.filter(|_| *of == state).map(|split| (split, dwells))
                })
                .collect();
            parts.sort_by_key(|(split, dwells)| (split.is_part(), std::cmp::Reverse(dwells.total())));
            for (split, dwells) in parts {
                let open_now = match split {
                    Split::Orphan => Some(orphans_now),
                    Split::Held => Some(open_now.saturating_sub(orphans_now)),
                    _ => None,
                };
                let distribution = dwells.distribution();
                states.push(StateDwells { state, split: Some(split), open_now, distribution });
            }
        }
        states
    }
}
