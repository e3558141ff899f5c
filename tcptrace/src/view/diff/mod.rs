//! Compares two recordings ([`Recorded`]) and writes the differences as text or JSON.

mod chance;
mod compare;
pub mod fail_on;
pub mod json;
pub mod text;

pub use compare::{Diff, Recorded};

#[cfg(test)]
mod tests;
