//! `top`: which services have how many sockets in which state, now.
//!
//! A [`Snapshot`](crate::aggregate::Snapshot) in; plain text, one JSON document, or a screen out. All
//! three show the same: [`columns`] is what plain text and the screen have in common.

mod app;
pub mod columns;
#[cfg(test)]
mod fixture;
mod input;
pub mod json;
pub mod plain;
pub mod screen;
mod sort;
mod summary;
mod table;
