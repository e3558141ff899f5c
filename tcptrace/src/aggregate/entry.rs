//! What one group has seen.

use std::sync::Arc;

use super::{
    CLOSERS, Group, Minisockets,
    counting::Orphan,
    departure::Departure,
    keys::{GroupKey, Names},
    over_time::{GroupSummary, OverTime},
    owners::Owners,
    stays::{Histograms, Scope, Stays},
};
use crate::{
    lifecycle::{Closer, Event, Processes, Role, Since, Socket},
    model::{TcpState, record::Process},
};

/// The sockets with one key. There may be many of these: it is kept small.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: GroupKey,
    /// Which group this is, counted from the first: an earlier one has a lower number.
    pub(super) born: u64,
    /// Sockets that ever came into the group.
    pub(super) joined: u64,
    counts: [u32; TcpState::COUNT],
    roles: [u32; 4],
    owners: Owners,
    closers: [u64; CLOSERS],
    /// Connections that are through with closing, of those that had not closed when they were first seen.
    closed: [u64; CLOSERS],
    time_wait: Entered,
    fin_wait2: Entered,
    orphans: u64,
    pub(super) stays: Stays,
    /// Stays that were added to the others' for want of memory.
    pub(super) elsewhere: u64,
    /// With [`Scope::Whole`].
    pub(super) over_time: Option<Box<OverTime>>,
}

/// How many sockets entered a state.
#[derive(Clone, Copy, Debug, Default)]
struct Entered {
    all: u64,
    /// At the snapshot before.
    before: u64,
}

/// The oldest socket of a group that is in CLOSE_WAIT.
#[derive(Clone, Debug)]
pub(super) struct Oldest {
    pub(super) since: Since,
    pub(super) owner: Option<Arc<Process>>,
}

impl Oldest {
    /// Many were seen first at one time, when they were there already: of these the one with the lowest pid.
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

/// What a group is shown with.
pub(super) struct Shown<'a> {
    pub(super) names: &'a Names,
    pub(super) own_netns: u32,
    pub(super) scope: Scope,
    /// Length of the interval that rates are over, in seconds; 0: there are no rates.
    pub(super) interval_s: f64,
}

impl Entry {
    pub(super) fn new(key: GroupKey, born: u64) -> Self {
        Self {
            key,
            born,
            joined: 0,
            counts: [0; TcpState::COUNT],
            roles: [0; 4],
            owners: Owners::default(),
            closers: [0; CLOSERS],
            closed: [0; CLOSERS],
            time_wait: Entered::default(),
            fin_wait2: Entered::default(),
            orphans: 0,
            stays: Stays::default(),
            elsewhere: 0,
            over_time: None,
        }
    }

    /// The same, to be looked at over time where `scope` says so.
    pub(super) fn for_scope(self, scope: Scope) -> Self {
        Self { over_time: (scope == Scope::Whole).then(Box::default), ..self }
    }

    /// A socket belongs here from now on; it is not in a state yet.
    pub(super) fn welcome(&mut self, socket: &Socket, processes: &Processes) {
        self.joined += 1;
        self.roles[socket.role as usize] += 1;
        self.note_owner(socket, processes);
    }

    pub(super) fn note_owner(&mut self, socket: &Socket, processes: &Processes) {
        if let Some(process) = socket.process.and_then(|id| processes.get(id)) {
            self.owners.note(process);
        }
    }

    /// Counts a socket in its state.
    pub(super) fn add(&mut self, socket: &mut Socket) {
        self.counts[socket.state.index()] += 1;
        self.orphans += u64::from(socket.is_orphan_fin_wait2());
        self.count_closer(socket);
    }

    /// A socket is no longer in `state`.
    pub(super) fn sub(&mut self, state: TcpState, orphan: Orphan) {
        let count = &mut self.counts[state.index()];
        *count = count.saturating_sub(1);
        self.orphans = self.orphans.saturating_sub(orphan.count());
    }

    /// Takes back that a socket was counted, in `state`.
    pub(super) fn take_back(&mut self, state: TcpState, socket: &mut Socket) {
        self.sub(state, Orphan::in_state(state, socket));
        self.uncount_closer(socket);
    }

    /// Counts who closed a socket, in place of whoever was thought to: once, however often it comes back.
    pub(super) fn count_closer(&mut self, socket: &mut Socket) {
        if socket.counted_closer != socket.closer {
            self.uncount_closer(socket);
            self.closers[socket.closer as usize] += 1;
            socket.counted_closer = socket.closer;
        }
    }

    pub(super) fn uncount_closer(&mut self, socket: &mut Socket) {
        let counted = std::mem::take(&mut socket.counted_closer);
        if counted != Closer::None {
            let count = &mut self.closers[counted as usize];
            *count = count.saturating_sub(1);
        }
    }

    /// Counts a connection once it is through with closing, when nothing can change who did any more: unlike
    /// [`Self::count_closer`] nothing takes this back.
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

    /// Counts the sockets in it for the mean over time.
    pub(super) fn look(&mut self) {
        if let Some(over_time) = &mut self.over_time {
            over_time.look(&self.counts);
        }
    }

    /// Takes in what `event` tells about the state it leaves; returns by how many bytes this grew.
    pub(super) fn leave(&mut self, event: &Event<'_>, socket: &Socket, scope: Scope) -> usize {
        if !scope.keeps(event) {
            return 0;
        }
        Departure::of(event, socket).map(|departure| self.stays.take(departure, scope)).sum()
    }

    pub(super) fn orphaned(&mut self) {
        self.orphans += 1;
    }

    /// Sockets in it now.
    pub(super) fn sockets(&self) -> u64 {
        self.counts.iter().map(|&count| u64::from(count)).sum()
    }

    /// The same without listeners, which say nothing about traffic.
    pub(super) fn busy(&self) -> u64 {
        self.sockets() - u64::from(self.counts[TcpState::Listen.index()])
    }

    /// Whether there is nothing to tell: no sockets, and none that did anything.
    pub(super) fn is_blank(&self) -> bool {
        let closed: u64 = self.closers.iter().sum();
        let did = self.elsewhere + self.time_wait.all + self.fin_wait2.all + closed;
        self.sockets() + did == 0 && self.stays.is_empty()
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
        sum.take_stays(&self.stays, scope);
    }

    /// Adds `stays` to its own.
    pub(super) fn take_stays(&mut self, stays: &Stays, scope: Scope) {
        if let Stays::Few(_) = self.stays {
            self.stays = Stays::Many(Box::new(self.stays.histograms(scope).into_owned()));
        }
        if let Stays::Many(histograms) = &mut self.stays {
            stays.add_to(histograms, scope);
        }
    }

    /// What a ranking is made by: in each of these respects the first are always shown.
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

    /// From now on rates are measured against this moment.
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

    pub(super) fn snapshot(&self, shown: &Shown<'_>, oldest_close_wait: Option<Oldest>) -> Group {
        let counts = self.counts.map(u64::from);
        let histograms = self.stays.histograms(shown.scope);
        let minisockets = |state: TcpState, entered: Entered| {
            let (dwell, dwell_bounds) = histograms.quantiles(state);
            Minisockets {
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
            key: self.key.label(shown.names, shown.own_netns),
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
            time_wait: minisockets(TcpState::TimeWait, self.time_wait),
            fin_wait2: minisockets(TcpState::FinWait2, self.fin_wait2),
            fin_wait2_orphan: self.orphans,
            oldest_close_wait: oldest_close_wait.as_ref().map(|oldest| oldest.since),
            close_wait_owner: oldest_close_wait.and_then(|oldest| oldest.owner).as_deref().cloned(),
            dwells: self.dwells(&histograms, shown.scope),
            dwells_elsewhere: self.elsewhere,
        }
    }

    /// The group over the whole time, in which its sockets were counted `looks` times.
    pub(super) fn summary(&self, names: &Names, own_netns: u32, looks: u64) -> GroupSummary {
        let histograms = self.stays.histograms(Scope::Whole);
        let over_time = self.over_time.as_deref().cloned().unwrap_or_default();
        let states = over_time.states(&self.counts.map(u64::from), looks, |state| histograms.whole(state));
        GroupSummary {
            key: self.key.label(names, own_netns),
            role: self.role(),
            process: self.owners.main(),
            states,
            closed: self.closed,
            ended: histograms.ended(),
            dwells_elsewhere: self.elsewhere,
        }
    }

    /// Its dwells, as far as they are kept.
    pub(super) fn all_dwells(&self, scope: Scope) -> Vec<super::StateDwells> {
        self.stays.histograms(scope).states(&self.counts.map(u64::from), self.orphans)
    }

    fn dwells(&self, histograms: &Histograms, scope: Scope) -> Vec<super::StateDwells> {
        match scope {
            Scope::Minisockets | Scope::Roles | Scope::Nothing => Vec::new(),
            Scope::Every | Scope::Whole => histograms.states(&self.counts.map(u64::from), self.orphans),
        }
    }
}

/// How many rankings there are.
pub(super) const WEIGHTS: usize = 8;

impl Shown<'_> {
    pub(super) fn per_s(&self, count: u64) -> f64 {
        if self.interval_s > 0.0 { count as f64 / self.interval_s } else { 0.0 }
    }
}
