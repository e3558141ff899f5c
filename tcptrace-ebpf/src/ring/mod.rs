//! The rings between the programs and user space, see [`tcptrace_common::config::ring`]. Only `emit` uses them.

#[cfg(feature = "ringbuf")]
mod ringbuf;
#[cfg(not(feature = "ringbuf"))]
mod slots;

#[cfg(feature = "ringbuf")]
pub use ringbuf::BufferEntry as RingEntry;
#[cfg(not(feature = "ringbuf"))]
pub use slots::SlotClaim as RingEntry;
