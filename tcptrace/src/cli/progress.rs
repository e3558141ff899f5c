//! How far a long read has come: a line on stderr, where that is a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use crate::{
    model::{Record, units},
    session::Reader,
    source::{Flow, Source},
};

/// A file that is read within this time needs no line.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the line is written anew.
const EVERY: Duration = Duration::from_millis(100);
/// Characters of the bar.
const BAR: u64 = 30;

/// A line that is there as long as this value.
pub struct Progress {
    what: String,
    length: Option<u64>,
    next: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    /// Nothing shown yet; `length` is where it ends, where that is known.
    pub fn new(what: String, length: Option<u64>) -> Self {
        let next = io::stderr().is_terminal().then(|| Instant::now() + PATIENCE);
        Self { what, length, next, is_shown: false }
    }

    /// So far.
    pub fn at(&mut self, position: u64) {
        let Some(next) = self.next else { return };
        let now = Instant::now();
        if now < next {
            return;
        }
        self.next = Some(now + EVERY);
        self.is_shown = true;
        let mut stderr = io::stderr().lock();
        // A terminal that is gone is no reason to stop reading.
        let _ = write!(stderr, "\r\x1b[K{} {}", self.what, bar(position, self.length));
        let _ = stderr.flush();
    }
}

/// A recording with a line that says how much of it has been read.
pub struct Watched {
    reader: Reader,
    progress: Progress,
}

impl Watched {
    /// `name` is that of the recording, as it may be shown.
    pub fn new(reader: Reader, name: &str) -> Self {
        let progress = Progress::new(format!("reading {name}"), reader.length());
        Self { reader, progress }
    }
}

impl Source for Watched {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> anyhow::Result<Flow> {
        let flow = self.reader.fill(take);
        self.progress.at(self.reader.position());
        flow
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

fn bar(position: u64, length: Option<u64>) -> String {
    let read = units::bytes(position);
    let Some(length) = length.filter(|&length| length > 0) else { return read };
    // A file can grow while it is read.
    let part = position.min(length);
    let done = (part.saturating_mul(BAR) / length) as usize;
    let left = BAR as usize - done;
    format!(
        "[{}{}] {:>3}% of {}",
        "#".repeat(done),
        ".".repeat(left),
        part * 100 / length,
        units::bytes(length)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_what_is_read() {
        assert_eq!(bar(0, Some(200)), "[..............................]   0% of 200 B");
        assert_eq!(bar(100, Some(200)), "[###############...............]  50% of 200 B");
        assert_eq!(bar(300, Some(200)), "[##############################] 100% of 200 B");
        assert_eq!(bar(300, None), "300 B");
        assert_eq!(bar(300, Some(0)), "300 B");
    }
}
