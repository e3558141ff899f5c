//! Names by id, of which at least the [`MAX_UNUSED_NAMES`] that came last are kept: as many as their source remembers to
//! have reported.

use std::hash::Hash;

use hashbrown::HashMap;

use crate::model::MAX_UNUSED_NAMES;

/// Two generations of names: the older one is dropped when the newer one is full. Hashed with a random seed, because
/// the author of a recording chooses the ids.
#[derive(Clone, Debug)]
pub struct RecentNames<K, V> {
    newer: HashMap<K, V>,
    older: HashMap<K, V>,
}

impl<K, V> Default for RecentNames<K, V> {
    fn default() -> Self {
        Self { newer: HashMap::default(), older: HashMap::default() }
    }
}

impl<K: Eq + Hash, V> RecentNames<K, V> {
    /// Stores a name, which replaces an earlier one.
    pub fn insert(&mut self, key: K, name: V) {
        if self.newer.len() >= MAX_UNUSED_NAMES && !self.newer.contains_key(&key) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.older.remove(&key);
        self.newer.insert(key, name);
    }

    /// The name of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.newer.get(key).or_else(|| self.older.get(key))
    }

    /// Every name.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.older.iter().chain(&self.newer)
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_names_are_kept() {
        let mut names = RecentNames::default();
        for n in 0..10 * MAX_UNUSED_NAMES {
            names.insert(n, n);
            assert!(names.len() <= 2 * MAX_UNUSED_NAMES);
            let oldest = (n + 1).saturating_sub(MAX_UNUSED_NAMES);
            assert_eq!([names.get(&oldest), names.get(&n)], [Some(&oldest), Some(&n)]);
        }
        names.insert(7, 8);
        assert_eq!(names.get(&7), Some(&8));
        assert_eq!(names.iter().filter(|(key, _)| **key == 7).count(), 1);
    }
}
