//! How many connects a connection pool would save: simulates pools of several sizes over the connections of each process to each
//! destination.
//!
//! A pool of size n keeps a connection at its close, unless it has n idle ones; a connect takes an idle one if there is one. A
//! close by this side counts, and one by the peer after less than a second: that is no idle timeout, and HTTP clients without
//! keep-alive ask for it. How long a peer lets a connection be idle is not known here, so the pool keeps them without limit.

use hashbrown::HashMap;

use crate::{
    lifecycle::Event,
    model::{Endpoint, Nanos, NetnsId, Role, TcpState, record::Process},
};

/// Sizes of the simulated pools: powers of two up to 1,024.
const SIZES: usize = 11;
/// The share of what the largest pool saves that is enough.
const ENOUGH: (u64, u64) = (9, 10);
/// A connection shorter than this was made for one task.
const SHORT: Nanos = Nanos::SECOND;
/// Processes and destinations kept.
const PLACES: usize = 4096;
/// Reported: those that would save most.
const REPORTED: usize = 32;

/// The pools of all processes and destinations.
#[derive(Clone, Debug, Default)]
pub(super) struct Pools {
    /// Randomly seeded: a peer chooses its address.
    demands: HashMap<(NetnsId, Endpoint, u32), Demand>,
}

/// The connections of one process to one destination.
#[derive(Clone, Debug)]
struct Demand {
    process: Process,
    opened: u64,
    closed_here: u64,
    closed_there: u64,
    short: u64,
    open: u32,
    most_open: u32,
    /// By pool: connections that are idle in it, and connects that it saved.
    idle: [u32; SIZES],
    saved: [u64; SIZES],
}

/// What a pool would have saved one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDemand {
    /// Network namespace.
    pub netns: NetnsId,
    /// The destination.
    pub remote: Endpoint,
    /// The process that connects.
    pub process: Process,
    /// Connections established.
    pub opened: u64,
    /// Those that this side closed first.
    pub closed_here: u64,
    /// Those that the peer closed first, in less than a second.
    pub closed_there: u64,
    /// Those of both that were established for less than a second.
    pub short: u64,
    /// Most of them open at once.
    pub most_open: u32,
    /// Idle connections of a pool that saves nine tenths of what the largest one would: a power of two.
    pub idle: u64,
    /// Connects that this pool would have saved.
    pub saved: u64,
}

impl Demand {
    fn new(process: &Process) -> Self {
        Self {
            process: process.clone(),
            opened: 0,
            closed_here: 0,
            closed_there: 0,
            short: 0,
            open: 0,
            most_open: 0,
            idle: [0; SIZES],
            saved: [0; SIZES],
        }
    }

    /// Not by the cgroup: a process may move.
    fn is_of(&self, process: &Process) -> bool {
        (self.process.pid, &self.process.comm) == (process.pid, &process.comm)
    }

    fn opened(&mut self) {
        self.opened += 1;
        self.open += 1;
        self.most_open = self.most_open.max(self.open);
        for (idle, saved) in self.idle.iter_mut().zip(&mut self.saved) {
            if let Some(left) = idle.checked_sub(1) {
                *idle = left;
                *saved += 1;
            }
        }
    }

    fn closed(&mut self, event: &Event<'_>) {
        self.open = self.open.saturating_sub(1);
        let is_short = event.dwell.is_some_and(|dwell| dwell.length < SHORT);
        match event.to {
            TcpState::FinWait1 => self.closed_here += 1,
            TcpState::CloseWait if is_short => self.closed_there += 1,
            _ => return,
        }
        self.short += u64::from(is_short);
        for (size, idle) in self.idle.iter_mut().enumerate() {
            *idle = (*idle + 1).min(1 << size);
        }
    }

    fn saved_by_largest(&self) -> u64 {
        self.saved[SIZES - 1]
    }

    fn report(&self, &(netns, remote, _): &(NetnsId, Endpoint, u32)) -> PoolDemand {
        let (share, of) = ENOUGH;
        let enough = |saved: u64| saved * of >= self.saved_by_largest() * share;
        let size = self.saved.iter().position(|&saved| enough(saved)).unwrap_or(SIZES - 1);
        PoolDemand {
            netns,
            remote,
            process: self.process.clone(),
            opened: self.opened,
            closed_here: self.closed_here,
            closed_there: self.closed_there,
            short: self.short,
            most_open: self.most_open,
            idle: 1 << size,
            saved: self.saved[size],
        }
    }
}

impl Pools {
    /// Follows a connection of a known process.
    pub(super) fn changed(&mut self, event: &Event<'_>) {
        let (is_opened, is_closed) = (event.to == TcpState::Established, event.from == TcpState::Established);
        if event.role != Role::Outbound || !(is_opened || is_closed) {
            return;
        }
        let Some(process) = event.process else { return };
        let key = (event.netns, event.tuple.remote(), process.pid);
        if is_closed {
            if let Some(demand) = self.demands.get_mut(&key).filter(|demand| demand.is_of(process)) {
                demand.closed(event);
            }
            return;
        }
        if self.demands.len() >= PLACES && !self.demands.contains_key(&key) {
            // A process that connected once saves nothing: those make room.
            self.demands.retain(|_, demand| demand.saved_by_largest() > 0);
            if self.demands.len() >= PLACES {
                return;
            }
        }
        let demand = self.demands.entry(key).or_insert_with(|| Demand::new(process));
        if !demand.is_of(process) {
            // The pid belongs to another process now, or runs another program.
            *demand = Demand::new(process);
        }
        demand.opened();
    }

    /// The processes for which a pool would save most, those first.
    pub(super) fn snapshot(&self) -> Vec<PoolDemand> {
        let mut demands: Vec<_> =
            self.demands.iter().filter(|(_, demand)| demand.saved_by_largest() > 0).collect();
        demands.sort_by_key(|(key, demand)| (std::cmp::Reverse(demand.saved_by_largest()), **key));
        demands.truncate(REPORTED);
        demands.into_iter().map(|(key, demand)| demand.report(key)).collect()
    }
}
