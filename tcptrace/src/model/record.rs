//! What flows from a source to the tracker: one observation each, never a derived number.
//!
//! Everything that only the live host knows travels here as a record, so that a replay has it too.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tcptrace_common::record as raw;

use crate::lifecycle::{Carried, Continuation};

use super::{Nanos, NetnsId, SocketId, TcpState, Tuple};

/// One observation.
#[derive(Clone, Debug)]
pub enum Record {
    /// From a hook in the kernel.
    Kernel(Observation),
    /// A socket that existed when it was looked for; see [`SeedSocket`].
    Seed(SeedSocket),
    /// Every socket of every reachable network namespace has been reported: the seed is complete.
    SeedEnd {
        /// When the last one was read.
        ts: Nanos,
        /// When the first one was asked for; the hooks were attached before.
        began: Nanos,
    },
    /// A part of a sweep: what `sock_diag` lists while tracing, for the tracker to compare with what it has.
    /// Not in a recording, which has what came of it: [`Record::Found`] and [`Record::Missing`].
    Listing(Box<Listing>),
    /// A socket as sweeps found it, where the stream did not tell of it or told otherwise: records about it
    /// were lost.
    Found(SeedSocket),
    /// A socket that sweeps no longer found where it was last known to be.
    Missing {
        /// When the last one was complete.
        ts: Nanos,
        /// The socket.
        id: SocketId,
        /// Its namespace.
        netns: NetnsId,
        /// Its ends: a handshake is known by them.
        tuple: Tuple,
        /// What was swept.
        from: Sweep,
    },
    /// Who holds a socket open, found through `/proc/PID/fd`.
    Owner {
        /// When it was found.
        ts: Nanos,
        /// The socket.
        id: SocketId,
        /// The process.
        process: Process,
        /// The descriptor by which it does, where that was asked for.
        fd: Option<u32>,
    },
    /// Every process has been searched for sockets: what has no owner now gets its listener's.
    OwnersEnd {
        /// When.
        ts: Nanos,
    },
    /// The name of a network namespace (`ip netns`).
    NetnsName {
        /// When it was found.
        ts: Nanos,
        /// The namespace.
        netns: NetnsId,
        /// Its name. Untrusted.
        name: Arc<str>,
    },
    /// The path of a cgroup below the cgroup v2 root.
    CgroupPath {
        /// When it was found.
        ts: Nanos,
        /// cgroup id: the inode number of its folder.
        cgroup: u64,
        /// Its path. Untrusted.
        path: Arc<str>,
    },
    /// The settings of a network namespace that bear on TCP's states; told again when one changes.
    NetnsSettings {
        /// When they were read.
        ts: Nanos,
        /// The namespace.
        netns: NetnsId,
        /// By name: `net.ipv4.tcp_tw_reuse`.
        sysctls: BTreeMap<String, String>,
    },
    /// Counters of a network namespace since it was made, and what `sockstat` says of it now.
    NetnsCounters {
        /// When they were read.
        ts: Nanos,
        /// The namespace.
        netns: NetnsId,
        /// By the kernel's name: `TWRecycled`; those of `sockstat` as `sockstat.tw`.
        counters: BTreeMap<String, u64>,
    },
    /// A socket that was followed before this recording began; not in a live stream.
    Carried(Box<Carried>),
    /// What else was known when this recording began: the last of what is handed over.
    Continuation(Box<Continuation>),
    /// Facts about the host; the first record of every source.
    Host(Box<HostFacts>),
    /// All losses since the start, replacing the losses told before.
    Loss {
        /// When they were read.
        ts: Nanos,
        /// The counters.
        losses: KernelLosses,
    },
    /// Nothing but the time. A source sends one at least ten times a second, after everything
    /// that happened before it.
    Tick {
        /// Now.
        ts: Nanos,
    },
}

impl Record {
    /// When it was observed; `None` for facts without a time.
    pub const fn ts(&self) -> Option<Nanos> {
        Some(match self {
            Self::Kernel(observation) => Nanos(observation.raw.ts_ns),
            Self::Seed(seed) | Self::Found(seed) => seed.ts,
            Self::SeedEnd { ts, .. }
            | Self::Missing { ts, .. }
            | Self::Owner { ts, .. }
            | Self::OwnersEnd { ts }
            | Self::NetnsName { ts, .. }
            | Self::CgroupPath { ts, .. }
            | Self::NetnsSettings { ts, .. }
            | Self::NetnsCounters { ts, .. }
            | Self::Loss { ts, .. }
            | Self::Tick { ts } => *ts,
            Self::Carried(carried) => carried.ts,
            Self::Continuation(known) => known.ts,
            Self::Host(_) | Self::Listing(_) => return None,
        })
    }
}

/// What a hook reported.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// As the kernel side wrote it.
    pub raw: raw::Record,
    /// The task in whose context it happened, where that means something.
    pub task: Option<raw::Task>,
}

/// A socket as `sock_diag` reported it.
#[derive(Clone, Copy, Debug)]
pub struct SeedSocket {
    /// When the answer that holds it was received: the socket was in this state then or a little
    /// earlier.
    pub ts: Nanos,
    /// Its cookie.
    pub id: SocketId,
    /// Its network namespace.
    pub netns: NetnsId,
    /// Both ends.
    pub tuple: Tuple,
    /// Its state; for a minisocket the substate.
    pub state: TcpState,
    /// Full socket, minisocket or request socket.
    pub object: SeedObject,
    /// Inode number in the socket file system, 0 when no process holds it.
    pub inode: u32,
    /// User id of the owner; 0 for minisockets, which have none.
    pub uid: u32,
    /// Listener: connections waiting to be accepted; else bytes not yet read.
    pub rqueue: u32,
    /// Listener: limit of the accept queue; else bytes not yet acknowledged.
    pub wqueue: u32,
}

/// What kind of kernel object a seeded socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedObject {
    /// A `struct sock`.
    Full,
    /// A `struct inet_timewait_sock`.
    Minisocket {
        /// Time until its timer expires (`idiag_expires`).
        left: Nanos,
    },
    /// A `struct request_sock`.
    Request {
        /// SYN-ACK timeouts so far (`idiag_retrans`).
        timeouts: u8,
    },
}

/// Which sockets a sweep lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// All there are.
    Whole,
    /// Those in FIN_WAIT2. One that is missing among them has gone on to TIME_WAIT.
    FinWait2,
}

/// Some of the sockets that a sweep lists.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Which sweep.
    pub sweep: Sweep,
    /// The sockets.
    pub sockets: Vec<SeedSocket>,
    /// With the last ones.
    pub end: Option<SweepEnd>,
}

/// What is known when a sweep is complete.
#[derive(Clone, Debug)]
pub struct SweepEnd {
    /// When the last socket was read.
    pub ts: Nanos,
    /// When the first one was asked for.
    pub began: Nanos,
    /// The namespaces that were listed whole: a socket of another is not missing.
    pub netns: Vec<NetnsId>,
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id in the initial pid namespace (tgid).
    pub pid: u32,
    /// Its name as the kernel knows it (`/proc/PID/comm`), at most 15 bytes. Untrusted.
    pub comm: Arc<str>,
    /// cgroup v2 id, 0 when unknown.
    pub cgroup: u64,
}

/// What is constant about the host while tracing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Host name.
    pub host: String,
    /// Kernel release, as `uname -r`.
    pub kernel: String,
    /// Boot id: monotonic times of two recordings compare only when it is equal.
    pub boot_id: String,
    /// Wall-clock time at monotonic 0, nanoseconds since the epoch: add a record's time to it.
    pub clock_offset_ns: u64,
    /// Network namespace of the tracer itself.
    pub netns: u32,
    /// Whether segments that reach a minisocket are seen (`kfree_skb` with a receiver, 6.11).
    pub segments: bool,
    /// Nothing is traced: sockets are looked at from time to time.
    #[serde(default)]
    pub blind: bool,
    /// The filter it was traced with, as an expression; empty for everything.
    #[serde(default)]
    pub filter: String,
    /// Kernel settings that bear on TCP's states, by name, in the tracer's network namespace, at the start.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Lines in the host's sysctl files that set one of them, or one that is gone.
    #[serde(default)]
    pub sysctl_lines: Vec<SysctlLine>,
    /// Memory of the host, 0 when unknown.
    #[serde(default)]
    pub memory_bytes: u64,
    /// What this trace can't see or can see only as a bound, one sentence each.
    pub limits: Vec<String>,
}

/// A line in a sysctl file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlLine {
    /// The file. Untrusted.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// What it sets, with dots: `net.ipv4.tcp_tw_recycle`.
    pub name: String,
    /// To what. Untrusted.
    pub value: String,
}

/// Losses counted on the kernel side since tracing began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLosses {
    /// Records the ring buffer had no room for.
    pub ring_full: u64,
    /// Transitions that every copy of the program may have skipped: an upper bound.
    pub recursion_missed: u64,
    /// Kernel memory that could not be read.
    pub read_faults: u64,
    /// Records from the ring buffer that could not be decoded.
    pub decode_errors: u64,
    /// Records that the writer of the recording did not take in time: they are not in it.
    #[serde(default)]
    pub not_recorded: u64,
    /// Of the counts above, those that could not be read at some time: they are lower bounds.
    #[serde(default)]
    pub uncounted: u64,
}

impl KernelLosses {
    /// What was lost after `before`.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            ring_full: self.ring_full.saturating_sub(before.ring_full),
            recursion_missed: self.recursion_missed.saturating_sub(before.recursion_missed),
            read_faults: self.read_faults.saturating_sub(before.read_faults),
            decode_errors: self.decode_errors.saturating_sub(before.decode_errors),
            not_recorded: self.not_recorded.saturating_sub(before.not_recorded),
            uncounted: self.uncounted,
        }
    }
}
