//! Synthetic traffic for tests and benchmarks: overlapping connections from start to end, as records in the order and
//! with the arguments that the hooks report.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    net::Ipv4Addr,
};

use tcptrace_common::record::{self as raw, Kind, flag};

use crate::model::{
    Addr, HookRecord, Nanos, NetnsId, Record, SeedSocket, SocketId, TcpState, Tuple,
    record::{HostFacts, KernelLosses, Process, SeedObject, SysctlLine},
};

/// Parameters of the traffic.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Connections per second.
    pub connections_per_s: u64,
    /// Local services, and as many remote ones.
    pub services: u64,
    /// Remote hosts that connect to local services.
    pub peers: u64,
    /// TIME_WAIT sockets that exist before the trace.
    pub seeded: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { connections_per_s: 10_000, services: 40, peers: 2_000, seeded: 100 }
    }
}

const BEGAN: u64 = 1_000_000_000_000;
const NETNS: u32 = 4_026_531_840;
const TIMEWAIT: u64 = 60_000_000_000;
const TICK: u64 = 10_000_000;
/// One step of a connection: kind, old state, new state, whether a task causes it, flags, and range of the random
/// delay in nanoseconds.
type Step = (Kind, u8, u8, bool, u8, u64);

const CLOSE: u8 = TcpState::Close as u8;
const LISTEN: u8 = TcpState::Listen as u8;
const SYN_SENT: u8 = TcpState::SynSent as u8;
const SYN_RECV: u8 = TcpState::SynRecv as u8;
const ESTABLISHED: u8 = TcpState::Established as u8;
const FIN_WAIT1: u8 = TcpState::FinWait1 as u8;
const FIN_WAIT2: u8 = TcpState::FinWait2 as u8;
const TIME_WAIT: u8 = TcpState::TimeWait as u8;
const CLOSE_WAIT: u8 = TcpState::CloseWait as u8;
const LAST_ACK: u8 = TcpState::LastAck as u8;
const NEW_SYN_RECV: u8 = 12;
const GONE: u8 = flag::ORPHAN | flag::SHUTDOWN_BOTH;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Accepted locally, closed locally first.
const INBOUND_ACTIVE: [Step; 9] = [
    (Kind::RequestArmed, 0, NEW_SYN_RECV, false, 0, 0),
    (Kind::Transition, LISTEN, SYN_RECV, false, 0, 300 * US),
    (Kind::RequestCancelled, 0, NEW_SYN_RECV, false, 0, 2 * US),
    (Kind::Transition, SYN_RECV, ESTABLISHED, false, 0, 2 * US),
    (Kind::Transition, ESTABLISHED, FIN_WAIT1, true, 0, 20 * MS),
    (Kind::Transition, FIN_WAIT1, FIN_WAIT2, false, flag::ORPHAN, 300 * US),
    (Kind::TimewaitArmed, 0, TIME_WAIT, false, 0, 300 * US),
    (Kind::Transition, FIN_WAIT2, CLOSE, false, GONE | flag::DONE, 2 * US),
    (Kind::TimewaitExpired, 0, TIME_WAIT, false, 0, 4 * MS),
];
/// Accepted locally, closed by the peer first.
const INBOUND_PASSIVE: [Step; 7] = [
    (Kind::RequestArmed, 0, NEW_SYN_RECV, false, 0, 0),
    (Kind::Transition, LISTEN, SYN_RECV, false, 0, 300 * US),
    (Kind::RequestCancelled, 0, NEW_SYN_RECV, false, 0, 2 * US),
    (Kind::Transition, SYN_RECV, ESTABLISHED, false, 0, 2 * US),
    (Kind::Transition, ESTABLISHED, CLOSE_WAIT, false, 0, 30 * MS),
    (Kind::Transition, CLOSE_WAIT, LAST_ACK, true, 0, 500 * US),
    (Kind::Transition, LAST_ACK, CLOSE, false, GONE, 300 * US),
];
/// Connected from here, closed locally first.
const OUTBOUND_ACTIVE: [Step; 7] = [
    (Kind::Transition, CLOSE, SYN_SENT, true, 0, 0),
    (Kind::Transition, SYN_SENT, ESTABLISHED, false, 0, 400 * US),
    (Kind::Transition, ESTABLISHED, FIN_WAIT1, true, 0, 10 * MS),
    (Kind::Transition, FIN_WAIT1, FIN_WAIT2, false, flag::ORPHAN, 300 * US),
    (Kind::TimewaitArmed, 0, TIME_WAIT, false, 0, 300 * US),
    (Kind::Transition, FIN_WAIT2, CLOSE, false, GONE | flag::DONE, 2 * US),
    (Kind::TimewaitExpired, 0, TIME_WAIT, false, 0, 4 * MS),
];
/// Connected from here, refused.
const REFUSED: [Step; 2] = [
    (Kind::Transition, CLOSE, SYN_SENT, true, 0, 0),
    (Kind::Transition, SYN_SENT, CLOSE, false, 0, 400 * US),
];
const ECONNREFUSED: u64 = 111;

/// A connection in progress.
#[derive(Clone, Copy, Debug)]
struct Connection {
    steps: &'static [Step],
    next: usize,
    cookie: u64,
    request: u64,
    timewait: u64,
    listener: u64,
    tuple: Tuple,
    task: raw::Task,
}

/// An infinite stream of records.
pub struct Traffic {
    shape: Shape,
    random: u64,
    ready: VecDeque<Record>,
    due: BinaryHeap<Reverse<(u64, u32)>>,
    connections: Vec<Connection>,
    free: Vec<u32>,
    next_connection: u64,
    next_tick: u64,
    next_cookie: u64,
}

impl Traffic {
    /// Deterministic traffic for a given `shape` and `seed`.
    pub fn new(shape: Shape, seed: u64) -> Self {
        let mut traffic = Self {
            shape,
            random: seed,
            ready: VecDeque::new(),
            due: BinaryHeap::new(),
            connections: Vec::new(),
            free: Vec::new(),
            next_connection: BEGAN,
            next_tick: BEGAN,
            next_cookie: 1,
        };
        traffic.begin();
        traffic
    }

    fn begin(&mut self) {
        let ts = Nanos(BEGAN);
        let facts = HostFacts {
            host: "synthetic".into(),
            kernel: "6.18.0".into(),
            boot_id: "00000000-0000-4000-8000-000000000000".into(),
            clock_offset_ns: 1_767_323_045_000_000_000,
            netns: NETNS,
            segments: true,
            sysctls: [("net.ipv4.tcp_fin_timeout".into(), "60".into())].into(),
            sysctl_lines: vec![SysctlLine { line: 3, ..SysctlLine::default() }],
            memory_bytes: 4 << 30,
            ..HostFacts::default()
        };
        self.ready.push_back(Record::Host(Box::new(facts)));
        self.ready.push_back(Record::Tick { ts });
        for service in 0..self.shape.services {
            let listener = Self::seed_socket(service);
            self.ready.push_back(Record::Seed(listener));
        }
        for n in 0..self.shape.seeded {
            self.next_cookie += 1;
            let state = TcpState::TimeWait;
            let object = SeedObject::Timewait { left: Nanos(self.up_to(TIMEWAIT)) };
            let tuple = self.inbound(n % self.shape.services);
            let id = SocketId(self.next_cookie);
            self.ready.push_back(Record::Seed(SeedSocket {
                id,
                tuple,
                state,
                object,
                inode: 0,
                ..Self::seed_socket(0)
            }));
        }
        self.next_cookie += 10_000;
        self.ready.push_back(Record::NetnsName { ts, netns: NetnsId(NETNS), name: "blue".into() });
        self.ready.push_back(Record::NetnsSettings {
            ts,
            netns: NetnsId(NETNS),
            sysctls: [
                ("net.ipv4.ip_local_port_range".into(), "32768 60999".into()),
                ("net.ipv4.tcp_tw_reuse".into(), "0".into()),
            ]
            .into(),
        });
        self.ready.push_back(Record::SeedEnd { ts, began: ts });
        for service in 0..self.shape.services {
            let process = Process::new(100 + service as u32, format!("server-{service}"), 7);
            let fd = (service % 2 == 0).then_some(service as u32);
            self.ready.push_back(Record::Owner { ts, id: SocketId(1_000_000_000 + service), process, fd });
        }
        self.ready.push_back(Record::CgroupPath { ts, cgroup: 7, path: "/system.slice".into() });
        let netns = NetnsId(NETNS);
        let counters = [("TWRecycled".into(), 5), ("sockstat.tw".into(), u64::MAX)].into();
        self.ready.push_back(Record::NetnsCounters { ts, netns, counters });
        self.ready.push_back(Record::OwnersEnd { ts });
        self.ready.push_back(Record::Loss { ts, losses: KernelLosses::default() });
    }

    /// Listener of a service.
    fn seed_socket(service: u64) -> SeedSocket {
        SeedSocket {
            ts: Nanos(BEGAN),
            id: SocketId(1_000_000_000 + service),
            netns: NetnsId(NETNS),
            tuple: Tuple { saddr: Addr::ANY, daddr: Addr::ANY, sport: port(service), dport: 0, ifindex: 0 },
            state: TcpState::Listen,
            object: SeedObject::Full,
            inode: 1_000 + service as u32,
            uid: 33,
            rqueue: 0,
            wqueue: 4096,
        }
    }

    fn inbound(&mut self, service: u64) -> Tuple {
        let peer = self.up_to(self.shape.peers);
        let dport = 1024 + self.up_to(60_000) as u16;
        Tuple { saddr: v4(10, 5), daddr: v4(17, peer), sport: port(service), dport, ifindex: 0 }
    }

    fn outbound(&mut self, service: u64) -> Tuple {
        let sport = 32_768 + self.up_to(28_232) as u16;
        Tuple { saddr: v4(10, 5), daddr: v4(10, 100 + service), sport, dport: port(service), ifindex: 0 }
    }

    fn connect(&mut self, ts: u64) {
        let service = self.up_to(self.shape.services);
        let steps: &'static [Step] = match self.up_to(100) {
            0..40 => &INBOUND_PASSIVE,
            40..60 => &INBOUND_ACTIVE,
            60..98 => &OUTBOUND_ACTIVE,
            _ => &REFUSED,
        };
        let is_inbound = steps[0].0 == Kind::RequestArmed;
        let tuple = if is_inbound { self.inbound(service) } else { self.outbound(service) };
        self.next_cookie += 1;
        let tid = 100 + service as u32 + 1_000 * self.up_to(4) as u32;
        let mut comm = [0; 16];
        let name = format!("server-{service}");
        comm[..name.len()].copy_from_slice(name.as_bytes());
        let connection = Connection {
            steps,
            next: 0,
            cookie: self.next_cookie,
            // Request sockets are short-lived and reuse few addresses; timewait sockets need distinct ones.
            request: 0xffff_8880_0000_0000 + (self.up_to(256) << 8),
            timewait: 0xffff_8881_0000_0000 + ((self.next_cookie % (1 << 20)) << 8),
            listener: 1_000_000_000 + service,
            tuple,
            task: raw::Task { cgroup: 7, tgid: 100 + service as u32, tid, comm },
        };
        let index = if let Some(free) = self.free.pop() {
            self.connections[free as usize] = connection;
            free
        } else {
            self.connections.push(connection);
            self.connections.len() as u32 - 1
        };
        self.due.push(Reverse((ts, index)));
    }

    fn step(&mut self, ts: u64, index: u32) -> Record {
        let connection = &mut self.connections[index as usize];
        let (kind, old, new, by_task, flags, _) = connection.steps[connection.next];
        connection.next += 1;
        let now = *connection;
        if let Some(&(kind, .., at_most)) = now.steps.get(now.next) {
            let least = if kind == Kind::TimewaitExpired { TIMEWAIT } else { at_most / 4 + 500 };
            let at = ts + least + self.up_to(at_most.max(1));
            self.due.push(Reverse((at, index)));
        } else {
            self.free.push(index);
        }
        let is_request = matches!(kind, Kind::RequestArmed | Kind::RequestCancelled);
        let is_connect = new == SYN_SENT;
        let (arg0, arg1) = match kind {
            Kind::RequestArmed | Kind::RequestCancelled => (now.listener, 0),
            Kind::TimewaitArmed => (15_000, (ts / MS) & 0xffff_ffff),
            Kind::TimewaitExpired => (0, ((ts - TIMEWAIT) / MS) & 0xffff_ffff),
            _ if old == SYN_SENT && new == CLOSE => (ECONNREFUSED, 0),
            _ => (0, 0),
        };
        let raw = raw::RawRecord {
            ts_ns: ts,
            cookie: if is_request { 0 } else { now.cookie },
            object: if is_request { now.request } else { now.timewait },
            arg0,
            arg1,
            saddr: now.tuple.saddr.0,
            daddr: now.tuple.daddr.0,
            netns: NETNS,
            ifindex: 0,
            sport: if is_connect { 0 } else { now.tuple.sport },
            dport: now.tuple.dport,
            kind: kind as u8,
            old,
            new,
            flags: flags | if by_task { flag::TASK } else { 0 },
        };
        Record::Kernel(HookRecord { raw, task: by_task.then_some(now.task) })
    }

    /// splitmix64.
    fn up_to(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

impl Iterator for Traffic {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(record);
            }
            let due = self.due.peek().map_or(u64::MAX, |Reverse((ts, _))| *ts);
            if self.next_connection <= due && self.next_connection <= self.next_tick {
                let ts = self.next_connection;
                self.next_connection = ts + 1 + self.up_to(2_000_000_000 / self.shape.connections_per_s);
                self.connect(ts);
            } else if self.next_tick <= due {
                let ts = self.next_tick;
                self.next_tick += TICK;
                return Some(Record::Tick { ts: Nanos(ts) });
            } else if let Some(Reverse((ts, index))) = self.due.pop() {
                return Some(self.step(ts, index));
            }
        }
    }
}

const fn port(service: u64) -> u16 {
    8_000 + service as u16
}

fn v4(net: u8, host: u64) -> Addr {
    let [.., c, d] = host.to_be_bytes();
    std::net::IpAddr::from(Ipv4Addr::new(10, net, c, d)).into()
}
