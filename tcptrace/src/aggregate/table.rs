//! Bounded table whose biggest rows are exact: rows by key, and sockets that refer to them by index.
//!
//! A full table evicts the quarter with the smallest rows, which are folded into "other"; a new row always gets a
//! slot. A socket learns of the eviction at its next access.

use std::hash::{BuildHasher as _, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

/// A row of the table.
pub(super) trait Row {
    /// Identity of the row.
    type Key: Eq + Hash;
    /// Its key.
    fn key(&self) -> &Self::Key;
    /// Sockets that refer to the row now.
    fn sockets(&self) -> u64;
    /// Eviction order: the row with the lower weight goes first.
    fn weight(&self) -> (u64, u64);
}

/// Rows by key and by index.
#[derive(Clone, Debug)]
pub(super) struct GroupTable<R> {
    slots: Vec<TableSlot<R>>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    /// Randomly seeded: peers choose keys, and could choose colliding ones.
    hasher: DefaultHashBuilder,
    most: usize,
    born: u64,
    evicted_rows: u64,
}

#[derive(Clone, Debug)]
enum TableSlot<R> {
    Free,
    /// The row was evicted, and this many sockets still refer to it.
    EvictedRow {
        sockets: u64,
    },
    Held(Box<R>),
}

/// Index of the row for keys without a row of their own.
pub(super) const OTHER: u32 = 0;

impl<R: Row> GroupTable<R> {
    /// A table with room for `most` rows besides `other`, which has no key in the index.
    pub(super) fn new(other: R, most: usize) -> Self {
        Self {
            slots: vec![TableSlot::Held(Box::new(other))],
            free: Vec::new(),
            by_key: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            most,
            born: 0,
            evicted_rows: 0,
        }
    }

    /// Rows evicted so far.
    pub(super) const fn evicted_rows(&self) -> u64 {
        self.evicted_rows
    }

    /// The row at `index`.
    pub(super) fn get(&self, index: u32) -> Option<&R> {
        match self.slots.get(index as usize) {
            Some(TableSlot::Held(row)) => Some(row),
            _ => None,
        }
    }

    /// The row at `index`, mutable.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut R> {
        match self.slots.get_mut(index as usize) {
            Some(TableSlot::Held(row)) => Some(row),
            _ => None,
        }
    }

    /// The row that a socket refers to by `index`, which becomes [`OTHER`] if its row was evicted.
    pub(super) fn of(&mut self, index: &mut u32) -> Option<&mut R> {
        if !matches!(self.slots.get(*index as usize), Some(TableSlot::Held(_))) {
            if let Some(TableSlot::EvictedRow { sockets }) = self.slots.get_mut(*index as usize) {
                *sockets -= 1;
                if *sockets == 0 {
                    self.slots[*index as usize] = TableSlot::Free;
                    self.free.push(*index);
                }
            }
            *index = OTHER;
        }
        self.get_mut(*index)
    }

    /// All rows with their indices, [`OTHER`] first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &R)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match slot {
            TableSlot::Held(row) => Some((index as u32, &**row)),
            _ => None,
        })
    }

    /// All rows with their indices, mutable.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut R)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| match slot {
            TableSlot::Held(row) => Some((index as u32, &mut **row)),
            _ => None,
        })
    }

    /// Index of the row with `key`.
    pub(super) fn find(&self, key: &R::Key) -> Option<u32> {
        let slots = &self.slots;
        let is_it = |&index: &u32| matches!(&slots[index as usize], TableSlot::Held(row) if row.key() == key);
        self.by_key.find(self.hasher.hash_one(key), is_it).copied()
    }

    /// Number of rows, without [`OTHER`].
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether a row must be evicted before the next insertion.
    pub(super) fn is_full(&self) -> bool {
        self.by_key.len() >= self.most
    }

    /// Inserts the row that `make` builds from its sequence number, counted from 1. Its key must be new.
    pub(super) fn insert(&mut self, make: impl FnOnce(u64) -> R) -> u32 {
        self.born += 1;
        let row = make(self.born);
        let hash_of_row = self.hasher.hash_one(row.key());
        let slot = TableSlot::Held(Box::new(row));
        let index = if let Some(free) = self.free.pop() {
            self.slots[free as usize] = slot;
            free
        } else {
            self.slots.push(slot);
            self.slots.len() as u32 - 1
        };
        let Self { slots, hasher, .. } = self;
        self.by_key.insert_unique(hash_of_row, index, |&index| match &slots[index as usize] {
            TableSlot::Held(row) => hasher.hash_one(row.key()),
            _ => 0,
        });
        index
    }

    /// Evicts the smallest quarter of the rows.
    pub(super) fn evict_smallest(&mut self) -> Vec<Box<R>> {
        let mut by_weight = self.by_weight(|_| true);
        let smallest = by_weight.len().div_ceil(4);
        if smallest < by_weight.len() {
            by_weight.select_nth_unstable(smallest);
        }
        by_weight[..smallest].iter().filter_map(|&(_, index)| self.evict_row(index)).collect()
    }

    /// Evicts the row at `index`.
    pub(super) fn evict_row(&mut self, index: u32) -> Option<Box<R>> {
        let row = self.remove_row(index)?;
        self.evicted_rows += 1;
        Some(row)
    }

    /// Removes the row at `index`, whose counts the caller moves to another row.
    pub(super) fn remove_row(&mut self, index: u32) -> Option<Box<R>> {
        let TableSlot::Held(row) = std::mem::replace(&mut self.slots[index as usize], TableSlot::Free) else {
            return None;
        };
        if let Ok(place) = self.by_key.find_entry(self.hasher.hash_one(row.key()), |&other| other == index) {
            place.remove();
        }
        match row.sockets() {
            0 => self.free.push(index),
            sockets => self.slots[index as usize] = TableSlot::EvictedRow { sockets },
        }
        Some(row)
    }

    /// Weight and index of the rows for which `test` holds, except [`OTHER`], unordered.
    pub(super) fn by_weight(&self, test: impl Fn(&R) -> bool) -> Vec<((u64, u64), u32)> {
        let rows = self.iter().filter(|(index, row)| *index != OTHER && test(row));
        rows.map(|(index, row)| (row.weight(), index)).collect()
    }

    #[cfg(test)]
    pub(super) fn slots_in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug)]
    struct CountedRow {
        key: u32,
        weight: u64,
        sockets: u64,
    }

    impl Row for CountedRow {
        type Key = u32;

        fn key(&self) -> &u32 {
            &self.key
        }

        fn sockets(&self) -> u64 {
            self.sockets
        }

        fn weight(&self) -> (u64, u64) {
            (self.weight, self.key.into())
        }
    }

    fn with(most: usize, rows: u32) -> GroupTable<CountedRow> {
        let mut table = GroupTable::new(CountedRow { key: u32::MAX, weight: 0, sockets: 0 }, most);
        for key in 0..rows {
            table.insert(|_| CountedRow {
                key,
                weight: u64::from(key * 7_919 % 1_000),
                sockets: u64::from(key % 3),
            });
        }
        table
    }

    #[test]
    fn full_table_evicts_the_smallest_quarter() {
        for rows in 1..40 {
            let mut table = with(rows as usize, rows);
            assert!(table.is_full());
            let mut weights: Vec<u64> = (0..rows).map(|key| u64::from(key * 7_919 % 1_000)).collect();
            weights.sort_unstable();
            let mut taken: Vec<u64> = table.evict_smallest().iter().map(|row| row.weight).collect();
            taken.sort_unstable();
            assert_eq!(taken, weights[..(rows as usize).div_ceil(4)], "{rows}");
            assert_eq!(table.len() + taken.len(), rows as usize);
            assert_eq!(table.evicted_rows(), taken.len() as u64);
            assert!(!table.is_full());
        }
        assert!(!with(2, 1).is_full());
    }

    #[test]
    fn row_numbers_are_reused_after_the_last_socket() {
        let mut table = GroupTable::new(CountedRow { key: u32::MAX, weight: 0, sockets: 0 }, 9);
        let index = table.insert(|born| CountedRow { key: 1, weight: born, sockets: 2 });
        assert_eq!((table.get(index).map(|row| row.weight), table.find(&1)), (Some(1), Some(index)));
        assert_eq!(table.evict_row(index).map(|row| row.key), Some(1));
        assert_eq!((table.len(), table.evicted_rows(), table.slots_in_use()), (0, 1, 2));
        for in_use in [2, 1] {
            let mut socket = index;
            assert_eq!(table.of(&mut socket).map(|row| row.key), Some(u32::MAX), "the others");
            assert_eq!((socket, table.slots_in_use()), (OTHER, in_use));
        }
        assert_eq!(table.insert(|born| CountedRow { key: 2, weight: born, sockets: 0 }), index);
        assert_eq!(table.get(index).map(|row| row.weight), Some(2), "it is the second");
        let mut socket = index;
        assert_eq!((table.of(&mut socket).map(|row| row.key), socket), (Some(2), index));
        // Nobody refers to it.
        table.evict_row(index);
        assert_eq!(table.slots_in_use(), 1);
    }

    proptest! {
        #[test]
        fn rows_are_found_by_key_whatever_came_and_went(steps in prop::collection::vec((0..30_u32, any::<bool>()), 1..200)) {
            let mut table = with(1_000, 0);
            let mut there = BTreeMap::new();
            for (key, comes) in steps {
                if let Some(index) = there.remove(&key) {
                    prop_assert_eq!(table.evict_row(index).map(|row| row.key), Some(key));
                }
                if comes {
                    there.insert(key, table.insert(|born| CountedRow { key, weight: born, sockets: 0 }));
                }
                prop_assert_eq!(table.len(), there.len());
            }
            for key in 0..30 {
                prop_assert_eq!(table.find(&key), there.get(&key).copied());
            }
            prop_assert_eq!(table.iter().count(), there.len() + 1);
            prop_assert_eq!(table.by_weight(|_| true).len(), there.len());
            prop_assert_eq!(table.slots_in_use() - 1, there.len());
        }
    }
}
