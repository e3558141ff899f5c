//! Defines the maps shared with user space, and the configuration that user space writes before loading.

use aya_ebpf::{
    bindings::BPF_RB_AVAIL_DATA,
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, RingBuf, ring_buf::RingBufEntry},
};
use tcptrace_common::{
    config::{Config, learned, ring},
    filter::{KernelFilter, Term, test},
    record::{Reentrant, loss},
};

/// Ring buffers for records, named as in [`ring::MAPS`]. User space sets their number and size.
macro_rules! rings {
    ($($name:ident)+) => {
        $(
            #[map]
            static $name: RingBuf = RingBuf::with_byte_size(ring::SMALLEST, 0);
        )+
    };
}
rings!(RING_0 RING_1 RING_2 RING_3 RING_4 RING_5 RING_6 RING_7);

/// [`RawStack`](tcptrace_common::record::RawStack)s. User space sets its size where stacks are captured.
#[map]
pub static STACKS: RingBuf = RingBuf::with_byte_size(ring::SMALLEST, 0);

/// Calls of a process in the current second: by process id and kind of call, see `stack`.
#[map]
pub static CALLS: LruHashMap<u64, CallCount> = LruHashMap::with_max_entries(2048, 0);

/// Calls in one second.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CallCount {
    /// In units of about a second (2^30 ns).
    pub second: u32,
    pub calls: u32,
}

/// Lost events by cause, see [`tcptrace_common::loss`].
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// The event that a copy of a program attached more than once has just handled on this CPU, by hook.
#[map]
static HANDLED: PerCpuArray<Handled> = PerCpuArray::with_max_entries(Reentrant::ALL.len() as u32, 0);

/// The full socket whose timewait socket was reported last on this CPU.
#[map]
static HANDED_OVER: PerCpuArray<HandOver> = PerCpuArray::with_max_entries(1, 0);

/// Handler addresses learned by `hooks::learn`.
#[map]
pub static LEARNED: Array<u64> = Array::with_max_entries(learned::COUNT, 0);

/// Identity of one event of one hook.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Handled {
    pub object: u64,
    pub detail: u64,
}

impl Handled {
    /// In the copy with the number `copy`, from 0: whether an earlier one has just handled this event on this CPU.
    /// Counts a missing mark. Leaves a mark for the next copy; the last one removes it.
    #[inline(always)]
    pub fn is_handled(self, hook: Reentrant, copy: u32) -> bool {
        let Some(mark) = HANDLED.get_ptr_mut(hook as u32) else { return false };
        // SAFETY: the slot belongs to this CPU; a nested program may overwrite it, which causes a duplicate.
        let is_marked = copy > 0 && unsafe { *mark } == self;
        if copy > 0 && !is_marked {
            count(loss::COVERED + hook as u32);
        }
        let is_last = copy + 1 == config!(copies);
        if is_last && is_marked {
            // SAFETY: as above.
            unsafe { (*mark).object = 0 };
        } else if !is_last && !is_marked {
            // SAFETY: as above.
            unsafe { *mark = self };
        }
        is_marked
    }
}

/// A full socket that a timewait socket replaces.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HandOver {
    pub cookie: u64,
    /// When, in jiffies.
    pub at: u64,
}

impl HandOver {
    /// Notes that the timer of the timewait socket was reported.
    #[inline(always)]
    pub fn note(self) {
        if let Some(slot) = HANDED_OVER.get_ptr_mut(0) {
            // SAFETY: the slot belongs to this CPU; a nested program may overwrite it, and CLOSE is reported then.
            unsafe { *slot = self };
        }
    }

    /// Whether this full socket was handed over just now, on this CPU: `tcp_time_wait()` arms the timer and ends the full
    /// socket in one go. Its CLOSE tells nothing then. The time rules out a later connection of the same descriptor, which
    /// has the same cookie.
    #[inline(always)]
    pub fn is_noted(self) -> bool {
        let Some(slot) = HANDED_OVER.get_ptr_mut(0) else { return false };
        // SAFETY: as above.
        let noted = unsafe { *slot };
        noted.cookie == self.cookie && self.at.wrapping_sub(noted.at) <= 1
    }
}

/// Written by the loader; constants for the verifier.
// SAFETY: every field is an integer.
#[unsafe(no_mangle)]
pub static CONFIG: Config = unsafe { core::mem::zeroed() };

/// One value of the configuration. The read is volatile: the compiler must not assume the zeros above.
macro_rules! config {
    ($($field:ident).+) => {
        // SAFETY: CONFIG is initialised and never written while the program is loaded.
        unsafe { core::ptr::read_volatile(&raw const crate::maps::CONFIG.$($field).+) }
    };
}
pub(crate) use config;

/// Calls a method of this CPU's ring. The verifier knows the mask and removes the branches of unused rings.
macro_rules! of_this_ring {
    ($($asked:tt)+) => {
        // SAFETY: the helper has no preconditions.
        match unsafe { bpf_get_smp_processor_id() } & config!(ring_mask) {
            0 => RING_0.$($asked)+,
            1 => RING_1.$($asked)+,
            2 => RING_2.$($asked)+,
            3 => RING_3.$($asked)+,
            4 => RING_4.$($asked)+,
            5 => RING_5.$($asked)+,
            6 => RING_6.$($asked)+,
            _ => RING_7.$($asked)+,
        }
    };
}

/// Reserves space for a record in this CPU's ring.
#[inline(always)]
pub fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    of_this_ring!(reserve(0))
}

/// Unread bytes in this CPU's ring.
#[inline(always)]
pub fn waiting() -> u64 {
    of_this_ring!(query(u64::from(BPF_RB_AVAIL_DATA)))
}

/// Whether the programs are disabled: they still run, but the verifier removes everything else.
#[inline(always)]
pub fn is_idle() -> bool {
    config!(idle) != 0
}

/// The record filter; written and read like `CONFIG`.
// SAFETY: every field is an integer.
#[unsafe(no_mangle)]
pub static FILTER: KernelFilter = unsafe { core::mem::zeroed() };

/// The term at `index` of the filter, read field by field: the verifier tracks a constant that was loaded, not one that
/// was copied to the stack. For an empty term only the test is read.
#[inline(always)]
pub fn filter_term(index: usize) -> Term {
    let term = &raw const FILTER.terms[index];
    // SAFETY: as for CONFIG; `index` was checked.
    unsafe {
        let tested = (&raw const (*term).test).read_volatile();
        if tested == test::NONE {
            return Term { network: [0; 2], mask: [0; 2], low: 0, high: 0, test: tested, ends_clause: 0 };
        }
        Term {
            network: [
                (&raw const (*term).network[0]).read_volatile(),
                (&raw const (*term).network[1]).read_volatile(),
            ],
            mask: [
                (&raw const (*term).mask[0]).read_volatile(),
                (&raw const (*term).mask[1]).read_volatile(),
            ],
            low: (&raw const (*term).low).read_volatile(),
            high: (&raw const (*term).high).read_volatile(),
            test: tested,
            ends_clause: (&raw const (*term).ends_clause).read_volatile(),
        }
    }
}

/// Counts one loss of `cause` on this CPU.
#[inline(always)]
pub fn count(cause: u32) -> u64 {
    match LOSSES.get_ptr_mut(cause) {
        // SAFETY: the slot belongs to this CPU; a nested program may lose one increment at worst.
        Some(slot) => unsafe {
            *slot += 1;
            *slot
        },
        None => 0,
    }
}
