//! Stores counters, accept queues and descriptors that the host reports besides sockets: the newest value of each, and
//! the growth of counters since the first.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use hashbrown::HashMap;
use tcptrace_common::record::{Kind, RawRecord};

use super::{
    HostNames, Sysctls,
    refused_syns::{RefusedSyns, SynsAtTimeWait, local_end},
};
use crate::model::{Endpoint, HookRecord, Nanos, NetnsId, Record, SeedSocket, SocketId, TcpState};

/// Limits per kind. Records beyond a limit are counted if no row can be evicted.
const MOST_NETNS: usize = 4096;
/// Namespaces kept after they disappeared: the latest ones.
const MAX_REMOVED_NETNS: usize = 256;
/// Bytes of all counters with their names. The kernel's counters take half of it in [`MOST_NETNS`] namespaces.
const MAX_COUNTER_BYTES: usize = 48 << 20;
const MAX_QUEUES: usize = 16 << 10;
const MAX_DESCRIPTORS: usize = 64 << 10;

/// Host counters and tables. Snapshots share the tables that peers can make large: a snapshot copies only a table that
/// changed since the last one.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By network namespace.
    pub netns: BTreeMap<NetnsId, Surroundings>,
    /// Accept queues, by listener.
    pub queues: Arc<HashMap<SocketId, Queue>>,
    /// File descriptors of sockets that wait for a `close()`.
    pub descriptors: Arc<HashMap<SocketId, u32>>,
    /// Without tracing: when a poll last saw a socket wait for a `close()`.
    pub waiting: Arc<HashMap<SocketId, Nanos>>,
    /// SYN-ACK retransmits by local endpoint.
    pub synacks_again: Arc<BTreeMap<(NetnsId, Endpoint), u64>>,
    /// SYNs that a TIME_WAIT refused.
    syns_at_time_wait: Arc<SynsAtTimeWait>,
    counter_bytes: usize,
}

/// Name, settings and counters of one network namespace.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Its name in `ip netns`.
    pub name: Option<Arc<str>>,
    /// Its settings by name: `net.ipv4.tcp_tw_reuse`.
    pub sysctls: Sysctls,
    /// Counters at the first read, with its time.
    pub first: Option<(Nanos, Counters)>,
    /// Counters at the latest read, with its time.
    pub last: Option<(Nanos, Counters)>,
    /// When the namespace was found to be gone.
    pub gone: Option<Nanos>,
}

/// Counters by name, shared with snapshots.
pub type Counters = Arc<BTreeMap<String, u64>>;

/// The accept queue of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Connections in it now.
    pub length: u32,
    /// Maximum length: the backlog of `listen()`, or `somaxconn` if that is less.
    pub limit: u32,
    /// Longest length observed.
    pub most: u32,
}

impl Queue {
    /// Whether it was ever observed full: the kernel accepts one more than the limit.
    pub const fn was_full(&self) -> bool {
        self.most > self.limit
    }
}

impl Surroundings {
    fn counter_bytes(&self) -> usize {
        let all = [&self.first, &self.last].into_iter().flatten();
        all.map(|(_, counters)| bytes_of(counters)).sum()
    }

    /// Value of a setting.
    pub fn sysctl(&self, name: &str) -> Option<&str> {
        self.sysctls.get(name).map(String::as_str)
    }

    /// Value of a numeric setting.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.sysctl(name)?.parse().ok()
    }

    /// Latest value of a counter or of a `sockstat` field.
    pub fn now(&self, counter: &str) -> Option<u64> {
        self.last.as_ref()?.1.get(counter).copied()
    }

    /// Growth of a counter between its first and its latest read.
    pub fn grown(&self, counter: &str) -> Option<u64> {
        let before = self.first.as_ref()?.1.get(counter)?;
        Some(self.now(counter)?.saturating_sub(*before))
    }
}

impl Observed {
    /// Stores what `record` reports, if anything; returns whether there was room.
    pub fn take(&mut self, record: &Record) -> bool {
        match record {
            Record::NetnsCounters { ts, netns, counters } => self.record_counters(*netns, *ts, counters),
            Record::NetnsSettings { ts, netns, sysctls } if sysctls.is_empty() => {
                self.gone(*netns, *ts);
                true
            }
            Record::Seed(socket) if socket.state == TcpState::Listen => self.record_queue(socket),
            Record::Seed(socket) => keep(&mut self.waiting, socket.id, socket.ts),
            Record::Owner { id, fd: Some(fd), .. } => keep(&mut self.descriptors, *id, *fd),
            Record::Kernel(seen) => self.take_observation(seen),
            _ => true,
        }
    }

    fn record_counters(&mut self, netns: NetnsId, ts: Nanos, counters: &BTreeMap<String, u64>) -> bool {
        if self.counter_bytes + bytes_of(counters) > MAX_COUNTER_BYTES {
            return false;
        }
        let Some(surroundings) = self.surroundings(netns) else { return false };
        let before = surroundings.counter_bytes();
        if surroundings.gone.is_some() {
            // The number was reused by another namespace.
            *surroundings = Surroundings::default();
        }
        let now = (ts, Arc::new(counters.clone()));
        surroundings.first.get_or_insert_with(|| now.clone());
        surroundings.last = Some(now);
        let after = surroundings.counter_bytes();
        self.counter_bytes = self.counter_bytes + after - before;
        true
    }

    fn gone(&mut self, netns: NetnsId, ts: Nanos) {
        let Some(surroundings) = self.netns.get_mut(&netns) else { return };
        surroundings.gone.get_or_insert(ts);
        let gone = self.netns.iter().filter_map(|(&netns, of)| Some((of.gone?, netns)));
        let (count, first) = gone.fold((0, None), |(count, first), this| {
            (count + 1, Some(first.map_or(this, |first: (Nanos, NetnsId)| first.min(this))))
        });
        if let Some((_, oldest)) = first.filter(|_| count > MAX_REMOVED_NETNS)
            && let Some(removed) = self.netns.remove(&oldest)
        {
            self.counter_bytes -= removed.counter_bytes();
        }
    }

    /// Row count of each table.
    pub fn sizes(&self) -> [(&'static str, usize); 6] {
        [
            ("netns_counters", self.netns.len()),
            ("accept_queues", self.queues.len()),
            ("descriptors", self.descriptors.len()),
            ("waiting", self.waiting.len()),
            ("synacks_again", self.synacks_again.len()),
            ("refused_syns", self.syns_at_time_wait.len()),
        ]
    }

    /// Evicts rows of sockets and namespaces that no longer exist.
    pub fn make_room(&mut self, is_there: impl Fn(SocketId) -> bool, has_sockets: impl Fn(NetnsId) -> bool) {
        if self.queues.len() >= MAX_QUEUES {
            Arc::make_mut(&mut self.queues).retain(|&id, _| is_there(id));
        }
        if self.descriptors.len() >= MAX_DESCRIPTORS {
            Arc::make_mut(&mut self.descriptors).retain(|&id, _| is_there(id));
        }
        if self.waiting.len() >= MAX_DESCRIPTORS {
            Arc::make_mut(&mut self.waiting).retain(|&id, _| is_there(id));
        }
        if self.synacks_again.len() >= MAX_QUEUES {
            Arc::make_mut(&mut self.synacks_again).retain(|(netns, _), _| has_sockets(*netns));
        }
        if self.syns_at_time_wait.len() >= MAX_QUEUES {
            Arc::make_mut(&mut self.syns_at_time_wait).retain(&has_sockets);
        }
        if self.netns.len() >= MOST_NETNS || self.counter_bytes >= MAX_COUNTER_BYTES / 2 {
            self.netns.retain(|&netns, _| has_sockets(netns));
            self.counter_bytes = self.netns.values().map(Surroundings::counter_bytes).sum();
        }
    }

    /// Fills in the names and settings of the namespaces.
    pub fn complete(&mut self, names: &HostNames) {
        for (netns, surroundings) in &mut self.netns {
            if surroundings.gone.is_some() {
                continue;
            }
            surroundings.name = names.netns(*netns).cloned();
            if let Some(sysctls) = names.settings(*netns) {
                surroundings.sysctls = Arc::clone(sysctls);
            }
        }
    }

    /// Counters as records for the start of a recording that begins at `ts`.
    pub fn records(&self, ts: Nanos) -> impl Iterator<Item = Record> {
        self.netns.iter().filter_map(move |(&netns, surroundings)| {
            let (_, counters) = surroundings.last.as_ref()?;
            Some(Record::NetnsCounters { ts, netns, counters: BTreeMap::clone(counters) })
        })
    }

    fn surroundings(&mut self, netns: NetnsId) -> Option<&mut Surroundings> {
        let is_full = self.netns.len() >= MOST_NETNS;
        match self.netns.entry(netns) {
            btree_map::Entry::Occupied(known) => Some(known.into_mut()),
            btree_map::Entry::Vacant(new) if !is_full => Some(new.insert(Surroundings::default())),
            btree_map::Entry::Vacant(_) => None,
        }
    }

    fn record_queue(&mut self, socket: &SeedSocket) -> bool {
        let now = Queue { length: socket.rqueue, limit: socket.wqueue, most: socket.rqueue };
        let queues = Arc::make_mut(&mut self.queues);
        if let Some(queue) = queues.get_mut(&socket.id) {
            *queue = Queue { most: queue.most.max(now.most), ..now };
            return true;
        }
        let has_room = queues.len() < MAX_QUEUES;
        if has_room {
            queues.insert(socket.id, now);
        }
        has_room
    }

    /// SYNs that a TIME_WAIT refused, by local endpoint.
    pub fn refused_syns(&self) -> impl Iterator<Item = (NetnsId, Endpoint, RefusedSyns)> {
        self.syns_at_time_wait.refused()
    }

    /// Whether it stores anything of a record from the kernel.
    pub fn wants(&self, raw: &RawRecord) -> bool {
        match Kind::from_raw(raw.kind) {
            Some(Kind::Segment) => is_refused_syn(raw),
            Some(Kind::RequestArmed) => raw.arg1 > 0 || self.syns_at_time_wait.waits(raw),
            _ => false,
        }
    }

    fn take_observation(&mut self, seen: &HookRecord) -> bool {
        let raw = &seen.raw;
        match Kind::from_raw(raw.kind) {
            Some(Kind::Segment) if is_refused_syn(raw) => {
                Arc::make_mut(&mut self.syns_at_time_wait).refuse(raw, MAX_QUEUES)
            }
            Some(Kind::RequestArmed) if raw.arg1 > 0 => self.note_synack(raw),
            Some(Kind::RequestArmed) if self.syns_at_time_wait.waits(raw) => {
                Arc::make_mut(&mut self.syns_at_time_wait).accept(raw);
                true
            }
            _ => true,
        }
    }

    fn note_synack(&mut self, raw: &RawRecord) -> bool {
        let key = (NetnsId(raw.netns), local_end(raw));
        let has_room = self.synacks_again.len() < MAX_QUEUES || self.synacks_again.contains_key(&key);
        if has_room {
            *Arc::make_mut(&mut self.synacks_again).entry(key).or_default() += 1;
        }
        has_room
    }
}

/// Whether the segment was a SYN that a TIME_WAIT received: one that reopens it goes to the listener instead.
const fn is_refused_syn(raw: &RawRecord) -> bool {
    const FIN: u64 = 1;
    const SYN: u64 = 1 << 1;
    const RST: u64 = 1 << 2;
    const ACK: u64 = 1 << 4;
    raw.arg0 & (FIN | SYN | RST | ACK) == SYN && raw.new == TcpState::TimeWait as u8
}

/// Memory of the counters, including tree nodes.
fn bytes_of(counters: &BTreeMap<String, u64>) -> usize {
    counters.keys().map(|name| name.len() + 64).sum()
}

/// Stores the newest value for a socket; returns whether there was room.
fn keep<T: Copy>(table: &mut Arc<HashMap<SocketId, T>>, id: SocketId, newest: T) -> bool {
    let has_room = table.len() < MAX_DESCRIPTORS || table.contains_key(&id);
    if has_room {
        Arc::make_mut(table).insert(id, newest);
    }
    has_room
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::Addr;

    fn counters(netns: u32, ts: u64) -> Record {
        let counters = BTreeMap::from([("ListenDrops".to_owned(), ts)]);
        Record::NetnsCounters { ts: Nanos(ts), netns: NetnsId(netns), counters }
    }

    fn gone(netns: u32, ts: u64) -> Record {
        Record::NetnsSettings { ts: Nanos(ts), netns: NetnsId(netns), sysctls: BTreeMap::new() }
    }

    #[test]
    fn latest_removed_namespaces_are_kept() {
        let mut observed = Observed::default();
        assert!(observed.take(&counters(1, 1)));
        let most = MAX_REMOVED_NETNS as u32;
        for n in 2..10 * most {
            assert!(observed.take(&counters(n, n.into())) && observed.take(&gone(n, n.into())));
        }
        assert_eq!(observed.netns.len(), MAX_REMOVED_NETNS + 1);
        assert!(observed.netns.contains_key(&NetnsId(1)), "it still exists");
        assert!(observed.netns.contains_key(&NetnsId(10 * most - 1)));
        // A reused number belongs to another namespace, whose growth starts at zero.
        assert!(observed.take(&counters(10 * most - 1, 100_000)));
        let another = &observed.netns[&NetnsId(10 * most - 1)];
        assert_eq!((another.grown("ListenDrops"), another.gone), (Some(0), None));
    }

    #[test]
    fn counters_are_bounded_by_their_bytes() {
        let mut observed = Observed::default();
        let counters = |n: u32| Record::NetnsCounters {
            ts: Nanos(n.into()),
            netns: NetnsId(n),
            counters: (0..1_000).map(|name: u32| (name.to_string(), 1)).collect(),
        };
        let refused = (0..2_000).find(|&n| !observed.take(&counters(n))).expect("a bound");
        assert!(refused > 100 && observed.counter_bytes <= MAX_COUNTER_BYTES);
        assert!(!observed.take(&counters(0)), "an update of a known namespace finds no room either");
        observed.make_room(|_| false, |netns| netns == NetnsId(7));
        assert!(observed.take(&counters(refused)));
        let all: usize = observed.netns.values().map(Surroundings::counter_bytes).sum();
        assert_eq!((observed.netns.len(), observed.counter_bytes), (2, all));
    }

    #[test]
    fn snapshot_shares_unchanged_tables() {
        let mut observed = Observed::default();
        assert!(
            keep(&mut observed.descriptors, SocketId(1), 7)
                && keep(&mut observed.waiting, SocketId(1), Nanos(1))
        );
        let snapshot = observed.clone();
        assert!(keep(&mut observed.descriptors, SocketId(2), 7));
        assert_eq!((snapshot.descriptors.len(), observed.descriptors.len()), (1, 2));
        assert!(Arc::ptr_eq(&snapshot.waiting, &observed.waiting));
    }

    #[test]
    fn full_table_evicts_sockets_that_are_gone() {
        let mut observed = Observed::default();
        let fd = |n: u64| keep(&mut observed.descriptors, SocketId(n), 7);
        let most = MAX_DESCRIPTORS as u64;
        assert!((0..most).all(fd));
        assert!(!keep(&mut observed.descriptors, SocketId(most), 7));
        let there: HashSet<u64> = [3, 5].into();
        observed.make_room(|id| there.contains(&id.0), |_| false);
        assert!(keep(&mut observed.descriptors, SocketId(most), 7));
        assert_eq!(observed.descriptors.len(), 3);
    }

    fn listener(id: u64, rqueue: u32, wqueue: u32) -> Record {
        Record::Seed(SeedSocket {
            ts: Nanos(1),
            id: SocketId(id),
            netns: NetnsId(1),
            tuple: crate::model::Tuple {
                saddr: Addr::ANY,
                daddr: Addr::ANY,
                sport: 80,
                dport: 0,
                ifindex: 0,
            },
            state: TcpState::Listen,
            object: crate::model::record::SeedObject::Full,
            inode: 1,
            uid: 0,
            rqueue,
            wqueue,
        })
    }

    #[test]
    fn accept_queue_is_full_above_its_limit() {
        let mut observed = Observed::default();
        for (length, most, was_full) in [(3, 3, false), (4, 4, false), (5, 5, true), (1, 5, true)] {
            assert!(observed.take(&listener(7, length, 4)));
            let queue = observed.queues[&SocketId(7)];
            assert_eq!((queue, queue.was_full()), (Queue { length, limit: 4, most }, was_full));
        }
        assert!(observed.waiting.is_empty(), "a listener waits for nobody's close()");
    }

    #[test]
    fn queues_are_bounded_and_removed_ones_are_evicted() {
        let mut observed = Observed::default();
        let most = MAX_QUEUES as u64;
        assert!((0..most).all(|id| observed.take(&listener(id, 0, 4))));
        assert!(!observed.take(&listener(most, 0, 4)));
        assert!(observed.take(&listener(3, 9, 4)), "a known one is renewed");
        observed.make_room(|id| id.0 < 5, |_| true);
        assert!(observed.take(&listener(most, 0, 4)));
        assert_eq!(
            observed.sizes(),
            [
                ("netns_counters", 0),
                ("accept_queues", 6),
                ("descriptors", 0),
                ("waiting", 0),
                ("synacks_again", 0),
                ("refused_syns", 0),
            ]
        );
        // Where there is room nothing goes.
        observed.make_room(|_| false, |_| false);
        assert_eq!(observed.queues.len(), 6);
    }

    #[test]
    fn retransmitting_ends_are_bounded() {
        use bytemuck::Zeroable as _;
        use tcptrace_common::record as raw;
        let again = |netns: u32, sport: u16| {
            let raw = raw::RawRecord {
                kind: Kind::RequestArmed as u8,
                arg1: 1,
                netns,
                sport,
                ..raw::RawRecord::zeroed()
            };
            Record::Kernel(HookRecord { raw, task: None })
        };
        let mut observed = Observed::default();
        let most = MAX_QUEUES as u16;
        assert!((0..most).all(|port| observed.take(&again(1, port))));
        assert!(!observed.take(&again(2, 1)));
        assert!(observed.take(&again(1, 1)), "a known one is counted");
        observed.make_room(|_| false, |netns| netns == NetnsId(2));
        assert!(observed.take(&again(2, 1)));
        assert_eq!(observed.synacks_again.len(), 1);
    }

    #[test]
    fn counters_include_their_growth() {
        let mut observed = Observed::default();
        let counted = |ts, value: Option<u64>| Record::NetnsCounters {
            ts: Nanos(ts),
            netns: NetnsId(1),
            counters: value.map(|value| ("a".to_owned(), value)).into_iter().collect(),
        };
        for (ts, value) in [(1, 10), (2, 12), (3, 17)] {
            assert!(observed.take(&counted(ts, Some(value))));
            let of = &observed.netns[&NetnsId(1)];
            assert_eq!((of.now("a"), of.grown("a"), of.now("b")), (Some(value), Some(value - 10), None));
        }
        // A counter that restarts has not shrunk.
        assert!(observed.take(&counted(4, Some(3))));
        assert_eq!(observed.netns[&NetnsId(1)].grown("a"), Some(0));
        let again: Vec<Record> = observed.records(Nanos(9)).collect();
        let [Record::NetnsCounters { ts: Nanos(9), netns: NetnsId(1), counters }] = &again[..] else {
            panic!("{again:?}")
        };
        assert_eq!(counters["a"], 3);
        assert!(observed.take(&gone(1, 5)) && observed.take(&gone(2, 5)), "an unknown one is no news");
        assert_eq!(observed.netns[&NetnsId(1)].gone, Some(Nanos(5)));
    }

    #[test]
    fn namespace_keeps_name_and_settings_until_removed() {
        let mut observed = Observed::default();
        let mut names = HostNames::default();
        let sysctls = |value: &str| [("net.ipv4.a".to_owned(), value.to_owned())].into();
        let mut set_names = |observed: &mut Observed, name: &str, value: &str| {
            names.take(&Record::NetnsName { ts: Nanos(1), netns: NetnsId(1), name: name.into() });
            names.take(&Record::NetnsSettings { ts: Nanos(1), netns: NetnsId(1), sysctls: sysctls(value) });
            observed.complete(&names);
        };
        assert!(observed.take(&counters(1, 1)));
        set_names(&mut observed, "blue", "7");
        let of = &observed.netns[&NetnsId(1)];
        assert_eq!(
            (of.name.as_deref(), of.sysctl("net.ipv4.a"), of.number("net.ipv4.a")),
            (Some("blue"), Some("7"), Some(7))
        );
        assert_eq!((of.sysctl("b"), of.number("b")), (None, None));
        assert!(observed.take(&gone(1, 2)));
        set_names(&mut observed, "red", "x");
        let of = &observed.netns[&NetnsId(1)];
        assert_eq!((of.name.as_deref(), of.number("net.ipv4.a")), (Some("blue"), Some(7)));
    }

    #[test]
    fn namespaces_are_bounded() {
        let mut observed = Observed::default();
        let most = MOST_NETNS as u32;
        assert!((0..most).all(|n| observed.take(&counters(n, 1))));
        assert!(!observed.take(&counters(most, 1)));
        assert!(observed.take(&counters(3, 2)), "a known one is renewed");
        observed.make_room(|_| false, |netns| netns.0 < 2);
        assert_eq!(observed.netns.len(), 2);
        assert!(observed.take(&counters(most, 1)));
    }
}
