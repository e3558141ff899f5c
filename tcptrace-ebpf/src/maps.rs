//! Defines the maps shared with user space, and the configuration that user space writes before loading.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, RingBuf},
};
use tcptrace_common::{
    config::{Config, learned, ring},
    filter::{Ends, KernelFilter, Term, test},
    record::{Reentrant, loss},
};

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

/// The child that a listener created last on this CPU, as long as its creation was not reported.
#[map]
static NEW_CHILD: PerCpuArray<NewChild> = PerCpuArray::with_max_entries(1, 0);

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
    /// socket in one go, in FIN_WAIT2 or CLOSING. Its CLOSE tells nothing then. State and time rule out a later connection of the
    /// same descriptor, which has the same cookie.
    #[inline(always)]
    pub fn is_noted(self) -> bool {
        let Some(slot) = HANDED_OVER.get_ptr_mut(0) else { return false };
        // SAFETY: as above.
        let noted = unsafe { *slot };
        noted.cookie == self.cookie && self.at.wrapping_sub(noted.at) <= 1
    }
}

/// A child that a listener has just created (`inet_csk_clone_lock()`). Usually the softirq that creates it also cancels the
/// timer of its request socket, and moves it on from SYN_RECV: the record of that says all.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct NewChild {
    /// Its address; 0: none.
    pub object: u64,
    pub cookie: u64,
    /// When it was created.
    pub ts_ns: u64,
    /// The same in jiffies: later another connection may have its ends.
    pub at: u64,
    pub ends: Ends,
    /// Whether the timer of its request socket was cancelled. There is none with syncookies.
    pub is_replaced: u32,
    /// Keeps the length a multiple of 8.
    pub reserved: u32,
}

impl NewChild {
    /// Notes this child.
    #[inline(always)]
    pub fn note(self) -> bool {
        let Some(slot) = NEW_CHILD.get_ptr_mut(0) else { return false };
        // SAFETY: the slot belongs to this CPU. A program of another task may overwrite it since 7.0: then the timer is
        // reported, and user space derives the creation from the next transition.
        unsafe { *slot = self };
        true
    }

    /// Whether the request socket with these ends, whose timer is cancelled now, is replaced by the child.
    #[inline(always)]
    pub fn replaces(ends: &Ends, now: u64) -> bool {
        let Some(slot) = NEW_CHILD.get_ptr_mut(0) else { return false };
        // SAFETY: as above.
        unsafe {
            let is_it = (*slot).object != 0
                && (*slot).is_replaced == 0
                && (*slot).ends == *ends
                && now.wrapping_sub((*slot).at) <= 1;
            if is_it {
                (*slot).is_replaced = 1;
            }
            is_it
        }
    }

    /// The socket at `object` leaves SYN_RECV. Its creation if it was not reported, and no request socket implies it.
    #[inline(always)]
    pub fn take_unreported(object: u64, cookie: u64) -> Option<u64> {
        let slot = NEW_CHILD.get_ptr_mut(0)?;
        // SAFETY: as above.
        unsafe {
            if (*slot).object != object || (*slot).cookie != cookie {
                return None;
            }
            (*slot).object = 0;
            ((*slot).is_replaced == 0).then_some((*slot).ts_ns)
        }
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
