//! Defines the configuration that the loader writes into the program's `.rodata` before verification: the kernel's
//! field offsets (rustc emits no CO-RE relocations), and the timers to trace.
//!
//! The verifier sees these values as constants, so disabled features cost nothing.

/// Offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Bytes of `struct sock_common` that are read at once. Every `skc_*` field must be inside; the user side's
/// `kernel::btf` refuses a kernel where one is not.
pub const SOCK_COMMON_LEN: usize = 112;

/// Byte offsets in kernel structures, from BTF; [`ABSENT`] where the kernel has no such field.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Offsets {
    /// `sock_common.skc_daddr`
    pub skc_daddr: u32,
    /// `sock_common.skc_rcv_saddr`
    pub skc_rcv_saddr: u32,
    /// `sock_common.skc_dport`
    pub skc_dport: u32,
    /// `sock_common.skc_num`
    pub skc_num: u32,
    /// `sock_common.skc_family`
    pub skc_family: u32,
    /// `sock_common.skc_state`
    pub skc_state: u32,
    /// `sock_common.skc_bound_dev_if`
    pub skc_bound_dev_if: u32,
    /// `sock_common.skc_net`
    pub skc_net: u32,
    /// `sock_common.skc_v6_daddr`
    pub skc_v6_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`
    pub skc_v6_rcv_saddr: u32,
    /// `sock_common.skc_cookie`
    pub skc_cookie: u32,
    /// `sock_common.skc_flags`; a request socket stores its listener there (`skc_listener`).
    pub skc_flags: u32,
    /// `sock.sk_protocol`, 16 bits wide
    pub sk_protocol: u32,
    /// `sock.sk_err`
    pub sk_err: u32,
    /// `sock.sk_err_soft`, or [`ABSENT`]
    pub sk_err_soft: u32,
    /// `sock.sk_socket`, or [`ABSENT`]
    pub sk_socket: u32,
    /// `socket.state`, or [`ABSENT`]
    pub socket_state: u32,
    /// `socket_alloc.vfs_inode.i_ino`: the inode number of a `struct socket`; or [`ABSENT`]
    pub socket_inode: u32,
    /// `sock.sk_shutdown`
    pub sk_shutdown: u32,
    /// `sock.sk_lingertime`
    pub sk_lingertime: u32,
    /// `inet_sock.inet_sport`
    pub inet_sport: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// The reference count of `net.ns`: 0 while the namespace is being destroyed.
    pub net_count: u32,
    /// `inet_timewait_sock.tw_substate`
    pub tw_substate: u32,
    /// `inet_timewait_sock.tw_entry_stamp` (6.14), or [`ABSENT`]
    pub tw_entry_stamp: u32,
    /// `inet_timewait_sock.tw_timer`
    pub tw_timer: u32,
    /// `request_sock.rsk_timer`
    pub rsk_timer: u32,
    /// `request_sock.num_retrans`; [`ABSENT`] if unknown
    pub num_retrans: u32,
    /// Byte that holds the bit field `request_sock.num_timeout`
    pub num_timeout: u32,
    /// Lowest bit of `num_timeout` in that byte
    pub num_timeout_shift: u32,
    /// `timer_list.function`
    pub timer_function: u32,
    /// `timer_list.expires`
    pub timer_expires: u32,
    /// `sk_buff.head`
    pub skb_head: u32,
    /// `sk_buff.transport_header`
    pub skb_transport_header: u32,
    /// Bit number of `SOCK_LINGER` in `sk_flags`
    pub sock_linger: u32,
    /// Bit number of `SOCK_DEAD` in `sk_flags`
    pub sock_dead: u32,
    /// Bit number of `SOCK_DONE` in `sk_flags`
    pub sock_done: u32,
    /// `task_struct.group_leader`, or [`ABSENT`]
    pub task_group_leader: u32,
    /// `task_struct.comm`, or [`ABSENT`]
    pub task_comm: u32,
    /// `task_struct.flags`, or [`ABSENT`]
    pub task_flags: u32,
    /// `task_struct.stack`, or [`ABSENT`]
    pub task_stack: u32,
    /// `task_struct.thread_info.preempt_count`, or [`ABSENT`] where the kernel counts per CPU (x86-64).
    pub task_preempt_count: u32,
    /// `tcp_sock.rcv_nxt`, or [`ABSENT`]
    pub rcv_nxt: u32,
    /// `tcp_sock.copied_seq`, or [`ABSENT`] where the kernel gives a reason for its RSTs.
    pub copied_seq: u32,
    /// `tcp_sock.snd_una`, or [`ABSENT`]
    pub snd_una: u32,
    /// `tcp_sock.write_seq`, or [`ABSENT`]
    pub write_seq: u32,
    /// `tcp_sock.srtt_us`, or [`ABSENT`]
    pub srtt_us: u32,
    /// `net.ipv4.sysctl_tcp_fastopen`, or [`ABSENT`]
    pub net_fastopen: u32,
}

/// Configuration of the program.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Config {
    /// Address of `tw_timer_handler`.
    pub tw_timer_handler: u64,
    /// Address of `reqsk_timer_handler`.
    pub reqsk_timer_handler: u64,
    /// For learning handler addresses: the cookie of the loopback connection.
    pub learn_cookie: u64,
    /// For learning handler addresses: its ports as the request socket has them,
    /// remote `<< 16 |` local, host byte order.
    pub learn_ports: u32,
    /// 1 makes the programs return at once, to measure the overhead of the hooks alone.
    pub idle: u32,
    /// Number of rings, minus one. CPU n writes into ring `n & ring_mask`.
    pub ring_mask: u32,
    /// Slots of each ring: a power of two.
    pub ring_slots: u32,
    /// 1 where a CPU's writes become visible in their order (x86-64).
    pub ordered_writes: u32,
    /// 1 where `tcp_send_reset` passes a reason (6.10).
    pub has_reset_reason: u32,
    /// Number of attached copies of the programs of a hook that may interrupt itself.
    pub copies: u32,
    /// 1 where programs at tracepoints may request a socket's cookie (5.12), and the current task as a typed pointer (5.11).
    /// 0: the records carry what user space needs to identify the socket, see [`identity`](crate::record::identity).
    pub has_helpers: u32,
    /// `THREAD_SIZE` of x86-64: bytes of a task's stack.
    pub stack_len: u32,
    /// Stacks of system calls captured per process, kind of call and second, before they are sampled; 0 captures none.
    pub stacks_per_second: u32,
    /// Offset of the user stack pointer in `struct pt_regs`; [`ABSENT`] where the kernel has no `bpf_task_pt_regs()` (5.15).
    pub user_sp: u32,
    /// Keeps the length a multiple of 8.
    pub reserved: u32,
    /// Field offsets.
    pub offsets: Offsets,
}

/// The rings. CPUs that share a ring contend on its cache lines.
pub mod ring {
    /// Map of the slots of memory-mapped rings, one ring after the other: of [`Slot`](crate::record::Slot)s.
    pub const SLOTS: &str = "SLOTS";
    /// Map of the [`Cursors`](crate::record::Cursors) of each.
    pub const CURSORS: &str = "CURSORS";
    /// A ring buffer that wakes the reader.
    pub const ALARM: &str = "ALARM";
    /// In the object for older kernels: ring buffers of the kernel; the first ones are used.
    pub const BUFFERS: [&str; 8] =
        ["RING_0", "RING_1", "RING_2", "RING_3", "RING_4", "RING_5", "RING_6", "RING_7"];
    /// Size of an unused ring buffer, in bytes: the kernel refuses one smaller than a page, and arm64 has pages of 64 KiB.
    pub const SMALLEST: u32 = 64 << 10;
    /// Name of the map for stacks.
    pub const STACKS: &str = "STACKS";
}

/// Indices of the `LEARNED` map.
pub mod learned {
    /// Address of `tw_timer_handler`; 0 until learned.
    pub const TW_TIMER_HANDLER: u32 = 0;
    /// Address of `reqsk_timer_handler`; 0 until learned.
    pub const REQSK_TIMER_HANDLER: u32 = 1;
    /// Number of entries.
    pub const COUNT: u32 = 2;
}
