//! Learns the handler addresses where `/proc/kallsyms` is hidden: user space creates one loopback connection, and the
//! timers inside of its timewait socket and its request socket reveal them. Loaded only for this, and detached
//! afterwards.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::config::learned;

use crate::{
    kernel::{Address, Copied, SockCommon, container_of, load, read},
    maps::{LEARNED, config},
};

#[btf_tracepoint(function = "timer_start")]
pub fn learn_handlers(ctx: BtfTracePointContext) -> i32 {
    let timer: Address = ctx.arg(0);
    let function: u64 = load(timer, config!(offsets.timer_function));
    let timewait = container_of(timer, config!(offsets.tw_timer));
    if read::<u64>(timewait, config!(offsets.skc_cookie)) == Some(config!(learn_cookie)) {
        let _ = LEARNED.set(learned::TW_TIMER_HANDLER, function, 0);
    }
    let request = container_of(timer, config!(offsets.rsk_timer));
    if let Some(common) = Copied::read(request) {
        let ports = (common.dport() as u32) << 16 | common.num() as u32;
        if ports == config!(learn_ports) && common.state() == NEW_SYN_RECV {
            let _ = LEARNED.set(learned::REQSK_TIMER_HANDLER, function, 0);
        }
    }
    0
}

const NEW_SYN_RECV: u8 = 12;
