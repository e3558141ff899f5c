//! What a view gets: everything it shows, and nothing it could change.

use std::sync::Arc;

use serde::Serialize;

use super::{
    Distribution, GroupKey, Grouping, PortsSnapshot, Split, Timeline, observed::Observed, standing::Standing,
};
use crate::{
    inspect::Answer,
    lifecycle::{Closer, EndReason, Role, Since},
    model::{
        Endpoint, Nanos, NetnsId, TcpState,
        record::{HostFacts, Process},
    },
};

/// Everything the views show, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When, `CLOCK_MONOTONIC`.
    pub ts: Nanos,
    /// When tracing began.
    pub began: Nanos,
    /// Length of the interval that the rates are over; 0 in the first snapshot, which has no rates.
    pub interval: Nanos,
    /// Facts about the host.
    pub host: Arc<HostFacts>,
    /// Where the records come from: `live`, or the name of a file.
    pub source: Arc<str>,
    /// What is shown of it, as an expression; empty for everything.
    pub filter: Arc<str>,
    /// Records taken in so far.
    pub records: u64,
    /// Records per second over the interval.
    pub records_per_s: f64,
    /// Everything lost so far, by cause.
    pub losses: Losses,
    /// Sockets per state, indexed by [`TcpState::index`].
    pub states: [StateTotal; TcpState::COUNT],
    /// Sockets per state at earlier snapshots and at this one, the oldest first.
    pub history: Vec<Sample>,
    /// Sockets per state over the whole trace.
    pub timeline: Timeline,
    /// What the groups are grouped by.
    pub grouping: Grouping,
    /// The groups, most TIME_WAIT first.
    pub groups: Vec<Group>,
    /// Groups that are counted together, in the one called "other".
    pub other_groups: u64,
    /// The dwells of all sockets by state, where those of every state are kept; else empty.
    pub dwells: Vec<StateDwells>,
    /// The same by role, where it was asked for with [`super::Scope::Roles`]; else empty.
    pub dwells_by_role: Vec<RoleDwells>,
    /// What was looked at beside the sockets.
    pub observed: Arc<Observed>,
    /// Sockets that wait for somebody, where they were asked for.
    pub standing: Vec<Standing>,
    /// Local ports by destination.
    pub ports: PortsSnapshot,
    /// What was asked for beyond that; `None` where nobody asks.
    pub answer: Option<Arc<Answer>>,
}

/// Sockets per state at one moment, indexed by [`TcpState::index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, `CLOCK_MONOTONIC`.
    pub ts: Nanos,
    /// How many.
    pub counts: [u64; TcpState::COUNT],
}

/// The dwells of some sockets in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDwells {
    /// The state.
    pub state: TcpState,
    /// Which of them; `None`: all.
    pub split: Option<Split>,
    /// Sockets in the state now, whose dwell has not ended; `None` where that can't be told yet.
    pub open_now: Option<u64>,
    /// How long they lasted.
    pub distribution: Distribution,
}

/// The dwells of all sockets of one role in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleDwells {
    /// The role that they had when they left the state.
    pub role: Role,
    /// The state.
    pub state: TcpState,
    /// How long they lasted.
    pub distribution: Distribution,
}

/// The sockets in one state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StateTotal {
    /// Now.
    pub now: u64,
    /// That entered it since tracing began, seeded ones not counted.
    pub entered: u64,
    /// Entered per second over the interval.
    pub entered_per_s: f64,
}

/// Everything lost or doubtful since tracing began, by cause. 0 everywhere is the normal case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Records the ring buffer had no room for.
    pub ring_full: u64,
    /// Transitions that the kernel's recursion guard may have kept from every copy of the program: an
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
    /// Lines that a slow reader of the output did not take in time.
    pub output_dropped: u64,
    /// Records that are missing in the recording.
    pub not_recorded: u64,
    /// Counters of losses that could not be read: what they count is a lower bound.
    pub uncounted: u64,
}

impl Losses {
    /// All causes together.
    pub const fn total(&self) -> u64 {
        self.ring_full
            + self.recursion_missed
            + self.healed
            + self.evicted
            + self.decode_errors
            + self.read_faults
            + self.output_dropped
            + self.not_recorded
            + self.uncounted
    }
}

/// The sockets that share one key.
#[derive(Clone, Debug)]
pub struct Group {
    /// What makes it this group.
    pub id: GroupKey,
    /// The key as text, sanitised: `10.0.0.5:5432`, `*:443`.
    pub key: String,
    /// Namespace and end, where the groups are services.
    pub service: Option<(NetnsId, Endpoint)>,
    /// Which side opened the connections.
    pub role: Role,
    /// Whether it keeps a place among those shown, see [`super::Aggregate::with_places`].
    pub has_place: bool,
    /// Sockets now, indexed by [`TcpState::index`].
    pub counts: [u64; TcpState::COUNT],
    /// The process that owns most of them, where one is known.
    pub process: Option<Process>,
    /// How many other processes own some of them.
    pub other_processes: u64,
    /// Connections that close or have closed, indexed by `Closer as usize`. Who did may turn out otherwise: it may fall.
    pub closers: [u64; Closer::ALL.len() + 1],
    /// Those that are through with it, in TIME_WAIT or gone, without those that had closed before they were seen: what
    /// a rate is made of.
    pub closed: [u64; Closer::ALL.len() + 1],
    /// Sockets ended, indexed by `EndReason as usize`, minisockets apart.
    pub ended: [u64; EndReason::COUNT],
    /// Minisockets that ended in FIN_WAIT2, indexed likewise.
    pub orphans_ended: [u64; EndReason::COUNT],
    /// Connects that ended without a connection, indexed likewise.
    pub connects_ended: [u64; EndReason::COUNT],
    /// TIME_WAIT.
    pub time_wait: Minisockets,
    /// FIN_WAIT2, orphan and held.
    pub fin_wait2: Minisockets,
    /// FIN_WAIT2 now without an owner (a minisocket).
    pub fin_wait2_orphan: u64,
    /// When the oldest socket that is now in CLOSE_WAIT entered it.
    pub oldest_close_wait: Option<Since>,
    /// Who owns that one, where it is known.
    pub close_wait_owner: Option<Process>,
    /// The dwells by state, where those of every state are kept; else empty.
    pub dwells: Vec<StateDwells>,
    /// Dwells that were added to those of the group "other", for want of memory.
    pub dwells_elsewhere: u64,
}

impl Group {
    /// Which side closed first most often, and its share of all closes in `0.0..=1.0`; `None` while
    /// nothing has closed.
    pub fn main_closer(&self) -> Option<(Closer, f64)> {
        let total: u64 = self.closers[1..].iter().sum();
        let most = Closer::ALL.into_iter().max_by_key(|&closer| self.closers[closer as usize])?;
        (total > 0).then(|| (most, self.closers[most as usize] as f64 / total as f64))
    }

    /// Sockets now, in any state.
    pub fn sockets(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Whether there is nothing to show: no socket is there, and of none is known who closed it or how it ended.
    pub fn is_empty(&self) -> bool {
        let nothing = |counts: &[u64]| counts.iter().all(|&count| count == 0);
        nothing(&self.counts)
            && nothing(&self.closers[1..])
            && nothing(&self.ended)
            && [&self.time_wait, &self.fin_wait2].iter().all(|of| of.entered == 0 && of.dwell_bounds == 0)
    }

    /// The network namespace, where the groups are services.
    pub fn netns(&self) -> Option<NetnsId> {
        self.service.map(|(netns, _)| netns)
    }

    /// FIN_WAIT2 now that a process still holds open.
    pub fn fin_wait2_held(&self) -> u64 {
        self.counts[TcpState::FinWait2.index()].saturating_sub(self.fin_wait2_orphan)
    }
}

/// One of the two states that minisockets are in.
#[derive(Clone, Debug, Default)]
pub struct Minisockets {
    /// Now.
    pub now: u64,
    /// Entered since tracing began.
    pub entered: u64,
    /// Entered per second over the interval.
    pub entered_per_s: f64,
    /// How they ended.
    pub ended: TimeWaitEnds,
    /// How long they lasted, exact dwells only.
    pub dwell: DwellQuantiles,
    /// Dwells known only as a bound (seeded or inferred), which are not in `dwell`.
    pub dwell_bounds: u64,
}

/// How minisockets ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TimeWaitEnds {
    /// The timer ran out.
    pub expired: u64,
    /// Taken over by a `connect()`.
    pub reused: u64,
    /// Taken over by a SYN.
    pub reopened: u64,
    /// Ended by a RST.
    pub reset: u64,
    /// Killed by an administrator.
    pub killed: u64,
    /// Went down with the namespace.
    pub purged: u64,
    /// Ended by data that nobody could read any more.
    pub aborted: u64,
    /// Not explained by anything seen.
    pub unexplained: u64,
    /// Found gone by a sweep: the records about their end were lost.
    pub lost: u64,
}

impl TimeWaitEnds {
    /// How many ended by `reason`; `None` for one that no minisocket ends by.
    pub const fn of(&self, reason: EndReason) -> Option<u64> {
        Some(match reason {
            EndReason::Expired => self.expired,
            EndReason::Reused => self.reused,
            EndReason::Reopened => self.reopened,
            EndReason::Reset => self.reset,
            EndReason::Killed => self.killed,
            EndReason::Purged => self.purged,
            EndReason::Aborted => self.aborted,
            EndReason::Unexplained => self.unexplained,
            EndReason::Lost => self.lost,
            _ => return None,
        })
    }

    /// Adds all of `other`.
    pub const fn add(&mut self, other: &Self) {
        self.expired += other.expired;
        self.reused += other.reused;
        self.reopened += other.reopened;
        self.reset += other.reset;
        self.killed += other.killed;
        self.purged += other.purged;
        self.aborted += other.aborted;
        self.unexplained += other.unexplained;
        self.lost += other.lost;
    }

    /// Counts `n` more that ended by `reason`; one that no minisocket ends by is left out.
    pub(super) const fn count(&mut self, reason: EndReason, n: u64) {
        let counter = match reason {
            EndReason::Expired => &mut self.expired,
            EndReason::Reused => &mut self.reused,
            EndReason::Reopened => &mut self.reopened,
            EndReason::Reset | EndReason::ResetReceived => &mut self.reset,
            EndReason::Killed => &mut self.killed,
            EndReason::Purged => &mut self.purged,
            EndReason::Aborted => &mut self.aborted,
            EndReason::Unexplained => &mut self.unexplained,
            EndReason::Lost => &mut self.lost,
            _ => return,
        };
        *counter += n;
    }
}

/// Quantiles of a dwell, nanoseconds. All 0 while `count` is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DwellQuantiles {
    /// Number of dwells.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 0.9 quantile.
    pub p90: u64,
    /// 0.99 quantile.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl DwellQuantiles {
    /// Those of `distribution`.
    pub fn of(distribution: &Distribution) -> Self {
        if distribution.count == 0 {
            return Self::default();
        }
        Self {
            count: distribution.count,
            p50: distribution.quantile(0.5).0,
            p90: distribution.quantile(0.9).0,
            p99: distribution.quantile(0.99).0,
            max: distribution.longest.0,
        }
    }
}
