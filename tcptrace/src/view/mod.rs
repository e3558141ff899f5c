//! Views: render [`crate::lifecycle::Event`]s and [`crate::aggregate::Snapshot`]s as text, JSON and files.
//!
//! A view gets its data, a writer, and a layout (format, width, time zone). It reads nothing else and changes nothing.

pub mod check;
mod clock;
pub mod diff;
pub mod doctor;
mod document;
pub mod events;
pub mod explain;
pub mod export;
pub mod glyphs;
pub mod hist;
pub mod joined;
pub mod losses;
pub mod metrics;
pub mod ports;
pub mod report;
pub mod stacks;
pub mod states;
pub mod top;
