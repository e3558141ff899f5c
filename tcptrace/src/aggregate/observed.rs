//! What was looked at beside the sockets: records of counters, accept queues and descriptors in, the
//! newest of each and what has grown since the first out.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use rustc_hash::FxHashMap;
use tcptrace_common::record::Kind;

use super::Names;
use crate::model::{Addr, Endpoint, Nanos, NetnsId, Observation, Record, SeedSocket, SocketId, TcpState};

/// What is kept of each kind; what comes beyond is counted.
const MOST_NETNS: usize = 4096;
const MOST_QUEUES: usize = 16 << 10;
const MOST_DESCRIPTORS: usize = 64 << 10;

/// Everything known of the surroundings.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By network namespace.
    pub netns: BTreeMap<NetnsId, Surroundings>,
    /// Accept queues, by listener.
    pub queues: FxHashMap<SocketId, Queue>,
    /// Descriptors of sockets that wait for a `close()`.
    pub descriptors: FxHashMap<SocketId, u32>,
    /// Where nothing is traced: when a socket was last seen to wait for a `close()`.
    pub waiting: FxHashMap<SocketId, Nanos>,
    /// SYN-ACKs sent again, by the local end they came from.
    pub synacks_again: BTreeMap<(NetnsId, Endpoint), u64>,
    /// What there was no room for.
    pub left_out: u64,
}

/// What is known of one network namespace.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Its name in `ip netns`.
    pub name: Option<Arc<str>>,
    /// Its settings by name: `net.ipv4.tcp_tw_reuse`.
    pub sysctls: BTreeMap<String, String>,
    /// Its counters when they were first read, and when.
    pub first: Option<(Nanos, BTreeMap<String, u64>)>,
    /// The same when they were last told.
    pub last: Option<(Nanos, BTreeMap<String, u64>)>,
}

/// The accept queue of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Connections in it now.
    pub length: u32,
    /// How many may be: the backlog of `listen()`, or `somaxconn` where that is less.
    pub limit: u32,
    /// The most that were seen.
    pub most: u32,
}

impl Queue {
    /// Whether it was ever seen full: the kernel takes one more than the limit.
    pub const fn was_full(&self) -> bool {
        self.most > self.limit
    }
}

impl Surroundings {
    /// A setting.
    pub fn sysctl(&self, name: &str) -> Option<&str> {
        self.sysctls.get(name).map(String::as_str)
    }

    /// A setting that is a number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.sysctl(name)?.parse().ok()
    }

    /// A counter, or what `sockstat` says, at the end.
    pub fn now(&self, counter: &str) -> Option<u64> {
        self.last.as_ref()?.1.get(counter).copied()
    }

    /// By how much a counter has grown while it was watched.
    pub fn grown(&self, counter: &str) -> Option<u64> {
        let before = self.first.as_ref()?.1.get(counter)?;
        Some(self.now(counter)?.saturating_sub(*before))
    }
}

impl Observed {
    /// Takes in what `record` tells, if it does.
    pub fn take(&mut self, record: &Record) {
        match record {
            Record::NetnsCounters { ts, netns, counters } => {
                if let Some(surroundings) = self.surroundings(*netns) {
                    let now = (*ts, counters.clone());
                    surroundings.first.get_or_insert_with(|| now.clone());
                    surroundings.last = Some(now);
                }
            }
            Record::Seed(socket) if socket.state == TcpState::Listen => self.take_queue(socket),
            Record::Seed(socket) => {
                if self.waiting.len() < MOST_DESCRIPTORS || self.waiting.contains_key(&socket.id) {
                    self.waiting.insert(socket.id, socket.ts);
                } else {
                    self.left_out += 1;
                }
            }
            Record::Owner { id, fd: Some(fd), .. } => {
                if self.descriptors.len() < MOST_DESCRIPTORS || self.descriptors.contains_key(id) {
                    self.descriptors.insert(*id, *fd);
                } else {
                    self.left_out += 1;
                }
            }
            Record::Kernel(seen) => self.take_observation(seen),
            _ => {}
        }
    }

    /// Gives the namespaces their names and settings.
    pub fn complete(&mut self, names: &Names) {
        for (netns, surroundings) in &mut self.netns {
            surroundings.name = names.netns.get(netns).cloned();
            if let Some(sysctls) = names.settings.get(netns) {
                surroundings.sysctls.clone_from(sysctls);
            }
        }
    }

    /// The same once more, as records that a recording which begins at `ts` begins with.
    pub fn records(&self, ts: Nanos) -> impl Iterator<Item = Record> {
        self.netns.iter().filter_map(move |(&netns, surroundings)| {
            let (_, counters) = surroundings.last.as_ref()?;
            Some(Record::NetnsCounters { ts, netns, counters: counters.clone() })
        })
    }

    fn surroundings(&mut self, netns: NetnsId) -> Option<&mut Surroundings> {
        let is_full = self.netns.len() >= MOST_NETNS;
        match self.netns.entry(netns) {
            btree_map::Entry::Occupied(known) => Some(known.into_mut()),
            btree_map::Entry::Vacant(new) if !is_full => Some(new.insert(Surroundings::default())),
            btree_map::Entry::Vacant(_) => {
                self.left_out += 1;
                None
            }
        }
    }

    fn take_queue(&mut self, socket: &SeedSocket) {
        if self.queues.len() >= MOST_QUEUES && !self.queues.contains_key(&socket.id) {
            self.left_out += 1;
            return;
        }
        let now = Queue { length: socket.rqueue, limit: socket.wqueue, most: socket.rqueue };
        let queue = self.queues.entry(socket.id).or_insert(now);
        *queue = Queue { most: queue.most.max(now.most), ..now };
    }

    fn take_observation(&mut self, seen: &Observation) {
        let raw = &seen.raw;
        let is_again = Kind::from_raw(raw.kind) == Some(Kind::RequestArmed) && raw.arg1 > 0;
        if !is_again {
            return;
        }
        let local = Endpoint { addr: Addr(raw.saddr), port: raw.sport, ifindex: 0 };
        let key = (NetnsId(raw.netns), local);
        if self.synacks_again.len() < MOST_QUEUES || self.synacks_again.contains_key(&key) {
            *self.synacks_again.entry(key).or_default() += 1;
        } else {
            self.left_out += 1;
        }
    }
}
