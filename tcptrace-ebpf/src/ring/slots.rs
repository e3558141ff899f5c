//! Memory-mapped rings of slots. A CPU claims the next slot of its ring by a compare-and-exchange of the cursor, since a
//! program may be interrupted by another one, or (since 7.0) lose its CPU to one.

use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg, atomic_xchg};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_RB_FORCE_WAKEUP},
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, RingBuf},
};
use tcptrace_common::{
    config::ring,
    record::{Cursors, Slot},
};

use crate::maps::config;

/// The slots of all rings.
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The cursors of each ring.
#[map]
static CURSORS: Array<Cursors> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Wakes the reader; carries nothing.
#[map]
static ALARM: RingBuf = RingBuf::with_byte_size(ring::SMALLEST, 0);

/// Attempts to claim a slot: each fails only if another program runs between two instructions.
const ATTEMPTS: u32 = 4;

/// A claimed slot.
pub struct SlotClaim {
    slot: *mut Slot,
    position: u64,
    unread: u64,
}

impl SlotClaim {
    /// Claims the next slot of this CPU's ring; `None` if it is full.
    #[inline(always)]
    pub fn reserve() -> Option<Self> {
        // SAFETY: the helper has no preconditions.
        let number = unsafe { bpf_get_smp_processor_id() } & config!(ring_mask);
        let slots = config!(ring_slots) as u64;
        let cursors = CURSORS.get_ptr_mut(number)?;
        for _ in 0..ATTEMPTS {
            // SAFETY: the map's memory, aligned; other CPUs and user space change it only as a whole.
            let (position, read) = unsafe {
                (
                    (&raw const (*cursors).claimed).read_volatile(),
                    (&raw const (*cursors).read).read_volatile(),
                )
            };
            let unread = position.wrapping_sub(read);
            if (unread as i64) < 0 {
                // Between the two reads another program claimed this slot, and user space read it.
                continue;
            }
            if unread >= slots {
                return None;
            }
            // SAFETY: as above.
            let (_, is_claimed) = unsafe {
                atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(
                    &raw mut (*cursors).claimed,
                    position,
                    position + 1,
                )
            };
            if is_claimed {
                let index = number as u64 * slots + (position & (slots - 1));
                return Some(Self { slot: SLOTS.get_ptr_mut(index as u32)?, position, unread });
            }
        }
        None
    }

    /// Where the record belongs.
    #[inline(always)]
    pub fn slot(&mut self) -> *mut Slot {
        self.slot
    }

    /// Makes the record visible. Each quarter of the ring that fills wakes the reader, which otherwise polls.
    #[inline(always)]
    pub fn submit(self) {
        let sequence = self.position + 1;
        // SAFETY: this program's slot until now.
        let visible = unsafe { &raw mut (*self.slot).sequence };
        if config!(ordered_writes) != 0 {
            // SAFETY: as above. An exchange would wait until the caches have all lines of the slot.
            unsafe { visible.write_volatile(sequence) };
        } else {
            // SAFETY: as above. The exchange orders the writes before it.
            unsafe { atomic_xchg::<u64, { SeqCst }>(visible, sequence) };
        }
        let quarter = config!(ring_slots) as u64 / 4;
        if self.unread != 0
            && self.unread & (quarter - 1) == 0
            && let Some(alarm) = ALARM.reserve::<u64>(0)
        {
            alarm.discard(BPF_RB_FORCE_WAKEUP as u64);
        }
    }
}
