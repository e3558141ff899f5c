//! HDR histograms of dwells.
//!
//! Buckets equal those of `HdrHistogram` with three significant digits and a lowest value of 1: a bucket is at most a
//! thousandth of its value wide. Only non-empty buckets are stored. Dwells of one state are similar, so a group needs
//! some hundred bytes instead of 170 KiB for the full table.

use rustc_hash::FxHashMap;

use crate::{
    lifecycle::{Bound, Dwell},
    model::Nanos,
};

/// Values below 2^11 have a bucket each: three digits need at least 2 * 10^3 exact values.
const EXACT_BITS: u32 = 11;

/// The bucket of `value`.
const fn bucket_of(value: u64) -> u32 {
    let shift = (u64::BITS - EXACT_BITS).saturating_sub(value.leading_zeros());
    (shift << (EXACT_BITS - 1)) + (value >> shift) as u32
}

/// The lowest and the highest value of a bucket.
const fn range_of(bucket: u32) -> (u64, u64) {
    let shift = (bucket >> (EXACT_BITS - 1)).saturating_sub(1);
    let lowest = ((bucket - (shift << (EXACT_BITS - 1))) as u64) << shift;
    (lowest, lowest + ((1 << shift) - 1))
}

/// Number of dwells that enter the buckets together. The buckets are rarely in the cache, and in a loop over many the CPU
/// waits for several of them at once.
const BATCH: usize = 32;

/// The dwells of one kind so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Dwells {
    buckets: FxHashMap<u32, u64>,
    /// The buckets of the latest exact dwells.
    batch: [u32; BATCH],
    batch_len: usize,
    exact: u64,
    shortest_ns: u64,
    longest_ns: u64,
    sum_ns: u128,
    at_least: u64,
    inferred: u64,
    unknown: u64,
}

impl Dwells {
    /// Adds a dwell; only an exact one enters the histogram. Returns by how many buckets that grew.
    pub(super) fn record(&mut self, dwell: Option<Dwell>) -> usize {
        let Some(Dwell { length: Nanos(ns), bound }) = dwell else {
            self.unknown += 1;
            return 0;
        };
        match bound {
            Bound::AtLeast => self.at_least += 1,
            Bound::Inferred => self.inferred += 1,
            Bound::Exact => {
                self.shortest_ns = if self.exact == 0 { ns } else { self.shortest_ns.min(ns) };
                self.longest_ns = self.longest_ns.max(ns);
                self.sum_ns += u128::from(ns);
                self.exact += 1;
                self.batch[self.batch_len] = bucket_of(ns);
                self.batch_len += 1;
                if self.batch_len == BATCH {
                    return self.flush();
                }
            }
        }
        0
    }

    /// Moves the batch into the buckets; returns how many are new.
    fn flush(&mut self) -> usize {
        let before = self.buckets.len();
        for bucket in &self.batch[..self.batch_len] {
            *self.buckets.entry(*bucket).or_default() += 1;
        }
        self.batch_len = 0;
        self.buckets.len() - before
    }

    /// Adds all of `other`.
    pub(super) fn merge(&mut self, other: &Self) {
        if other.exact > 0 {
            self.shortest_ns =
                if self.exact == 0 { other.shortest_ns } else { self.shortest_ns.min(other.shortest_ns) };
        }
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        self.sum_ns += other.sum_ns;
        self.exact += other.exact;
        self.at_least += other.at_least;
        self.inferred += other.inferred;
        self.unknown += other.unknown;
        for (bucket, count) in other.counts() {
            *self.buckets.entry(bucket).or_default() += count;
        }
    }

    /// Number of dwells, bounds included.
    pub(super) const fn total(&self) -> u64 {
        self.exact + self.not_exact()
    }

    /// Number of dwells not in the histogram.
    pub(super) const fn not_exact(&self) -> u64 {
        self.at_least + self.inferred + self.unknown
    }

    /// Buckets in use, without the batch.
    pub(super) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Every bucket with its dwells, in parts and in no order.
    fn counts(&self) -> impl Iterator<Item = (u32, u64)> {
        let batch = self.batch[..self.batch_len].iter().map(|&bucket| (bucket, 1));
        self.buckets.iter().map(|(&bucket, &count)| (bucket, count)).chain(batch)
    }

    pub(super) fn distribution(&self) -> Distribution {
        let mut buckets: Vec<(u32, u64)> = self.counts().collect();
        buckets.sort_unstable();
        buckets.dedup_by(|(bucket, count), (kept, sum)| {
            let is_same = bucket == kept;
            *sum += if is_same { *count } else { 0 };
            is_same
        });
        Distribution {
            buckets,
            count: self.exact,
            shortest: Nanos(self.shortest_ns),
            longest: Nanos(self.longest_ns),
            sum_ns: self.sum_ns,
            mean: Nanos(self.sum_ns.checked_div(u128::from(self.exact)).unwrap_or(0) as u64),
            at_least: self.at_least,
            inferred: self.inferred,
            unknown: self.unknown,
        }
    }
}

/// Read-only distribution of dwells for the views. All lengths are 0 while `count` is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Ascending.
    buckets: Vec<(u32, u64)>,
    /// Dwells observed from start to end: those in the histogram.
    pub count: u64,
    /// The shortest of them, to the nanosecond.
    pub shortest: Nanos,
    /// The longest of them, to the nanosecond.
    pub longest: Nanos,
    /// Sum of them, in nanoseconds.
    pub sum_ns: u128,
    /// Their mean, to the nanosecond.
    pub mean: Nanos,
    /// Dwells that began before the trace: lower bounds, not in the histogram.
    pub at_least: u64,
    /// Dwells whose start or end was computed from a timer or found by a sweep, not in the histogram.
    pub inferred: u64,
    /// Dwells whose start was missed, not in the histogram.
    pub unknown: u64,
}

/// One non-empty bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Lowest value of the bucket.
    pub lowest: Nanos,
    /// Highest value of the bucket.
    pub highest: Nanos,
    /// Number of dwells.
    pub count: u64,
}

impl Distribution {
    /// Quantile `q` (`0.0..=1.0`), accurate to a thousandth.
    pub fn quantile(&self, q: f64) -> Nanos {
        let wanted = ((q * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for bucket in self.buckets() {
            seen += bucket.count;
            if seen >= wanted {
                return bucket.highest.min(self.longest);
            }
        }
        self.longest
    }

    /// Non-empty buckets, shortest dwells first.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> {
        self.buckets.iter().map(|&(bucket, count)| {
            let (lowest, highest) = range_of(bucket);
            Bucket { lowest: Nanos(lowest), highest: Nanos(highest), count }
        })
    }

    /// Lowest value of the bucket that contains `value`.
    pub const fn floor(value: Nanos) -> Nanos {
        Nanos(range_of(bucket_of(value.0)).0)
    }

    /// Whether it has no dwells, neither exact nor bounds.
    pub const fn is_empty(&self) -> bool {
        self.count + self.at_least + self.inferred + self.unknown == 0
    }

    /// Growth of each bucket since `earlier`.
    pub fn growth_since(&self, earlier: Option<&Self>) -> Vec<Bucket> {
        let before: FxHashMap<u32, u64> =
            earlier.map(|earlier| earlier.buckets.iter().copied().collect()).unwrap_or_default();
        let grown = |&(bucket, count): &(u32, u64)| {
            let count = count.saturating_sub(before.get(&bucket).copied().unwrap_or(0));
            let (lowest, highest) = range_of(bucket);
            (count > 0).then_some(Bucket { lowest: Nanos(lowest), highest: Nanos(highest), count })
        };
        self.buckets.iter().filter_map(grown).collect()
    }
}

#[cfg(test)]
impl FromIterator<u64> for Distribution {
    /// Exact dwells of these lengths in nanoseconds.
    fn from_iter<T: IntoIterator<Item = u64>>(lengths: T) -> Self {
        let mut dwells = Dwells::default();
        for ns in lengths {
            dwells.record(Some(Dwell { length: Nanos(ns), bound: Bound::Exact }));
        }
        dwells.distribution()
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_are_contiguous() {
        let mut next = 0;
        for bucket in 0..60_000 {
            let (lowest, highest) = range_of(bucket);
            if lowest > u64::MAX / 4 {
                break;
            }
            assert_eq!(lowest, next, "bucket {bucket}");
            assert_eq!((bucket_of(lowest), bucket_of(highest)), (bucket, bucket));
            next = highest + 1;
        }
    }

    proptest! {
        #[test]
        fn quantiles_and_buckets_match_hdr_histogram(lengths in prop::collection::vec(1_u64..1 << 50, 1..400)) {
            let mut hdr = Histogram::<u64>::new(3).expect("three digits");
            for &ns in &lengths {
                hdr.record(ns).expect("a growing histogram");
            }
            let dwells: Distribution = lengths.iter().copied().collect();
            prop_assert_eq!(dwells.count, hdr.len());
            prop_assert_eq!(hdr.max(), range_of(bucket_of(dwells.longest.0)).1);
            for q in [0.0, 0.25, 0.5, 0.9, 0.99, 0.999] {
                let exact = hdr.value_at_quantile(q);
                let own = dwells.quantile(q).0;
                prop_assert!(hdr.equivalent(own, exact), "{} of {:?}: {} not {}", q, lengths, own, exact);
            }
            let recorded: Vec<_> = hdr.iter_recorded().map(|step| step.value_iterated_to()).collect();
            let buckets: Vec<_> = dwells.buckets().map(|bucket| bucket.highest.0).collect();
            prop_assert_eq!(buckets, recorded);
        }

        #[test]
        fn merge_equals_recording_all_dwells(
            a in prop::collection::vec(any::<u32>(), 0..50), b in prop::collection::vec(any::<u32>(), 0..50),
        ) {
            let dwells = |lengths: &[u32]| {
                let mut dwells = Dwells::default();
                for &ns in lengths {
                    let bound = if ns % 5 == 0 { Bound::AtLeast } else { Bound::Exact };
                    dwells.record(Some(Dwell { length: Nanos(ns.into()), bound }));
                }
                dwells
            };
            let mut merged = dwells(&a);
            merged.merge(&dwells(&b));
            let whole = dwells(&[a.clone(), b].concat()).distribution();
            prop_assert_eq!(&merged.distribution(), &whole);
            let first = dwells(&a).distribution();
            let grown: u64 = whole.growth_since(Some(&first)).iter().map(|bucket| bucket.count).sum();
            prop_assert_eq!(grown, whole.count - first.count);
        }
    }
}
