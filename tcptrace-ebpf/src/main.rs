//! The eBPF program of tcptrace, one file per hook. Only `kernel` reads kernel memory, only `emit` reserves space in
//! the rings; `stack` does both for user stacks.

#![no_std]
#![no_main]
// Atomic instructions, see `ring/slots.rs`.
#![cfg_attr(not(feature = "ringbuf"), feature(core_intrinsics), allow(internal_features))]

mod emit;
mod hooks;
mod kernel;
mod maps;
mod ring;
mod stack;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
