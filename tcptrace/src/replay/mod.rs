//! A recording that can be gone through in any order: a file in, the pictures of a straight replay out, and an
//! [`Index`] of what was when.
//!
//! The file is read once from end to end, which makes the index; on the way the state is kept now and then
//! ([`checkpoints`]). To show a moment, the state before it is taken up again and the records up to there are
//! read anew ([`Player`]). [`drive`] does it on a thread of its own, at the pace and to the places that the user
//! asks for.

mod checkpoints;
mod drive;
mod index;
mod moment;
mod player;

pub use drive::{Command, Drive, Request, SPEEDS, Status, drive};
pub use index::{Frame, Index, Mark, Peak};
pub use moment::{EXPECTED, Here};
pub use player::{Player, Shown, Wanted};

#[cfg(test)]
mod tests;
