//! A ring of either kind.

use aya::maps::{MapData, RingBuf};

use super::{
    rings::{Ring, RingHead},
    slot_ring::SlotRing,
};

/// The kinds of rings.
pub(super) enum AnyRing {
    Slots(SlotRing),
    Buffer(RingBuf<MapData>),
}

impl Ring for AnyRing {
    fn next(&mut self) -> RingHead {
        match self {
            Self::Slots(ring) => ring.next(),
            Self::Buffer(ring) => Ring::next(ring),
        }
    }

    fn release(&mut self) {
        match self {
            Self::Slots(ring) => ring.release(),
            Self::Buffer(ring) => ring.release(),
        }
    }
}
