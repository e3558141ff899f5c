//! Reads memory-mapped rings: arrays of slots that the programs fill (`tcptrace-ebpf/src/ring/slots.rs`).

use std::{
    io,
    os::fd::AsFd,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tcptrace_common::record::{Cursors, SLOT_LEN, Slot};

use super::{
    decode::decode,
    rings::{Ring, RingHead, SEQUENCE_LEN},
};

/// The memory of an array map.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it is memory shared with the kernel; each user states why no two writers meet.
unsafe impl Send for Mapping {}
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the `length` bytes of an array map, which the kernel rounds up to whole pages.
    fn new(map: impl AsFd, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping, which replaces none.
        let start = unsafe {
            mmap(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; no reference outlives it.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// One ring.
pub(super) struct SlotRing {
    slots: Arc<Mapping>,
    cursors: Arc<Mapping>,
    number: usize,
    mask: u64,
    /// The next slot to read.
    position: u64,
}

impl SlotRing {
    /// The `count` rings of `slots` slots each, a power of two, in the two maps.
    pub fn all(
        slot_map: impl AsFd,
        cursor_map: impl AsFd,
        count: usize,
        slots: usize,
    ) -> io::Result<Vec<Self>> {
        let slot_memory = Arc::new(Mapping::new(slot_map, count * slots * SLOT_LEN)?);
        let cursor_memory = Arc::new(Mapping::new(cursor_map, count * size_of::<Cursors>())?);
        let ring = |number| Self {
            slots: Arc::clone(&slot_memory),
            cursors: Arc::clone(&cursor_memory),
            number,
            mask: slots as u64 - 1,
            position: 0,
        };
        Ok((0..count).map(ring).collect())
    }

    fn cursors(&self) -> &Cursors {
        // SAFETY: in bounds by construction, aligned as the array's elements are.
        unsafe { self.cursors.start.cast::<Cursors>().add(self.number).as_ref() }
    }

    fn slot(&self) -> *const Slot {
        let slots = self.mask as usize + 1;
        let index = self.number * slots + (self.position & self.mask) as usize;
        // SAFETY: in bounds by construction.
        unsafe { self.slots.start.cast::<Slot>().add(index).as_ptr() }
    }
}

/// A number that the kernel or this process writes.
///
/// # Safety
/// `number` is valid for as long as the result is used.
unsafe fn shared<'a>(number: *const u64) -> &'a AtomicU64 {
    // SAFETY: by contract; everybody accesses it as a whole.
    unsafe { AtomicU64::from_ptr(number.cast_mut()) }
}

impl Ring for SlotRing {
    fn next(&mut self) -> RingHead {
        let slot = self.slot();
        // SAFETY: in the mapping.
        let (sequence, claimed) =
            unsafe { (shared(&raw const (*slot).sequence), shared(&raw const self.cursors().claimed)) };
        let is_complete = || sequence.load(Ordering::Acquire) == self.position + 1;
        // Again: a slot may have been claimed and completed in between.
        if !is_complete() && claimed.load(Ordering::Acquire) == self.position && !is_complete() {
            return RingHead::Nothing;
        }
        if !is_complete() {
            return RingHead::Unfinished;
        }
        // SAFETY: complete, so no program writes it until the read cursor has passed it.
        let copy = unsafe { slot.read() };
        self.position += 1;
        decode(&bytemuck::bytes_of(&copy)[SEQUENCE_LEN..]).map_or(RingHead::Unknown, RingHead::Record)
    }

    fn release(&mut self) {
        // SAFETY: in the mapping; only this process writes it.
        unsafe { shared(&raw const self.cursors().read) }.store(self.position, Ordering::Release);
    }
}
