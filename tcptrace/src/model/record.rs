//! Defines the records that flow from a source to the tracker: observations, never derived numbers.
//!
//! Everything that only the live host knows is a record, so that a replay has it too.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tcptrace_common::record as raw;

pub use super::process::{Process, ProcessFacts};
use super::{
    Nanos, NetnsId, SocketId, TcpState, Tuple,
    bound_ports::BoundPorts,
    checkpoint::{SocketCheckpoint, TrackerCheckpoint},
    incident::Incident,
    nat::Conntrack,
    peer_names::{NameOrigin, Prefix},
    stack::UserStack,
    workload::Workload,
};

/// One observation.
#[derive(Clone, Debug)]
pub enum Record {
    /// From a hook in the kernel.
    Kernel(HookRecord),
    /// A socket that existed before the trace; see [`SeedSocket`].
    Seed(SeedSocket),
    /// The seed is complete: it has reported every socket of every reachable network namespace.
    SeedEnd {
        /// When the last one was read.
        ts: Nanos,
        /// When the first one was requested; the hooks were attached before.
        began: Nanos,
    },
    /// A part of a sweep: the `sock_diag` listing while tracing, which the tracker compares with its table.
    /// A recording stores its results instead: [`Record::Found`] and [`Record::Missing`].
    Listing(Box<Listing>),
    /// A socket as sweeps found it, unknown to the tracker or in another state there: records about it were lost.
    Found(SeedSocket),
    /// A socket that sweeps no longer list where it was last known to be.
    Missing {
        /// End of the last sweep.
        ts: Nanos,
        /// The socket.
        id: SocketId,
        /// Its namespace.
        netns: NetnsId,
        /// Its tuple, which identifies a handshake.
        tuple: Tuple,
        /// Kind of sweep.
        from: Sweep,
    },
    /// The process that holds a socket open, found through `/proc/PID/fd`.
    Owner {
        /// When it was found.
        ts: Nanos,
        /// The socket.
        id: SocketId,
        /// The process.
        process: Process,
        /// Its descriptor, if requested.
        fd: Option<u32>,
    },
    /// The search of all processes is complete: a socket without an owner now gets its listener's.
    OwnersEnd {
        /// When.
        ts: Nanos,
    },
    /// The name of a network namespace (`ip netns`), replacing an earlier one; empty when it no longer has one.
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
    /// The names of the workload in a cgroup, after its path: pod, container, image.
    Workload {
        /// When they were found.
        ts: Nanos,
        /// cgroup id.
        cgroup: u64,
        /// The names.
        workload: Arc<Workload>,
    },
    /// The program and user of a process that owns a socket.
    ProcessFacts {
        /// When they were read.
        ts: Nanos,
        /// Process id.
        pid: u32,
        /// The kernel name under which it was seen: its own, or that of one of its threads. Untrusted.
        comm: Arc<str>,
        /// The facts.
        facts: Arc<ProcessFacts>,
    },
    /// The name of an address or a network, replacing an earlier one of the same origin; empty when it has none any more.
    AddressName {
        /// When it was found.
        ts: Nanos,
        /// Where it comes from.
        origin: NameOrigin,
        /// The address or network.
        prefix: Prefix,
        /// The name, sanitised and bounded.
        name: Arc<str>,
    },
    /// The settings of a network namespace that affect TCP states; repeated when one changes, and empty when the
    /// namespace is gone, because another may reuse its number.
    NetnsSettings {
        /// When they were read.
        ts: Nanos,
        /// The namespace.
        netns: NetnsId,
        /// By name: `net.ipv4.tcp_tw_reuse`.
        sysctls: BTreeMap<String, String>,
    },
    /// Counters of a network namespace since its creation, and its current `sockstat` values.
    NetnsCounters {
        /// When they were read.
        ts: Nanos,
        /// The namespace.
        netns: NetnsId,
        /// By the kernel's name: `TWRecycled`; values of `sockstat` as `sockstat.tw`.
        counters: BTreeMap<String, u64>,
    },
    /// The connection tracking table of a network namespace; repeated while it has entries, then once without any.
    Conntrack {
        /// When it was read.
        ts: Nanos,
        /// The namespace.
        netns: NetnsId,
        /// The table.
        conntrack: Box<Conntrack>,
    },
    /// The ports of a network namespace that sockets hold by `bind()` without a connection; repeated when they change.
    BoundPorts {
        /// When they were listed.
        ts: Nanos,
        /// The namespace.
        netns: NetnsId,
        /// The ports.
        bound: Box<BoundPorts>,
    },
    /// The frames of a user stack, which transitions refer to by its number; they may come before it.
    Stack {
        /// When they were named.
        ts: Nanos,
        /// Its number.
        number: u32,
        /// The frames.
        stack: Arc<UserStack>,
    },
    /// A socket that was tracked before this recording began; not in a live stream.
    SocketCheckpoint(Box<SocketCheckpoint>),
    /// Tracker state beside the sockets when this recording began; the last record of a checkpoint.
    TrackerCheckpoint(Box<TrackerCheckpoint>),
    /// Another recording begins in the same file: the tracker drops all sockets, and those that exist follow; not in a
    /// live stream.
    Restart {
        /// When it begins.
        ts: Nanos,
    },
    /// The records that follow are from this stream, one of several that are merged by time; not in a recording.
    Stream {
        /// Its number: one per boot of a host, from 0.
        number: u16,
    },
    /// The distance between the wall clock and the monotonic clock changed.
    ClockStep(ClockStep),
    /// Facts about the host; the first record of every source.
    Host(Box<HostFacts>),
    /// All losses since the start, replacing earlier values.
    Loss {
        /// When they were read.
        ts: Nanos,
        /// The counters.
        losses: KernelLosses,
    },
    /// Only the time. A source sends one at least ten times a second, after everything that happened before it.
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
            | Self::Workload { ts, .. }
            | Self::ProcessFacts { ts, .. }
            | Self::AddressName { ts, .. }
            | Self::NetnsSettings { ts, .. }
            | Self::NetnsCounters { ts, .. }
            | Self::Conntrack { ts, .. }
            | Self::BoundPorts { ts, .. }
            | Self::Stack { ts, .. }
            | Self::Loss { ts, .. }
            | Self::Restart { ts }
            | Self::Tick { ts } => *ts,
            Self::ClockStep(step) => step.ts,
            Self::SocketCheckpoint(carried) => carried.ts,
            Self::TrackerCheckpoint(known) => known.ts,
            Self::Host(_) | Self::Listing(_) | Self::Stream { .. } => return None,
        })
    }

    /// Whether it follows the records of hooks until its time. Names, settings and counters come from other threads and don't wait
    /// for records that are still in the rings.
    pub const fn follows_hooks(&self) -> bool {
        matches!(
            self,
            Self::Kernel(_)
                | Self::Seed(_)
                | Self::SeedEnd { .. }
                | Self::Found(_)
                | Self::Missing { .. }
                | Self::Restart { .. }
                | Self::Tick { .. }
        )
    }
}

/// The report of a hook.
#[derive(Clone, Copy, Debug)]
pub struct HookRecord {
    /// As the kernel side wrote it.
    pub raw: raw::RawRecord,
    /// The task in whose context it happened, where this is meaningful.
    pub task: Option<raw::Task>,
}

/// A socket as `sock_diag` reported it.
#[derive(Clone, Copy, Debug)]
pub struct SeedSocket {
    /// When the reply with it was received: the socket was in this state then or shortly before.
    pub ts: Nanos,
    /// Its cookie.
    pub id: SocketId,
    /// Its network namespace.
    pub netns: NetnsId,
    /// Both ends.
    pub tuple: Tuple,
    /// Its state; for a timewait socket the substate.
    pub state: TcpState,
    /// Full socket, timewait socket or request socket.
    pub object: SeedObject,
    /// Inode number in the socket file system, 0 when no process holds it.
    pub inode: u32,
    /// User id of the socket (`idiag_uid`). 0 also where there is none: timewait sockets, request sockets, sockets
    /// without an inode.
    pub uid: u32,
    /// Listener: connections waiting to be accepted; else bytes not yet read.
    pub rqueue: u32,
    /// Listener: limit of the accept queue; else bytes not yet acknowledged.
    pub wqueue: u32,
}

/// The kernel object of a seeded socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedObject {
    /// A `struct sock`.
    Full,
    /// A `struct inet_timewait_sock`.
    Timewait {
        /// Time until its timer expires (`idiag_expires`).
        left: Nanos,
    },
    /// A `struct request_sock`.
    Request {
        /// SYN-ACK timeouts so far (`idiag_retrans`).
        timeouts: u8,
    },
}

/// The sockets that a sweep lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// All sockets.
    Whole,
    /// Those in FIN_WAIT2. One that is missing has moved to TIME_WAIT.
    FinWait2,
}

/// A part of a sweep.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Kind of sweep.
    pub sweep: Sweep,
    /// The sockets.
    pub sockets: Vec<SeedSocket>,
    /// Set in the last part.
    pub end: Option<SweepEnd>,
}

/// Facts about a completed sweep.
#[derive(Clone, Debug)]
pub struct SweepEnd {
    /// When the last socket was read.
    pub ts: Nanos,
    /// When the first one was requested.
    pub began: Nanos,
    /// The namespaces that were listed completely: a socket of any other is not missing.
    pub netns: Vec<NetnsId>,
}

/// Facts about the host that are constant while tracing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, by name in every recording")]
pub struct HostFacts {
    /// Host name.
    pub host: String,
    /// Kernel release, as `uname -r`.
    pub kernel: String,
    /// Boot id: monotonic times of two recordings compare only when it is equal.
    pub boot_id: String,
    /// Wall-clock time at monotonic 0 when the trace began, nanoseconds since the epoch. [`Self::wall_ns`] also applies
    /// later steps.
    pub clock_offset_ns: u64,
    /// Later changes of the offset ([`Record::ClockStep`]), oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clock_steps: Vec<ClockStep>,
    /// Network namespace of the tracer itself.
    pub netns: u32,
    /// Whether hooks report segments that reach a timewait socket (`kfree_skb` with a receiver, 6.11).
    pub segments: bool,
    /// Whether hooks report RSTs and errors where the kernel sends, receives and reports them; they explain why a
    /// socket ended.
    #[serde(default)]
    pub ends: bool,
    /// Whether a hook reports `accept()`: user stacks are captured, and the kernel allows programs at functions.
    #[serde(default)]
    pub accepts: bool,
    /// Whether sockets that are bound and not connected are listed (6.8).
    #[serde(default)]
    pub bound: bool,
    /// No tracing: the source polls sockets.
    #[serde(default)]
    pub blind: bool,
    /// The filter of the trace, as an expression; empty for everything.
    #[serde(default)]
    pub filter: String,
    /// Kernel settings that affect TCP states, by name, in the tracer's network namespace, at the start.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Lines in the host's sysctl files that set one of them, or one that no longer exists.
    #[serde(default)]
    pub sysctl_lines: Vec<SysctlLine>,
    /// Memory of the host, 0 when unknown.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Limits of this trace: facts that it can't observe or only bound, one sentence each.
    pub limits: Vec<String>,
    /// Findings that made the recorder write the file, oldest first; they are in the metadata of a recording.
    #[serde(skip)]
    pub incidents: Vec<Incident>,
}

/// A change of the offset between the wall clock and the monotonic clock: the wall clock was set, or the host was
/// suspended, which `CLOCK_MONOTONIC` does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStep {
    /// When the step was detected.
    pub ts: Nanos,
    /// Wall-clock time at monotonic 0, from then on; nanoseconds since the epoch.
    pub offset_ns: u64,
}

/// A line in a sysctl file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlLine {
    /// The file. Untrusted.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The setting, with dots: `net.ipv4.tcp_tw_recycle`.
    pub name: String,
    /// Its value. Untrusted.
    pub value: String,
}

/// Losses counted on the kernel side since tracing began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLosses {
    /// Records the ring buffer had no room for.
    pub ring_full: u64,
    /// Events that every copy of a program missed (before format 1.2: may have missed).
    pub recursion_missed: u64,
    /// Failed reads of kernel memory.
    pub read_faults: u64,
    /// Records from the ring buffer that could not be decoded.
    pub decode_errors: u64,
    /// Records missing in the recording because its writer was too slow.
    #[serde(default)]
    pub not_recorded: u64,
    /// Not in the total: user stacks that were not captured, see `missed` in docs/json.md.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stacks: u64,
    /// Of the counts above, those that could not be read at some time: they are lower bounds.
    #[serde(default)]
    pub uncounted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl KernelLosses {
    /// Losses after `before`.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            ring_full: self.ring_full.saturating_sub(before.ring_full),
            recursion_missed: self.recursion_missed.saturating_sub(before.recursion_missed),
            read_faults: self.read_faults.saturating_sub(before.read_faults),
            decode_errors: self.decode_errors.saturating_sub(before.decode_errors),
            not_recorded: self.not_recorded.saturating_sub(before.not_recorded),
            stacks: self.stacks.saturating_sub(before.stacks),
            uncounted: self.uncounted,
        }
    }

    /// Sum of both counts.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            ring_full: self.ring_full.saturating_add(other.ring_full),
            recursion_missed: self.recursion_missed.saturating_add(other.recursion_missed),
            read_faults: self.read_faults.saturating_add(other.read_faults),
            decode_errors: self.decode_errors.saturating_add(other.decode_errors),
            not_recorded: self.not_recorded.saturating_add(other.not_recorded),
            stacks: self.stacks.saturating_add(other.stacks),
            uncounted: self.uncounted.saturating_add(other.uncounted),
        }
    }
}
