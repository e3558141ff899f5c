//! Index of a recording: time, sockets per state and losses of every snapshot.

use std::sync::Arc;

use crate::{
    model::{Nanos, TcpState, incident::Incident, record::HostFacts},
    session::Ending,
};

/// Maximum number of snapshots: some twelve days at one per second.
pub const MAX_FRAMES: usize = 1 << 20;

/// Index entry of one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Time of the snapshot.
    pub ts: Nanos,
    /// Sockets per state, indexed by [`TcpState::index`].
    pub counts: [u32; TcpState::COUNT],
    /// Total losses so far, all causes.
    pub lost: u64,
}

/// Index entries of all snapshots, from the first to the one at the end.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// In time order; never empty once the recording was read.
    frames: Vec<Frame>,
    peaks: Vec<usize>,
    /// The snapshots that show a finding first, in time order, and the finding.
    incidents: Vec<(usize, Incident)>,
    /// Time between two snapshots.
    interval: Nanos,
    /// Host whose clock the times refer to.
    pub host: Arc<HostFacts>,
    /// How the recording ended.
    pub ending: Option<Ending>,
}

/// Annotation of a time range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// No annotation.
    #[default]
    None,
    /// A pause without records.
    Gap,
    /// Records were lost.
    Loss,
    /// A finding began that the recorder wrote the file for.
    Incident,
}

/// Direction of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Earlier.
    Previous,
    /// Later.
    Next,
}

impl Index {
    /// An empty index; snapshots will be `interval` apart.
    pub fn new(interval: Nanos) -> Self {
        Self { interval, ..Self::default() }
    }

    /// Adds a snapshot; returns whether there was room.
    pub fn push(&mut self, frame: Frame) -> bool {
        let has_room = self.frames.len() < MAX_FRAMES;
        if has_room {
            self.frames.push(frame);
        }
        has_room
    }

    /// Finds the peaks and incidents, after the last snapshot was added.
    pub fn complete(&mut self, host: Arc<HostFacts>, ending: Option<Ending>) {
        let (first, last) = self.span();
        let within = host.incidents.iter().filter_map(|incident| {
            let ts = host.monotonic(incident.ts_ns);
            let frame = self.frames.partition_point(|frame| frame.ts < ts);
            (first..=last).contains(&ts).then(|| (frame, incident.clone()))
        });
        self.incidents = within.collect();
        let time_wait: Vec<u32> =
            self.frames.iter().map(|frame| frame.counts[TcpState::TimeWait.index()]).collect();
        self.peaks = peaks(&time_wait);
        self.host = host;
        self.ending = ending;
    }

    /// Number of snapshots.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are no snapshots.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Snapshot `n`, or the last.
    pub fn frame(&self, n: usize) -> Option<&Frame> {
        self.frames.get(n).or(self.frames.last())
    }

    /// Times of the first and the last snapshot.
    pub fn span(&self) -> (Nanos, Nanos) {
        let at = |frame: Option<&Frame>| frame.map_or(Nanos(0), |frame| frame.ts);
        (at(self.frames.first()), at(self.frames.last()))
    }

    /// The snapshot shown at `ts`: the last one not after it, or the first.
    pub fn at(&self, ts: Nanos) -> usize {
        self.frames.partition_point(|frame| frame.ts <= ts).saturating_sub(1)
    }

    /// The nearest TIME_WAIT peak before or after snapshot `from`.
    pub fn peak(&self, from: usize, which: Direction) -> Option<usize> {
        match which {
            Direction::Previous => self.peaks.iter().rev().copied().find(|&peak| peak < from),
            Direction::Next => self.peaks.iter().copied().find(|&peak| peak > from),
        }
    }

    /// The nearest incidents before or after snapshot `from`: their snapshot, and each.
    pub fn incidents(&self, from: usize, which: Direction) -> Option<(usize, Vec<&Incident>)> {
        let mut frames = self.incidents.iter().map(|(frame, _)| *frame);
        let frame = match which {
            Direction::Previous => frames.rfind(|&frame| frame < from),
            Direction::Next => frames.find(|&frame| frame > from),
        }?;
        let all = self.incidents.iter().filter(|(other, _)| *other == frame);
        Some((frame, all.map(|(_, incident)| incident).collect()))
    }

    /// Peak of sockets in `state` for each of `columns` equal time ranges; `None` if there is no snapshot.
    pub fn most(&self, state: TcpState, columns: usize) -> Vec<Option<u64>> {
        let mut most: Vec<Option<u64>> = vec![None; columns];
        for frame in &self.frames {
            if let Some(most) = most.get_mut(self.column(frame.ts, columns)) {
                *most = (*most).max(Some(frame.counts[state.index()].into()));
            }
        }
        // A snapshot is valid until the next one.
        for column in 1..columns {
            if most[column].is_none() {
                most[column] = most[column - 1];
            }
        }
        most
    }

    /// Annotation of each of `columns` equal time ranges.
    pub fn marks(&self, columns: usize) -> Vec<Mark> {
        /// More than this many intervals between two snapshots are a gap.
        const MISSING: u64 = 3;
        let mut marks = vec![Mark::None; columns];
        let mut set = |from: Nanos, to: Nanos, mark: Mark| {
            let (from, to) = (self.column(from, columns), self.column(to, columns));
            for place in marks.iter_mut().take(to + 1).skip(from) {
                *place = (*place).max(mark);
            }
        };
        if let Some(first) = self.frames.first().filter(|first| first.lost > 0) {
            set(first.ts, first.ts, Mark::Loss);
        }
        for pair in self.frames.windows(2) {
            let [before, after] = [pair[0], pair[1]];
            if after.ts.since(before.ts).0 > self.interval.0.saturating_mul(MISSING) {
                set(before.ts, after.ts, Mark::Gap);
            }
            if after.lost > before.lost {
                set(after.ts, after.ts, Mark::Loss);
            }
        }
        for (frame, _) in &self.incidents {
            set(self.frames[*frame].ts, self.frames[*frame].ts, Mark::Incident);
        }
        marks
    }

    /// The one of `columns` time ranges that contains `ts`.
    pub fn column(&self, ts: Nanos, columns: usize) -> usize {
        let (first, last) = self.span();
        let length = u128::from(last.since(first).0) + 1;
        (u128::from(ts.since(first).0) * columns as u128 / length) as usize
    }
}

/// Local maxima of `counts` that are followed by a fall of at least a twentieth of the range.
fn peaks(counts: &[u32]) -> Vec<usize> {
    let (Some(&least), Some(&most)) = (counts.iter().min(), counts.iter().max()) else { return Vec::new() };
    let fall = ((most - least) / 20).max(1);
    let mut peaks = Vec::new();
    let (mut high, mut low) = (0, least);
    let mut rising = true;
    for (n, &count) in counts.iter().enumerate() {
        if rising {
            if count > counts[high] {
                high = n;
            } else if counts[high] - count >= fall {
                peaks.push(high);
                (rising, low) = (false, count);
            }
        } else if count < low {
            low = count;
        } else if count - low >= fall {
            (rising, high) = (true, n);
        }
    }
    // The highest value up to the end, unless there was no rise at all.
    if rising && most > least {
        peaks.push(high);
    }
    peaks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(time_wait: &[u32]) -> Index {
        let mut index = Index::new(Nanos::SECOND);
        for (n, &count) in time_wait.iter().enumerate() {
            let mut counts = [0; TcpState::COUNT];
            counts[TcpState::TimeWait.index()] = count;
            assert!(index.push(Frame { ts: Nanos(n as u64 * 1_000_000_000), counts, lost: 0 }));
        }
        index.complete(Arc::default(), None);
        index
    }

    #[test]
    fn peak_is_a_local_maximum_above_noise() {
        let cases: &[(&[u32], &[usize])] = &[
            (&[], &[]),
            (&[7], &[]),
            (&[7, 7, 7], &[]),
            (&[0, 1, 0], &[1]),
            (&[5, 4, 3], &[0]),
            (&[3, 4, 5], &[2]),
            (&[0, 100, 98, 100, 0, 50, 0], &[1, 5]),
            // A change below a twentieth of the range is noise.
            (&[0, 1000, 960, 999, 500, 540, 0], &[1]),
            (&[0, 9, 9, 9, 0, 9], &[1, 5]),
        ];
        for (counts, expected) in cases {
            assert_eq!(peaks(counts), *expected, "{counts:?}");
        }
    }

    #[test]
    fn peak_search_finds_next_and_previous() {
        let index = index(&[0, 50, 0, 100, 0]);
        assert_eq!((index.peak(0, Direction::Next), index.peak(1, Direction::Next)), (Some(1), Some(3)));
        assert_eq!((index.peak(3, Direction::Next), index.peak(3, Direction::Previous)), (None, Some(1)));
        assert_eq!(index.peak(1, Direction::Previous), None);
    }

    #[test]
    fn moment_maps_to_the_snapshot_before_it() {
        let index = index(&[1, 2, 3]);
        let at = |ns| index.at(Nanos(ns));
        assert_eq!((at(0), at(999_999_999), at(1_000_000_000), at(u64::MAX)), (0, 0, 1, 2));
        assert_eq!(Index::new(Nanos::SECOND).at(Nanos(5)), 0);
    }

    #[test]
    fn columns_hold_the_peak() {
        let index = index(&[1, 9, 2, 3, 4, 5]);
        assert_eq!(index.most(TcpState::TimeWait, 2), [Some(9), Some(5)]);
        assert_eq!(index.most(TcpState::TimeWait, 12).iter().flatten().max(), Some(&9));
        assert!(index.most(TcpState::TimeWait, 12).iter().all(Option::is_some));
        assert_eq!(index.most(TcpState::TimeWait, 0), []);
        assert_eq!(Index::new(Nanos::SECOND).most(TcpState::TimeWait, 3), [None; 3]);
    }

    #[test]
    fn losses_and_gaps_are_marked_in_their_columns() {
        let mut index = Index::new(Nanos::SECOND);
        for (second, lost) in [(0, 0), (1, 0), (2, 5), (3, 5), (8, 5), (9, 5)] {
            index.push(Frame { ts: Nanos(second * 1_000_000_000), counts: [0; TcpState::COUNT], lost });
        }
        let (n, g, l) = (Mark::None, Mark::Gap, Mark::Loss);
        assert_eq!(index.marks(10), [n, n, l, g, g, g, g, g, g, n]);
    }

    #[test]
    fn incidents_are_at_the_first_snapshot_that_shows_them() {
        let mut index = index(&[0; 10]);
        let incident = |ts_ns| Incident { finding: "f".into(), title: "t".into(), ts_ns };
        let second = 1_000_000_000;
        let incidents = [second * 5 / 2, second * 7, second * 7, second * 60].map(incident).to_vec();
        index.complete(Arc::new(HostFacts { incidents, ..HostFacts::default() }), None);
        let at = |from, which| index.incidents(from, which).map(|(frame, all)| (frame, all.len()));
        assert_eq!((at(0, Direction::Next), at(3, Direction::Next)), (Some((3, 1)), Some((7, 2))));
        assert_eq!((at(7, Direction::Next), at(7, Direction::Previous)), (None, Some((3, 1))));
        let marked: Vec<usize> = index
            .marks(10)
            .iter()
            .enumerate()
            .filter(|(_, mark)| **mark == Mark::Incident)
            .map(|(n, _)| n)
            .collect();
        assert_eq!(marked, [3, 7]);
    }
}
