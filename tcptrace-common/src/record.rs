//! Defines the layout of a record in a ring: the eBPF program's `emit` module writes it, `kernel::decode` on
//! the user side reads it.
//!
//! Every record starts with a [`RawRecord`]. A [`Task`] follows when the hook runs in the context of the task that caused
//! the event ([`flag::TASK`]).

/// Kind of a record. The numbers are part of the contract of the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `inet_sock_set_state`: a full socket goes from `old` to `new`.
    /// At a transition to CLOSE, `arg0`: `sk_err`; `arg1`: see [`close`]. From SYN_SENT to ESTABLISHED, `arg0`: `srtt_us`, eight
    /// times the round trip of the SYN in microseconds, 0 where it is not known. To SYN_SENT, FIN_WAIT1 or LAST_ACK with
    /// [`flag::TASK`], `arg0`: [`RawStack::capture`] of the user stack, a [`stack`] after decoding, 0 if it was not captured.
    /// Otherwise both are 0.
    Transition = 1,
    /// `timer_start` of a timewait socket: created, or armed again.
    /// `new`: `tw_substate`; `arg0`: jiffies left to `expires` (signed); `arg1`: `tw_entry_stamp`.
    TimewaitArmed = 2,
    /// `timer_cancel` of a timewait socket: killed, re-armed, or about to expire.
    /// As above; the upper half of `arg1` is the id of the thread whose system call cancelled it: 0 if the network or a
    /// timer did, [`KERNEL_THREAD`] for a kernel thread.
    TimewaitCancelled = 3,
    /// `timer_expire_entry` of a timewait socket. Arguments as for [`Kind::TimewaitArmed`].
    TimewaitExpired = 4,
    /// `kfree_skb` of a segment that a timewait socket received.
    /// `new`: `tw_substate` after processing; `arg0`: the TCP flags byte.
    Segment = 5,
    /// `timer_start` of a request socket: a SYN arrived, or the SYN-ACK timer was armed again.
    /// `arg0`: the listener's cookie (0 when it has none); `arg1`: `num_timeout`, the number of SYN-ACK timeouts so
    /// far.
    RequestArmed = 6,
    /// `timer_cancel` of a request socket: handshake completed, dropped, or about to expire.
    RequestCancelled = 7,
    /// `timer_expire_entry` of a request socket: the SYN-ACK is retransmitted, or given up.
    RequestExpired = 8,
    /// `tcp_send_reset`: this host sends a RST on behalf of a full socket, before or after its transition to CLOSE.
    /// `new`: its state; `arg0`: the reason, `enum sk_rst_reason` from the kernel, a [`ResetReason`] after decoding;
    /// `arg1`: 1 when it answers a segment (`tcp_v4_send_reset()`), 0 when the socket sends it on its own
    /// (`tcp_send_active_reset()`).
    ResetSent = 9,
    /// `tcp_receive_reset`: a RST that ends the full socket was received; its transition to CLOSE follows.
    /// `new`: its state.
    ResetReceived = 10,
    /// `inet_sk_error_report` of a full socket in CLOSE. `arg0`: `sk_err`.
    ErrorReported = 11,
    /// The end of `inet_csk_accept`: a system call accepts a full socket. `new`: its state; `arg0`: its stack, as for
    /// [`Kind::Transition`].
    Accepted = 12,
}

/// Upper half of `arg1` of [`Kind::TimewaitCancelled`]: a kernel thread cancelled it.
pub const KERNEL_THREAD: u32 = u32::MAX;

/// Content of `arg1` where [`Config::has_helpers`](crate::config::Config::has_helpers) is 0. User space identifies the
/// socket by it, and restores the content that [`Kind`] describes.
///
/// At a transition from CLOSE: the inode number of the socket, as in `sock_diag`; 0 when it has none.
pub mod identity {
    /// At a record of a request socket: lowest bit of the listener's kernel address without its highest byte, in which all
    /// bits are set. `num_timeout` has 7 bits.
    pub const LISTENER: u32 = 8;
}

/// Content of `arg1` at a transition to CLOSE.
pub mod close {
    /// `sk_err_soft`, when `sk_err` is not 0.
    pub const SOFT_ERROR: u64 = 0xffff_ffff;
    /// From SYN_SENT: lowest bit of `socket.state` (`include/uapi/linux/net.h`); 0 when there is no `struct socket`, or
    /// it is not known.
    pub const SOCKET_STATE: u32 = 32;
    /// `SS_UNCONNECTED`: `connect()` has not begun to wait.
    pub const SS_UNCONNECTED: u64 = 1;
    /// From LAST_ACK: not everything sent, including the FIN, has been acknowledged.
    pub const UNACKNOWLEDGED: u64 = 1 << 40;
}

/// Why the kernel sends a RST: `enum sk_rst_reason` (6.10) with numbers of our own, because the kernel's differ between
/// versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResetReason {
    /// No reason given: before 6.12 for the RSTs that a socket sends on its own.
    #[default]
    NotSpecified = 0,
    /// `TCP_ABORT_ON_DATA`: data arrived after `close()`.
    AbortOnData = 1,
    /// `TCP_ABORT_ON_CLOSE`: `close()` with unread data.
    AbortOnClose = 2,
    /// `TCP_ABORT_ON_LINGER`: `TCP_LINGER2` is negative.
    AbortOnLinger = 3,
    /// `TCP_ABORT_ON_MEMORY`: too many orphans, or no memory for sockets.
    AbortOnMemory = 4,
    /// `TCP_STATE`: the state requires it (`tcp_disconnect()`, `tcp_abort()`, an orphan's timeout).
    State = 5,
    /// `TCP_KEEPALIVE_TIMEOUT`
    KeepaliveTimeout = 6,
    /// `TCP_DISCONNECT_WITH_DATA`: `tcp_disconnect()` before all data was sent.
    DisconnectWithData = 7,
    /// Any other: an unacceptable segment, Multipath TCP.
    Other = 8,
}

impl ResetReason {
    /// Every reason, by number.
    pub const ALL: [Self; 9] = [
        Self::NotSpecified,
        Self::AbortOnData,
        Self::AbortOnClose,
        Self::AbortOnLinger,
        Self::AbortOnMemory,
        Self::State,
        Self::KeepaliveTimeout,
        Self::DisconnectWithData,
        Self::Other,
    ];

    /// The reason with the number `raw`; [`ResetReason::Other`] for a number this version does not know.
    pub fn from_raw(raw: u64) -> Self {
        usize::try_from(raw).ok().and_then(|raw| Self::ALL.get(raw)).copied().unwrap_or(Self::Other)
    }
}

impl Kind {
    /// The kind with the number `raw`; `None` for a number this version does not know.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Transition,
            2 => Self::TimewaitArmed,
            3 => Self::TimewaitCancelled,
            4 => Self::TimewaitExpired,
            5 => Self::Segment,
            6 => Self::RequestArmed,
            7 => Self::RequestCancelled,
            8 => Self::RequestExpired,
            9 => Self::ResetSent,
            10 => Self::ResetReceived,
            11 => Self::ErrorReported,
            12 => Self::Accepted,
            _ => return None,
        })
    }
}

/// Bits of [`RawRecord::flags`].
pub mod flag {
    /// A [`super::Task`] follows: the hook ran in the context of the task that caused the event.
    pub const TASK: u8 = 1;
    /// `SO_LINGER` with a time of 0 was set when the socket went to CLOSE.
    pub const LINGER_ZERO: u8 = 1 << 1;
    /// Of [`super::Kind::RequestArmed`]: its SYN-ACK was never retransmitted, so the request socket is new.
    pub const NEW_REQUEST: u8 = 1 << 1;
    /// The network namespace has no user any more: it is being destroyed.
    pub const NETNS_DYING: u8 = 1 << 2;
    /// Both directions were shut down (`close()` or `shutdown(SHUT_RDWR)`) when the socket went to CLOSE.
    pub const SHUTDOWN_BOTH: u8 = 1 << 3;
    /// The socket has no owner any more (`SOCK_DEAD`).
    pub const ORPHAN: u8 = 1 << 4;
    /// The peer's FIN was processed (`SOCK_DONE`). Only in recordings without [`super::Kind::ResetSent`].
    pub const DONE: u8 = 1 << 5;
    /// The namespace has reached its limit of timewait sockets (`tcp_max_tw_buckets`), or this kernel does not expose
    /// their number. Only in recordings without [`super::Kind::ResetSent`].
    pub const NO_ROOM: u8 = 1 << 6;
    /// With [`LINGER_ZERO`]: the process had not read all received bytes, which the kernel checks first. Only where the
    /// kernel gives no reason for a RST.
    pub const UNREAD: u8 = 1 << 7;
}

/// The fixed part of every record. 88 bytes, no padding.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct RawRecord {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts_ns: u64,
    /// The socket cookie, which a timewait socket inherits; 0 for a request socket, which has none. Without the helper
    /// that assigns one: 0 until something else requests it. User space then replaces it by an id of its own.
    pub cookie: u64,
    /// Kernel address of the socket, timewait socket or request socket. It links records about one live object and is
    /// reused immediately afterwards: never an identity.
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
    /// Kernel number of the state before, if the kind has one.
    pub old: u8,
    /// Kernel number of the state after, if the kind has one.
    pub new: u8,
    /// Bits from [`flag`].
    pub flags: u8,
}

/// The task in whose context a hook ran. 32 bytes, no padding.
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

/// Words of a [`RawStack`].
pub mod stack {
    /// Most return addresses.
    pub const DEPTH: usize = 64;
    /// Words above the stack pointer: the frame of a wrapper of a system call is smaller.
    pub const TOP: usize = 16;
    /// Of the calls of a process beyond the limit per second, one in so many is captured: it stands for all of them.
    pub const INTERVAL: u32 = 64;
    /// Bit of a stack number in `arg0`: this call stands for [`INTERVAL`] calls.
    pub const IS_SAMPLE: u64 = 1 << 31;
}

/// The user stack of a system call that opens, accepts or closes a connection: an entry of the `STACKS` ring, submitted before the
/// record of the call.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct RawStack {
    /// Joins it with the record of the call: its time, then 8 bits of the CPU's number.
    pub capture: u64,
    /// Process id, in the initial pid namespace.
    pub tgid: u32,
    /// 1 for a call that stands for [`stack::INTERVAL`].
    pub is_sample: u32,
    /// Valid bytes of `frames`.
    pub length: u64,
    /// Words at the user stack pointer; all 0 where they could not be read.
    pub top: [u64; stack::TOP],
    /// The instruction pointer, then return addresses.
    pub frames: [u64; stack::DEPTH],
}

/// One entry of a ring. 128 bytes, no padding.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Slot {
    /// In a memory-mapped ring: one more than the position of the record, once it is complete. Positions count up from 0.
    pub sequence: u64,
    /// The record.
    pub record: RawRecord,
    /// The task that caused it, with [`flag::TASK`]; otherwise anything.
    pub task: Task,
}

/// Length of a slot.
pub const SLOT_LEN: usize = core::mem::size_of::<Slot>();
/// Length of a record without its task.
pub const RECORD_LEN: usize = core::mem::size_of::<RawRecord>();
/// Length of a record with its task, which follows it in a [`Slot`].
pub const RECORD_WITH_TASK_LEN: usize = RECORD_LEN + core::mem::size_of::<Task>();

/// The cursors of a memory-mapped ring: positions. In cache lines of their own, as one is written by the programs and the
/// other one by the reader.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Cursors {
    /// The next slot that a program claims.
    pub claimed: u64,
    /// Keeps the two apart.
    pub apart: [u64; 7],
    /// The next slot to read.
    pub read: u64,
}

/// Hooks that may interrupt themselves: several copies of their program are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reentrant {
    /// [`Kind::Transition`]
    SetState = 0,
    /// [`Kind::Segment`]
    Segment = 1,
    /// [`Kind::ResetSent`]
    ResetSent = 2,
    /// [`Kind::ResetReceived`]
    ResetReceived = 3,
    /// [`Kind::Accepted`]
    Accepted = 4,
}

impl Reentrant {
    /// Every hook, by number.
    pub const ALL: [Self; 5] =
        [Self::SetState, Self::Segment, Self::ResetSent, Self::ResetReceived, Self::Accepted];
}

/// Causes of lost events: indices of the per-CPU `LOSSES` map.
pub mod loss {
    /// The ring was full.
    pub const RING_FULL: u32 = 0;
    /// Kernel memory could not be read.
    pub const READ_FAULT: u32 = 1;
    /// Not a loss: how often a later copy of a program found no mark of an earlier one, because the kernel's recursion
    /// guard had skipped those, or because a nested event had overwritten the mark (a duplicate). One counter per
    /// [`super::Reentrant`].
    pub const COVERED: u32 = 2;
    /// Not a loss of a record: a user stack was not captured.
    pub const STACK: u32 = COVERED + super::Reentrant::ALL.len() as u32;
    /// Number of counters.
    pub const COUNT: u32 = STACK + 1;
}
