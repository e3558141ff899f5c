//! One observation of the kernel, as it lies in the ring buffer: written by the eBPF program's
//! `emit` module, decoded by the user side's `kernel::decode`.
//!
//! Every record starts with a [`Record`]. Where the hook runs in the context of the task that
//! caused it ([`flag::TASK`]) a [`Task`] follows.

/// What a record says. The numbers are part of the ring-buffer contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `inet_sock_set_state`: a full socket goes from `old` to `new`.
    /// `arg0`: `sk_err` at a transition to CLOSE, else 0.
    Transition = 1,
    /// `timer_start` of a minisocket: created, or armed again.
    /// `new`: `tw_substate`; `arg0`: jiffies left to `expires` (signed); `arg1`: `tw_entry_stamp`.
    MinisocketArmed = 2,
    /// `timer_cancel` of a minisocket: killed, re-armed, or about to expire.
    /// As above, and in the upper half of `arg1` the id of the thread whose system call did it; 0 for what
    /// came from the network, a timer or a kernel thread.
    MinisocketCancelled = 3,
    /// `timer_expire_entry` of a minisocket. Arguments as for [`Kind::MinisocketArmed`].
    MinisocketExpired = 4,
    /// `kfree_skb` of a segment that a minisocket received.
    /// `new`: `tw_substate` after it was handled; `arg0`: the TCP flags byte.
    Segment = 5,
    /// `timer_start` of a request socket: a SYN arrived, or the SYN-ACK timer was armed again.
    /// `arg0`: the listener's cookie (0 when it has none); `arg1`: `num_timeout`, how many
    /// SYN-ACK timeouts there were.
    RequestArmed = 6,
    /// `timer_cancel` of a request socket: handshake done, dropped, or about to expire.
    RequestCancelled = 7,
    /// `timer_expire_entry` of a request socket: the SYN-ACK is sent again, or given up.
    RequestExpired = 8,
}

impl Kind {
    /// The kind with the number `raw`; `None` for a number this version does not know.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Transition,
            2 => Self::MinisocketArmed,
            3 => Self::MinisocketCancelled,
            4 => Self::MinisocketExpired,
            5 => Self::Segment,
            6 => Self::RequestArmed,
            7 => Self::RequestCancelled,
            8 => Self::RequestExpired,
            _ => return None,
        })
    }
}

/// Bits of [`Record::flags`].
pub mod flag {
    /// A [`super::Task`] follows: the record was made in the context of the task that caused it.
    pub const TASK: u8 = 1;
    /// `SO_LINGER` with a time of 0 was set when the socket went to CLOSE.
    pub const LINGER_ZERO: u8 = 1 << 1;
    /// The network namespace has no user any more: it is being taken down.
    pub const NETNS_DYING: u8 = 1 << 2;
    /// `close()` (not only `shutdown()`) had begun when the socket went to CLOSE.
    pub const SHUTDOWN_BOTH: u8 = 1 << 3;
    /// The socket has no owner any more (`SOCK_DEAD`).
    pub const ORPHAN: u8 = 1 << 4;
    /// The peer's FIN was taken in (`SOCK_DONE`).
    pub const DONE: u8 = 1 << 5;
    /// The namespace holds as many minisockets as it may (`tcp_max_tw_buckets`), or this kernel does not
    /// let that be seen.
    pub const NO_ROOM: u8 = 1 << 6;
    /// With [`LINGER_ZERO`]: bytes had come that the process had not read, which the kernel looks at first.
    pub const UNREAD: u8 = 1 << 7;
}

/// The fixed part of every record. 88 bytes, no padding.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Record {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts_ns: u64,
    /// The socket cookie, which a minisocket inherits; 0 for a request socket, which has none.
    pub cookie: u64,
    /// Kernel address of the socket, minisocket or request socket. It pairs records about one
    /// living object and is reused at once afterwards: never an identity.
    pub object: u64,
    /// By kind, see [`Kind`].
    pub arg0: u64,
    /// By kind, see [`Kind`].
    pub arg1: u64,
    /// Local address; IPv4 as `::ffff:a.b.c.d`.
    pub saddr: [u8; 16],
    /// Remote address; IPv4 as `::ffff:a.b.c.d`.
    pub daddr: [u8; 16],
    /// Inode number of the network namespace, as in `/proc/PID/ns/net`.
    pub netns: u32,
    /// `sk_bound_dev_if`: the interface a socket is bound to; a link-local address's zone.
    pub ifindex: u32,
    /// Local port, host byte order; 0 while none is chosen.
    pub sport: u16,
    /// Remote port, host byte order.
    pub dport: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// Kernel number of the state before, where the kind has one.
    pub old: u8,
    /// Kernel number of the state after, where the kind has one.
    pub new: u8,
    /// Bits from [`flag`].
    pub flags: u8,
}

/// The task in whose context a record was made. 32 bytes, no padding.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Task {
    /// cgroup v2 id: the inode number of its folder.
    pub cgroup: u64,
    /// Process id (the kernel's tgid), in the initial pid namespace.
    pub tgid: u32,
    /// Thread id (the kernel's pid).
    pub tid: u32,
    /// Name of the process (its first thread's), NUL padded. Untrusted: any bytes.
    pub comm: [u8; 16],
}

/// A [`Record`] with its [`Task`], as one piece of the ring buffer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RecordWithTask {
    /// The observation.
    pub record: Record,
    /// Who caused it.
    pub task: Task,
}

/// Length of a record without its task.
pub const RECORD_LEN: usize = core::mem::size_of::<Record>();
/// Length of a record with its task.
pub const RECORD_WITH_TASK_LEN: usize = core::mem::size_of::<RecordWithTask>();

/// Why the eBPF program could not report something: indices of the per-CPU `LOSSES` map.
pub mod loss {
    /// The ring buffer had no room.
    pub const RING_FULL: u32 = 0;
    /// Kernel memory could not be read.
    pub const READ_FAULT: u32 = 1;
    /// Not a loss: a transition that the first copy of the `set_state` program had skipped (the
    /// kernel's recursion guard) and the second copy reported.
    pub const COVERED: u32 = 2;
    /// Number of counters.
    pub const COUNT: u32 = 3;
}
