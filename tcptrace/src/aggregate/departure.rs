//! One stay that has ended, packed into a word: what a group with few sockets remembers of them.

use crate::{
    lifecycle::{Bound, Dwell, EndReason, Event, Phase, Socket},
    model::{Nanos, TcpState},
};

/// What the dwells of TIME_WAIT and FIN_WAIT2 are told apart by.
///
/// A dwell is in exactly one of [`Split::Fin`] and the reasons. The two owners' parts of FIN_WAIT2 are
/// measured apart: one dwell can have both, first held, then orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The peer's FIN came: FIN_WAIT2 went on to TIME_WAIT.
    Fin,
    /// It ended, and why.
    Ended(EndReason),
    /// FIN_WAIT2: the time without an owner, of those that had such a time.
    Orphan,
    /// FIN_WAIT2: the time that a process held it, of those that had such a time.
    Held,
}

impl Split {
    /// As written in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Ended(reason) => reason.name(),
            Self::Orphan => "orphan",
            Self::Held => "held",
        }
    }

    const fn code(self) -> u64 {
        match self {
            Self::Fin => 0,
            Self::Orphan => 1,
            Self::Held => 2,
            Self::Ended(reason) => 3 + reason as u64,
        }
    }

    fn from_code(code: u64) -> Self {
        match code {
            0 => Self::Fin,
            1 => Self::Orphan,
            2 => Self::Held,
            _ => EndReason::ALL.get(code as usize - 3).map_or(Self::Fin, |&reason| Self::Ended(reason)),
        }
    }

    /// Whether this is a part of a dwell, beside the dwell itself.
    pub const fn is_part(self) -> bool {
        matches!(self, Self::Orphan | Self::Held)
    }
}

/// A socket left a state: 51 bits of nanoseconds (26 days, longer ones count as that), then from the
/// lowest bit up 4 of state, 5 of split, 2 of bound, 1 for a minisocket, 1 for an unknown dwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Departure(u64);

const STATE: (u32, u64) = (0, 0xf);
const SPLIT: (u32, u64) = (4, 0x1f);
const BOUND: (u32, u64) = (9, 0x3);
const MINISOCKET: (u32, u64) = (11, 1);
const UNKNOWN: (u32, u64) = (12, 1);
const LENGTH: (u32, u64) = (13, u64::MAX >> 13);

impl Departure {
    fn new(state: TcpState, split: Split, dwell: Option<Dwell>, phase: Phase) -> Self {
        let bound = dwell.map_or(0, |dwell| dwell.bound as u64);
        let length = dwell.map_or(0, |dwell| dwell.length.0.min(LENGTH.1));
        Self(
            (state as u64) << STATE.0
                | split.code() << SPLIT.0
                | bound << BOUND.0
                | u64::from(phase == Phase::Minisocket) << MINISOCKET.0
                | u64::from(dwell.is_none()) << UNKNOWN.0
                | length << LENGTH.0,
        )
    }

    const fn field(self, (shift, mask): (u32, u64)) -> u64 {
        (self.0 >> shift) & mask
    }

    /// The state that was left.
    pub(super) fn state(self) -> TcpState {
        TcpState::from_kernel(self.field(STATE) as u8).unwrap_or(TcpState::Close)
    }

    pub(super) fn split(self) -> Split {
        Split::from_code(self.field(SPLIT))
    }

    pub(super) const fn dwell(self) -> Option<Dwell> {
        if self.field(UNKNOWN) != 0 {
            return None;
        }
        let bound = match self.field(BOUND) {
            0 => Bound::Exact,
            1 => Bound::AtLeast,
            _ => Bound::Inferred,
        };
        Some(Dwell { length: Nanos(self.field(LENGTH)), bound })
    }

    /// Where the socket ended: why, and whether it was a full socket or a minisocket by then.
    pub(super) fn end(self) -> Option<(EndReason, Phase)> {
        let phase = if self.field(MINISOCKET) == 0 { Phase::Full } else { Phase::Minisocket };
        match self.split() {
            Split::Ended(reason) => Some((reason, phase)),
            _ => None,
        }
    }

    /// What `event` tells about the state it leaves: the dwell, and the parts of a FIN_WAIT2.
    pub(super) fn of(event: &Event<'_>, socket: &Socket) -> impl Iterator<Item = Self> {
        let split = event.end_reason.map_or(Split::Fin, Split::Ended);
        let whole = Self::new(event.from, split, event.dwell, socket.phase);
        let is_fin_wait2 = event.from == TcpState::FinWait2;
        let orphan_for = event.orphan_for.unwrap_or_default();
        let part = |split, length: fn(Dwell, Nanos) -> Nanos| {
            let dwell = event.dwell.map(|dwell| Dwell { length: length(dwell, orphan_for), ..dwell });
            Self::new(event.from, split, dwell, socket.phase)
        };
        let orphan = event.orphan_for.is_some();
        let held = event.dwell.map_or(!orphan, |dwell| dwell.length > orphan_for);
        let orphan = (is_fin_wait2 && orphan)
            .then(|| part(Split::Orphan, |dwell, orphan_for| dwell.length.min(orphan_for)));
        let held = (is_fin_wait2 && held)
            .then(|| part(Split::Held, |dwell, orphan_for| dwell.length.since(orphan_for)));
        let whole = (!event.begins).then_some(whole);
        whole.into_iter().chain(orphan).chain(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let splits = [Split::Fin, Split::Orphan, Split::Held]
            .into_iter()
            .chain(EndReason::ALL.into_iter().map(Split::Ended));
        for split in splits {
            for state in TcpState::ALL {
                for bound in [Bound::Exact, Bound::AtLeast, Bound::Inferred] {
                    let dwell = Some(Dwell { length: Nanos(61_234_567_891), bound });
                    let departure = Departure::new(state, split, dwell, Phase::Full);
                    assert_eq!(
                        (departure.state(), departure.split(), departure.dwell()),
                        (state, split, dwell)
                    );
                }
            }
        }
        let departure = Departure::new(TcpState::LastAck, Split::Ended(EndReason::Closed), None, Phase::Full);
        assert_eq!((departure.dwell(), departure.end()), (None, Some((EndReason::Closed, Phase::Full))));
        let minisocket =
            Departure::new(TcpState::TimeWait, Split::Ended(EndReason::Expired), None, Phase::Minisocket);
        assert_eq!(minisocket.end(), Some((EndReason::Expired, Phase::Minisocket)));
    }

    #[test]
    fn a_longer_dwell_counts_as_the_longest() {
        let dwell = Some(Dwell { length: Nanos(u64::MAX), bound: Bound::Exact });
        let departure = Departure::new(TcpState::Established, Split::Fin, dwell, Phase::Full);
        let days = departure.dwell().expect("known").length.0 / 86_400_000_000_000;
        assert_eq!(days, 26);
    }
}
