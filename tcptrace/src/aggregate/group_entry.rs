//! Counters of one group.

use std::sync::Arc;

use super::{
    Group, TimewaitSockets,
    dwell_store::{DwellStore, Histograms, Scope},
    keys::GroupKey,
    orphan::Orphan,
    over_time::{GroupSummary, OverTime},
    owners::OwnerCounts,
    packed_dwell::PackedDwell,
    streams::KeyNames,
};
use crate::{
    lifecycle::{Closer, Event, Processes, Role, Since, Socket},
    model::{TcpState, record::Process},
};

/// Sockets with one key. There may be many entries, so each is small.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: GroupKey,
    /// Sequence number of the group: earlier groups have lower numbers.
    pub(super) born: u64,
    /// Sockets that ever joined the group.
    pub(super) joined: u64,
    /// Those that moved to other groups.
    pub(super) moved: Moved,
    counts: [u32; TcpState::COUNT],
    roles: [u32; 4],
    pub(super) owners: OwnerCounts,
    closers: [u64; Closer::COUNT],
    /// Connections that finished closing, except those first seen after they had closed.
    closed: [u64; Closer::COUNT],
    time_wait: Entered,
    fin_wait2: Entered,
    orphans: u64,
    pub(super) dwells: DwellStore,
    /// Dwells moved to "other" to save memory.
    pub(super) elsewhere: u64,
    /// Only with [`Scope::Whole`].
    pub(super) over_time: Option<Box<OverTime>>,
}

/// Sockets that moved from a group to others because their role or owner became known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    count: u64,
    /// Sequence number of the group to which the first moved.
    first: u64,
    is_to_several: bool,
}

impl Moved {
    /// One moved to the group with this sequence number.
    pub(super) const fn note(&mut self, to: u64) {
        if self.count == 0 {
            self.first = to;
        }
        self.is_to_several |= self.first != to;
        self.count += 1;
    }

    /// How many moved, if all to the same group.
    pub(super) const fn to_one(self) -> Option<u64> {
        if self.is_to_several { None } else { Some(self.count) }
    }
}

/// How many sockets entered a state.
#[derive(Clone, Copy, Debug, Default)]
struct Entered {
    all: u64,
    /// At the previous snapshot.
    before: u64,
}

/// The oldest socket of a group that is in CLOSE_WAIT.
#[derive(Clone, Debug)]
pub(super) struct Oldest {
    pub(super) since: Since,
    pub(super) owner: Option<Arc<Process>>,
}

impl Oldest {
    /// The older of two. Many sockets first seen at the same time tie: then the lowest pid wins.
    pub(super) fn older(self, other: Self) -> Self {
        let pid = |oldest: &Self| oldest.owner.as_ref().map_or(u32::MAX, |owner| owner.pid);
        let is_other = if self.since == other.since {
            pid(&other) < pid(&self)
        } else {
            self.since.older(other.since) == other.since
        };
        if is_other { other } else { self }
    }
}

/// Context for rendering a group.
pub(super) struct GroupValues<'a> {
    pub(super) names: KeyNames<'a>,
    pub(super) scope: Scope,
    /// Length of the rate interval in seconds; 0: no rates.
    pub(super) interval_s: f64,
}

impl Entry {
    pub(super) fn new(key: GroupKey, born: u64) -> Self {
        Self {
            key,
            born,
            joined: 0,
            moved: Moved::default(),
            counts: [0; TcpState::COUNT],
            roles: [0; 4],
            owners: OwnerCounts::default(),
            closers: [0; Closer::COUNT],
            closed: [0; Closer::COUNT],
            time_wait: Entered::default(),
            fin_wait2: Entered::default(),
            orphans: 0,
            dwells: DwellStore::default(),
            elsewhere: 0,
            over_time: None,
        }
    }

    /// Enables the summary over time if `scope` needs it.
    pub(super) fn for_scope(self, scope: Scope) -> Self {
        Self { over_time: (scope == Scope::Whole).then(Box::default), ..self }
    }

    /// Adds a socket to the group, not yet to a state.
    pub(super) fn add_socket(&mut self, socket: &Socket, processes: &Processes) {
        self.joined += 1;
        self.roles[socket.role as usize] += 1;
        self.note_owner(socket, processes);
    }

    pub(super) fn note_owner(&mut self, socket: &Socket, processes: &Processes) {
        self.owners.note(socket, processes);
    }

    /// Counts a socket in its state.
    pub(super) fn add(&mut self, socket: &mut Socket) {
        self.counts[socket.state.index()] += 1;
        self.orphans += u64::from(socket.is_orphan_fin_wait2());
        self.count_closer(socket);
    }

    /// Removes a socket from `state`.
    pub(super) fn sub(&mut self, state: TcpState, orphan: Orphan) {
        let count = &mut self.counts[state.index()];
        *count = count.saturating_sub(1);
        self.orphans = self.orphans.saturating_sub(orphan.count());
    }

    /// Reverts the count of a socket in `state`.
    pub(super) fn take_back(&mut self, state: TcpState, socket: &mut Socket) {
        self.sub(state, Orphan::in_state(state, socket));
        self.uncount_closer(socket);
    }

    /// Counts the closer of a socket, replacing an earlier guess: once per socket, even if it is added again.
    pub(super) fn count_closer(&mut self, socket: &mut Socket) {
        if socket.counted.closer != socket.closer {
            self.uncount_closer(socket);
            self.closers[socket.closer as usize] += 1;
            socket.counted.closer = socket.closer;
        }
    }

    pub(super) fn uncount_closer(&mut self, socket: &mut Socket) {
        let counted = std::mem::take(&mut socket.counted.closer);
        if counted != Closer::None {
            let count = &mut self.closers[counted as usize];
            *count = count.saturating_sub(1);
        }
    }

    /// Counts a connection that finished closing, when its closer is final: unlike [`Self::count_closer`] this is
    /// never reverted.
    pub(super) fn count_closed(&mut self, event: &Event<'_>, socket: &Socket) {
        let is_through =
            event.from != TcpState::TimeWait && matches!(event.to, TcpState::TimeWait | TcpState::Close);
        if is_through && socket.closer != Closer::None && !socket.closed_before {
            self.closed[socket.closer as usize] += 1;
        }
    }

    /// A socket entered the state it is in.
    pub(super) fn enter(&mut self, socket: &Socket) {
        match socket.state {
            TcpState::TimeWait => self.time_wait.all += 1,
            TcpState::FinWait2 => self.fin_wait2.all += 1,
            _ => {}
        }
        if let Some(over_time) = &mut self.over_time {
            over_time.enter(socket.state);
        }
    }

    /// Samples its sockets for the mean over time.
    pub(super) fn sample(&mut self) {
        if let Some(over_time) = &mut self.over_time {
            over_time.sample(&self.counts);
        }
    }

    /// Stores the dwell that `event` ends; returns by how many bytes the histograms grew.
    pub(super) fn leave(&mut self, event: &Event<'_>, socket: &Socket, scope: Scope) -> usize {
        if !scope.keeps(event) {
            return 0;
        }
        PackedDwell::of(event, socket).map(|packed| self.dwells.take(packed, scope)).sum()
    }

    pub(super) fn orphaned(&mut self) {
        self.orphans += 1;
    }

    /// Sockets now.
    pub(super) fn sockets(&self) -> u64 {
        self.counts.iter().map(|&count| u64::from(count)).sum()
    }

    /// Sockets now without listeners, which are not traffic.
    pub(super) fn busy(&self) -> u64 {
        self.sockets() - u64::from(self.counts[TcpState::Listen.index()])
    }

    /// Whether its sockets have ended or moved to groups with a role. Its key says nothing about them.
    pub(super) fn is_left_behind(&self) -> bool {
        self.key.role() == Some(Role::Unknown) && self.sockets() == 0
    }

    /// Forgets the sockets that joined, which join another group.
    pub(super) fn forget_sockets(&mut self) {
        self.joined = 0;
        self.moved = Moved::default();
        self.roles = [0; 4];
    }

    /// Whether it has no sockets and no history.
    pub(super) fn is_blank(&self) -> bool {
        let closed: u64 = self.closers.iter().sum();
        let did = self.elsewhere + self.time_wait.all + self.fin_wait2.all + closed;
        self.sockets() + did == 0 && self.dwells.is_empty()
    }

    /// Adds everything but the owners to `sum`.
    pub(super) fn add_to(&self, sum: &mut Self, scope: Scope) {
        sum.joined += self.joined;
        sum.orphans += self.orphans;
        for (sum, count) in sum.counts.iter_mut().zip(self.counts) {
            *sum += count;
        }
        for (sum, count) in sum.roles.iter_mut().zip(self.roles) {
            *sum += count;
        }
        for (sum, count) in sum.closers.iter_mut().zip(self.closers) {
            *sum += count;
        }
        for (sum, count) in sum.closed.iter_mut().zip(self.closed) {
            *sum += count;
        }
        for (sum, entered) in [(&mut sum.time_wait, self.time_wait), (&mut sum.fin_wait2, self.fin_wait2)] {
            sum.all += entered.all;
            sum.before += entered.before;
        }
        if let (Some(sum), Some(over_time)) = (&mut sum.over_time, &self.over_time) {
            sum.merge(over_time);
        }
        sum.merge_dwells(&self.dwells, scope);
    }

    /// Merges `dwells` into its own.
    pub(super) fn merge_dwells(&mut self, dwells: &DwellStore, scope: Scope) {
        if let DwellStore::Few(few) = dwells {
            for &dwell in few {
                self.dwells.take(dwell, scope);
            }
            return;
        }
        if let DwellStore::Few(_) = self.dwells {
            self.dwells = DwellStore::Many(Box::new(self.dwells.histograms(scope).into_owned()));
        }
        if let DwellStore::Many(histograms) = &mut self.dwells {
            dwells.add_to(histograms, scope);
        }
    }

    /// Weights of the rankings: the first groups of each ranking are always shown.
    pub(super) fn weights(&self) -> [u64; WEIGHTS] {
        let count = |state: TcpState| u64::from(self.counts[state.index()]);
        [
            count(TcpState::TimeWait),
            self.time_wait.all - self.time_wait.before,
            self.sockets(),
            self.joined,
            count(TcpState::CloseWait),
            count(TcpState::FinWait2),
            count(TcpState::SynRecv),
            self.time_wait.all,
        ]
    }

    /// Starts a rate interval.
    pub(super) fn begin_interval(&mut self) {
        self.time_wait.before = self.time_wait.all;
        self.fin_wait2.before = self.fin_wait2.all;
    }

    fn role(&self) -> Role {
        if let Some(role) = self.key.role() {
            return role;
        }
        let connected = [Role::Inbound, Role::Outbound];
        connected
            .into_iter()
            .max_by_key(|&role| self.roles[role as usize])
            .filter(|&role| self.roles[role as usize] > 0)
            .unwrap_or(if self.roles[Role::Listener as usize] > 0 { Role::Listener } else { Role::Unknown })
    }

    pub(super) fn snapshot(&self, shown: &GroupValues<'_>, oldest_close_wait: Option<Oldest>) -> Group {
        let counts = self.counts.map(u64::from);
        let histograms = self.dwells.histograms(shown.scope);
        let timewaits = |state: TcpState, entered: Entered| {
            let (dwell, dwell_bounds) = histograms.quantiles(state);
            TimewaitSockets {
                now: counts[state.index()],
                entered: entered.all,
                entered_per_s: shown.per_s(entered.all - entered.before),
                ended: histograms.ends(state),
                dwell,
                dwell_bounds,
            }
        };
        Group {
            id: self.key.clone(),
            key: self.key.label(shown.names),
            host: self.key.host(shown.names).map(Into::into),
            service: self.key.service(),
            role: self.role(),
            has_place: false,
            counts,
            process: self.owners.main(),
            other_processes: self.owners.others(),
            closers: self.closers,
            closed: self.closed,
            ended: histograms.ended(),
            orphans_ended: histograms.orphans_ended(),
            connects_ended: histograms.connects_ended(),
            time_wait: timewaits(TcpState::TimeWait, self.time_wait),
            fin_wait2: timewaits(TcpState::FinWait2, self.fin_wait2),
            fin_wait2_orphan: self.orphans,
            oldest_close_wait: oldest_close_wait.as_ref().map(|oldest| oldest.since),
            close_wait_owner: oldest_close_wait.and_then(|oldest| oldest.owner).as_deref().cloned(),
            dwells: self.dwells(&histograms, shown.scope),
            dwells_elsewhere: self.elsewhere,
        }
    }

    /// Summary over the trace of so many `samples`.
    pub(super) fn summary(&self, names: KeyNames<'_>, samples: u64) -> GroupSummary {
        let histograms = self.dwells.histograms(Scope::Whole);
        let over_time = self.over_time.as_deref().cloned().unwrap_or_default();
        let states = over_time.states(&self.counts.map(u64::from), samples, |state| histograms.whole(state));
        GroupSummary {
            key: self.key.label(names),
            role: self.role(),
            process: self.owners.main(),
            states,
            closed: self.closed,
            ended: histograms.ended(),
            dwells_elsewhere: self.elsewhere,
        }
    }

    /// The dwells kept for the group.
    pub(super) fn all_dwells(&self, scope: Scope) -> Vec<super::StateDwells> {
        self.dwells.histograms(scope).states(&self.counts.map(u64::from), self.orphans)
    }

    fn dwells(&self, histograms: &Histograms, scope: Scope) -> Vec<super::StateDwells> {
        match scope {
            Scope::TimewaitSockets | Scope::Roles | Scope::Nothing => Vec::new(),
            Scope::Every | Scope::Whole => histograms.states(&self.counts.map(u64::from), self.orphans),
        }
    }
}

/// Number of rankings.
pub(super) const WEIGHTS: usize = 8;

impl GroupValues<'_> {
    pub(super) fn per_s(&self, count: u64) -> f64 {
        if self.interval_s > 0.0 { count as f64 / self.interval_s } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_with_any_history_is_not_blank() {
        let entry = || Entry::new(GroupKey::named("a", Role::Inbound), 0);
        assert!(entry().is_blank());
        let happened: [fn(&mut Entry); 5] = [
            |entry| entry.counts[TcpState::Established.index()] = 1,
            |entry| entry.elsewhere = 1,
            |entry| entry.time_wait.all = 1,
            |entry| entry.fin_wait2.all = 1,
            |entry| entry.closers[0] = 1,
        ];
        for (n, happen) in happened.into_iter().enumerate() {
            let mut entry = entry();
            happen(&mut entry);
            assert!(!entry.is_blank(), "{n}");
        }
    }
}
