//! Ended dwells of a group, per state and end reason.
//!
//! A small group stores [`PackedDwell`]s; a larger one stores histograms built from them. The conversion loses nothing,
//! and a hundred thousand peers with one connection each stay small.

use std::borrow::Cow;

use super::{
    dwell_summary::{DwellQuantiles, StateDwells, TimeWaitEnds},
    dwells::Dwells,
    packed_dwell::{PackedDwell, Split},
};
use crate::{
    lifecycle::{EndReason, Event, Phase},
    model::TcpState,
};

/// Selects the dwells that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// TIME_WAIT and FIN_WAIT2.
    #[default]
    TimewaitSockets,
    /// Every state.
    Every,
    /// Every state for all sockets together, by role; for groups as [`Scope::TimewaitSockets`].
    Roles,
    /// As [`Scope::Every`], plus samples of the sockets per state for [`super::Aggregate::summary`].
    Whole,
    /// None; sockets are not even counted. For callers that only need the losses.
    Nothing,
}

impl Scope {
    /// Whether a group stores anything about a socket that leaves a state by `event`.
    pub(super) fn keeps(self, event: &Event<'_>) -> bool {
        self != Self::TimewaitSockets || is_split(event.from) || event.end_reason.is_some()
    }

    /// Scope of each group.
    pub(super) fn of_groups(self) -> Self {
        if self == Self::Roles { Self::TimewaitSockets } else { self }
    }
}

/// Dwells kept individually before they become histograms.
const FEW: usize = 16;

/// Approximate memory of a histogram and of one of its buckets.
const HISTOGRAM_BYTES: usize = 328;
const BUCKET_BYTES: usize = 24;

/// Ended dwells, individually or as histograms.
#[derive(Clone, Debug)]
pub(super) enum DwellStore {
    Few(Vec<PackedDwell>),
    Many(Box<Histograms>),
}

impl Default for DwellStore {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl DwellStore {
    /// Adds a dwell; returns by how many bytes the histograms grew.
    pub(super) fn take(&mut self, dwell: PackedDwell, scope: Scope) -> usize {
        match self {
            Self::Few(few) if few.len() < FEW => {
                if few.len() == few.capacity() {
                    few.reserve_exact(few.len().max(4));
                }
                few.push(dwell);
                0
            }
            Self::Few(_) => {
                let mut histograms = self.histograms(scope).into_owned();
                histograms.take(dwell, scope);
                let size = histograms.size();
                *self = Self::Many(Box::new(histograms));
                size
            }
            Self::Many(histograms) => histograms.take(dwell, scope),
        }
    }

    /// Whether no dwell has ended, kept or not.
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Few(few) if few.is_empty())
    }

    /// Number of dwells; parts of a dwell count as well.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Few(few) => few.len() as u64,
            Self::Many(histograms) => histograms.kinds.iter().map(|(_, dwells)| dwells.total()).sum(),
        }
    }

    /// Bytes of the histograms; 0 if there are none.
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
                for &dwell in few {
                    histograms.take(dwell, scope);
                }
                Cow::Owned(histograms)
            }
            Self::Many(histograms) => Cow::Borrowed(histograms),
        }
    }

    /// Adds all dwells to `sum`.
    pub(super) fn add_to(&self, sum: &mut Histograms, scope: Scope) {
        match self {
            Self::Few(few) => {
                for &dwell in few {
                    sum.take(dwell, scope);
                }
            }
            Self::Many(histograms) => sum.merge(histograms),
        }
    }
}

/// A state and the split of its dwells; only TIME_WAIT and FIN_WAIT2 are split.
type Kind = (TcpState, Option<Split>);

/// Histograms of dwells, and end counts of sockets.
#[derive(Clone, Debug, Default)]
pub(super) struct Histograms {
    kinds: Vec<(Kind, Dwells)>,
    ended: [u64; EndReason::COUNT],
    /// End counts of timewait sockets that ended in FIN_WAIT2.
    orphans_ended: [u64; EndReason::COUNT],
    /// End counts of sockets that ended in SYN_SENT.
    connects_ended: [u64; EndReason::COUNT],
}

/// Whether timewait sockets can be in `state`.
const fn is_split(state: TcpState) -> bool {
    matches!(state, TcpState::TimeWait | TcpState::FinWait2)
}

impl Histograms {
    /// Adds a dwell; returns by how many bytes the histograms grew.
    pub(super) fn take(&mut self, dwell: PackedDwell, scope: Scope) -> usize {
        let state = dwell.state();
        match dwell.end() {
            Some((reason, Phase::Timewait)) if state == TcpState::FinWait2 => {
                self.orphans_ended[reason as usize] += 1;
            }
            Some((_, Phase::Timewait)) | None => {}
            Some((reason, _)) => {
                self.ended[reason as usize] += 1;
                self.connects_ended[reason as usize] += u64::from(state == TcpState::SynSent);
            }
        }
        if scope == Scope::TimewaitSockets && !is_split(state) {
            return 0;
        }
        let kinds = self.kinds.len();
        let split = Some(dwell.split()).filter(|split| is_split(state) || split.is_part());
        let dwells = self.of_kind((state, split));
        let mut growth = dwells.record(dwell.dwell()) * BUCKET_BYTES;
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

    /// Sockets that ended, without timewait sockets, indexed by `EndReason as usize`.
    pub(super) const fn ended(&self) -> [u64; EndReason::COUNT] {
        self.ended
    }

    /// Timewait sockets that ended in FIN_WAIT2, indexed likewise.
    pub(super) const fn orphans_ended(&self) -> [u64; EndReason::COUNT] {
        self.orphans_ended
    }

    /// Sockets that ended in SYN_SENT, indexed likewise.
    pub(super) const fn connects_ended(&self) -> [u64; EndReason::COUNT] {
        self.connects_ended
    }

    /// All dwells in `state`; parts are not counted twice.
    pub(super) fn whole(&self, state: TcpState) -> Dwells {
        let mut sum = Dwells::default();
        for ((of, split), dwells) in &self.kinds {
            if *of == state && !split.is_some_and(Split::is_part) {
                sum.merge(dwells);
            }
        }
        sum
    }

    /// End counts of the timewait sockets in `state`.
    pub(super) fn ends(&self, state: TcpState) -> TimeWaitEnds {
        let mut ends = TimeWaitEnds::default();
        for ((of, split), dwells) in &self.kinds {
            if let (true, Some(Split::Ended(reason))) = (*of == state, split) {
                ends.count(*reason, dwells.total());
            }
        }
        ends
    }

    /// Quantiles of `state`, and the number of dwells excluded from them.
    pub(super) fn quantiles(&self, state: TcpState) -> (DwellQuantiles, u64) {
        let dwells = self.whole(state);
        (DwellQuantiles::of(&dwells.distribution()), dwells.not_exact())
    }

    /// Every state that has dwells or sockets now, followed by its splits.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        lifecycle::{Bound, Dwell},
        model::Nanos,
    };

    /// A stay out of any two numbers.
    fn dwell((n, length): (usize, u64)) -> PackedDwell {
        let state = TcpState::ALL[n % TcpState::COUNT];
        let reason = EndReason::ALL[n / 16 % EndReason::COUNT];
        let splits = [Split::Fin, Split::Orphan, Split::Held, Split::Ended(reason), Split::Ended(reason)];
        let bound = [Bound::Exact, Bound::Exact, Bound::AtLeast, Bound::Inferred][n % 4];
        let dwell = (!n.is_multiple_of(7)).then_some(Dwell { length: Nanos(length), bound });
        let phase = if n.is_multiple_of(2) { Phase::Full } else { Phase::Timewait };
        PackedDwell::new(state, splits[n / 3 % splits.len()], dwell, phase)
    }

    fn taken(ended: &[PackedDwell], scope: Scope) -> (DwellStore, usize) {
        let mut dwells = DwellStore::default();
        let growth = ended.iter().map(|&dwell| dwells.take(dwell, scope)).sum();
        (dwells, growth)
    }

    fn as_text(histograms: &Histograms) -> String {
        let states = histograms.states(&[2; TcpState::COUNT], 1);
        let ends = TcpState::ALL.map(|state| (histograms.ends(state), histograms.quantiles(state)));
        let ended = (histograms.ended(), histograms.orphans_ended(), histograms.connects_ended());
        let mut states: Vec<_> = states.iter().map(|state| format!("{state:?}")).collect();
        states.sort();
        format!("{states:?} {ends:?} {ended:?}")
    }

    proptest! {
        #[test]
        fn stays_kept_one_by_one_and_in_histograms_tell_the_same(
            all in prop::collection::vec((0..2_000_usize, 0..1_u64 << 40), 0..60), cut in 0..60_usize, every in any::<bool>(),
        ) {
            let scope = if every { Scope::Every } else { Scope::TimewaitSockets };
            let all: Vec<PackedDwell> = all.into_iter().map(dwell).collect();
            let (dwells, growth) = taken(&all, scope);
            prop_assert_eq!(growth, dwells.size(), "what it grew by is what it takes");
            prop_assert_eq!(dwells.size() > 0, all.len() > FEW && !dwells.histograms(scope).kinds.is_empty());
            prop_assert_eq!(dwells.is_empty(), all.is_empty());
            let mut whole = Histograms::default();
            for &dwell in &all {
                whole.take(dwell, scope);
            }
            prop_assert_eq!(as_text(&dwells.histograms(scope)), as_text(&whole));
            let kept = all.iter().filter(|dwell| every || is_split(dwell.state())).count();
            if every {
                prop_assert_eq!(dwells.len(), kept as u64);
            }
            // In two parts.
            let (first, rest) = all.split_at(cut.min(all.len()));
            let mut sum = Histograms::default();
            for part in [first, rest] {
                taken(part, scope).0.add_to(&mut sum, scope);
            }
            prop_assert_eq!(as_text(&sum), as_text(&whole));
            let mut merged = taken(first, scope).0.histograms(scope).into_owned();
            merged.merge(&taken(rest, scope).0.histograms(scope));
            prop_assert_eq!(as_text(&merged), as_text(&whole));
            // Each end is counted once, of the kind of socket that it was.
            let ends = |of: &dyn Fn(&PackedDwell) -> bool| {
                all.iter().filter(|dwell| dwell.end().is_some() && of(dwell)).count() as u64
            };
            let is_full = |dwell: &PackedDwell| dwell.end().is_some_and(|(_, phase)| phase == Phase::Full);
            prop_assert_eq!(whole.ended().iter().sum::<u64>(), ends(&is_full));
            let syn_sent = |dwell: &PackedDwell| is_full(dwell) && dwell.state() == TcpState::SynSent;
            prop_assert_eq!(whole.connects_ended().iter().sum::<u64>(), ends(&syn_sent));
            let orphan = |dwell: &PackedDwell| !is_full(dwell) && dwell.state() == TcpState::FinWait2;
            prop_assert_eq!(whole.orphans_ended().iter().sum::<u64>(), ends(&orphan));
        }
    }

    #[test]
    fn histogram_size_grows_with_distinct_lengths() {
        let exact = |ns| {
            PackedDwell::new(
                TcpState::Established,
                Split::Fin,
                Some(Dwell { length: Nanos(ns), bound: Bound::Exact }),
                Phase::Full,
            )
        };
        let mut dwells = DwellStore::default();
        let few: usize = (0..FEW as u64).map(|n| dwells.take(exact(n), Scope::Every)).sum();
        assert_eq!((few, dwells.size()), (0, 0));
        // Dwells enter the buckets in batches; the size follows.
        let lengths = (0..400).map(|n| n % 100);
        let growth: usize = lengths.map(|ns| dwells.take(exact(1_000 + ns), Scope::Every)).sum();
        assert_eq!((dwells.size(), dwells.len()), (growth, FEW as u64 + 400));
        assert_eq!(growth, HISTOGRAM_BYTES + (FEW + 100) * BUCKET_BYTES);
    }
}
