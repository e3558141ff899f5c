//! The maps shared with user space, and the configuration it writes before the program is loaded.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray, RingBuf},
};
use tcptrace_common::{
    config::{Config, learned},
    record::loss,
};

/// Records on their way to user space. User space sets the size.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// What could not be reported, by [`tcptrace_common::loss`].
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// The transition that the first copy of the set_state program has just handled on this CPU.
#[map]
pub static HANDLED: PerCpuArray<Handled> = PerCpuArray::with_max_entries(1, 0);

/// Handler addresses found by `hooks::learn`.
#[map]
pub static LEARNED: Array<u64> = Array::with_max_entries(learned::COUNT, 0);

/// Names one transition of one socket.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Handled {
    pub sock: u64,
    pub states: u64,
}

/// Written by the loader; constants for the verifier.
// SAFETY: every field is an integer.
#[unsafe(no_mangle)]
pub static CONFIG: Config = unsafe { core::mem::zeroed() };

/// One value of the configuration. The read is volatile: the compiler must not see the zeros above.
macro_rules! config {
    ($($field:ident).+) => {
        // SAFETY: CONFIG is initialised and never written while the program is loaded.
        unsafe { core::ptr::read_volatile(&raw const crate::maps::CONFIG.$($field).+) }
    };
}
pub(crate) use config;

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
