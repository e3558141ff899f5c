//! The rings between the programs and user space, see [`tcptrace_common::config::ring`]. Only `emit` uses them.

#[cfg(feature = "ringbuf")]
#[path = "ringbuf.rs"]
mod kind;
#[cfg(not(feature = "ringbuf"))]
#[path = "slots.rs"]
mod kind;

pub use kind::Entry;
