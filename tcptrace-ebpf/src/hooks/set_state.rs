//! `inet_sock_set_state`: every state change of a full socket.
//! Attached twice, see `hooks`.

use aya_ebpf::{
    helpers::generated::bpf_get_socket_cookie, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use tcptrace_common::{
    config::ABSENT,
    record::{Kind, flag, loss},
    state::TcpState,
};

use crate::{
    emit::{Observation, emit, wanted},
    kernel::{Address, Argument, SockCommon, current_task, is_kernel_thread, load, read},
    maps::{Handled, Twice, config, count, is_idle},
};

const IPPROTO_TCP: u16 = 6;
const SHUTDOWN_MASK: u8 = 3;

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn set_state_first(ctx: BtfTracePointContext) -> i32 {
    if is_idle() {
        return 0;
    }
    event(&ctx).mark(Twice::SetState);
    report(&ctx);
    0
}

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn set_state_second(ctx: BtfTracePointContext) -> i32 {
    if !is_idle() && !event(&ctx).take_mark(Twice::SetState) && report(&ctx) {
        count(loss::COVERED);
    }
    0
}

#[inline(always)]
fn event(ctx: &BtfTracePointContext) -> Handled {
    let (old, new): (u64, u64) = (ctx.arg(1), ctx.arg(2));
    Handled { object: ctx.arg(0), detail: old << 32 | (new & 0xffff_ffff) }
}

/// Reports the transition, when it is one of TCP and wanted; says whether it was reported.
#[inline(always)]
fn report(ctx: &BtfTracePointContext) -> bool {
    let sock: Address = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    // `shutdown(WR)` and then `close()` sets FIN_WAIT1 twice: no change.
    if old == new || load::<u16>(sock, config!(offsets.sk_protocol)) != IPPROTO_TCP {
        return false;
    }
    let (old, new) = (old as u8, new as u8);
    let common = Argument(sock);
    // Once the port is given back skc_num is 0, while inet_sport stays; and it stays until a new port is
    // chosen when the socket connects again.
    let sport = match common.num() {
        0 if old != TcpState::Close as u8 => {
            read::<u16>(sock, config!(offsets.inet_sport)).map_or(0, u16::from_be)
        }
        port => port,
    };
    let Some(ends) = wanted(&common, Kind::Transition, old, sport) else {
        return false;
    };
    // SAFETY: the verifier knows `sock` as a `struct sock`.
    let cookie = unsafe { bpf_get_socket_cookie(sock.cast_mut()) };
    let mut flags = owner_flags(&common);
    let mut sk_err = 0;
    if new == TcpState::Close as u8 {
        sk_err = load::<u32>(sock, config!(offsets.sk_err));
        flags |= close_flags(sock, &common);
        if has_no_room(&common, old) {
            flags |= flag::NO_ROOM;
        }
    }
    if is_the_tasks_own(old, new, sk_err) && !is_kernel_thread(current_task()) {
        flags |= flag::TASK;
    }
    emit(
        &common,
        &ends,
        Observation {
            kind: Kind::Transition,
            old,
            new,
            flags,
            cookie,
            object: sock,
            sport,
            arg0: sk_err as u64,
            arg1: 0,
        },
    )
}

/// Whether the transition can only come from a system call of the socket's user, so that the
/// current task is who caused it. In softirq `current` is whoever was on the CPU.
#[inline(always)]
fn is_the_tasks_own(old: u8, new: u8, sk_err: u32) -> bool {
    const SYN_SENT: u8 = TcpState::SynSent as u8;
    const LISTEN: u8 = TcpState::Listen as u8;
    const FIN_WAIT1: u8 = TcpState::FinWait1 as u8;
    const LAST_ACK: u8 = TcpState::LastAck as u8;
    const CLOSE: u8 = TcpState::Close as u8;
    const ESTABLISHED: u8 = TcpState::Established as u8;
    const CLOSE_WAIT: u8 = TcpState::CloseWait as u8;
    match new {
        SYN_SENT | LISTEN | FIN_WAIT1 | LAST_ACK => true,
        // connect() that fails, close() with unread data, SO_LINGER 0: the RST goes out from the
        // task. What arrives from the network sets sk_err first; so does `ss -K` (tcp_abort()).
        CLOSE => sk_err == 0 && matches!(old, ESTABLISHED | CLOSE_WAIT | SYN_SENT),
        _ => false,
    }
}

#[inline(always)]
fn owner_flags(common: &Argument) -> u8 {
    match common.flags() >> config!(offsets.sock_dead) & 1 {
        0 => 0,
        _ => flag::ORPHAN,
    }
}

/// Whether a socket in `old` that should go on as a minisocket finds no room for one:
/// `inet_twsk_alloc()`.
#[inline(always)]
fn has_no_room(common: &Argument, old: u8) -> bool {
    const FIN_WAIT2: u8 = TcpState::FinWait2 as u8;
    const CLOSING: u8 = TcpState::Closing as u8;
    let (count, most) = (config!(offsets.tw_refcount), config!(offsets.tw_max));
    if !matches!(old, FIN_WAIT2 | CLOSING) {
        return false;
    }
    if count == ABSENT || most == ABSENT {
        return true;
    }
    let net = common.net();
    match (read::<i32>(net, count), read::<i32>(net, most)) {
        (Some(count), Some(most)) => count > most,
        _ => true,
    }
}

/// Whether the process has not read all that came. A FIN has a sequence number, too.
#[inline(always)]
fn has_unread(sock: Address, sk_flags: u64) -> bool {
    let (received, read_up_to) = (config!(offsets.rcv_nxt), config!(offsets.copied_seq));
    if received == ABSENT || read_up_to == ABSENT {
        return false;
    }
    let fin = (sk_flags >> config!(offsets.sock_done) & 1) as u32;
    match (read::<u32>(sock, received), read::<u32>(sock, read_up_to)) {
        (Some(received), Some(read_up_to)) => received.wrapping_sub(read_up_to) > fin,
        _ => false,
    }
}

#[inline(always)]
fn close_flags(sock: Address, common: &Argument) -> u8 {
    let sk_flags = common.flags();
    let mut flags = 0;
    if sk_flags >> config!(offsets.sock_linger) & 1 != 0
        && load::<u64>(sock, config!(offsets.sk_lingertime)) == 0
    {
        flags |= flag::LINGER_ZERO;
        if has_unread(sock, sk_flags) {
            flags |= flag::UNREAD;
        }
    }
    if sk_flags >> config!(offsets.sock_done) & 1 != 0 {
        flags |= flag::DONE;
    }
    if load::<u8>(sock, config!(offsets.sk_shutdown)) == SHUTDOWN_MASK {
        flags |= flag::SHUTDOWN_BOTH;
    }
    flags
}
