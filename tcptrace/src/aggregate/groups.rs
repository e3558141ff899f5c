//! The table of groups: sockets in, each counted in the group of its key.
//!
//! Memory is bounded, and the biggest groups are exact. At [`Limits::groups`] the quarter with the
//! fewest sockets, the oldest of them first, is counted as "other" from then on; a group that comes
//! always gets a place. So a group keeps its own as long as fewer than some ten thousand groups with
//! fewer sockets come in the time it needs for its second, third, ... socket. Histograms have a limit
//! of their own, [`Limits::histogram_bytes`], kept in the same way.

use std::hash::BuildHasher as _;

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    Group, Orphan,
    entry::{Entry, Shown, WEIGHTS},
    keys::{GroupKey, Grouping, Names},
    over_time::GroupSummary,
    stays::{Scope, Stays},
};
use crate::{
    lifecycle::{Event, Processes, Socket},
    model::{Nanos, TcpState},
};

/// Bounds of the table's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Groups kept at once.
    pub(super) groups: usize,
    /// What the histograms of all groups may take, in bytes, roughly.
    pub(super) histogram_bytes: usize,
    /// Groups in one snapshot: this many by each ranking.
    pub(super) shown_by_ranking: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { groups: 1 << 17, histogram_bytes: 48 << 20, shown_by_ranking: 250 }
    }
}

/// All groups.
#[derive(Debug)]
pub(super) struct Groups {
    grouping: Grouping,
    scope: Scope,
    limits: Limits,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    born: u64,
    histogram_bytes: usize,
    folded: u64,
    histograms_folded: u64,
}

/// What a socket's `group` refers to.
#[derive(Debug)]
enum Slot {
    Free,
    /// Its group was folded into the others, and so many sockets do not know yet.
    Folded {
        sockets: u64,
    },
    Held(Box<Entry>),
}

/// The groups of one snapshot.
#[derive(Debug)]
pub(super) struct Picture {
    /// Those shown one by one.
    pub(super) groups: Vec<Group>,
    /// How many are counted together as "other", those folded into it since the start included.
    pub(super) others: u64,
}

/// The group that takes what has no group of its own.
const OTHER: usize = 0;

impl Groups {
    pub(super) fn new(grouping: Grouping, scope: Scope, limits: Limits) -> Self {
        let key = if grouping.is_none() { GroupKey::ALL } else { GroupKey::OTHER };
        Self {
            grouping,
            // Where there is one group, the totals say the same.
            scope: if grouping.is_none() { Scope::Minisockets } else { scope },
            limits,
            slots: vec![Slot::Held(Box::new(Entry::new(key, 0).for_scope(scope)))],
            free: Vec::new(),
            by_key: HashTable::new(),
            born: 0,
            histogram_bytes: 0,
            folded: 0,
            histograms_folded: 0,
        }
    }

    pub(super) const fn grouping(&self) -> Grouping {
        self.grouping
    }

    /// Groups, and histograms of groups, that had to be added to the others'.
    pub(super) const fn evicted(&self) -> u64 {
        self.folded + self.histograms_folded
    }

    /// Counts a socket that is in its state already.
    pub(super) fn join(&mut self, socket: &mut Socket, processes: &Processes) {
        self.give_group(socket, processes);
        if let Some(entry) = self.of(socket) {
            entry.add(socket);
        }
    }

    fn give_group(&mut self, socket: &mut Socket, processes: &Processes) {
        socket.group = self.place(self.grouping.of(socket, processes));
        if let Some(entry) = self.of(socket) {
            entry.welcome(socket, processes);
        }
    }

    /// The role or the owner became known: the socket may belong elsewhere.
    pub(super) fn identify(&mut self, socket: &mut Socket, processes: &Processes) {
        let key = self.grouping.of(socket, processes);
        let Some(entry) = self.of(socket) else { return };
        if entry.key == key {
            entry.note_owner(socket, processes);
            return;
        }
        entry.take_back(socket.state, socket);
        socket.group = self.place(key);
        if let Some(entry) = self.of(socket) {
            entry.welcome(socket, processes);
            entry.add(socket);
        }
    }

    /// A socket that was counted leaves a state, and counts as closed and ended by this.
    pub(super) fn leave(&mut self, event: &Event<'_>, socket: &mut Socket) {
        let scope = self.scope;
        let Some(entry) = self.of(socket) else { return };
        entry.sub(event.from, Orphan::before(event));
        entry.count_closer(socket);
        let growth = entry.leave(event, socket, scope);
        if socket.group != OTHER as u32 {
            self.grow(growth);
        }
    }

    /// A socket enters a state that is shown; it may have been counted before.
    pub(super) fn enter(&mut self, socket: &mut Socket, processes: &Processes) {
        if !socket.is_counted() {
            self.give_group(socket, processes);
        } else if self.grouping.has_state() {
            if let Some(entry) = self.of(socket) {
                entry.uncount_closer(socket);
            }
            self.give_group(socket, processes);
        }
        if let Some(entry) = self.of(socket) {
            entry.add(socket);
            entry.enter(socket);
        }
    }

    /// A socket that was counted in `state` should not have been.
    pub(super) fn withdraw(&mut self, state: TcpState, socket: &mut Socket) {
        if let Some(entry) = self.of(socket) {
            entry.take_back(state, socket);
        }
        socket.group = Socket::NO_GROUP;
    }

    pub(super) fn orphaned(&mut self, socket: &mut Socket) {
        if let Some(entry) = self.of(socket) {
            entry.orphaned();
        }
    }

    /// Where a socket is counted, for [`Self::snapshot`].
    pub(super) fn place_of(&self, socket: &Socket) -> u32 {
        match self.slots.get(socket.group as usize) {
            Some(Slot::Held(_)) => socket.group,
            _ => OTHER as u32,
        }
    }

    /// The groups that have or had sockets: all, or the first of every ranking and the rest together.
    /// `oldest_close_wait` is by [`Self::place_of`].
    pub(super) fn snapshot(
        &mut self,
        shown: &Shown<'_>,
        oldest_close_wait: &FxHashMap<u32, Nanos>,
    ) -> Picture {
        let shown = &Shown { scope: self.scope, ..*shown };
        let oldest = |index: usize| oldest_close_wait.get(&(index as u32)).copied();
        let in_use: Vec<usize> = (1..self.slots.len())
            .filter(|&index| self.entry(index).is_some_and(|entry| !entry.is_blank()))
            .collect();
        let chosen = self.first_of_rankings(&in_use);
        let mut groups: Vec<Group> = chosen
            .iter()
            .filter_map(|&index| Some(self.entry(index)?.snapshot(shown, oldest(index))))
            .collect();
        let hidden = (in_use.len() - chosen.len()) as u64;
        if let Some(other) = self.entry(OTHER).filter(|other| hidden > 0 || !other.is_blank()) {
            let mut sum = Entry::new(other.key.clone(), 0);
            other.add_to(&mut sum, self.scope);
            let mut is_chosen = chosen.iter().copied().peekable();
            let mut oldest_of_all = oldest(OTHER);
            for &index in &in_use {
                if is_chosen.next_if_eq(&index).is_some() {
                    continue;
                }
                if let Some(entry) = self.entry(index) {
                    entry.add_to(&mut sum, self.scope);
                    oldest_of_all = oldest_of_all.into_iter().chain(oldest(index)).min();
                }
            }
            groups.push(sum.snapshot(shown, oldest_of_all));
        }
        for slot in &mut self.slots {
            if let Slot::Held(entry) = slot {
                entry.begin_interval();
            }
        }
        groups.sort_by_cached_key(|group| {
            let sockets: u64 = group.counts.iter().sum();
            std::cmp::Reverse((group.time_wait.now, sockets, group.time_wait.entered))
        });
        Picture { groups, others: self.folded + hidden }
    }

    /// Counts the sockets of every group for the mean over time.
    pub(super) fn look(&mut self) {
        for slot in &mut self.slots {
            if let Slot::Held(entry) = slot {
                entry.look();
            }
        }
    }

    /// Every group over the whole time, in which sockets were counted `looks` times.
    pub(super) fn summary(&self, names: &Names, own_netns: u32, looks: u64) -> Vec<GroupSummary> {
        let held = self.slots.iter().filter_map(|slot| match slot {
            Slot::Held(entry) if !entry.is_blank() => Some(entry),
            _ => None,
        });
        held.map(|entry| entry.summary(names, own_netns, looks)).collect()
    }

    /// Of `in_use`, those that are shown one by one, ascending.
    fn first_of_rankings(&self, in_use: &[usize]) -> Vec<usize> {
        let first = self.limits.shown_by_ranking;
        if in_use.len() <= first * WEIGHTS {
            return in_use.to_vec();
        }
        let weights: Vec<[u64; WEIGHTS]> =
            in_use.iter().map(|&index| self.entry(index).map(Entry::weights).unwrap_or_default()).collect();
        let mut chosen: Vec<usize> = Vec::with_capacity(first * WEIGHTS);
        let mut order: Vec<usize> = (0..in_use.len()).collect();
        for ranking in 0..WEIGHTS {
            order.select_nth_unstable_by_key(first, |&n| {
                std::cmp::Reverse((weights[n][ranking], weights[n][3]))
            });
            chosen.extend(order[..first].iter().map(|&n| in_use[n]));
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    #[cfg(test)]
    pub(super) fn slots_in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn entry(&self, index: usize) -> Option<&Entry> {
        match self.slots.get(index) {
            Some(Slot::Held(entry)) => Some(entry),
            _ => None,
        }
    }

    /// The group a socket is counted in, which is "other" when its own was folded.
    fn of(&mut self, socket: &mut Socket) -> Option<&mut Entry> {
        let index = socket.group as usize;
        if !matches!(self.slots.get(index), Some(Slot::Held(_))) {
            if let Some(Slot::Folded { sockets }) = self.slots.get_mut(index) {
                *sockets -= 1;
                if *sockets == 0 {
                    self.slots[index] = Slot::Free;
                    self.free.push(index as u32);
                }
            }
            socket.group = OTHER as u32;
        }
        match self.slots.get_mut(socket.group as usize) {
            Some(Slot::Held(entry)) => Some(entry),
            _ => None,
        }
    }

    fn place(&mut self, key: GroupKey) -> u32 {
        if self.grouping.is_none() {
            return OTHER as u32;
        }
        let hash = FxBuildHasher.hash_one(&key);
        let slots = &self.slots;
        let is_it = |&index: &u32| matches!(&slots[index as usize], Slot::Held(entry) if entry.key == key);
        if let Some(&index) = self.by_key.find(hash, is_it) {
            return index;
        }
        if self.by_key.len() >= self.limits.groups {
            self.fold_smallest();
        }
        self.born += 1;
        let slot = Slot::Held(Box::new(Entry::new(key, self.born).for_scope(self.scope)));
        let index = if let Some(free) = self.free.pop() {
            self.slots[free as usize] = slot;
            free
        } else {
            self.slots.push(slot);
            self.slots.len() as u32 - 1
        };
        let slots = &self.slots;
        self.by_key.insert_unique(hash, index, |&index| hash_of(&slots[index as usize]));
        index
    }

    /// Makes room for groups: a quarter of them is folded into the others.
    fn fold_smallest(&mut self) {
        let mut by_size = self.by_size(|_| true);
        let folded = by_size.len().div_ceil(4);
        if folded < by_size.len() {
            by_size.select_nth_unstable(folded);
        }
        for &(_, _, index) in &by_size[..folded] {
            let Slot::Held(entry) = std::mem::replace(&mut self.slots[index], Slot::Free) else { continue };
            if let Ok(place) =
                self.by_key.find_entry(FxBuildHasher.hash_one(&entry.key), |&other| other as usize == index)
            {
                place.remove();
            }
            let sockets = entry.sockets();
            if sockets > 0 {
                self.slots[index] = Slot::Folded { sockets };
            } else {
                self.free.push(index as u32);
            }
            self.histogram_bytes -= entry.stays.size().min(self.histogram_bytes);
            self.folded += 1;
            if let Slot::Held(other) = &mut self.slots[OTHER] {
                entry.add_to(other, self.scope);
            }
        }
    }

    /// Histograms grew by so many bytes. When they are too large, those of the smallest groups are
    /// added to the others'; the groups' other counts stay.
    fn grow(&mut self, bytes: usize) {
        self.histogram_bytes += bytes;
        if self.histogram_bytes <= self.limits.histogram_bytes {
            return;
        }
        let mut by_size = self.by_size(|entry| matches!(entry.stays, Stays::Many(_)));
        by_size.sort_unstable();
        for (_, _, index) in by_size {
            if self.histogram_bytes <= self.limits.histogram_bytes / 2 {
                break;
            }
            let Slot::Held(entry) = &mut self.slots[index] else { continue };
            self.histogram_bytes -= entry.stays.size().min(self.histogram_bytes);
            let stays = std::mem::take(&mut entry.stays);
            entry.elsewhere += stays.len();
            self.histograms_folded += 1;
            if let Slot::Held(other) = &mut self.slots[OTHER] {
                other.take_stays(&stays, self.scope);
            }
        }
    }

    /// The groups for which `test` holds, but for the others: those with fewer sockets are smaller, the
    /// older of two alike is.
    fn by_size(&self, test: impl Fn(&Entry) -> bool) -> Vec<(u64, u64, usize)> {
        let key = |(index, slot): (usize, &Slot)| match slot {
            Slot::Held(entry) if index != OTHER && test(entry) => Some((entry.joined, entry.born, index)),
            _ => None,
        };
        self.slots.iter().enumerate().filter_map(key).collect()
    }
}

fn hash_of(slot: &Slot) -> u64 {
    match slot {
        Slot::Held(entry) => FxBuildHasher.hash_one(&entry.key),
        _ => 0,
    }
}
