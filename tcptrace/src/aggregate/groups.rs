//! Bounded table of groups.
//!
//! The biggest groups are exact. At [`GroupLimits::groups`] the quarter with the fewest sockets, oldest first, is
//! folded into "other". A group keeps its own row as long as fewer than some ten thousand groups with fewer sockets
//! arrive before its second, third, ... socket. If only the sticky top N are shown (`serve`), groups without sockets
//! are folded much earlier, so memory does not grow with container churn. Histograms have their own limit,
//! [`GroupLimits::histogram_bytes`], enforced the same way.

use rustc_hash::FxHashMap;

use super::{
    Group, StateDwells,
    dwell_store::{DwellStore, Scope},
    group_entry::{Entry, GroupValues, Oldest, WEIGHTS},
    keys::{GroupKey, Grouping},
    orphan::Orphan,
    over_time::GroupSummary,
    sticky_top_n::StickyTopN,
    streams::{KeyNames, SocketOrigin},
    table::{GroupTable, OTHER, Row},
};
use crate::{
    lifecycle::{Counted, Event, Processes, Socket},
    model::{Nanos, TcpState},
};

/// Bounds of the table's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupLimits {
    /// Groups kept at once.
    pub(super) groups: usize,
    /// Approximate limit for the histograms of all groups, in bytes.
    pub(super) histogram_bytes: usize,
    /// Groups in one snapshot: this many by each ranking.
    pub(super) shown_by_ranking: usize,
    /// Groups without sockets, if only the sticky top N are shown.
    pub(super) empty: usize,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self { groups: 1 << 17, histogram_bytes: 48 << 20, shown_by_ranking: 250, empty: 1 << 12 }
    }
}

/// All groups.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    grouping: Grouping,
    scope: Scope,
    limits: GroupLimits,
    table: GroupTable<Entry>,
    /// Host of the sockets that are counted now.
    pub(super) origin: SocketOrigin,
    pub(super) places: StickyTopN<GroupKey>,
    histogram_bytes: usize,
    histograms_folded: u64,
    empty: Empty,
}

/// Groups without sockets, tracked if only the sticky top N are shown: connecting to many endpoints, or namespace
/// churn, leaves one group each.
#[derive(Clone, Copy, Debug, Default)]
struct Empty {
    /// Folded into "other"; not a loss, because they are never shown.
    folded: u64,
    /// Total number of groups at which the next search for empty ones is worth its cost.
    next: usize,
}

impl Row for Entry {
    type Key = GroupKey;

    fn key(&self) -> &GroupKey {
        &self.key
    }

    fn sockets(&self) -> u64 {
        Self::sockets(self)
    }

    /// Fewer sockets ever first, then older.
    fn weight(&self) -> (u64, u64) {
        (self.joined, self.born)
    }
}

/// The groups of one snapshot.
#[derive(Debug)]
pub(super) struct GroupsSnapshot {
    /// Groups shown individually.
    pub(super) groups: Vec<Group>,
    /// Groups counted together as "other", those folded since the start included.
    pub(super) others: u64,
}

impl Groups {
    pub(super) fn new(grouping: Grouping, scope: Scope, limits: GroupLimits) -> Self {
        let key = if grouping.is_none() { GroupKey::ALL } else { GroupKey::OTHER };
        Self {
            grouping,
            // A single group equals the totals, which already keep every state.
            scope: if grouping.is_none() { Scope::TimewaitSockets } else { scope },
            limits,
            table: GroupTable::new(Entry::new(key, 0).for_scope(scope), limits.groups),
            origin: SocketOrigin::default(),
            places: StickyTopN::new(0),
            histogram_bytes: 0,
            histograms_folded: 0,
            empty: Empty::default(),
        }
    }

    /// An empty table with the same limits.
    pub(super) fn cleared(&self, grouping: Grouping) -> Self {
        let (scope, origin) = (self.scope, self.origin.clone());
        Self { scope, origin, ..Self::new(grouping, scope, self.limits) }
    }

    /// Keys of all groups.
    pub(super) fn keys(&self) -> impl Iterator<Item = &GroupKey> {
        self.table.iter().map(|(_, entry)| &entry.key)
    }

    pub(super) const fn grouping(&self) -> Grouping {
        self.grouping
    }

    /// Groups, and histograms of groups, folded into "other".
    pub(super) const fn evicted(&self) -> u64 {
        self.table.evicted_rows() - self.empty.folded + self.histograms_folded
    }

    /// Counts a socket in its current state.
    pub(super) fn join(&mut self, socket: &mut Socket, processes: &Processes) {
        self.assign_group(socket, processes);
        if let Some(entry) = self.table.of(&mut socket.counted.group) {
            entry.add(socket);
        }
    }

    fn assign_group(&mut self, socket: &mut Socket, processes: &Processes) {
        socket.counted.group = self.place(self.grouping.of(socket, processes, &self.origin));
        if let Some(entry) = self.table.of(&mut socket.counted.group) {
            entry.add_socket(socket, processes);
        }
    }

    /// Regroups a socket whose role or owner became known.
    pub(super) fn identify(&mut self, socket: &mut Socket, processes: &Processes) {
        let key = self.grouping.of(socket, processes, &self.origin);
        let Some(entry) = self.table.of(&mut socket.counted.group) else { return };
        if entry.key == key {
            entry.note_owner(socket, processes);
            return;
        }
        entry.take_back(socket.state, socket);
        let (left, left_born) = (socket.counted.group, entry.born);
        socket.counted.group = self.place(key);
        let Some(joined_born) = self.table.of(&mut socket.counted.group).map(|entry| entry.born) else {
            return;
        };
        let moved = self.move_socket((left, left_born), joined_born);
        let scope = self.scope;
        let Some(entry) = self.table.get_mut(socket.counted.group) else { return };
        let bytes_before = entry.dwells.size();
        if let Some(moved) = moved {
            moved.add_to(entry, scope);
        }
        entry.add_socket(socket, processes);
        entry.add(socket);
        let growth = entry.dwells.size() - bytes_before;
        if socket.counted.group != OTHER {
            self.grow(growth);
        }
    }

    /// Records that a socket moves from the group `from`, an index and a sequence number, to the one born as `to`. Removes a group
    /// all of whose sockets have moved to the same other one: all its counts are of sockets there.
    fn move_socket(&mut self, (index, born): (u32, u64), to: u64) -> Option<Box<Entry>> {
        // The row may have been evicted, and its index taken by another one.
        let entry = self.table.get_mut(index).filter(|entry| index != OTHER && entry.born == born)?;
        entry.moved.note(to);
        if entry.sockets() > 0 || entry.moved.to_one() != Some(entry.joined) {
            return None;
        }
        let mut entry = self.table.remove_row(index)?;
        self.histogram_bytes -= entry.dwells.size().min(self.histogram_bytes);
        entry.forget_sockets();
        Some(entry)
    }

    /// Updates the owner of a counted socket that moved to another cgroup: the group has already counted this owner.
    pub(super) fn owner_moved(&mut self, socket: &mut Socket, processes: &Processes) {
        let key = self.grouping.of(socket, processes, &self.origin);
        match self.table.of(&mut socket.counted.group) {
            Some(entry) if entry.key == key => entry.owners.renew(socket, processes),
            _ => self.identify(socket, processes),
        }
    }

    /// Records that a counted socket leaves a state; the event may also close or end it.
    pub(super) fn leave(&mut self, event: &Event<'_>, socket: &mut Socket) {
        let scope = self.scope;
        let Some(entry) = self.table.of(&mut socket.counted.group) else { return };
        entry.sub(event.from, Orphan::before(event));
        entry.count_closer(socket);
        entry.count_closed(event, socket);
        let growth = entry.leave(event, socket, scope);
        if socket.counted.group != OTHER {
            self.grow(growth);
        }
    }

    /// Records that a socket enters a shown state; it may have been counted before.
    pub(super) fn enter(&mut self, socket: &mut Socket, processes: &Processes) {
        if !socket.is_counted() {
            self.assign_group(socket, processes);
        } else if self.grouping.has_state() {
            if let Some(entry) = self.table.of(&mut socket.counted.group) {
                entry.uncount_closer(socket);
            }
            self.assign_group(socket, processes);
        }
        if let Some(entry) = self.table.of(&mut socket.counted.group) {
            entry.add(socket);
            entry.enter(socket);
        }
    }

    /// Reverts the count of a socket in `state`.
    pub(super) fn uncount_socket(&mut self, state: TcpState, socket: &mut Socket) {
        if let Some(entry) = self.table.of(&mut socket.counted.group) {
            entry.take_back(state, socket);
        }
        socket.counted.group = Counted::NO_GROUP;
    }

    pub(super) fn orphaned(&mut self, socket: &mut Socket) {
        if let Some(entry) = self.table.of(&mut socket.counted.group) {
            entry.orphaned();
        }
    }

    /// Row index that counts a socket, for [`Self::snapshot`].
    pub(super) fn row_index_of(&self, socket: &Socket) -> u32 {
        if self.table.get(socket.counted.group).is_some() { socket.counted.group } else { OTHER }
    }

    /// Row index of a group, comparable with [`Self::row_index_of`]; `None` if the group has no row.
    pub(super) fn find(&self, key: &GroupKey) -> Option<u32> {
        if self.table.get(OTHER).is_some_and(|entry| entry.key == *key) {
            Some(OTHER)
        } else {
            self.table.find(key)
        }
    }

    /// The dwells kept for a group.
    pub(super) fn dwells(&self, place: u32) -> Vec<StateDwells> {
        self.table.get(place).map(|entry| entry.all_dwells(self.scope)).unwrap_or_default()
    }

    /// Groups that have or had sockets: all of them, or the first of every ranking plus the sticky top N, and the rest
    /// as one. `oldest_close_wait` is keyed by [`Self::row_index_of`].
    pub(super) fn snapshot(
        &mut self,
        ts: Nanos,
        shown: &GroupValues<'_>,
        oldest_close_wait: &FxHashMap<u32, Oldest>,
    ) -> GroupsSnapshot {
        let shown = &GroupValues { scope: self.scope, ..*shown };
        let oldest = |index: u32| oldest_close_wait.get(&index).cloned();
        let in_use: Vec<u32> = self
            .table
            .iter()
            .filter(|(index, entry)| *index != OTHER && !entry.is_blank())
            .map(|(index, _)| index)
            .collect();
        let mut chosen = self.with_places(ts, self.top_of_rankings(&in_use));
        chosen.retain(|&index| self.table.get(index).is_some_and(|entry| !entry.is_left_behind()));
        let mut groups: Vec<Group> = chosen
            .iter()
            .filter_map(|&index| {
                let entry = self.table.get(index)?;
                let has_place = self.places.has(&entry.key);
                Some(Group { has_place, ..entry.snapshot(shown, oldest(index)) })
            })
            .collect();
        let hidden = (in_use.len() - chosen.len()) as u64;
        if let Some(other) = self.table.get(OTHER).filter(|other| hidden > 0 || !other.is_blank()) {
            let mut sum = Entry::new(other.key.clone(), 0);
            other.add_to(&mut sum, self.scope);
            let mut is_chosen = chosen.iter().copied().peekable();
            let mut oldest_of_all = oldest(OTHER);
            for &index in &in_use {
                if is_chosen.next_if_eq(&index).is_some() {
                    continue;
                }
                if let Some(entry) = self.table.get(index) {
                    entry.add_to(&mut sum, self.scope);
                    oldest_of_all = oldest_of_all.into_iter().chain(oldest(index)).reduce(Oldest::older);
                }
            }
            groups.push(sum.snapshot(shown, oldest_of_all));
        }
        groups.sort_by_cached_key(|group| {
            let sockets: u64 = group.counts.iter().sum();
            std::cmp::Reverse((group.time_wait.now, sockets, group.time_wait.entered))
        });
        GroupsSnapshot { groups, others: self.table.evicted_rows() + hidden }
    }

    /// Starts a rate interval.
    pub(super) fn begin_interval(&mut self) {
        for (_, entry) in self.table.iter_mut() {
            entry.begin_interval();
        }
    }

    /// Approximate memory, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        // Includes the few dwells that a small group keeps, its owners, and its index entry.
        const GROUP_BYTES: usize = size_of::<Entry>() + 16 * 8 + 64;
        self.table.iter().count() * GROUP_BYTES + self.histogram_bytes
    }

    /// Samples the sockets of every group for the mean over time.
    pub(super) fn sample(&mut self) {
        for (_, entry) in self.table.iter_mut() {
            entry.sample();
        }
    }

    /// Summary of every group over the trace of so many `samples`.
    pub(super) fn summary(&self, names: KeyNames<'_>, samples: u64) -> Vec<GroupSummary> {
        let rows = self.table.iter().map(|(_, entry)| entry).filter(|entry| !entry.is_blank());
        rows.map(|entry| entry.summary(names, samples)).collect()
    }

    /// Members of `in_use` shown individually by current rank; may contain duplicates.
    fn top_of_rankings(&self, in_use: &[u32]) -> Vec<u32> {
        let first = self.limits.shown_by_ranking;
        if in_use.len() <= first * WEIGHTS {
            return in_use.to_vec();
        }
        let weights: Vec<[u64; WEIGHTS]> = in_use
            .iter()
            .map(|&index| self.table.get(index).map(Entry::weights).unwrap_or_default())
            .collect();
        let mut chosen: Vec<u32> = Vec::with_capacity(first * WEIGHTS);
        let mut order: Vec<usize> = (0..in_use.len()).collect();
        for ranking in 0..WEIGHTS {
            order.select_nth_unstable_by_key(first, |&n| {
                std::cmp::Reverse((weights[n][ranking], weights[n][3]))
            });
            chosen.extend(order[..first].iter().map(|&n| in_use[n]));
        }
        chosen
    }

    /// Updates the sticky top N from `chosen` and adds its previous members: the groups shown, ascending.
    fn with_places(&mut self, ts: Nanos, mut chosen: Vec<u32>) -> Vec<u32> {
        let held = self.places.holders().filter_map(|key| self.table.find(key));
        chosen.extend(held.filter(|&index| self.table.get(index).is_some_and(|entry| !entry.is_blank())));
        chosen.sort_unstable();
        chosen.dedup();
        let all = chosen.iter().filter_map(|&index| self.table.get(index));
        self.places.give(ts, all.map(|entry| (entry.key.clone(), entry.busy())));
        chosen
    }

    /// Bytes of all histograms: what they are, and what they are taken for.
    #[cfg(test)]
    pub(super) fn histograms_in_bytes(&self) -> (usize, usize) {
        let groups = self.table.iter().filter(|(index, _)| *index != OTHER);
        (groups.map(|(_, entry)| entry.dwells.size()).sum(), self.histogram_bytes)
    }

    #[cfg(test)]
    pub(super) fn slots_in_use(&self) -> usize {
        self.table.slots_in_use()
    }

    fn place(&mut self, key: GroupKey) -> u32 {
        if self.grouping.is_none() {
            return OTHER;
        }
        if let Some(index) = self.table.find(&key) {
            return index;
        }
        if self.places.has_slots() && self.table.len() >= self.empty.next.max(self.limits.empty) {
            self.fold_empty();
        }
        if self.table.is_full() {
            self.fold_smallest();
        }
        let scope = self.scope;
        self.table.insert(|born| Entry::new(key, born).for_scope(scope))
    }

    /// Makes room: folds a quarter of the groups into "other".
    fn fold_smallest(&mut self) {
        for entry in self.table.evict_smallest() {
            self.fold(&entry);
        }
    }

    /// Folds groups without sockets that are not in the sticky top N into "other", except the heaviest.
    fn fold_empty(&mut self) {
        let Self { table, places, limits, .. } = self;
        let mut empty = table.by_weight(|entry| Row::sockets(entry) == 0 && !places.has(&entry.key));
        let stay = limits.empty / 2;
        if let Some(go) = empty.len().checked_sub(stay).filter(|&go| go > 0) {
            if go < empty.len() {
                empty.select_nth_unstable(go);
            }
            for &(_, index) in &empty[..go] {
                if let Some(entry) = self.table.evict_row(index) {
                    self.empty.folded += 1;
                    self.fold(&entry);
                }
            }
        }
        self.empty.next = 2 * self.table.len();
    }

    fn fold(&mut self, entry: &Entry) {
        self.histogram_bytes -= entry.dwells.size().min(self.histogram_bytes);
        if let Some(other) = self.table.get_mut(OTHER) {
            entry.add_to(other, self.scope);
        }
    }

    /// Accounts for `bytes` of histogram growth. Above the limit, folds the histograms of the smallest groups into
    /// "other"; the other counts of these groups stay.
    fn grow(&mut self, bytes: usize) {
        self.histogram_bytes += bytes;
        if self.histogram_bytes <= self.limits.histogram_bytes {
            return;
        }
        let mut by_weight = self.table.by_weight(|entry| matches!(entry.dwells, DwellStore::Many(_)));
        by_weight.sort_unstable();
        for (_, index) in by_weight {
            if self.histogram_bytes <= self.limits.histogram_bytes / 2 {
                break;
            }
            let Some(entry) = self.table.get_mut(index) else { continue };
            self.histogram_bytes -= entry.dwells.size().min(self.histogram_bytes);
            let dwells = std::mem::take(&mut entry.dwells);
            entry.elsewhere += dwells.len();
            self.histograms_folded += 1;
            if let Some(other) = self.table.get_mut(OTHER) {
                other.merge_dwells(&dwells, self.scope);
            }
        }
    }
}
