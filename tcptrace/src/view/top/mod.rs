//! `top`: which services have how many sockets in which state, now.
//!
//! A [`Snapshot`](crate::aggregate::Snapshot) in; [plain] text, one [json] document, or a screen ([`run()`]) out.
//! Plain text and the screen show the same columns, see [`columns`].
//!
//! The screen is made in rooms: a [`key`] (or the [`mouse`]) asks for an [`action`] by the [`keymap`], the
//! action changes the [`state`], and [`screen`] draws the state in the colours of the [`theme`]. Only [`run`]
//! and [`terminal`] touch the terminal.

mod action;
pub mod columns;
mod config;
#[cfg(test)]
pub(super) mod fixture;
mod insight;
pub mod json;
mod key;
mod keymap;
mod mouse;
#[doc(hidden)]
pub mod offscreen;
pub mod plain;
mod run;
mod screen;
mod settings;
mod sort;
mod state;
pub(super) mod summary;
pub(super) mod table;
mod terminal;
mod theme;

pub use config::{Config, ConfigError};
pub use run::{replay, run};
pub use settings::Settings;
pub use theme::{Colours, Environment, Look};
