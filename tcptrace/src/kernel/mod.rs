//! Interface to the kernel: what this host allows (`preflight`), where the fields are (`btf`, `symbols`), the eBPF
//! program (`loader`), and its records (`rings`).
//!
//! Only this module uses `aya`.

mod any_ring;
pub mod btf;
mod counters;
mod decode;
mod doubles;
mod identity;
mod learn;
mod loader;
mod loopback;
mod mapped_files;
mod memlock;
mod object;
pub mod preflight;
mod rings;
mod slot_ring;
mod stacks;
mod symbols;

pub use decode::decode;
pub use loader::{Disabled, Options, Tracer};
pub use loopback::Loopback;
pub use mapped_files::{replaced_pages, survive_truncation};
pub use object::{LoadError, RingKind, object_sha256};
pub use stacks::{CallerWord, CapturedStack};
