//! Read-only state that the views render.

use std::{borrow::Cow, sync::Arc};

use serde::Serialize;

use super::{
    GroupKey, Grouping, PoolDemand, PortsSnapshot, RoleDwells, StacksSnapshot, StateDwells, Timeline,
    TimewaitSockets, detail::DetailAnswer, host_counters::Observed, stuck_sockets::StuckSockets,
};
use crate::{
    lifecycle::{Closer, EndReason, Role, Since},
    model::{
        Endpoint, Nanos, NetnsId, TcpState,
        peer_names::{self, PeerNames},
        record::{HostFacts, Process},
        text,
    },
};

/// All that the views show, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Time of the snapshot, `CLOCK_MONOTONIC`.
    pub ts: Nanos,
    /// When tracing began.
    pub began: Nanos,
    /// Length of the rate interval; 0 in the first snapshot, which has no rates.
    pub interval: Nanos,
    /// Facts about the host.
    pub host: Arc<HostFacts>,
    /// Source of the records: `live`, or a file name.
    pub source: Arc<str>,
    /// Filter expression; empty: everything is shown.
    pub filter: Arc<str>,
    /// Records processed so far.
    pub records: u64,
    /// Records per second over the interval.
    pub records_per_s: f64,
    /// Losses so far, by cause.
    pub losses: Losses,
    /// Sockets per state, indexed by [`TcpState::index`].
    pub states: [StateTotal; TcpState::COUNT],
    /// Sockets per state at earlier snapshots and at this one, the oldest first.
    pub history: Vec<Sample>,
    /// Sockets per state over the whole trace.
    pub timeline: Timeline,
    /// The current grouping.
    pub grouping: Grouping,
    /// The groups, most TIME_WAIT first.
    pub groups: Vec<Group>,
    /// Groups counted together as "other".
    pub other_groups: u64,
    /// Dwells of all sockets by state; empty unless the scope keeps every state.
    pub dwells: Vec<StateDwells>,
    /// Dwells by role and state; empty unless [`super::Scope::Roles`].
    pub dwells_by_role: Vec<RoleDwells>,
    /// Host counters, accept queues and descriptors.
    pub observed: Arc<Observed>,
    /// Sockets that wait for a process or a peer; empty unless requested.
    pub stuck: Vec<StuckSockets>,
    /// Local ports by destination.
    pub ports: PortsSnapshot,
    /// Processes for which a connection pool would save most connects, those first; empty unless requested.
    pub pools: Vec<PoolDemand>,
    /// Stacks of system calls; empty unless requested.
    pub stacks: StacksSnapshot,
    /// Names of remote addresses.
    pub peer_names: Arc<PeerNames>,
    /// Row count of each table, by name; every table is bounded.
    pub tables: Vec<(&'static str, usize)>,
    /// Answer to the active detail query, if there is one.
    pub answer: Option<Arc<DetailAnswer>>,
}

impl Snapshot {
    /// Whether it is one of the running kernel, not of a recording.
    pub fn is_live(&self) -> bool {
        &*self.source == "live"
    }
}

/// Sockets per state at one moment, indexed by [`TcpState::index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Time of the sample, `CLOCK_MONOTONIC`.
    pub ts: Nanos,
    /// Socket counts.
    pub counts: [u64; TcpState::COUNT],
}

/// The sockets in one state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StateTotal {
    /// Now.
    pub now: u64,
    /// Sockets that entered it since tracing began, without seeded ones.
    pub entered: u64,
    /// Entered per second over the interval.
    pub entered_per_s: f64,
}

/// Everything lost or doubtful since tracing began, by cause. 0 everywhere is the normal case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Records the rings had no room for.
    pub ring_full: u64,
    /// Transitions that the kernel's recursion guard may have hidden from every copy of the program: an
    /// upper bound.
    pub recursion_missed: u64,
    /// Sockets whose state did not match the next transition: a gap closed, its dwell unknown.
    pub healed: u64,
    /// Sockets, groups or names dropped because a table was full.
    pub evicted: u64,
    /// Records that could not be decoded.
    pub decode_errors: u64,
    /// Kernel memory that could not be read.
    pub read_faults: u64,
    /// Output lines dropped because the reader was too slow.
    pub output_dropped: u64,
    /// Records missing from the recording.
    pub not_recorded: u64,
    /// Loss counters that could not be read: their values are lower bounds.
    pub uncounted: u64,
    /// Not a loss: sockets without a beginning in a namespace that was not visited.
    pub unseeded: u64,
}

impl Losses {
    /// Number of losses. A healed socket missed a record: it counts only where more were healed than records are known to be
    /// lost. `unseeded` is not a loss.
    pub fn total(&self) -> u64 {
        let records = self.ring_full
            + self.recursion_missed
            + self.decode_errors
            + self.read_faults
            + self.not_recorded;
        records.max(self.healed) + self.evicted + self.output_dropped + self.uncounted
    }
}

/// The sockets that share one key.
#[derive(Clone, Debug)]
pub struct Group {
    /// Identity of the group.
    pub id: GroupKey,
    /// The key as text, sanitised: `10.0.0.5:5432`, `*:443`.
    pub key: String,
    /// The host, if it is part of the key.
    pub host: Option<String>,
    /// Namespace and endpoint, if the groups are services.
    pub service: Option<(NetnsId, Endpoint)>,
    /// Which side opened the connections.
    pub role: Role,
    /// Whether it is one of the sticky top N, see [`super::Aggregate::with_places`].
    pub has_place: bool,
    /// Sockets now, indexed by [`TcpState::index`].
    pub counts: [u64; TcpState::COUNT],
    /// The process that owns most of them, if known.
    pub process: Option<Process>,
    /// How many other processes own some of them.
    pub other_processes: u64,
    /// Connections that close or have closed, indexed by `Closer as usize`. May fall: later events can change the
    /// closer.
    pub closers: [u64; Closer::COUNT],
    /// Connections that finished closing (in TIME_WAIT or ended), indexed likewise. Never falls, so rates use it.
    /// Excludes those first seen after they had closed.
    pub closed: [u64; Closer::COUNT],
    /// Sockets ended, indexed by `EndReason as usize`, without timewait sockets.
    pub ended: [u64; EndReason::COUNT],
    /// Timewait sockets that ended in FIN_WAIT2, indexed likewise.
    pub orphans_ended: [u64; EndReason::COUNT],
    /// Connects that ended without a connection, indexed likewise.
    pub connects_ended: [u64; EndReason::COUNT],
    /// TIME_WAIT.
    pub time_wait: TimewaitSockets,
    /// FIN_WAIT2, orphan and held.
    pub fin_wait2: TimewaitSockets,
    /// FIN_WAIT2 sockets now without an owner (timewait sockets).
    pub fin_wait2_orphan: u64,
    /// When the oldest socket now in CLOSE_WAIT entered it.
    pub oldest_close_wait: Option<Since>,
    /// Owner of that socket, if known.
    pub close_wait_owner: Option<Process>,
    /// Dwells by state; empty unless the scope keeps every state.
    pub dwells: Vec<StateDwells>,
    /// Dwells moved to the group "other" to save memory.
    pub dwells_elsewhere: u64,
}

impl Group {
    /// The side that closed first most often, and its share of all closes in `0.0..=1.0`; `None` while nothing has
    /// closed.
    pub fn main_closer(&self) -> Option<(Closer, f64)> {
        let total: u64 = self.closers[1..].iter().sum();
        let most = Closer::ALL.into_iter().max_by_key(|&closer| self.closers[closer as usize])?;
        (total > 0).then(|| (most, self.closers[most as usize] as f64 / total as f64))
    }

    /// Sockets now, in any state.
    pub fn sockets(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Whether the group has no sockets and no known closer, end or timewait entry.
    pub fn is_empty(&self) -> bool {
        let nothing = |counts: &[u64]| counts.iter().all(|&count| count == 0);
        nothing(&self.counts)
            && nothing(&self.closers[1..])
            && nothing(&self.ended)
            && [&self.time_wait, &self.fin_wait2].iter().all(|of| of.entered == 0 && of.dwell_bounds == 0)
    }

    /// The name of the remote address or network in its key, if there is one.
    pub fn peer_name<'a>(&self, names: &'a PeerNames) -> Option<&'a Arc<str>> {
        names.network(self.id.peer()?)
    }

    /// The key with that name, sanitised: `10.0.0.5:5432 [db-subnet]`.
    pub fn named_key(&self, names: &PeerNames) -> Cow<'_, str> {
        match self.peer_name(names) {
            Some(name) => peer_names::with_name(&text::sanitise(&self.key), Some(name)).into(),
            None => text::sanitise(&self.key),
        }
    }

    /// The network namespace, if the groups are services.
    pub fn netns(&self) -> Option<NetnsId> {
        self.service.map(|(netns, _)| netns)
    }

    /// FIN_WAIT2 sockets now that a process holds open.
    pub fn fin_wait2_held(&self) -> u64 {
        self.counts[TcpState::FinWait2.index()].saturating_sub(self.fin_wait2_orphan)
    }
}
