//! Progress bar of a long read: one line on stderr, if that is a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use crate::model::units;

/// A read shorter than this shows no bar.
const BAR_DELAY: Duration = Duration::from_millis(500);
/// Redraw interval.
const EVERY: Duration = Duration::from_millis(100);
/// Width of the bar in characters.
const BAR: u64 = 30;

/// A progress line, cleared on drop.
pub struct Progress {
    what: String,
    length: Option<u64>,
    next: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    /// Starts without a line; `length` is the total number of bytes, if known.
    pub fn new(what: String, length: Option<u64>) -> Self {
        let next = io::stderr().is_terminal().then(|| Instant::now() + BAR_DELAY);
        Self { what, length, next, is_shown: false }
    }

    /// Updates the position.
    pub fn at(&mut self, position: u64) {
        let Some(next) = self.next else { return };
        let now = Instant::now();
        if now < next {
            return;
        }
        self.next = Some(now + EVERY);
        self.is_shown = true;
        show_status(&format!("{} {}", self.what, bar(position, self.length)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            show_status("");
        }
    }
}

/// Replaces the status line on stderr, if that is a terminal.
pub fn show_status(line: &str) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        // A closed terminal must not stop the command.
        let _ = write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush());
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
    fn bar_length_matches_the_part_read() {
        assert_eq!(bar(0, Some(200)), "[..............................]   0% of 200 B");
        assert_eq!(bar(100, Some(200)), "[###############...............]  50% of 200 B");
        assert_eq!(bar(300, Some(200)), "[##############################] 100% of 200 B");
        assert_eq!(bar(300, None), "300 B");
        assert_eq!(bar(300, Some(0)), "300 B");
    }
}
