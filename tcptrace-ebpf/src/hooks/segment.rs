//! `kfree_skb` with a receiving socket (6.11): the kernel frees every segment for a timewait socket there. It shows, to
//! the nanosecond, the FIN that moves a timewait socket from FIN_WAIT2 to TIME_WAIT, and the RST or data that ends one.
//! Attached in copies, see `hooks`.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::{
    record::{Kind, Reentrant},
    state::TcpState,
};

use crate::{
    emit::{Observation, emit, read_fault, wanted},
    kernel::{Address, Copied, SockCommon, load, read},
    maps::{Handled, config, is_idle},
};

const FIN: u8 = 1;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
/// Offset of the flags in a TCP header.
const TCP_FLAGS: u32 = 13;

#[btf_tracepoint(function = "kfree_skb")]
pub fn segment_first(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, 0)
}

#[btf_tracepoint(function = "kfree_skb")]
pub fn segment_second(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, 1)
}

#[btf_tracepoint(function = "kfree_skb")]
pub fn segment_third(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, 2)
}

#[inline(always)]
fn copy(ctx: &BtfTracePointContext, number: u32) -> i32 {
    if let Some(timewait) = receiver(ctx)
        && !event(ctx).is_handled(Reentrant::Segment, number)
    {
        report(ctx, timewait);
    }
    0
}

/// The receiving socket, if it is a timewait socket.
#[inline(always)]
fn receiver(ctx: &BtfTracePointContext) -> Option<Address> {
    let receiver: Address = ctx.arg(3);
    if is_idle() || receiver.is_null() {
        return None;
    }
    // A timewait socket's `skc_state` is TIME_WAIT in both substates.
    let state = read::<u8>(receiver, config!(offsets.skc_state));
    (state == Some(TcpState::TimeWait as u8)).then_some(receiver)
}

#[inline(always)]
fn event(ctx: &BtfTracePointContext) -> Handled {
    Handled { object: ctx.arg(0), detail: ctx.arg(3) }
}

#[inline(always)]
fn report(ctx: &BtfTracePointContext, timewait: Address) {
    let skb: Address = ctx.arg(0);
    let head: u64 = load(skb, config!(offsets.skb_head));
    let transport: u16 = load(skb, config!(offsets.skb_transport_header));
    let (Some(substate), Some(tcp_flags)) = (
        read::<u8>(timewait, config!(offsets.tw_substate)),
        read::<u8>(head as Address, transport as u32 + TCP_FLAGS),
    ) else {
        return read_fault(ctx, Kind::Segment);
    };
    // A bare ACK changes nothing in TIME_WAIT.
    if substate == TcpState::TimeWait as u8 && tcp_flags & (FIN | SYN | RST) == 0 {
        return;
    }
    let Some(common) = Copied::read(timewait) else {
        return read_fault(ctx, Kind::Segment);
    };
    let Some(ends) = wanted(&common, Kind::Segment, 0, common.num()) else { return };
    let observation = Observation {
        kind: Kind::Segment,
        old: 0,
        new: substate,
        flags: 0,
        cookie: common.cookie(),
        object: timewait,
        sport: common.num(),
        arg0: tcp_flags as u64,
        arg1: 0,
    };
    emit(&common, &ends, observation);
}
