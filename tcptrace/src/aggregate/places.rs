//! Who keeps a place from one look to the next: what everyone weighs now in, who has a place out.
//!
//! Prometheus keeps a series for every name it ever saw, so that who is shown must not follow each change of who
//! weighs the most. Who has a place keeps it until somebody weighs more than twice what its holder weighed at any
//! time of the last [`SPAN`], at least; who is gone weighs nothing. Within a span a place that changes hands
//! doubles in weight each time: with weights up to a million that can happen 20 times, and does so once or twice.

use std::{cmp::Reverse, hash::Hash};

use rustc_hash::FxHashMap;

use crate::model::Nanos;

/// How far back a weight counts: up to twice as far. Queries over five minutes see what lost its place whole.
const SPAN: Nanos = Nanos(5 * 60 * Nanos::SECOND.0);

/// Places, and who has them.
#[derive(Clone, Debug)]
pub(super) struct Places<K> {
    most: usize,
    holders: FxHashMap<K, Heaviest>,
    /// When the span began.
    began: Nanos,
}

/// The most that a holder weighed.
#[derive(Clone, Copy, Debug)]
struct Heaviest {
    in_span: u64,
    in_span_before: u64,
}

impl Heaviest {
    fn weight(self) -> u64 {
        self.in_span.max(self.in_span_before)
    }
}

impl<K: Clone + Eq + Hash> Places<K> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, holders: FxHashMap::default(), began: Nanos(0) }
    }

    /// Gives the places, after `all` with what each weighs at `now`. Who is not among them weighs nothing.
    pub(super) fn give(&mut self, now: Nanos, all: impl IntoIterator<Item = (K, u64)>) {
        if self.most == 0 {
            return;
        }
        if now.since(self.began) >= SPAN {
            self.began = now;
            for holder in self.holders.values_mut() {
                *holder = Heaviest { in_span: 0, in_span_before: holder.in_span };
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
            self.holders.insert(key, Heaviest { in_span: weight, in_span_before: 0 });
        }
    }

    /// Takes the lightest holder's place away for somebody of `weight`, who may be too light for that.
    fn make_room(&mut self, weight: u64) -> bool {
        let lightest = self.holders.iter().min_by_key(|(_, holder)| holder.weight());
        let beaten = lightest.filter(|(_, holder)| weight > holder.weight().saturating_mul(2));
        let Some(key) = beaten.map(|(key, _)| key.clone()) else { return false };
        self.holders.remove(&key).is_some()
    }

    /// Whether it has a place.
    pub(super) fn has(&self, key: &K) -> bool {
        self.holders.contains_key(key)
    }

    /// Who has one.
    pub(super) fn holders(&self) -> impl Iterator<Item = &K> {
        self.holders.keys()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn holders(places: &Places<u32>) -> Vec<u32> {
        let mut holders: Vec<u32> = places.holders().copied().collect();
        holders.sort_unstable();
        holders
    }

    const fn at(seconds: u64) -> Nanos {
        Nanos(1_000_000 * Nanos::SECOND.0 + seconds * Nanos::SECOND.0)
    }

    #[test]
    fn the_heaviest_get_the_places_and_whoever_comes_while_some_are_free() {
        let mut places = Places::new(3);
        places.give(at(0), [(1, 0), (2, 7)]);
        assert_eq!(holders(&places), [1, 2]);
        places.give(at(1), [(1, 0), (2, 7), (3, 2), (4, 5)]);
        // 4 before 3, and 3 in place of 1, who weighs nothing.
        assert_eq!(holders(&places), [2, 3, 4]);
        let mut none = Places::new(0);
        none.give(at(0), [(1, 9)]);
        assert!(!none.has(&1));
    }

    #[test]
    fn a_place_is_lost_to_more_than_twice_the_weight() {
        let mut places = Places::new(2);
        places.give(at(0), [(1, 10), (2, 30)]);
        places.give(at(1), [(1, 4), (2, 30), (3, 20)]);
        assert_eq!(holders(&places), [1, 2], "1 weighed 10 a second ago");
        places.give(at(2), [(1, 4), (2, 30), (3, 21), (4, 22)]);
        assert_eq!(holders(&places), [2, 4]);
    }

    #[test]
    fn who_is_gone_keeps_its_place_for_a_while() {
        let mut places = Places::new(1);
        places.give(at(0), [(1, 10)]);
        let lost = (1..3_600).find(|&second| {
            places.give(at(second), [(2, 1)]);
            places.has(&2)
        });
        let span = SPAN.0 / Nanos::SECOND.0;
        assert!(lost.is_some_and(|second| (span..=2 * span).contains(&second)), "{lost:?}");
        // And while nobody wants it, for ever.
        places.give(at(10_000), []);
        places.give(at(20_000), []);
        assert!(places.has(&2));
    }

    proptest! {
        #[test]
        fn in_one_span_few_ever_have_a_place(most in 1..8_usize, looks in prop::collection::vec(prop::collection::vec((0..40_u32, 0..4_096_u64), 0..60), 1..200)) {
            let mut places = Places::new(most);
            let mut ever = BTreeSet::new();
            for (second, all) in looks.iter().enumerate() {
                places.give(at(second as u64), all.iter().copied());
                prop_assert!(places.holders().count() <= most);
                ever.extend(places.holders().copied());
            }
            // From 0 to 4,095 a weight more than doubles 12 times.
            prop_assert!(ever.len() <= most * 13);
        }
    }
}
