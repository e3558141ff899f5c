//! The eBPF program of tcptrace. One hook, one file; `kernel` makes the only reads of kernel
//! memory, `emit` the only reservations in the ring buffer.

#![no_std]
#![no_main]

mod emit;
mod hooks;
mod kernel;
mod maps;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
