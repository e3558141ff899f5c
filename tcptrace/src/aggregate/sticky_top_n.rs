//! Top N by weight that changes rarely.
//!
//! Prometheus keeps a series for every name it ever saw, so the set must not follow each change of rank. A member stays
//! until another key weighs more than twice the member's maximum over at least the last [`SPAN`]; a missing key weighs
//! nothing. Within a span the weight of a slot more than doubles at each replacement: with weights up to a million that
//! can happen 20 times, and typically happens once or twice.

use std::{cmp::Reverse, hash::Hash};

use rustc_hash::FxHashMap;

use crate::model::Nanos;

/// Window for maximum weights; they count for up to twice as long. A query over five minutes covers a removed member.
const SPAN: Nanos = Nanos(5 * 60 * Nanos::SECOND.0);

/// Members of the top N.
#[derive(Clone, Debug)]
pub(super) struct StickyTopN<K> {
    most: usize,
    holders: FxHashMap<K, MemberWeight>,
    /// Start of the current span.
    began: Nanos,
}

/// Maximum weight of a member.
#[derive(Clone, Copy, Debug)]
struct MemberWeight {
    in_span: u64,
    in_previous_span: u64,
}

impl MemberWeight {
    fn weight(self) -> u64 {
        self.in_span.max(self.in_previous_span)
    }
}

impl<K: Clone + Eq + Hash> StickyTopN<K> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, holders: FxHashMap::default(), began: Nanos(0) }
    }

    /// Updates the members from the weights of `all` at `now`. A key that is missing weighs nothing.
    pub(super) fn give(&mut self, now: Nanos, all: impl IntoIterator<Item = (K, u64)>) {
        if self.most == 0 {
            return;
        }
        if now.since(self.began) >= SPAN {
            self.began = now;
            for holder in self.holders.values_mut() {
                *holder = MemberWeight { in_span: 0, in_previous_span: holder.in_span };
            }
        }
        let mut others = Vec::new();
        for (key, weight) in all {
            match self.holders.get_mut(&key) {
                Some(holder) => holder.in_span = holder.in_span.max(weight),
                None => others.push((key, weight)),
            }
        }
        others.sort_by_key(|&(_, weight)| Reverse(weight));
        for (key, weight) in others {
            if self.holders.len() == self.most && !self.make_room(weight) {
                break;
            }
            self.holders.insert(key, MemberWeight { in_span: weight, in_previous_span: 0 });
        }
    }

    /// Removes the lightest member if `weight` exceeds twice its weight; returns whether it did.
    fn make_room(&mut self, weight: u64) -> bool {
        let lightest = self.holders.iter().min_by_key(|(_, holder)| holder.weight());
        let beaten = lightest.filter(|(_, holder)| weight > holder.weight().saturating_mul(2));
        let Some(key) = beaten.map(|(key, _)| key.clone()) else { return false };
        self.holders.remove(&key).is_some()
    }

    /// Whether there are any slots: keys without one are shown together as "other".
    pub(super) const fn has_slots(&self) -> bool {
        self.most > 0
    }

    /// Whether `key` is a member.
    pub(super) fn has(&self, key: &K) -> bool {
        self.holders.contains_key(key)
    }

    /// All members.
    pub(super) fn holders(&self) -> impl Iterator<Item = &K> {
        self.holders.keys()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn holders(places: &StickyTopN<u32>) -> Vec<u32> {
        let mut holders: Vec<u32> = places.holders().copied().collect();
        holders.sort_unstable();
        holders
    }

    const fn at(seconds: u64) -> Nanos {
        Nanos(1_000_000 * Nanos::SECOND.0 + seconds * Nanos::SECOND.0)
    }

    #[test]
    fn free_slots_are_filled_then_heaviest_win() {
        let mut places = StickyTopN::new(3);
        places.give(at(0), [(1, 0), (2, 7)]);
        assert_eq!(holders(&places), [1, 2]);
        places.give(at(1), [(1, 0), (2, 7), (3, 2), (4, 5)]);
        // 4 comes before 3, and 3 replaces 1, which weighs nothing.
        assert_eq!(holders(&places), [2, 3, 4]);
        let mut none = StickyTopN::new(0);
        none.give(at(0), [(1, 9)]);
        assert!(!none.has(&1));
    }

    #[test]
    fn member_is_replaced_above_twice_its_weight() {
        let mut places = StickyTopN::new(2);
        places.give(at(0), [(1, 10), (2, 30)]);
        places.give(at(1), [(1, 4), (2, 30), (3, 20)]);
        assert_eq!(holders(&places), [1, 2], "1 weighed 10 a second ago");
        places.give(at(2), [(1, 4), (2, 30), (3, 21), (4, 22)]);
        assert_eq!(holders(&places), [2, 4]);
    }

    #[test]
    fn missing_member_stays_for_a_span() {
        let mut places = StickyTopN::new(1);
        places.give(at(0), [(1, 10)]);
        let lost = (1..3_600).find(|&second| {
            places.give(at(second), [(2, 1)]);
            places.has(&2)
        });
        let span = SPAN.0 / Nanos::SECOND.0;
        assert!(lost.is_some_and(|second| (span..=2 * span).contains(&second)), "{lost:?}");
        // Without a competitor a member stays.
        places.give(at(10_000), []);
        places.give(at(20_000), []);
        assert!(places.has(&2));
    }

    proptest! {
        #[test]
        fn few_keys_are_members_within_one_span(most in 1..8_usize, looks in prop::collection::vec(prop::collection::vec((0..40_u32, 0..4_096_u64), 0..60), 1..200)) {
            let mut places = StickyTopN::new(most);
            let mut ever = BTreeSet::new();
            for (second, all) in looks.iter().enumerate() {
                places.give(at(second as u64), all.iter().copied());
                prop_assert!(places.holders().count() <= most);
                ever.extend(places.holders().copied());
            }
            // From 0 to 4,095 a weight can more than double 12 times.
            prop_assert!(ever.len() <= most * 13);
        }
    }
}
