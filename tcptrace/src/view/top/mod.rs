//! Live view of socket states per service (`top`).
//!
//! Renders a [`Snapshot`](crate::aggregate::Snapshot) as [plain] text, one [json] document, or a screen ([`run()`]).
//! Plain text and the screen show the same columns, see [`columns`].
//!
//! The [`keymap`] maps a [`key`] to an [`action`], the [`mouse`] maps events to actions directly, the action updates
//! the [`state`], and [`screen`] draws the state in the colours of the [`theme`]. Only [`run()`] and [`terminal`]
//! access the terminal.

mod action;
pub mod columns;
mod config;
#[cfg(test)]
pub(crate) mod fixture;
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
mod unknown_name;
mod verdict;

pub use config::{ConfigError, ScreenConfig};
pub use run::{replay, run};
pub use settings::ScreenSettings;
pub use theme::{Colours, Environment, TerminalStyle};
