//! Writes stacks as folded lines: program and functions, outermost first, separated by semicolons, then the count.

use std::io::{self, Write};

use super::listed::{StackSubject, comm, counted, name};
use crate::aggregate::Snapshot;

pub(super) fn write(out: &mut impl Write, snapshot: &Snapshot, on: StackSubject) -> io::Result<()> {
    for counted in counted(snapshot, on) {
        write!(out, "{}", comm(counted.process).replace(';', ":"))?;
        let frames = counted.stack.map(|stack| stack.frames.as_slice()).unwrap_or_default();
        if frames.is_empty() {
            write!(out, ";[unknown]")?;
        }
        for frame in frames.iter().rev() {
            write!(out, ";{}", name(frame).replace(';', ":"))?;
        }
        writeln!(out, " {}", counted.count)?;
    }
    Ok(())
}
