//! Formats an [`Event`] as a text line.
//!
//! Avoids `format_args!`, which costs several times as much as the rest of the line.

use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    lifecycle::{Bound, EndReason, Event, Role},
    model::{record::HostFacts, text, units},
};

/// The widths of the columns.
const STATE_WIDTH: usize = 11;
const DWELL_WIDTH: usize = 8;
/// Both ends of an IPv4 connection rarely need more.
const ENDS_WIDTH: usize = 33;

/// Whether text lines name the host; the other formats always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostColumn {
    /// All events are of one host.
    Hidden,
    /// There are several hosts.
    Shown,
}

/// Builds lines.
#[derive(Debug)]
pub struct TextLines {
    clock: Clock,
    hosts: HostColumn,
    /// The dwell as text, built first because its length decides the padding before it.
    length: String,
}

impl TextLines {
    /// Lines with times in `zone`.
    pub const fn new(zone: TimeZone, hosts: HostColumn) -> Self {
        Self { clock: Clock::new(zone), hosts, length: String::new() }
    }

    /// The header line.
    pub fn header() -> String {
        format!(
            "{:12} {:STATE_WIDTH$} {:STATE_WIDTH$} {:>DWELL_WIDTH$} {:ENDS_WIDTH$} PROCESS\n",
            "TIME", "FROM", "TO", "DWELL", "LOCAL  < in, > out  REMOTE"
        )
    }

    /// Appends the line of `event` on `host`.
    pub fn append(&mut self, line: &mut String, event: &Event<'_>, host: &HostFacts) {
        self.clock.append(line, host.wall_ns(event.ts));
        line.push(' ');
        let start = line.len();
        line.push_str(event.from.name());
        fill(line, start, STATE_WIDTH);
        let start = line.len();
        line.push_str(event.to.name());
        fill(line, start, STATE_WIDTH);
        self.dwell(line, event);
        ends(line, event);
        owner(line, event);
        let orphan = event.orphan.map(|orphan| if orphan { "orphan" } else { "held" });
        let extended = event.extended.then_some("extended");
        let reason = event.end_reason.map(EndReason::name);
        for note in [orphan, extended, reason].into_iter().flatten() {
            line.push(' ');
            if event.reason_inferred && Some(note) == reason {
                line.push('~');
            }
            line.push_str(note);
        }
        if self.hosts == HostColumn::Shown {
            line.push_str(" on ");
            line.push_str(&text::sanitise(&host.host));
        }
        line.push('\n');
    }

    fn dwell(&mut self, line: &mut String, event: &Event<'_>) {
        self.length.clear();
        let bound = match event.dwell {
            None => {
                self.length.push('-');
                ""
            }
            Some(dwell) => {
                units::push_duration(&mut self.length, dwell.length);
                match dwell.bound {
                    Bound::Exact => "",
                    Bound::AtLeast => ">=",
                    Bound::Inferred => "~",
                }
            }
        };
        spaces(line, DWELL_WIDTH.saturating_sub(bound.len() + self.length.len()));
        line.push_str(bound);
        line.push_str(&self.length);
        line.push(' ');
    }
}

fn ends(line: &mut String, event: &Event<'_>) {
    let start = line.len();
    // Writing to memory can't fail.
    let _ = event.tuple.local().write_to(line);
    let between = match event.role {
        Role::Inbound => " < ",
        Role::Outbound => " > ",
        Role::Unknown => " - ",
        Role::Listener => "",
    };
    if event.role != Role::Listener {
        line.push_str(between);
        let _ = event.tuple.remote().write_to(line);
    }
    fill(line, start, ENDS_WIDTH);
}

fn owner(line: &mut String, event: &Event<'_>) {
    match event.process {
        Some(process) => {
            line.push_str(&process.shown());
            line.push('/');
            line.push_str(itoa::Buffer::new().format(process.pid));
        }
        None => line.push('-'),
    }
}

/// Pads the column that began at `start` to `width`, and adds a separator.
fn fill(line: &mut String, start: usize, width: usize) {
    spaces(line, (start + width).saturating_sub(line.len()) + 1);
}

/// Appends `count` spaces; the widest column plus one is the maximum.
fn spaces(line: &mut String, count: usize) {
    const SPACES: &str = "                                  ";
    const { assert!(SPACES.len() == ENDS_WIDTH + 1) };
    line.push_str(&SPACES[..count]);
}

/// Formats wall-clock times as `HH:MM:SS.mmm`. Converts to local time once per second, not once per event.
#[derive(Debug)]
struct Clock {
    zone: TimeZone,
    /// The time in `shown`, in milliseconds.
    now_ms: Option<u64>,
    shown: String,
}

impl Clock {
    const fn new(zone: TimeZone) -> Self {
        Self { zone, now_ms: None, shown: String::new() }
    }

    fn append(&mut self, line: &mut String, wall_ns: u64) {
        let now_ms = wall_ns / 1_000_000;
        if self.now_ms != Some(now_ms) {
            self.show(now_ms);
        }
        line.push_str(&self.shown);
    }

    fn show(&mut self, now_ms: u64) {
        let second = now_ms / 1_000;
        if self.now_ms.is_none_or(|shown_ms| shown_ms / 1_000 != second) {
            self.shown.clear();
            // A u64 of nanoseconds is at most 18,446,744,073 seconds.
            let instant = Timestamp::from_second(second.cast_signed()).unwrap_or_default();
            let local = instant.to_zoned(self.zone.clone());
            let _ = write!(self.shown, "{:02}:{:02}:{:02}", local.hour(), local.minute(), local.second());
        } else {
            self.shown.truncate("HH:MM:SS".len());
        }
        let _ = write!(self.shown, ".{:03}", now_ms % 1_000);
        self.now_ms = Some(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_use_the_time_zone() {
        // 2026-01-02 03:04:05 UTC.
        const START_NS: u64 = 1_767_323_045_000_000_000;
        let mut clock = Clock::new(TimeZone::fixed(jiff::tz::offset(2)));
        let mut shown = |since_ns| {
            let mut line = String::new();
            clock.append(&mut line, START_NS + since_ns);
            line
        };
        let times = [7_999_999, 8_000_000, 999_999_999, 1_000_000_000, 7_000_000].map(&mut shown);
        assert_eq!(times, ["05:04:05.007", "05:04:05.008", "05:04:05.999", "05:04:06.000", "05:04:05.007"]);
    }
}
