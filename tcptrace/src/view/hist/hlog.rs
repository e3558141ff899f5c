//! Writes histograms in the interval log format of `HdrHistogram`, one line per histogram and interval.
//!
//! A line holds the growth since the previous line with the same tag. Values are nanoseconds. The tag is the state,
//! then `/` and the split, then `@` and the group's key, for services with the role:
//! `TIME_WAIT/expired@10.0.0.5:5432/outbound`. Characters that a tag can't hold (blanks, commas) become `_`.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use hdrhistogram::{
    Histogram,
    serialization::{
        V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag},
    },
};
use rustc_hash::FxHashMap;

use crate::{
    aggregate::{Bucket, Distribution, Snapshot, Split, StateDwells},
    model::{Nanos, text},
};

/// Interval log writer.
pub struct IntervalLog<W> {
    out: W,
    serializer: V2DeflateSerializer,
    /// Per tag, the distribution written so far.
    written: FxHashMap<String, Distribution>,
    until: Option<Nanos>,
}

/// The longest value of a counter; a longer dwell, above 104 days, counts as this.
const MAX_VALUE_NS: u64 = 1 << 53;
const DIGITS: u8 = 3;

impl<W: Write> IntervalLog<W> {
    /// Creates a log that writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, serializer: V2DeflateSerializer::new(), written: FxHashMap::default(), until: None }
    }

    /// Returns the output.
    #[cfg(test)]
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    /// Appends the growth since the previous call, or since the trace began.
    pub fn write(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let from = self.until.unwrap_or(snapshot.began);
        let start = Duration::from_nanos(snapshot.host.wall_ns(from));
        if self.until.replace(snapshot.ts).is_none() {
            self.begin(SystemTime::UNIX_EPOCH + start)?;
        }
        let length = Duration::from_nanos(snapshot.ts.since(from).0);
        for dwells in &snapshot.dwells {
            self.append(tag(dwells, None), dwells, start, length)?;
        }
        for group in &snapshot.groups {
            let role = snapshot.grouping.has_roles().then(|| group.role.name());
            for dwells in &group.dwells {
                self.append(tag(dwells, Some((&group.key, role))), dwells, start, length)?;
            }
        }
        self.out.flush()
    }

    fn begin(&mut self, began: SystemTime) -> io::Result<()> {
        let comment = concat!(
            "[tcptrace ",
            env!("CARGO_PKG_VERSION"),
            ": how long TCP sockets stayed in each state, nanoseconds]"
        );
        // The lines that HdrHistogram's own tools write and expect.
        writeln!(self.out, "#{comment}\n#[Histogram log format version 1.3]")?;
        IntervalLogWriterBuilder::new()
            .with_start_time(began)
            .begin_log_with(&mut self.out, &mut self.serializer)?;
        writeln!(
            self.out,
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
        )
    }

    fn append(&mut self, tag: String, of: &StateDwells, start: Duration, length: Duration) -> io::Result<()> {
        let grown = of.distribution.growth_since(self.written.get(&tag));
        if grown.is_empty() {
            return Ok(());
        }
        let histogram = histogram(&grown)?;
        let name = Tag::new(&tag).ok_or_else(|| io::Error::other("a tag with a blank or a comma"))?;
        // This writer adds no header: `begin` has written it.
        IntervalLogWriterBuilder::new()
            .begin_log_with(&mut self.out, &mut self.serializer)?
            .write_histogram(&histogram, start, length, Some(name))
            .map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => io::Error::other(error),
            })?;
        self.written.insert(tag, of.distribution.clone());
        Ok(())
    }
}

fn histogram(buckets: &[Bucket]) -> io::Result<Histogram<u64>> {
    let longest = buckets.last().map_or(2, |bucket| bucket.highest.0).clamp(2, MAX_VALUE_NS);
    let mut histogram = Histogram::new_with_bounds(1, longest, DIGITS).map_err(io::Error::other)?;
    for bucket in buckets {
        histogram.record_n(bucket.highest.0.min(longest), bucket.count).map_err(io::Error::other)?;
    }
    Ok(histogram)
}

/// The tag: state, split and `key`, with the role if two groups may have the same key.
fn tag(dwells: &StateDwells, key: Option<(&str, Option<&str>)>) -> String {
    let split = dwells.split.map(|split: Split| format!("/{}", split.name())).unwrap_or_default();
    let key = key.map(|(key, role)| {
        let role = role.map(|role| format!("/{role}")).unwrap_or_default();
        format!("@{}{role}", text::sanitise(key))
    });
    let key = key.unwrap_or_default();
    format!("{}{split}{key}", dwells.state.name()).replace([' ', ',', '\r', '\n'], "_")
}
