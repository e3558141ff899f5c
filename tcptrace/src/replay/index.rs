//! What was when: for every picture its time, its sockets per state and its losses.

use crate::{
    model::{Nanos, TcpState},
    session::Ending,
};

/// A recording of some twelve days at a picture a second.
pub const MOST_FRAMES: usize = 1 << 20;

/// One picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When.
    pub ts: Nanos,
    /// Sockets per state, indexed by [`TcpState::index`].
    pub counts: [u32; TcpState::COUNT],
    /// What was lost up to here, all causes together.
    pub lost: u64,
}

/// All pictures of a recording, from the first to the one at its end.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// In the order of time; never empty once the recording was read.
    frames: Vec<Frame>,
    peaks: Vec<usize>,
    /// Time between two pictures.
    interval: Nanos,
    /// Wall-clock time at monotonic 0.
    pub clock_offset_ns: u64,
    /// How the recording ended.
    pub ending: Option<Ending>,
}

/// What is to be said about a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// Nothing.
    #[default]
    None,
    /// Nothing was recorded for a while.
    Gap,
    /// Something was lost.
    Loss,
}

/// Which peak of TIME_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peak {
    /// The one before.
    Previous,
    /// The one after.
    Next,
}

impl Index {
    /// No pictures yet; there will be one each `interval`.
    pub fn new(interval: Nanos) -> Self {
        Self { interval, ..Self::default() }
    }

    /// One more picture; whether there was room for it.
    pub fn push(&mut self, frame: Frame) -> bool {
        let has_room = self.frames.len() < MOST_FRAMES;
        if has_room {
            self.frames.push(frame);
        }
        has_room
    }

    /// That was all.
    pub fn complete(&mut self, clock_offset_ns: u64, ending: Option<Ending>) {
        let time_wait: Vec<u32> =
            self.frames.iter().map(|frame| frame.counts[TcpState::TimeWait.index()]).collect();
        self.peaks = peaks(&time_wait);
        self.clock_offset_ns = clock_offset_ns;
        self.ending = ending;
    }

    /// How many pictures.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The picture `n`, or the last.
    pub fn frame(&self, n: usize) -> Option<&Frame> {
        self.frames.get(n).or(self.frames.last())
    }

    /// When the first and the last picture are.
    pub fn span(&self) -> (Nanos, Nanos) {
        let at = |frame: Option<&Frame>| frame.map_or(Nanos(0), |frame| frame.ts);
        (at(self.frames.first()), at(self.frames.last()))
    }

    /// The picture that is on the screen at `ts`: the last one not after it, or the first.
    pub fn at(&self, ts: Nanos) -> usize {
        self.frames.partition_point(|frame| frame.ts <= ts).saturating_sub(1)
    }

    /// The next peak of TIME_WAIT from the picture `from`; `None` where there is no other.
    pub fn peak(&self, from: usize, which: Peak) -> Option<usize> {
        match which {
            Peak::Previous => self.peaks.iter().rev().copied().find(|&peak| peak < from),
            Peak::Next => self.peaks.iter().copied().find(|&peak| peak > from),
        }
    }

    /// The time in `columns` equal parts: the most sockets in `state` in each, where there is a picture in it.
    pub fn most(&self, state: TcpState, columns: usize) -> Vec<Option<u64>> {
        let mut most: Vec<Option<u64>> = vec![None; columns];
        for frame in &self.frames {
            if let Some(most) = most.get_mut(self.column(frame.ts, columns)) {
                *most = (*most).max(Some(frame.counts[state.index()].into()));
            }
        }
        // A picture stands until the next one.
        for column in 1..columns {
            if most[column].is_none() {
                most[column] = most[column - 1];
            }
        }
        most
    }

    /// In the same parts, what is to be said about each.
    pub fn marks(&self, columns: usize) -> Vec<Mark> {
        /// Pictures further apart than so many intervals have a gap between them.
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
        marks
    }

    /// The part of `columns` that `ts` falls into.
    pub fn column(&self, ts: Nanos, columns: usize) -> usize {
        let (first, last) = self.span();
        let length = u128::from(last.since(first).0) + 1;
        (u128::from(ts.since(first).0) * columns as u128 / length) as usize
    }
}

/// Where `counts` stand out: higher than anything near, until they have fallen by a twentieth of their range.
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
    // The highest up to the end, unless there was no rise at all.
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
        index.complete(0, None);
        index
    }

    #[test]
    fn a_peak_is_higher_than_all_that_is_near() {
        let cases: &[(&[u32], &[usize])] = &[
            (&[], &[]),
            (&[7], &[]),
            (&[7, 7, 7], &[]),
            (&[0, 1, 0], &[1]),
            (&[5, 4, 3], &[0]),
            (&[3, 4, 5], &[2]),
            (&[0, 100, 98, 100, 0, 50, 0], &[1, 5]),
            // What is less than a twentieth of the range is noise.
            (&[0, 1000, 960, 999, 500, 540, 0], &[1]),
            (&[0, 9, 9, 9, 0, 9], &[1, 5]),
        ];
        for (counts, expected) in cases {
            assert_eq!(peaks(counts), *expected, "{counts:?}");
        }
    }

    #[test]
    fn from_peak_to_peak() {
        let index = index(&[0, 50, 0, 100, 0]);
        assert_eq!((index.peak(0, Peak::Next), index.peak(1, Peak::Next)), (Some(1), Some(3)));
        assert_eq!((index.peak(3, Peak::Next), index.peak(3, Peak::Previous)), (None, Some(1)));
        assert_eq!(index.peak(1, Peak::Previous), None);
    }

    #[test]
    fn a_moment_shows_the_picture_before_it() {
        let index = index(&[1, 2, 3]);
        let at = |ns| index.at(Nanos(ns));
        assert_eq!((at(0), at(999_999_999), at(1_000_000_000), at(u64::MAX)), (0, 0, 1, 2));
        assert_eq!(Index::new(Nanos::SECOND).at(Nanos(5)), 0);
    }

    #[test]
    fn columns_show_the_most() {
        let index = index(&[1, 9, 2, 3, 4, 5]);
        assert_eq!(index.most(TcpState::TimeWait, 2), [Some(9), Some(5)]);
        assert_eq!(index.most(TcpState::TimeWait, 12).iter().flatten().max(), Some(&9));
        assert!(index.most(TcpState::TimeWait, 12).iter().all(Option::is_some));
        assert_eq!(index.most(TcpState::TimeWait, 0), []);
        assert_eq!(Index::new(Nanos::SECOND).most(TcpState::TimeWait, 3), [None; 3]);
    }

    #[test]
    fn losses_and_gaps_are_marked_where_they_are() {
        let mut index = Index::new(Nanos::SECOND);
        for (second, lost) in [(0, 0), (1, 0), (2, 5), (3, 5), (8, 5), (9, 5)] {
            index.push(Frame { ts: Nanos(second * 1_000_000_000), counts: [0; TcpState::COUNT], lost });
        }
        let (n, g, l) = (Mark::None, Mark::Gap, Mark::Loss);
        assert_eq!(index.marks(10), [n, n, l, g, g, g, g, g, g, n]);
    }
}
