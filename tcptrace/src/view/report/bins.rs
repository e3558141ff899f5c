//! Histogram bins: groups dwells into at most 128 ranges of equal width on their axis.
//!
//! A bin consists of complete buckets of the distribution, so that its count is exact. Dwells that are close together,
//! such as those of TIME_WAIT, get a linear axis, others a logarithmic one.

use serde::{Serialize, Serializer};

use crate::{aggregate::Distribution, model::Nanos};

/// Scale of a duration axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BinScale {
    /// Linear.
    Linear,
    /// Logarithmic.
    Logarithmic,
}

/// One non-empty bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bin {
    /// The shortest dwell in its range.
    pub lowest: Nanos,
    /// The longest dwell in its range.
    pub highest: Nanos,
    /// Number of dwells in its range.
    pub count: u64,
}

impl Serialize for Bin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.lowest.0, self.highest.0, self.count).serialize(serializer)
    }
}

/// The bins of one histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bins {
    /// Scale of their axis.
    pub scale: BinScale,
    /// Ascending.
    pub bins: Vec<Bin>,
}

/// Target number of bins for few dwells, and for many.
const FEWEST: f64 = 12.0;
const MOST: f64 = 120.0;
/// Most bins per octave: a power of two, so that the bounds of coarse bins are also bounds of fine ones.
const MAX_BINS_PER_OCTAVE: u32 = 32;

impl Bins {
    /// The bins of `distribution`.
    pub fn of(distribution: &Distribution) -> Self {
        let (shortest, longest) = (distribution.shortest.0.max(1), distribution.longest.0.max(1));
        let wanted = (2.0 * (distribution.count as f64).sqrt()).clamp(FEWEST, MOST);
        if longest < shortest.saturating_mul(2) {
            let width = ((longest - shortest) as f64 / wanted).max(1.0) as u64;
            // A power of two, and at least as wide as any bucket: every bucket is in one bin.
            let width = width.next_power_of_two().max(1 << (longest.ilog2().saturating_sub(10)));
            return Self {
                scale: BinScale::Linear,
                bins: group(distribution, |lowest| {
                    let from = lowest / width * width;
                    (from, from + (width - 1))
                }),
            };
        }
        let octaves = (longest as f64 / shortest as f64).log2();
        let mut per_octave = MAX_BINS_PER_OCTAVE;
        while per_octave > 1 && octaves * f64::from(per_octave) > wanted {
            per_octave /= 2;
        }
        let bound = |n: u32| {
            let exact = (f64::from(n) / f64::from(per_octave)).exp2();
            Distribution::floor(Nanos(exact as u64)).0
        };
        Self {
            scale: BinScale::Logarithmic,
            bins: group(distribution, |lowest| {
                if lowest == 0 {
                    return (0, 0);
                }
                let mut n = ((lowest as f64).log2() * f64::from(per_octave)) as u32 + 1;
                while n > 0 && bound(n) > lowest {
                    n -= 1;
                }
                while bound(n + 1) <= lowest {
                    n += 1;
                }
                (bound(n), bound(n + 1) - 1)
            }),
        }
    }
}

/// Merges the buckets of `distribution` for which `range` returns the same range.
fn group(distribution: &Distribution, range: impl Fn(u64) -> (u64, u64)) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::new();
    for bucket in distribution.buckets() {
        let (lowest, highest) = range(bucket.lowest.0);
        match bins.last_mut() {
            Some(last) if last.lowest.0 == lowest => last.count += bucket.count,
            _ => bins.push(Bin { lowest: Nanos(lowest), highest: Nanos(highest), count: bucket.count }),
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_wait_has_a_linear_axis() {
        let dwells: Distribution = (0..2_000).map(|n| 60_000_000_000 + n * 1_000_000).collect();
        let Bins { scale, bins } = Bins::of(&dwells);
        assert_eq!(scale, BinScale::Linear);
        let width = |bin: &Bin| bin.highest.since(bin.lowest);
        assert!(bins.iter().all(|bin| width(bin) == width(&bins[0])), "{bins:?}");
        assert!((30..=120).contains(&bins.len()), "{}", bins.len());
    }

    proptest! {
        #[test]
        fn bins_count_the_dwells_in_their_range(
            lengths in prop::collection::vec((0_u32..48, any::<u64>()), 1..300),
        ) {
            let lengths: Vec<u64> = lengths.into_iter().map(|(bits, n)| n >> (63 - bits)).collect();
            let Bins { bins, .. } = Bins::of(&lengths.iter().copied().collect());
            prop_assert!(bins.windows(2).all(|pair| pair[0].highest < pair[1].lowest), "{:?}", bins);
            for bin in &bins {
                let within = lengths.iter().filter(|&&ns| (bin.lowest.0..=bin.highest.0).contains(&ns)).count();
                prop_assert_eq!(within as u64, bin.count, "{:?} of {:?}", bin, bins);
            }
            prop_assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), lengths.len() as u64);
            prop_assert!(bins.len() <= 128, "{}", bins.len());
        }
    }
}
