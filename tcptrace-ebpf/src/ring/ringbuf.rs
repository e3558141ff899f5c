//! The kernel's ring buffers, for kernels whose programs can't claim a slot.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{RingBuf, ring_buf::RingBufEntry},
};
use tcptrace_common::{
    config::ring,
    record::{SLOT_LEN, Slot},
};

use crate::maps::config;

/// Ring buffers for records, named as in [`ring::BUFFERS`]. User space sets their number and size.
macro_rules! rings {
    ($($name:ident)+) => {
        $(
            #[map]
            static $name: RingBuf = RingBuf::with_byte_size(ring::SMALLEST, 0);
        )+
    };
}
rings!(RING_0 RING_1 RING_2 RING_3 RING_4 RING_5 RING_6 RING_7);

/// Calls a method of this CPU's ring. The verifier knows the mask and removes the branches of unused rings.
macro_rules! of_this_ring {
    ($($call:tt)+) => {
        // SAFETY: the helper has no preconditions.
        match unsafe { bpf_get_smp_processor_id() } & config!(ring_mask) {
            0 => RING_0.$($call)+,
            1 => RING_1.$($call)+,
            2 => RING_2.$($call)+,
            3 => RING_3.$($call)+,
            4 => RING_4.$($call)+,
            5 => RING_5.$($call)+,
            6 => RING_6.$($call)+,
            _ => RING_7.$($call)+,
        }
    };
}

/// A reserved entry.
pub struct BufferEntry(RingBufEntry<Slot>);

impl BufferEntry {
    /// Reserves an entry of this CPU's ring; `None` if it is full.
    #[inline(always)]
    pub fn reserve() -> Option<Self> {
        of_this_ring!(reserve(0)).map(Self)
    }

    /// Where the record belongs.
    #[inline(always)]
    pub fn slot(&mut self) -> *mut Slot {
        self.0.as_mut_ptr()
    }

    /// Makes the record visible. Waking the reader costs more than a record: it polls, and is woken early only when a
    /// quarter of the ring is unread.
    #[inline(always)]
    pub fn submit(self) {
        let unread = of_this_ring!(query(BPF_RB_AVAIL_DATA as u64));
        let is_filling = unread > config!(ring_slots) as u64 / 4 * SLOT_LEN as u64;
        self.0.submit(if is_filling { BPF_RB_FORCE_WAKEUP as u64 } else { BPF_RB_NO_WAKEUP as u64 });
    }
}
