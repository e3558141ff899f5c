//! How far the wall clocks of two hosts differ, from the connections between them.

use hashbrown::HashMap;

/// Observations kept per pair of hosts.
const WINDOW: usize = 64;
/// Observations of the true offset are this close together: a round trip, a repeated segment.
const SPREAD_NS: i64 = 1_000_000_000;
/// Most pairs of hosts; of others the clocks count as equal.
const MAX_PAIRS: usize = 1 << 14;

/// Offsets of the wall clocks of hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct ClockOffsets {
    pairs: HashMap<(u16, u16), PairOffset>,
}

#[derive(Clone, Debug, Default)]
struct PairOffset {
    /// The newest observations: those of ends that belong together agree, others are scattered.
    observed: Vec<i64>,
    next: usize,
    estimate: Option<i64>,
}

impl ClockOffsets {
    /// An end of host `a` and one of host `b` with matching addresses and ports began this far apart.
    pub(super) fn observe(&mut self, a: u16, b: u16, apart_ns: i64) {
        let (key, apart_ns) = if a < b { ((a, b), apart_ns) } else { ((b, a), apart_ns.saturating_neg()) };
        if a == b || (self.pairs.len() >= MAX_PAIRS && !self.pairs.contains_key(&key)) {
            return;
        }
        let pair = self.pairs.entry(key).or_default();
        if pair.observed.len() < WINDOW {
            pair.observed.push(apart_ns);
        } else {
            pair.observed[pair.next % WINDOW] = apart_ns;
        }
        pair.next += 1;
        pair.estimate = None;
    }

    /// By how much the clock of `a` is ahead of that of `b`; `None` where nothing was observed.
    pub(super) fn ahead_ns(&mut self, a: u16, b: u16) -> Option<i64> {
        if a == b {
            return Some(0);
        }
        let pair = self.pairs.get_mut(&(a.min(b), a.max(b)))?;
        let estimate = *pair.estimate.get_or_insert_with(|| densest(&pair.observed));
        Some(if a < b { estimate } else { estimate.saturating_neg() })
    }
}

/// The median of the most observations within [`SPREAD_NS`]; of equally many, those nearest to zero.
fn densest(observed: &[i64]) -> i64 {
    let mut sorted = observed.to_vec();
    sorted.sort_unstable();
    let mut best: (usize, i64) = (0, 0);
    let mut first = 0;
    for last in 0..sorted.len() {
        while sorted[last].saturating_sub(sorted[first]) > SPREAD_NS {
            first += 1;
        }
        let (count, median) = (last + 1 - first, sorted[usize::midpoint(first, last)]);
        if count > best.0 || (count == best.0 && median.unsigned_abs() < best.1.unsigned_abs()) {
            best = (count, median);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn offset_is_where_observations_agree() {
        let mut offsets = ClockOffsets::default();
        assert_eq!((offsets.ahead_ns(1, 2), offsets.ahead_ns(7, 7)), (None, Some(0)));
        // Ports that were used before and after, around three true ones.
        for apart in [-40 * S, 5 * S + 2, 31 * S, 5 * S, -8 * S, 5 * S + 1] {
            offsets.observe(1, 2, apart);
        }
        assert_eq!((offsets.ahead_ns(1, 2), offsets.ahead_ns(2, 1)), (Some(5 * S + 1), Some(-5 * S - 1)));
        // The clock is set.
        for _ in 0..WINDOW {
            offsets.observe(2, 1, 2 * S);
        }
        assert_eq!(offsets.ahead_ns(1, 2), Some(-2 * S));
    }
}
