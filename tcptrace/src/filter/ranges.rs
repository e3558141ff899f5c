//! Sets of numbers (ports, inode numbers) as sorted ranges.

use std::fmt;

/// A set of numbers as sorted ranges with at least one number between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// The numbers in any of `ranges`, bounds included.
    pub fn new(ranges: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut set = Self::default();
        ranges.into_iter().filter(|(low, high)| low <= high).for_each(|(low, high)| set.add(low, high));
        set
    }

    /// Adds the numbers from `low` to `high`; `low` must not exceed `high`.
    pub fn add(&mut self, low: u32, high: u32) {
        // Merge it with the ranges that it overlaps or touches.
        let first = self.0.partition_point(|&(_, end)| end.saturating_add(1) < low);
        let behind = self.0.partition_point(|&(begin, _)| begin <= high.saturating_add(1));
        let joined = self.0[first..behind]
            .iter()
            .fold((low, high), |(low, high), &(begin, end)| (low.min(begin), high.max(end)));
        self.0.splice(first..behind, [joined]);
    }

    /// Whether `number` is in one of the ranges.
    #[inline]
    pub fn contains(&self, number: u32) -> bool {
        const FEW: usize = 8;
        if self.0.len() <= FEW {
            return self.0.iter().any(|&(low, high)| low <= number && number <= high);
        }
        let after = self.0.partition_point(|&(low, _)| low <= number);
        after > 0 && number <= self.0[after - 1].1
    }

    /// The numbers in `0..=highest` that are in none of the ranges.
    #[must_use]
    pub fn complement(&self, highest: u32) -> Self {
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        let mut next = Some(0);
        for &(low, high) in &self.0 {
            if let Some(start) = next.filter(|&start| start < low) {
                gaps.push((start, low - 1));
            }
            next = high.checked_add(1);
        }
        if let Some(start) = next.filter(|&start| start <= highest) {
            gaps.push((start, highest));
        }
        Self(gaps)
    }

    /// A superset with at most `count` ranges (at least one): closes the narrowest gaps.
    #[must_use]
    pub fn widened(&self, count: usize) -> Self {
        let surplus = self.0.len().saturating_sub(count.max(1));
        let mut gaps: Vec<_> = (1..self.0.len()).map(|i| (self.0[i].0 - self.0[i - 1].1, i)).collect();
        gaps.sort_unstable();
        let closed = gaps.iter().take(surplus).map(|&(_, i)| (self.0[i - 1].1, self.0[i].0));
        Self::new(self.0.iter().copied().chain(closed))
    }

    /// The ranges, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.0.iter().copied()
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (low, high)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if low == high {
                write!(f, "{comma}{low}")?;
            } else {
                write!(f, "{comma}{low}-{high}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_sorted_and_merged() {
        let ranges = Ranges::new([(443, 443), (80, 80), (81, 90), (85, 100), (7, 3)]);
        assert_eq!(ranges.to_string(), "80-100,443");
        assert!(ranges.contains(80) && ranges.contains(100) && ranges.contains(443));
        assert!(!ranges.contains(79) && !ranges.contains(101) && !ranges.contains(0));
    }

    #[test]
    fn many_ranges_are_searched() {
        let ranges = Ranges::new((1..=50).map(|i| (i * 10, i * 10 + 1)));
        for number in 0..600 {
            assert_eq!(ranges.contains(number), (10..=501).contains(&number) && number % 10 < 2, "{number}");
        }
    }

    #[test]
    fn a_complement_contains_the_missing_numbers() {
        let complement = |ranges: &[(u32, u32)]| Ranges::new(ranges.to_vec()).complement(65535).to_string();
        assert_eq!(complement(&[]), "0-65535");
        assert_eq!(complement(&[(0, 65535)]), "");
        assert_eq!(complement(&[(0, 9), (80, 80)]), "10-79,81-65535");
        assert_eq!(complement(&[(5, 65535)]), "0-4");
        assert_eq!(Ranges::new([(7, u32::MAX)]).complement(u32::MAX).to_string(), "0-6");
    }

    #[test]
    fn widening_closes_the_narrowest_gaps() {
        let ranges = Ranges::new([(1, 1), (3, 3), (100, 100), (102, 102), (9000, 9000)]);
        assert_eq!(ranges.widened(5), ranges);
        assert_eq!(ranges.widened(3).to_string(), "1-3,100-102,9000");
        assert_eq!(ranges.widened(1).to_string(), "1-9000");
    }
}
