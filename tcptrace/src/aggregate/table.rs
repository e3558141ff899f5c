//! A table of bounded size whose biggest rows are exact: rows by key, and sockets that refer to them by number.
//!
//! When it is full, the quarter with the smallest rows is taken out, to be counted together in the row called
//! "other"; a row that comes always gets a place. A socket whose row was taken out learns it when it next looks.

use std::hash::{BuildHasher as _, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

/// What the table holds.
pub(super) trait Row {
    /// What tells it from others.
    type Key: Eq + Hash;
    /// Its key.
    fn key(&self) -> &Self::Key;
    /// Sockets that refer to it now.
    fn sockets(&self) -> u64;
    /// Of two rows, the one with less is taken out first.
    fn weight(&self) -> (u64, u64);
}

/// Rows by key and by number.
#[derive(Clone, Debug)]
pub(super) struct Table<R> {
    slots: Vec<Slot<R>>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    /// Seeded by chance: who connects chooses keys, and could choose such as meet in one place.
    hasher: DefaultHashBuilder,
    most: usize,
    born: u64,
    taken_out: u64,
}

#[derive(Clone, Debug)]
enum Slot<R> {
    Free,
    /// Its row was taken out, and so many sockets do not know yet.
    TakenOut {
        sockets: u64,
    },
    Held(Box<R>),
}

/// The row that takes what has no row of its own.
pub(super) const OTHER: u32 = 0;

impl<R: Row> Table<R> {
    /// With room for `most` rows beside `other`, which no key leads to.
    pub(super) fn new(other: R, most: usize) -> Self {
        Self {
            slots: vec![Slot::Held(Box::new(other))],
            free: Vec::new(),
            by_key: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            most,
            born: 0,
            taken_out: 0,
        }
    }

    /// Rows taken out so far.
    pub(super) const fn taken_out(&self) -> u64 {
        self.taken_out
    }

    /// The row with the number `index`.
    pub(super) fn get(&self, index: u32) -> Option<&R> {
        match self.slots.get(index as usize) {
            Some(Slot::Held(row)) => Some(row),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut R> {
        match self.slots.get_mut(index as usize) {
            Some(Slot::Held(row)) => Some(row),
            _ => None,
        }
    }

    /// The row that a socket refers to by `index`, which becomes [`OTHER`] when its own was taken out.
    pub(super) fn of(&mut self, index: &mut u32) -> Option<&mut R> {
        if !matches!(self.slots.get(*index as usize), Some(Slot::Held(_))) {
            if let Some(Slot::TakenOut { sockets }) = self.slots.get_mut(*index as usize) {
                *sockets -= 1;
                if *sockets == 0 {
                    self.slots[*index as usize] = Slot::Free;
                    self.free.push(*index);
                }
            }
            *index = OTHER;
        }
        self.get_mut(*index)
    }

    /// Every row with its number, [`OTHER`] first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &R)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match slot {
            Slot::Held(row) => Some((index as u32, &**row)),
            _ => None,
        })
    }

    /// The same, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut R)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| match slot {
            Slot::Held(row) => Some((index as u32, &mut **row)),
            _ => None,
        })
    }

    /// The number of the row with `key`.
    pub(super) fn find(&self, key: &R::Key) -> Option<u32> {
        let slots = &self.slots;
        let is_it = |&index: &u32| matches!(&slots[index as usize], Slot::Held(row) if row.key() == key);
        self.by_key.find(self.hasher.hash_one(key), is_it).copied()
    }

    /// Whether there must be room made before one more row.
    pub(super) fn is_full(&self) -> bool {
        self.by_key.len() >= self.most
    }

    /// Adds the row that `make` makes of its turn, counted from 1: a later one has a higher number. Its key
    /// must be new.
    pub(super) fn insert(&mut self, make: impl FnOnce(u64) -> R) -> u32 {
        self.born += 1;
        let row = make(self.born);
        let hash_of_row = self.hasher.hash_one(row.key());
        let slot = Slot::Held(Box::new(row));
        let index = if let Some(free) = self.free.pop() {
            self.slots[free as usize] = slot;
            free
        } else {
            self.slots.push(slot);
            self.slots.len() as u32 - 1
        };
        let Self { slots, hasher, .. } = self;
        self.by_key.insert_unique(hash_of_row, index, |&index| match &slots[index as usize] {
            Slot::Held(row) => hasher.hash_one(row.key()),
            _ => 0,
        });
        index
    }

    /// Makes room: takes out the smallest quarter of the rows.
    pub(super) fn take_smallest(&mut self) -> Vec<Box<R>> {
        let mut by_weight = self.by_weight(|_| true);
        let smallest = by_weight.len().div_ceil(4);
        if smallest < by_weight.len() {
            by_weight.select_nth_unstable(smallest);
        }
        by_weight[..smallest].iter().filter_map(|&(_, index)| self.take_out(index)).collect()
    }

    fn take_out(&mut self, index: u32) -> Option<Box<R>> {
        let Slot::Held(row) = std::mem::replace(&mut self.slots[index as usize], Slot::Free) else {
            return None;
        };
        if let Ok(place) = self.by_key.find_entry(self.hasher.hash_one(row.key()), |&other| other == index) {
            place.remove();
        }
        match row.sockets() {
            0 => self.free.push(index),
            sockets => self.slots[index as usize] = Slot::TakenOut { sockets },
        }
        self.taken_out += 1;
        Some(row)
    }

    /// The rows for which `test` holds, but for the others: their weight and their number, in no order.
    pub(super) fn by_weight(&self, test: impl Fn(&R) -> bool) -> Vec<((u64, u64), u32)> {
        let rows = self.iter().filter(|(index, row)| *index != OTHER && test(row));
        rows.map(|(index, row)| (row.weight(), index)).collect()
    }

    #[cfg(test)]
    pub(super) fn slots_in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
