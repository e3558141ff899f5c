//! `timer_start`, `timer_cancel`, `timer_expire_entry`: minisockets and request sockets live and
//! die by their timers. All but a few of the host's timers are told apart by one comparison.
//!
//! `timer_start` and `timer_cancel` run under the timer base's lock with interrupts off, and
//! `timer_expire_entry` in the timer softirq: none of them can interrupt itself.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::record::Kind;

use super::{request, timewait};
use crate::{
    kernel::{Address, load},
    maps::{config, is_idle},
};

#[btf_tracepoint(function = "timer_start")]
pub fn timer_start(ctx: BtfTracePointContext) -> i32 {
    dispatch(&ctx, Kind::MinisocketArmed, Kind::RequestArmed)
}

#[btf_tracepoint(function = "timer_cancel")]
pub fn timer_cancel(ctx: BtfTracePointContext) -> i32 {
    dispatch(&ctx, Kind::MinisocketCancelled, Kind::RequestCancelled)
}

#[btf_tracepoint(function = "timer_expire_entry")]
pub fn timer_expire_entry(ctx: BtfTracePointContext) -> i32 {
    dispatch(&ctx, Kind::MinisocketExpired, Kind::RequestExpired)
}

#[inline(always)]
fn dispatch(ctx: &BtfTracePointContext, minisocket: Kind, request: Kind) -> i32 {
    if is_idle() {
        return 0;
    }
    let timer: Address = ctx.arg(0);
    let function: u64 = load(timer, config!(offsets.timer_function));
    if function == config!(tw_timer_handler) {
        timewait::report(ctx, timer, minisocket);
    } else if function == config!(reqsk_timer_handler) {
        request::report(ctx, timer, request);
    }
    0
}
