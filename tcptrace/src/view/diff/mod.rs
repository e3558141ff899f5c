//! What changed from one recording to another: two [`Recorded`] in, text or JSON out.

mod chance;
mod compare;
pub mod json;
pub mod text;

pub use compare::{Diff, Recorded};

#[cfg(test)]
mod tests;
