//! `tcp_send_reset`, `tcp_receive_reset`, `inet_sk_error_report`: the kernel's reasons for the end of a full socket. On
//! a healthy host they are rarely called. Those that run in both tasks and softirqs are attached in copies, see `hooks`.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::{
    record::{Kind, Reentrant},
    state::TcpState,
};

use crate::{
    emit::{Observation, emit, wanted},
    kernel::{Address, Argument, IPPROTO_TCP, SockCommon, load, local_port},
    maps::{Handled, config, is_idle},
};

#[btf_tracepoint(function = "tcp_send_reset")]
pub fn reset_sent_first(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, Reentrant::ResetSent, 0, reset_sent)
}

#[btf_tracepoint(function = "tcp_send_reset")]
pub fn reset_sent_second(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, Reentrant::ResetSent, 1, reset_sent)
}

#[btf_tracepoint(function = "tcp_send_reset")]
pub fn reset_sent_third(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, Reentrant::ResetSent, 2, reset_sent)
}

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn reset_received_first(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, Reentrant::ResetReceived, 0, reset_received)
}

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn reset_received_second(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, Reentrant::ResetReceived, 1, reset_received)
}

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn reset_received_third(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, Reentrant::ResetReceived, 2, reset_received)
}

#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn error_reported(ctx: BtfTracePointContext) -> i32 {
    let sock: Address = ctx.arg(0);
    if !is_idle() && load::<u8>(sock, config!(offsets.skc_state)) == TcpState::Close as u8 {
        report(sock, Kind::ErrorReported, load::<u32>(sock, config!(offsets.sk_err)) as u64, 0);
    }
    0
}

#[inline(always)]
fn copy(
    ctx: &BtfTracePointContext,
    hook: Reentrant,
    number: u32,
    report: impl Fn(&BtfTracePointContext),
) -> i32 {
    if !is_idle() && !event(ctx).is_handled(hook, number) {
        report(ctx);
    }
    0
}

/// A socket receives one RST, and sends one, or one per unacceptable segment: by then the mark is removed.
#[inline(always)]
fn event(ctx: &BtfTracePointContext) -> Handled {
    Handled { object: ctx.arg(0), detail: 0 }
}

#[inline(always)]
fn reset_sent(ctx: &BtfTracePointContext) {
    const NEW_SYN_RECV: u8 = 12;
    const TIME_WAIT: u8 = TcpState::TimeWait as u8;
    let sock: Address = ctx.arg(0);
    // A segment for which there is no socket.
    if sock.is_null() {
        return;
    }
    // Since 6.12 timewait sockets and request sockets come here, too. Their timers and segments show their ends.
    if matches!(load::<u8>(sock, config!(offsets.skc_state)), TIME_WAIT | NEW_SYN_RECV) {
        return;
    }
    let segment: Address = ctx.arg(1);
    let reason = if config!(has_reset_reason) == 0 { 0 } else { ctx.arg::<u32>(2) };
    report(sock, Kind::ResetSent, reason as u64, u64::from(!segment.is_null()));
}

#[inline(always)]
fn reset_received(ctx: &BtfTracePointContext) {
    report(ctx.arg(0), Kind::ResetReceived, 0, 0);
}

#[inline(always)]
fn report(sock: Address, kind: Kind, arg0: u64, arg1: u64) {
    if load::<u16>(sock, config!(offsets.sk_protocol)) != IPPROTO_TCP {
        return;
    }
    let common = Argument::new(sock);
    let sport = local_port(&common, false);
    let Some(ends) = wanted(&common, kind, 0, sport) else { return };
    let observation = Observation {
        kind,
        old: 0,
        new: common.state(),
        flags: 0,
        // The socket's transitions have generated it, or user space replaces it.
        cookie: common.cookie(),
        object: sock,
        sport,
        arg0,
        arg1,
    };
    emit(&common, &ends, observation);
}
