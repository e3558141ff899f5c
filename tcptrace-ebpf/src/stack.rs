//! Captures the user stack of a system call that opens, accepts or closes a connection, in a ring of its own. The first calls of a
//! process in each second are captured, then a sample.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_USER_STACK, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_smp_processor_id, bpf_get_stack, bpf_ktime_get_ns, bpf_probe_read_user, bpf_task_pt_regs,
        },
    },
};
use tcptrace_common::{
    config::ABSENT,
    record::{RawStack, loss, stack},
};

use crate::{
    kernel::{Address, current_task, is_exiting, load},
    maps::{CALLS, CallCount, STACKS, config, count},
};

/// Whether stacks are captured; otherwise the verifier removes the rest.
#[inline(always)]
pub fn is_captured() -> bool {
    config!(stacks_per_second) != 0
}

/// Captures the stack of the current system call, which changes a socket to the state `new`, or accepts it in that state. Returns
/// the number that joins it with the record of the call, 0 if the call is not in the sample.
#[inline(always)]
pub fn capture<C: EbpfContext>(ctx: &C, new: u8) -> u64 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(is_sample) = sampled(tgid, new, (now >> 30) as u32) else { return 0 };
    let Some(mut entry) = STACKS.reserve::<RawStack>(0) else {
        count(loss::STACK);
        return 0;
    };
    // SAFETY: the helper has no preconditions.
    let capture = now << 8 | (unsafe { bpf_get_smp_processor_id() } & 0xff) as u64;
    let to = entry.as_mut_ptr();
    // SAFETY: `to` is the reserved entry; every part is written completely, but for the frames beyond `length`.
    let length = unsafe {
        (&raw mut (*to).capture).write(capture);
        (&raw mut (*to).tgid).write(tgid);
        (&raw mut (*to).is_sample).write(is_sample as u32);
        if !read_top((&raw mut (*to).top).cast()) {
            (&raw mut (*to).top).write([0; stack::TOP]);
        }
        let frames = (&raw mut (*to).frames).cast();
        let size = (stack::DEPTH * size_of::<u64>()) as u32;
        let length = bpf_get_stack(ctx.as_ptr(), frames, size, BPF_F_USER_STACK as u64);
        (&raw mut (*to).length).write(length as u64);
        length as i64
    };
    if length <= 0 {
        entry.discard(BPF_RB_NO_WAKEUP as u64);
        // Otherwise a thread on this CPU has lost it inside of the kernel's function for stacks, of which only one runs.
        if !is_exiting(current_task()) {
            count(loss::STACK);
        }
        return 0;
    }
    entry.submit(BPF_RB_NO_WAKEUP as u64);
    capture
}

/// Whether to capture this call of a process; `Some(true)` for one that stands for several.
#[inline(always)]
fn sampled(tgid: u32, new: u8, second: u32) -> Option<bool> {
    let key = (new as u64) << 32 | tgid as u64;
    let calls = match CALLS.get_ptr_mut(key) {
        // SAFETY: another CPU may change it at the same time: the limit is not exact.
        Some(known) => unsafe {
            if (*known).second != second {
                *known = CallCount { second, calls: 0 };
            }
            (*known).calls += 1;
            (*known).calls
        },
        None => {
            let _ = CALLS.insert(key, CallCount { second, calls: 1 }, 0);
            1
        }
    };
    let beyond = calls.saturating_sub(config!(stacks_per_second));
    match beyond {
        0 => Some(false),
        _ if beyond % stack::INTERVAL == stack::INTERVAL / 2 => Some(true),
        _ => None,
    }
}

/// Reads the words at the user stack pointer.
#[inline(always)]
fn read_top(to: *mut u64) -> bool {
    let stack_pointer = config!(user_sp);
    if stack_pointer == ABSENT {
        return false;
    }
    // SAFETY: the current task; the helper fills `to` completely, or fails.
    unsafe {
        let registers = bpf_task_pt_regs(current_task().cast_mut().cast()) as Address;
        let from = load::<u64>(registers, stack_pointer) as Address;
        bpf_probe_read_user(to.cast(), (stack::TOP * size_of::<u64>()) as u32, from.cast_mut()) == 0
    }
}
