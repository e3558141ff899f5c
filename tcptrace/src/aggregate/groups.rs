//! The table of groups: sockets in, each counted in the group of its key.
//!
//! Memory is bounded, and the biggest groups are exact. At [`Limits::groups`] the quarter with the
//! fewest sockets, the oldest of them first, is counted as "other" from then on. So a group keeps its own as
//! long as fewer than some ten thousand groups with fewer sockets come in the time it needs for its second,
//! third, ... socket. Histograms have a limit of their own, [`Limits::histogram_bytes`], kept in the same way.

use rustc_hash::FxHashMap;

use super::{
    Group, StateDwells,
    counting::Orphan,
    entry::{Entry, Oldest, Shown, WEIGHTS},
    keys::{GroupKey, Grouping, Names},
    over_time::GroupSummary,
    places::Places,
    stays::{Scope, Stays},
    table::{OTHER, Row, Table},
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
#[derive(Clone, Debug)]
pub(super) struct Groups {
    grouping: Grouping,
    scope: Scope,
    limits: Limits,
    table: Table<Entry>,
    pub(super) places: Places<GroupKey>,
    histogram_bytes: usize,
    histograms_folded: u64,
}

impl Row for Entry {
    type Key = GroupKey;

    fn key(&self) -> &GroupKey {
        &self.key
    }

    fn sockets(&self) -> u64 {
        Self::sockets(self)
    }

    /// Fewer sockets ever, then older.
    fn weight(&self) -> (u64, u64) {
        (self.joined, self.born)
    }
}

/// The groups of one snapshot.
#[derive(Debug)]
pub(super) struct Picture {
    /// Those shown one by one.
    pub(super) groups: Vec<Group>,
    /// How many are counted together as "other", those folded into it since the start included.
    pub(super) others: u64,
}

impl Groups {
    pub(super) fn new(grouping: Grouping, scope: Scope, limits: Limits) -> Self {
        let key = if grouping.is_none() { GroupKey::ALL } else { GroupKey::OTHER };
        Self {
            grouping,
            // Where there is one group, the totals say the same.
            scope: if grouping.is_none() { Scope::Minisockets } else { scope },
            limits,
            table: Table::new(Entry::new(key, 0).for_scope(scope), limits.groups),
            places: Places::new(0),
            histogram_bytes: 0,
            histograms_folded: 0,
        }
    }

    /// An empty table of the same size.
    pub(super) fn anew(&self, grouping: Grouping) -> Self {
        let scope = self.scope;
        Self { scope, ..Self::new(grouping, scope, self.limits) }
    }

    pub(super) const fn grouping(&self) -> Grouping {
        self.grouping
    }

    /// Groups, and histograms of groups, that had to be added to the others'.
    pub(super) const fn evicted(&self) -> u64 {
        self.table.taken_out() + self.histograms_folded
    }

    /// Counts a socket that is in its state already.
    pub(super) fn join(&mut self, socket: &mut Socket, processes: &Processes) {
        self.give_group(socket, processes);
        if let Some(entry) = self.table.of(&mut socket.group) {
            entry.add(socket);
        }
    }

    fn give_group(&mut self, socket: &mut Socket, processes: &Processes) {
        socket.group = self.place(self.grouping.of(socket, processes));
        if let Some(entry) = self.table.of(&mut socket.group) {
            entry.welcome(socket, processes);
        }
    }

    /// The role or the owner became known: the socket may belong elsewhere.
    pub(super) fn identify(&mut self, socket: &mut Socket, processes: &Processes) {
        let key = self.grouping.of(socket, processes);
        let Some(entry) = self.table.of(&mut socket.group) else { return };
        if entry.key == key {
            entry.note_owner(socket, processes);
            return;
        }
        entry.take_back(socket.state, socket);
        socket.group = self.place(key);
        if let Some(entry) = self.table.of(&mut socket.group) {
            entry.welcome(socket, processes);
            entry.add(socket);
        }
    }

    /// A socket that was counted leaves a state, and counts as closed and ended by this.
    pub(super) fn leave(&mut self, event: &Event<'_>, socket: &mut Socket) {
        let scope = self.scope;
        let Some(entry) = self.table.of(&mut socket.group) else { return };
        entry.sub(event.from, Orphan::before(event));
        entry.count_closer(socket);
        entry.count_closed(event, socket);
        let growth = entry.leave(event, socket, scope);
        if socket.group != OTHER {
            self.grow(growth);
        }
    }

    /// A socket enters a state that is shown; it may have been counted before.
    pub(super) fn enter(&mut self, socket: &mut Socket, processes: &Processes) {
        if !socket.is_counted() {
            self.give_group(socket, processes);
        } else if self.grouping.has_state() {
            if let Some(entry) = self.table.of(&mut socket.group) {
                entry.uncount_closer(socket);
            }
            self.give_group(socket, processes);
        }
        if let Some(entry) = self.table.of(&mut socket.group) {
            entry.add(socket);
            entry.enter(socket);
        }
    }

    /// A socket that was counted in `state` should not have been.
    pub(super) fn withdraw(&mut self, state: TcpState, socket: &mut Socket) {
        if let Some(entry) = self.table.of(&mut socket.group) {
            entry.take_back(state, socket);
        }
        socket.group = Socket::NO_GROUP;
    }

    pub(super) fn orphaned(&mut self, socket: &mut Socket) {
        if let Some(entry) = self.table.of(&mut socket.group) {
            entry.orphaned();
        }
    }

    /// Where a socket is counted, for [`Self::snapshot`].
    pub(super) fn place_of(&self, socket: &Socket) -> u32 {
        if self.table.get(socket.group).is_some() { socket.group } else { OTHER }
    }

    /// Where the sockets of a group are counted, for [`Self::place_of`]; `None` where it has none of its own.
    pub(super) fn find(&self, key: &GroupKey) -> Option<u32> {
        if self.table.get(OTHER).is_some_and(|entry| entry.key == *key) {
            Some(OTHER)
        } else {
            self.table.find(key)
        }
    }

    /// The dwells in a group, as far as they are kept.
    pub(super) fn dwells(&self, place: u32) -> Vec<StateDwells> {
        self.table.get(place).map(|entry| entry.all_dwells(self.scope)).unwrap_or_default()
    }

    /// The groups that have or had sockets: all, or the first of every ranking, those with a place, and the rest
    /// together. `oldest_close_wait` is by [`Self::place_of`].
    pub(super) fn snapshot(
        &mut self,
        ts: Nanos,
        shown: &Shown<'_>,
        oldest_close_wait: &FxHashMap<u32, Oldest>,
    ) -> Picture {
        let shown = &Shown { scope: self.scope, ..*shown };
        let oldest = |index: u32| oldest_close_wait.get(&index).cloned();
        let in_use: Vec<u32> = self
            .table
            .iter()
            .filter(|(index, entry)| *index != OTHER && !entry.is_blank())
            .map(|(index, _)| index)
            .collect();
        let chosen = self.with_places(ts, self.first_of_rankings(&in_use));
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
        Picture { groups, others: self.table.taken_out() + hidden }
    }

    /// From now on rates are measured against this moment.
    pub(super) fn begin_interval(&mut self) {
        for (_, entry) in self.table.iter_mut() {
            entry.begin_interval();
        }
    }

    /// Roughly what they take, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        // With the few departures that a small group keeps, its owners, and its place by key.
        const GROUP_BYTES: usize = size_of::<Entry>() + 16 * 8 + 64;
        self.table.iter().count() * GROUP_BYTES + self.histogram_bytes
    }

    /// Counts the sockets of every group for the mean over time.
    pub(super) fn look(&mut self) {
        for (_, entry) in self.table.iter_mut() {
            entry.look();
        }
    }

    /// Every group over the whole time, in which sockets were counted `looks` times.
    pub(super) fn summary(&self, names: &Names, own_netns: u32, looks: u64) -> Vec<GroupSummary> {
        let rows = self.table.iter().map(|(_, entry)| entry).filter(|entry| !entry.is_blank());
        rows.map(|entry| entry.summary(names, own_netns, looks)).collect()
    }

    /// Of `in_use`, those that are shown one by one for what they are now; some may come more than once.
    fn first_of_rankings(&self, in_use: &[u32]) -> Vec<u32> {
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

    /// Gives the places to the busiest of `chosen` and adds who has had one before: those that are shown, ascending.
    fn with_places(&mut self, ts: Nanos, mut chosen: Vec<u32>) -> Vec<u32> {
        let held = self.places.holders().filter_map(|key| self.table.find(key));
        chosen.extend(held.filter(|&index| self.table.get(index).is_some_and(|entry| !entry.is_blank())));
        chosen.sort_unstable();
        chosen.dedup();
        let all = chosen.iter().filter_map(|&index| self.table.get(index));
        self.places.give(ts, all.map(|entry| (entry.key.clone(), entry.busy())));
        chosen
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
        if self.table.is_full() {
            self.fold_smallest();
        }
        let scope = self.scope;
        self.table.insert(|born| Entry::new(key, born).for_scope(scope))
    }

    /// Makes room for groups: a quarter of them is folded into the others.
    fn fold_smallest(&mut self) {
        for entry in self.table.take_smallest() {
            self.histogram_bytes -= entry.stays.size().min(self.histogram_bytes);
            if let Some(other) = self.table.get_mut(OTHER) {
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
        let mut by_weight = self.table.by_weight(|entry| matches!(entry.stays, Stays::Many(_)));
        by_weight.sort_unstable();
        for (_, index) in by_weight {
            if self.histogram_bytes <= self.limits.histogram_bytes / 2 {
                break;
            }
            let Some(entry) = self.table.get_mut(index) else { continue };
            self.histogram_bytes -= entry.stays.size().min(self.histogram_bytes);
            let stays = std::mem::take(&mut entry.stays);
            entry.elsewhere += stays.len();
            self.histograms_folded += 1;
            if let Some(other) = self.table.get_mut(OTHER) {
                other.take_stays(&stays, self.scope);
            }
        }
    }
}
