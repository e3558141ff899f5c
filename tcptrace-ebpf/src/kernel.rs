//! Reads kernel memory (only here). Offsets come from the loader (`config`), and the verifier sees them as constants.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel};
use tcptrace_common::config::{ABSENT, SOCK_COMMON_LEN};

use crate::maps::config;

/// `sk_protocol` of TCP: other protocols share some of the tracepoints.
pub const IPPROTO_TCP: u16 = 6;

/// A kernel address.
pub type Address = *const c_void;

/// Reads one value of kernel memory; `None` when the address can't be read.
#[inline(always)]
pub fn read<T: Copy>(from: Address, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address and fills `value` completely, or returns an error.
    let failed = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            from.byte_add(offset as usize).cast_mut(),
        )
    };
    // SAFETY: filled by the helper; `T` is an integer or an array of integers.
    (failed == 0).then(|| unsafe { value.assume_init() })
}

/// Reads a value through a pointer whose type the verifier knows (an argument of the tracepoint): a plain load, without
/// a helper call.
#[inline(always)]
pub fn load<T: Copy>(typed: Address, offset: u32) -> T {
    // SAFETY: the verifier checks that `offset` is a field of the pointer's type, and the kernel
    // catches a fault.
    unsafe { typed.byte_add(offset as usize).cast::<T>().read_volatile() }
}

/// The object that contains `member` at `offset`.
#[inline(always)]
pub fn container_of(member: Address, offset: u32) -> Address {
    member.wrapping_byte_sub(offset as usize)
}

/// A `struct sock_common`, the common part of full, timewait and request sockets.
pub trait SockCommon {
    /// The field at `offset`.
    fn field<T: Copy + Default>(&self, offset: u32) -> T;

    #[inline(always)]
    fn state(&self) -> u8 {
        self.field(config!(offsets.skc_state))
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        self.field(config!(offsets.skc_cookie))
    }

    /// `skc_flags`; in a request socket this field holds the address of its listener.
    #[inline(always)]
    fn flags(&self) -> u64 {
        self.field(config!(offsets.skc_flags))
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.field(config!(offsets.skc_bound_dev_if))
    }

    /// Local port; 0 when none is held, or no longer.
    #[inline(always)]
    fn num(&self) -> u16 {
        self.field(config!(offsets.skc_num))
    }

    /// Remote port.
    #[inline(always)]
    fn dport(&self) -> u16 {
        u16::from_be(self.field(config!(offsets.skc_dport)))
    }

    /// Local and remote address as four words: IPv4 in mapped form.
    #[inline(always)]
    fn addresses(&self) -> [u64; 4] {
        const AF_INET6: u16 = 10;
        const MAPPED: u64 = 0xffff_0000;
        if self.field::<u16>(config!(offsets.skc_family)) == AF_INET6 {
            let (local, remote) = (config!(offsets.skc_v6_rcv_saddr), config!(offsets.skc_v6_daddr));
            return [self.field(local), self.field(local + 8), self.field(remote), self.field(remote + 8)];
        }
        let local: u32 = self.field(config!(offsets.skc_rcv_saddr));
        let remote: u32 = self.field(config!(offsets.skc_daddr));
        [0, (local as u64) << 32 | MAPPED, 0, (remote as u64) << 32 | MAPPED]
    }

    /// Address of the network namespace.
    #[inline(always)]
    fn net(&self) -> Address {
        self.field::<u64>(config!(offsets.skc_net)) as Address
    }

    /// Inode number of the network namespace, 0 when it can't be read.
    #[inline(always)]
    fn net_inum(&self) -> u32 {
        read(self.net(), config!(offsets.net_inum)).unwrap_or(0)
    }
}

/// Whether the thread `task` is a kernel thread, which owns no socket.
#[inline(always)]
pub fn is_kernel_thread(task: Address) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    has_flag(task, PF_KTHREAD)
}

/// Whether the thread `task` is exiting: it has no memory any more when its sockets are closed.
#[inline(always)]
pub fn is_exiting(task: Address) -> bool {
    const PF_EXITING: u32 = 0x4;
    has_flag(task, PF_EXITING)
}

#[inline(always)]
fn has_flag(task: Address, flag: u32) -> bool {
    let flags = config!(offsets.task_flags);
    flags != ABSENT && task_field::<u32>(task, flags) & flag != 0
}

/// Whether the tracepoint with the context `ctx` was reached in a system call of the current thread; deferred work runs
/// in kernel threads.
#[inline(always)]
pub fn is_system_call(ctx: Address) -> bool {
    let task = current_task();
    is_in_task(task, ctx) && !is_kernel_thread(task)
}

/// Whether the current thread `task` itself reached the tracepoint, not a softirq on top of it.
#[inline(always)]
pub fn is_in_task(task: Address, ctx: Address) -> bool {
    /// `SOFTIRQ_OFFSET`: set while a softirq runs, not while softirqs are disabled.
    const SERVING_SOFTIRQ: u32 = 1 << 8;
    match config!(offsets.task_preempt_count) {
        ABSENT => is_on_stack_of(task, ctx),
        // Before 6.1 softirqs of arm64 run on the stack of the task.
        offset => task_field::<u32>(task, offset) & SERVING_SOFTIRQ == 0,
    }
}

/// Whether `ctx`, which is on the stack, is on that of the thread `task`: on x86-64 softirqs have their own.
#[inline(always)]
fn is_on_stack_of(task: Address, ctx: Address) -> bool {
    let stack = config!(offsets.task_stack);
    if stack == ABSENT {
        return true;
    }
    // Two comparisons: the verifier allows no arithmetic on the context, and the compiler can't join them, as it does not know
    // the length.
    let start: u64 = task_field(task, stack);
    let at = ctx as u64;
    at >= start && at < start.wrapping_add(config!(stack_len) as u64)
}

/// The current thread's `struct task_struct`, for [`task_field`].
#[inline(always)]
pub fn current_task() -> Address {
    let has_helpers = config!(has_helpers);
    // SAFETY: no arguments.
    unsafe {
        if has_helpers == 0 {
            bpf_get_current_task() as Address
        } else {
            bpf_get_current_task_btf() as Address
        }
    }
}

/// A field of [`current_task`], whose type the verifier knows where the kernel has the helper.
#[inline(always)]
fn task_field<T: Copy + Default>(task: Address, offset: u32) -> T {
    if config!(has_helpers) == 0 { read(task, offset).unwrap_or_default() } else { load(task, offset) }
}

/// A `struct sock` that is an argument of the tracepoint: each field is a plain load.
pub struct Argument {
    sock: Address,
    net: Address,
}

impl Argument {
    /// For each load of a pointer the verifier searches the names of all types, which takes milliseconds, and repeats that for
    /// each path of the program: load this one before the program branches.
    #[inline(always)]
    pub fn new(sock: Address) -> Self {
        Self { sock, net: load(sock, config!(offsets.skc_net)) }
    }
}

impl SockCommon for Argument {
    #[inline(always)]
    fn field<T: Copy + Default>(&self, offset: u32) -> T {
        load(self.sock, offset)
    }

    #[inline(always)]
    fn net(&self) -> Address {
        self.net
    }

    #[inline(always)]
    fn net_inum(&self) -> u32 {
        load(self.net, config!(offsets.net_inum))
    }
}

/// The local port. Once the port is released `skc_num` is 0, while `inet_sport` keeps its value until the socket
/// connects again and chooses a new port: a socket that `is_new` has none.
#[inline(always)]
pub fn local_port(sock: &Argument, is_new: bool) -> u16 {
    match sock.num() {
        0 if !is_new => read::<u16>(sock.sock, config!(offsets.inet_sport)).map_or(0, u16::from_be),
        port => port,
    }
}

/// An object at an untyped address: its start is copied at once.
pub struct Copied([u64; SOCK_COMMON_LEN / 8]);

impl Copied {
    #[inline(always)]
    pub fn read(object: Address) -> Option<Self> {
        read(object, 0).map(Self)
    }
}

impl SockCommon for Copied {
    /// 0 when the field is outside of the copy (which the loader has ruled out).
    #[inline(always)]
    fn field<T: Copy + Default>(&self, offset: u32) -> T {
        if offset as usize > SOCK_COMMON_LEN - size_of::<T>() {
            return T::default();
        }
        // SAFETY: inside the copy, and aligned as the kernel aligns it.
        unsafe { self.0.as_ptr().byte_add(offset as usize).cast::<T>().read_volatile() }
    }
}

/// Whether the namespace at `net` has no user any more: `cleanup_net()` is destroying it.
#[inline(always)]
pub fn net_is_dying(net: Address) -> bool {
    let offset = config!(offsets.net_count);
    offset != ABSENT && read::<u32>(net, offset) == Some(0)
}
