//! What is shown: each view turns events, counts or a snapshot into text, JSON or a screen.
//!
//! A view gets what it shows, a writer, and how to write (format, width, time zone). It reads nothing
//! else and changes nothing.

pub mod events;
pub mod explain;
pub mod states;
pub mod top;
