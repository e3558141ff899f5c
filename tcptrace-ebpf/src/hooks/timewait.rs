//! The timer of a timewait socket (`inet_timewait_sock.tw_timer`): TIME_WAIT and orphan FIN_WAIT2.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_jiffies64},
    programs::BtfTracePointContext,
};
use tcptrace_common::{
    config::ABSENT,
    record::{KERNEL_THREAD, Kind, flag},
};

use crate::{
    emit::{Observation, emit, read_fault, wanted},
    kernel::{
        Address, Copied, SockCommon, container_of, current_task, is_in_task, is_kernel_thread, load,
        net_is_dying, read,
    },
    maps::{HandOver, config},
};

#[inline(always)]
pub fn report(ctx: &BtfTracePointContext, timer: Address, kind: Kind) {
    let timewait = container_of(timer, config!(offsets.tw_timer));
    let Some(common) = Copied::read(timewait) else {
        return read_fault(ctx, kind);
    };
    let Some(ends) = wanted(&common, kind, 0, common.num()) else { return };
    let Some(substate) = read::<u8>(timewait, config!(offsets.tw_substate)) else {
        return read_fault(ctx, kind);
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_jiffies64() };
    let left = load::<u64>(timer, config!(offsets.timer_expires)).wrapping_sub(now);
    let entry_stamp = match config!(offsets.tw_entry_stamp) {
        ABSENT => 0,
        offset => read::<u32>(timewait, offset).unwrap_or(0),
    };
    let mut flags = 0;
    let mut tid = 0;
    if kind as u8 == Kind::TimewaitCancelled as u8 {
        let task = current_task();
        if is_in_task(task, ctx.as_ptr()) {
            tid = if is_kernel_thread(task) { KERNEL_THREAD } else { bpf_get_current_pid_tgid() as u32 };
        }
        if net_is_dying(common.net()) {
            flags |= flag::NETNS_DYING;
        }
    }
    let observation = Observation {
        kind,
        old: 0,
        new: substate,
        flags,
        cookie: common.cookie(),
        object: timewait,
        sport: common.num(),
        arg0: left,
        arg1: (tid as u64) << 32 | entry_stamp as u64,
    };
    let cookie = observation.cookie;
    if emit(&common, &ends, observation) && kind as u8 == Kind::TimewaitArmed as u8 {
        HandOver { cookie, at: now }.note();
    }
}
