//! Seekable replay of a recording: shows any moment exactly as a straight replay does.
//!
//! The file is read once from start to end to build the [`Index`], and the state is saved now and then
//! ([`checkpoints`]). To show a moment, [`Player`] restores the checkpoint before it and reads the records up to it
//! again. [`player_thread`] does this on its own thread, at the speed and positions that the user requests.

mod checkpoints;
mod index;
mod moment;
mod player;
mod player_thread;

pub use index::{Direction, Frame, Index, Mark};
pub use moment::{EXPECTED, Here};
pub use player::{Player, SeekResult, SeekTarget};
pub use player_thread::{Drive, ReplayCommand, ReplayStatus, Request, SPEEDS, drive};

#[cfg(test)]
mod tests;
