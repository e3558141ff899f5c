//! An ended dwell packed into 64 bits, for groups with few sockets.

use crate::{
    lifecycle::{Bound, Dwell, EndReason, Event, Phase, Socket},
    model::{Nanos, TcpState},
};

/// Subset of the dwells of TIME_WAIT, FIN_WAIT2 and SYN_SENT.
///
/// A dwell of TIME_WAIT or FIN_WAIT2 is in exactly one of [`Split::Fin`] and [`Split::Ended`]. The orphan and held parts of
/// FIN_WAIT2, and the two parts of SYN_SENT, are measured separately: one dwell can have both, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The peer's FIN arrived: FIN_WAIT2 became TIME_WAIT.
    Fin,
    /// The socket ended for this reason.
    Ended(EndReason),
    /// FIN_WAIT2: time without an owner, if any.
    Orphan,
    /// FIN_WAIT2: time held by a process, if any.
    Held,
    /// SYN_SENT: until the SYN was sent; `connect()` searched for a local port.
    Search,
    /// SYN_SENT: from the SYN to its answer.
    Answer,
}

impl Split {
    /// As written in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Ended(reason) => reason.name(),
            Self::Orphan => "orphan",
            Self::Held => "held",
            Self::Search => "search",
            Self::Answer => "answer",
        }
    }

    const fn code(self) -> u64 {
        match self {
            Self::Fin => 0,
            Self::Orphan => 1,
            Self::Held => 2,
            Self::Search => 3,
            Self::Answer => 4,
            Self::Ended(reason) => ENDED + reason as u64,
        }
    }

    fn from_code(code: u64) -> Self {
        match code {
            0 => Self::Fin,
            1 => Self::Orphan,
            2 => Self::Held,
            3 => Self::Search,
            4 => Self::Answer,
            _ => EndReason::ALL.get((code - ENDED) as usize).map_or(Self::Fin, |&reason| Self::Ended(reason)),
        }
    }

    /// Whether this is a part of a dwell that is counted in another split as well.
    pub const fn is_part(self) -> bool {
        matches!(self, Self::Orphan | Self::Held | Self::Search | Self::Answer)
    }
}

/// Code of the first [`Split::Ended`].
const ENDED: u64 = 5;

/// Layout: 51 bits of nanoseconds (26 days; longer dwells saturate), then from the lowest bit up 4 bits state, 5 split,
/// 2 bound, 1 timewait socket, 1 unknown dwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackedDwell(u64);

const STATE: (u32, u64) = (0, 0xf);
const SPLIT: (u32, u64) = (4, 0x1f);
const BOUND: (u32, u64) = (9, 0x3);
const TIMEWAIT: (u32, u64) = (11, 1);
const UNKNOWN: (u32, u64) = (12, 1);
const LENGTH: (u32, u64) = (13, u64::MAX >> 13);

impl PackedDwell {
    pub(super) fn new(state: TcpState, split: Split, dwell: Option<Dwell>, phase: Phase) -> Self {
        let bound = dwell.map_or(0, |dwell| dwell.bound as u64);
        let length = dwell.map_or(0, |dwell| dwell.length.0.min(LENGTH.1));
        Self(
            (state as u64) << STATE.0
                | split.code() << SPLIT.0
                | bound << BOUND.0
                | u64::from(phase == Phase::Timewait) << TIMEWAIT.0
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

    /// End reason, if the socket ended, and whether it was a full socket or a timewait socket then.
    pub(super) fn end(self) -> Option<(EndReason, Phase)> {
        let phase = if self.field(TIMEWAIT) == 0 { Phase::Full } else { Phase::Timewait };
        match self.split() {
            Split::Ended(reason) => Some((reason, phase)),
            _ => None,
        }
    }

    /// Dwell that `event` ends, and the orphan and held parts of a FIN_WAIT2.
    pub(super) fn of(event: &Event<'_>, socket: &Socket) -> impl Iterator<Item = Self> {
        let split = event.end_reason.map_or(Split::Fin, Split::Ended);
        let whole = Self::new(event.from, split, event.dwell, socket.phase);
        let is_fin_wait2 = event.from == TcpState::FinWait2;
        let orphan_for = event.orphan_for.unwrap_or(Dwell { length: Nanos(0), bound: Bound::Exact });
        let part = |split, length: fn(Dwell, Nanos) -> Nanos| {
            let dwell = event.dwell.map(|dwell| Dwell {
                length: length(dwell, orphan_for.length),
                bound: if dwell.bound == Bound::Exact { orphan_for.bound } else { dwell.bound },
            });
            Self::new(event.from, split, dwell, socket.phase)
        };
        let orphan = event.orphan_for.is_some();
        let held = event.dwell.map_or(!orphan, |dwell| dwell.length > orphan_for.length);
        let orphan = (is_fin_wait2 && orphan)
            .then(|| part(Split::Orphan, |dwell, orphan_for| dwell.length.min(orphan_for)));
        let held = (is_fin_wait2 && held)
            .then(|| part(Split::Held, |dwell, orphan_for| dwell.length.since(orphan_for)));
        let whole = (!event.begins).then_some(whole);
        let exact = |split, length| {
            Self::new(event.from, split, Some(Dwell { length, bound: Bound::Exact }), socket.phase)
        };
        let search = event.search.map(|length| exact(Split::Search, length));
        let answer = event.search.zip(event.dwell).filter(|_| event.end_reason.is_none());
        let answer = answer.map(|(search, dwell)| exact(Split::Answer, dwell.length.since(search)));
        whole.into_iter().chain(orphan).chain(held).chain(search).chain(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_round_trips() {
        let splits = [Split::Fin, Split::Orphan, Split::Held, Split::Search, Split::Answer]
            .into_iter()
            .chain(EndReason::ALL.into_iter().map(Split::Ended));
        for split in splits {
            for state in TcpState::ALL {
                for bound in [Bound::Exact, Bound::AtLeast, Bound::Inferred] {
                    let dwell = Some(Dwell { length: Nanos(61_234_567_891), bound });
                    let packed = PackedDwell::new(state, split, dwell, Phase::Full);
                    assert_eq!((packed.state(), packed.split(), packed.dwell()), (state, split, dwell));
                }
            }
        }
        let packed = PackedDwell::new(TcpState::LastAck, Split::Ended(EndReason::Closed), None, Phase::Full);
        assert_eq!((packed.dwell(), packed.end()), (None, Some((EndReason::Closed, Phase::Full))));
        let timewait =
            PackedDwell::new(TcpState::TimeWait, Split::Ended(EndReason::Expired), None, Phase::Timewait);
        assert_eq!(timewait.end(), Some((EndReason::Expired, Phase::Timewait)));
    }

    #[test]
    fn too_long_dwell_saturates() {
        let dwell = Some(Dwell { length: Nanos(u64::MAX), bound: Bound::Exact });
        let packed = PackedDwell::new(TcpState::Established, Split::Fin, dwell, Phase::Full);
        let days = packed.dwell().expect("known").length.0 / 86_400_000_000_000;
        assert_eq!(days, 26);
    }

    fn event(from: TcpState, dwell: Option<u64>, orphan_for: Option<u64>) -> Event<'static> {
        use crate::{
            lifecycle::{Closer, OwnerKind, Role},
            model::{Addr, NetnsId, SocketId, Tuple},
        };
        Event {
            ts: Nanos(100),
            id: SocketId(1),
            netns: NetnsId(1),
            tuple: Tuple { saddr: Addr::ANY, daddr: Addr::ANY, sport: 1, dport: 2, ifindex: 0 },
            role: Role::Outbound,
            role_guessed: false,
            from,
            to: TcpState::Close,
            begins: false,
            dwell: dwell.map(|ns| Dwell { length: Nanos(ns), bound: Bound::Exact }),
            closer: Closer::Local,
            end_reason: None,
            reason_inferred: false,
            orphan: None,
            orphan_for: orphan_for.map(|ns| Dwell { length: Nanos(ns), bound: Bound::Exact }),
            search: None,
            extended: false,
            owner: OwnerKind::Unknown,
            process: None,
        }
    }

    fn socket() -> Socket {
        Socket::new(
            event(TcpState::FinWait2, None, None).tuple,
            crate::model::NetnsId(1),
            TcpState::Close,
            crate::lifecycle::Since::Unknown,
        )
    }

    fn parts(event: &Event<'_>) -> Vec<(&'static str, Option<u64>)> {
        let length = |packed: PackedDwell| packed.dwell().map(|dwell| dwell.length.0);
        PackedDwell::of(event, &socket()).map(|part| (part.split().name(), length(part))).collect()
    }

    #[test]
    fn syn_sent_has_search_and_answer() {
        let search = Some(Nanos(3));
        let answered =
            Event { search, to: TcpState::Established, ..event(TcpState::SynSent, Some(10), None) };
        assert_eq!(parts(&answered), [("fin", Some(10)), ("search", Some(3)), ("answer", Some(7))]);
        let no_port = Event {
            search: Some(Nanos(10)),
            end_reason: Some(EndReason::NoPort),
            ..event(TcpState::SynSent, Some(10), None)
        };
        assert_eq!(parts(&no_port), [("no_port", Some(10)), ("search", Some(10))]);
        let unknown = Event { to: TcpState::Established, ..event(TcpState::SynSent, Some(10), None) };
        assert_eq!(parts(&unknown), [("fin", Some(10))]);
    }

    #[test]
    fn fin_wait2_has_held_and_orphan_parts() {
        // (dwell, without an owner for, parts)
        for (dwell, orphan_for, wanted) in [
            (Some(10), None, vec![("fin", Some(10)), ("held", Some(10))]),
            (Some(10), Some(4), vec![("fin", Some(10)), ("orphan", Some(4)), ("held", Some(6))]),
            (Some(10), Some(10), vec![("fin", Some(10)), ("orphan", Some(10))]),
            (Some(10), Some(12), vec![("fin", Some(10)), ("orphan", Some(10))]),
            (Some(10), Some(0), vec![("fin", Some(10)), ("orphan", Some(0)), ("held", Some(10))]),
            (None, None, vec![("fin", None), ("held", None)]),
            (None, Some(4), vec![("fin", None), ("orphan", None)]),
        ] {
            assert_eq!(
                parts(&event(TcpState::FinWait2, dwell, orphan_for)),
                wanted,
                "{dwell:?} {orphan_for:?}"
            );
        }
        let inferred = Some(Dwell { length: Nanos(4), bound: Bound::Inferred });
        let bounds: Vec<_> = PackedDwell::of(
            &Event { orphan_for: inferred, ..event(TcpState::FinWait2, Some(10), None) },
            &socket(),
        )
        .map(|part| part.dwell().map(|dwell| dwell.bound))
        .collect();
        assert_eq!(
            bounds,
            [Bound::Exact, Bound::Inferred, Bound::Inferred].map(Some),
            "where they meet is inferred"
        );
        let expired = EndReason::Expired;
        let ended = Event { end_reason: Some(expired), ..event(TcpState::TimeWait, Some(5), Some(3)) };
        assert_eq!(parts(&ended), [("expired", Some(5))]);
        assert_eq!(parts(&Event { begins: true, ..event(TcpState::Established, Some(5), None) }), []);
    }
}
