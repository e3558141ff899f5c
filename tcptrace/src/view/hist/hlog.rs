//! Histograms in `HdrHistogram`'s interval log format: snapshots in, one line per histogram and interval
//! out.
//!
//! A line holds what was added since the one before with the same tag. Values are nanoseconds; the tag is
//! the state, then `/` and the split, then `@` and the group's key, for services with the role:
//! `TIME_WAIT/expired@10.0.0.5:5432/outbound`. What a tag can't hold (blanks, commas) is `_`.

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

/// Writes an interval log.
pub struct IntervalLog<W> {
    out: W,
    serializer: V2DeflateSerializer,
    /// What was written of each tag so far, and when the last interval ended.
    written: FxHashMap<String, Distribution>,
    until: Option<Nanos>,
}

/// The longest value that a counter is made for; a stay longer than this, 104 days, counts as it.
const LONGEST_NS: u64 = 1 << 53;
const DIGITS: u8 = 3;

impl<W: Write> IntervalLog<W> {
    /// A log on `out`.
    pub fn new(out: W) -> Self {
        Self { out, serializer: V2DeflateSerializer::new(), written: FxHashMap::default(), until: None }
    }

    /// Where the log was written to.
    #[cfg(test)]
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    /// Appends what came since the call before, or since the trace began.
    pub fn write(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let offset = Duration::from_nanos(snapshot.host.clock_offset_ns);
        let from = self.until.unwrap_or(snapshot.began);
        if self.until.replace(snapshot.ts).is_none() {
            self.begin(SystemTime::UNIX_EPOCH + offset + Duration::from_nanos(from.0))?;
        }
        let start = offset + Duration::from_nanos(from.0);
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
        // What HdrHistogram's own tools write and look for.
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
        // A writer without a head of its own: `begin` has written it.
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
    let longest = buckets.last().map_or(2, |bucket| bucket.highest.0).clamp(2, LONGEST_NS);
    let mut histogram = Histogram::new_with_bounds(1, longest, DIGITS).map_err(io::Error::other)?;
    for bucket in buckets {
        histogram.record_n(bucket.highest.0.min(longest), bucket.count).map_err(io::Error::other)?;
    }
    Ok(histogram)
}

/// `key` with the role, where there may be two groups with the same key.
fn tag(dwells: &StateDwells, key: Option<(&str, Option<&str>)>) -> String {
    let split = dwells.split.map(|split: Split| format!("/{}", split.name())).unwrap_or_default();
    let key = key.map(|(key, role)| {
        let role = role.map(|role| format!("/{role}")).unwrap_or_default();
        format!("@{}{role}", text::sanitise(key))
    });
    let key = key.unwrap_or_default();
    format!("{}{split}{key}", dwells.state.name()).replace([' ', ',', '\r', '\n'], "_")
}
