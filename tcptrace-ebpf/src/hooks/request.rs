//! The timer of a request socket (`request_sock.rsk_timer`): the actual SYN_RECV.

use aya_ebpf::{helpers::generated::bpf_jiffies64, programs::BtfTracePointContext};
use tcptrace_common::{
    config::ABSENT,
    record::{Kind, flag, identity},
};

use crate::{
    emit::{Observation, emit, read_fault, wanted},
    kernel::{Address, Copied, SockCommon, container_of, read},
    maps::{NewChild, config},
};

#[inline(always)]
pub fn report(ctx: &BtfTracePointContext, timer: Address, kind: Kind) {
    let request = container_of(timer, config!(offsets.rsk_timer));
    let Some(common) = Copied::read(request) else {
        return read_fault(ctx, kind);
    };
    let Some(ends) = wanted(&common, kind, 0, common.num()) else { return };
    if kind as u8 == Kind::RequestCancelled as u8 {
        // SAFETY: no arguments.
        let now = unsafe { bpf_jiffies64() };
        if NewChild::replaces(&ends, now) {
            return;
        }
    }
    let Some(timeouts) = read::<u8>(request, config!(offsets.num_timeout)) else {
        return read_fault(ctx, kind);
    };
    // `rsk_listener` shares a union with `skc_flags`.
    let listener = common.flags() as Address;
    let listener_cookie = read::<u64>(listener, config!(offsets.skc_cookie)).unwrap_or(0);
    let timeouts = (timeouts >> (config!(offsets.num_timeout_shift) & 7)) as u64;
    let mut flags = 0;
    if kind as u8 == Kind::RequestArmed as u8 && timeouts == 0 && !is_retransmitted(request) {
        flags |= flag::NEW_REQUEST;
    }
    let listener = if config!(has_helpers) == 0 { (listener as u64) << identity::LISTENER } else { 0 };
    let observation = Observation {
        kind,
        old: 0,
        new: common.state(),
        flags,
        cookie: common.cookie(),
        object: request,
        sport: common.num(),
        arg0: listener_cookie,
        arg1: listener | timeouts,
    };
    emit(&common, &ends, observation);
}

/// Whether the SYN-ACK was retransmitted because the SYN was: that arms the timer again, too (`tcp_check_req()`).
#[inline(always)]
fn is_retransmitted(request: Address) -> bool {
    match config!(offsets.num_retrans) {
        ABSENT => true,
        offset => read::<u8>(request, offset) != Some(0),
    }
}
