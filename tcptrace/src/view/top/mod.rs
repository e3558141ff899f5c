//! `top`: which services have how many sockets in which state, now.
//!
//! A [`Snapshot`](crate::aggregate::Snapshot) in; [plain] text, one [json] document, or a screen ([`run()`]) out.
//! Plain text and the screen show the same columns, see [`columns`].

mod app;
pub mod columns;
#[cfg(test)]
pub(super) mod fixture;
mod input;
pub mod json;
pub mod plain;
mod run;
mod screen;
mod sort;
pub(super) mod summary;
pub(super) mod table;
mod terminal;

use app::App;
pub use run::run;
pub use screen::{Colours, Look};
