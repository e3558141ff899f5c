//! The way into the kernel: what is possible here (`preflight`), where its fields are (`btf`,
//! `symbols`), the program (`loader`), and what comes out of it (`rings`).
//!
//! The only place that knows `aya`.

pub mod btf;
mod counters;
mod decode;
mod learn;
mod loader;
mod loopback;
pub mod preflight;
mod rings;
mod symbols;

pub use decode::decode;
pub use loader::{Hook, Hooks, LoadError, Options, Tracer, object_sha256};
pub use loopback::Loopback;
