//! The end of `inet_csk_accept`: a system call receives a connection. Attached where user stacks are captured and the kernel
//! allows programs at functions; one of the two kinds, by the number of arguments. A thread may lose its CPU inside of a program:
//! attached in copies, see `hooks`.

use aya_ebpf::{helpers::generated::bpf_get_socket_cookie, macros::fexit, programs::FExitContext};
use tcptrace_common::{
    record::{Kind, Reentrant, flag},
    state::TcpState,
};

use crate::{
    emit::{Observation, emit, wanted},
    kernel::{Address, Argument, IPPROTO_TCP, SockCommon, current_task, is_kernel_thread, load, local_port},
    maps::{Handled, config, is_idle},
    stack,
};

/// `(sk, arg)`, since 6.10. The returned socket follows the arguments.
#[fexit(function = "inet_csk_accept")]
pub fn accepted_first(ctx: FExitContext) -> i32 {
    copy(&ctx, ctx.arg(2), 0)
}

#[fexit(function = "inet_csk_accept")]
pub fn accepted_second(ctx: FExitContext) -> i32 {
    copy(&ctx, ctx.arg(2), 1)
}

#[fexit(function = "inet_csk_accept")]
pub fn accepted_third(ctx: FExitContext) -> i32 {
    copy(&ctx, ctx.arg(2), 2)
}

/// `(sk, flags, err, kern)`, before.
#[fexit(function = "inet_csk_accept")]
pub fn accepted_by_flags_first(ctx: FExitContext) -> i32 {
    copy(&ctx, ctx.arg(4), 0)
}

#[fexit(function = "inet_csk_accept")]
pub fn accepted_by_flags_second(ctx: FExitContext) -> i32 {
    copy(&ctx, ctx.arg(4), 1)
}

#[fexit(function = "inet_csk_accept")]
pub fn accepted_by_flags_third(ctx: FExitContext) -> i32 {
    copy(&ctx, ctx.arg(4), 2)
}

#[inline(always)]
fn copy(ctx: &FExitContext, sock: Address, number: u32) -> i32 {
    if is_idle() || !stack::is_captured() || sock.is_null() {
        return 0;
    }
    // A socket is accepted once.
    let event = Handled { object: sock as u64, detail: Argument::new(sock).cookie() };
    if !event.is_handled(Reentrant::Accepted, number) {
        report(ctx, sock);
    }
    0
}

#[inline(always)]
fn report(ctx: &FExitContext, sock: Address) {
    // Multipath TCP has its own protocol here. A kernel thread accepts for a server in the kernel.
    if load::<u16>(sock, config!(offsets.sk_protocol)) != IPPROTO_TCP || is_kernel_thread(current_task()) {
        return;
    }
    let common = Argument::new(sock);
    let sport = local_port(&common, false);
    let Some(ends) = wanted(&common, Kind::Accepted, 0, sport) else { return };
    let cookie = if config!(has_helpers) == 0 {
        common.cookie()
    } else {
        // SAFETY: the verifier knows `sock` as a `struct sock`.
        unsafe { bpf_get_socket_cookie(sock.cast_mut()) }
    };
    let captured = stack::capture(ctx, TcpState::Established as u8);
    emit(
        &common,
        &ends,
        Observation {
            kind: Kind::Accepted,
            old: 0,
            new: common.state(),
            flags: flag::TASK,
            cookie,
            object: sock,
            sport,
            arg0: captured,
            arg1: 0,
        },
    );
}
