//! `timer_start`, `timer_cancel`, `timer_expire_entry`: the lifetime of timewait sockets and request sockets follows
//! their timers. One comparison of the handler excludes nearly all timers of the host.
//!
//! `timer_start` and `timer_cancel` run under the timer base's lock with interrupts off, and `timer_expire_entry` in
//! the timer softirq: none of them can interrupt itself.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::record::Kind;

use super::{request, timewait};
use crate::{
    kernel::{Address, load},
    maps::{config, is_idle},
};

#[btf_tracepoint(function = "timer_start")]
pub fn timer_start(ctx: BtfTracePointContext) -> i32 {
    dispatch(&ctx, Kind::TimewaitArmed, Kind::RequestArmed)
}

#[btf_tracepoint(function = "timer_cancel")]
pub fn timer_cancel(ctx: BtfTracePointContext) -> i32 {
    dispatch(&ctx, Kind::TimewaitCancelled, Kind::RequestCancelled)
}

#[btf_tracepoint(function = "timer_expire_entry")]
pub fn timer_expire_entry(ctx: BtfTracePointContext) -> i32 {
    dispatch(&ctx, Kind::TimewaitExpired, Kind::RequestExpired)
}

#[inline(always)]
fn dispatch(ctx: &BtfTracePointContext, timewait: Kind, request: Kind) -> i32 {
    if is_idle() {
        return 0;
    }
    let timer: Address = ctx.arg(0);
    let function: u64 = load(timer, config!(offsets.timer_function));
    if function == config!(tw_timer_handler) {
        timewait::report(ctx, timer, timewait);
    } else if function == config!(reqsk_timer_handler) {
        request::report(ctx, timer, request);
    }
    0
}
