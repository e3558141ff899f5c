//! Stacks of the code that opens connections, closes them first, or forgets them.

mod folded;
mod json;
mod listed;
mod pprof;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, Write};

pub use self::listed::{ListedStack, StackFormat, StackLayout, StackSubject, comm, counted, mark, name};
use crate::aggregate::Snapshot;

/// Writes the stacks of `snapshot`.
pub fn write(out: &mut impl Write, snapshot: &Snapshot, layout: &StackLayout) -> io::Result<()> {
    match layout.format {
        StackFormat::Text => text::write(out, snapshot, layout),
        StackFormat::Folded => folded::write(out, snapshot, layout.on),
        StackFormat::Pprof => pprof::write(out, snapshot, layout.on),
        StackFormat::Json => json::write(out, snapshot, layout.on),
    }
}
