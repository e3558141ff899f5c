//! `inet_sock_set_state`: every state change of a full socket.
//! Attached in copies, see `hooks`.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_socket_cookie, bpf_jiffies64, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tcptrace_common::{
    config::ABSENT,
    record::{Kind, Reentrant, close, flag},
    state::TcpState,
};

use crate::{
    emit::{Observation, emit, emit_at, wanted},
    kernel::{
        Address, Argument, IPPROTO_TCP, SockCommon, is_system_call, load, local_port, net_is_dying, read,
    },
    maps::{HandOver, Handled, NewChild, config, is_idle},
    stack,
};

const SHUTDOWN_MASK: u8 = 3;

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn set_state_first(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, 0)
}

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn set_state_second(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, 1)
}

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn set_state_third(ctx: BtfTracePointContext) -> i32 {
    copy(&ctx, 2)
}

#[inline(always)]
fn copy(ctx: &BtfTracePointContext, number: u32) -> i32 {
    if !is_idle() && !event(ctx).is_handled(Reentrant::SetState, number) {
        report(ctx);
    }
    0
}

#[inline(always)]
fn event(ctx: &BtfTracePointContext) -> Handled {
    let (old, new): (u64, u64) = (ctx.arg(1), ctx.arg(2));
    Handled { object: ctx.arg(0), detail: old << 32 | (new & 0xffff_ffff) }
}

/// Reports the transition, if it is a TCP transition and passes the filter.
#[inline(always)]
fn report(ctx: &BtfTracePointContext) {
    let sock: Address = ctx.arg(0);
    let common = Argument::new(sock);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    // `shutdown(WR)` and then `close()` sets FIN_WAIT1 twice: no change.
    if old == new || load::<u16>(sock, config!(offsets.sk_protocol)) != IPPROTO_TCP {
        return;
    }
    let (old, new) = (old as u8, new as u8);
    // inet_csk_clone_lock(): before Linux 6.15 the child still has the listener's addresses and cookie. Without cookies the
    // record gives the child's address an id.
    if config!(has_helpers) != 0
        && old == TcpState::Listen as u8
        && new == TcpState::SynRecv as u8
        && common.dport() == 0
    {
        return;
    }
    let sport = local_port(&common, old == TcpState::Close as u8);
    let Some(ends) = wanted(&common, Kind::Transition, old, sport) else { return };
    let cookie = if config!(has_helpers) == 0 {
        common.cookie()
    } else {
        // SAFETY: the verifier knows `sock` as a `struct sock`.
        unsafe { bpf_get_socket_cookie(sock.cast_mut()) }
    };
    if new == TcpState::Close as u8 && is_left_by_time_wait(old) && config!(has_helpers) != 0 {
        // SAFETY: no arguments.
        let at = unsafe { bpf_jiffies64() };
        if (HandOver { cookie, at }).is_noted() {
            return;
        }
    }
    // Without cookies the record gives the child's address an id.
    if old == TcpState::Listen as u8
        && new == TcpState::SynRecv as u8
        && config!(has_helpers) != 0
        && !may_fast_open(&common)
    {
        // SAFETY: no arguments.
        let (ts_ns, at) = unsafe { (bpf_ktime_get_ns(), bpf_jiffies64()) };
        let object = sock as u64;
        if (NewChild { object, cookie, ts_ns, at, ends, is_replaced: 0, reserved: 0 }).note() {
            return;
        }
    }
    let mut flags = owner_flags(&common);
    if old == TcpState::SynRecv as u8
        && let Some(ts_ns) = NewChild::take_unreported(sock as u64, cookie)
    {
        const LISTEN: u8 = TcpState::Listen as u8;
        let created = Observation {
            kind: Kind::Transition,
            old: LISTEN,
            new: old,
            flags,
            cookie,
            object: sock,
            sport,
            arg0: 0,
            arg1: 0,
        };
        emit_at(ts_ns, &common, &ends, created);
    }
    let (mut sk_err, mut detail) = (0, 0);
    let mut round_trip = 0;
    if new == TcpState::Close as u8 {
        sk_err = load::<u32>(sock, config!(offsets.sk_err));
        flags |= close_flags(sock, &common, old);
        detail = close_detail(sock, old, sk_err);
    } else if old == TcpState::SynSent as u8 && new == TcpState::Established as u8 {
        round_trip = srtt(sock);
    } else if config!(has_helpers) == 0 && old == TcpState::Close as u8 {
        detail = inode(sock);
    }
    let mut captured = 0;
    if is_the_tasks_own(old, new, sk_err) && is_system_call(ctx.as_ptr()) {
        flags |= flag::TASK;
        if has_stack(new) && stack::is_captured() {
            captured = stack::capture(ctx, new);
        }
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
            arg0: (sk_err | round_trip) as u64 | captured,
            arg1: detail,
        },
    );
}

/// Whether `tcp_time_wait()` ends a full socket in this state.
#[inline(always)]
fn is_left_by_time_wait(old: u8) -> bool {
    const FIN_WAIT2: u8 = TcpState::FinWait2 as u8;
    const CLOSING: u8 = TcpState::Closing as u8;
    matches!(old, FIN_WAIT2 | CLOSING)
}

/// Whether a system call that causes this transition is the socket user's own.
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
        // connect() that fails, close() with unread data, SO_LINGER 0. An event from the network sets sk_err first; so
        // does `ss -K` (tcp_abort()).
        CLOSE => sk_err == 0 && matches!(old, ESTABLISHED | CLOSE_WAIT | SYN_SENT),
        _ => false,
    }
}

/// Whether listeners of the namespace may accept TCP Fast Open: then a child may stay in SYN_RECV, and its request socket has no
/// timer. Since 6.15 the child does not tell: `inet_csk_clone_lock()` has cleared its copy of the listener's queue.
#[inline(always)]
fn may_fast_open(common: &Argument) -> bool {
    const TFO_SERVER_ENABLE: u32 = 2;
    match config!(offsets.net_fastopen) {
        ABSENT => true,
        offset => read::<u32>(common.net(), offset).is_none_or(|setting| setting & TFO_SERVER_ENABLE != 0),
    }
}

/// Whether the system call opens or closes a connection.
#[inline(always)]
fn has_stack(new: u8) -> bool {
    const SYN_SENT: u8 = TcpState::SynSent as u8;
    const FIN_WAIT1: u8 = TcpState::FinWait1 as u8;
    const LAST_ACK: u8 = TcpState::LastAck as u8;
    matches!(new, SYN_SENT | FIN_WAIT1 | LAST_ACK)
}

#[inline(always)]
fn owner_flags(common: &Argument) -> u8 {
    match common.flags() >> config!(offsets.sock_dead) & 1 {
        0 => 0,
        _ => flag::ORPHAN,
    }
}

/// Whether the process has not read all received data. A FIN has a sequence number, too.
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
fn close_flags(sock: Address, common: &Argument, old: u8) -> u8 {
    const FIN_WAIT1: u8 = TcpState::FinWait1 as u8;
    const CLOSING: u8 = TcpState::Closing as u8;
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
    if load::<u8>(sock, config!(offsets.sk_shutdown)) == SHUTDOWN_MASK {
        flags |= flag::SHUTDOWN_BOTH;
    }
    // tcp_out_of_resources() and __tcp_close() destroy an orphan silently when its namespace is destroyed.
    if matches!(old, FIN_WAIT1 | CLOSING) && net_is_dying(common.net()) {
        flags |= flag::NETNS_DYING;
    }
    flags
}

/// `arg1` of a transition to CLOSE.
#[inline(always)]
fn close_detail(sock: Address, old: u8, sk_err: u32) -> u64 {
    const SYN_SENT: u8 = TcpState::SynSent as u8;
    const LAST_ACK: u8 = TcpState::LastAck as u8;
    if sk_err != 0 {
        return match config!(offsets.sk_err_soft) {
            ABSENT => 0,
            offset => load::<u32>(sock, offset) as u64,
        };
    }
    match old {
        SYN_SENT => socket_state(sock) << close::SOCKET_STATE,
        LAST_ACK if has_unacknowledged(sock) => close::UNACKNOWLEDGED,
        _ => 0,
    }
}

/// `sk->sk_socket->state`: the progress of `connect()`.
#[inline(always)]
fn socket_state(sock: Address) -> u64 {
    let (socket, state) = (config!(offsets.sk_socket), config!(offsets.socket_state));
    if socket == ABSENT || state == ABSENT {
        return 0;
    }
    match read::<u64>(sock, socket) {
        Some(0) | None => 0,
        Some(socket) => read::<u32>(socket as Address, state).unwrap_or(0) as u64 & 0xff,
    }
}

/// The socket's inode number, see [`tcptrace_common::record::identity`].
#[inline(always)]
fn inode(sock: Address) -> u64 {
    let (socket, inode) = (config!(offsets.sk_socket), config!(offsets.socket_inode));
    if socket == ABSENT || inode == ABSENT {
        return 0;
    }
    match read::<u64>(sock, socket) {
        Some(0) | None => 0,
        Some(socket) => read::<u64>(socket as Address, inode).unwrap_or(0),
    }
}

/// Eight times the round trip of the SYN: `tcp_ack()` has measured it before the transition.
#[inline(always)]
fn srtt(sock: Address) -> u32 {
    match config!(offsets.srtt_us) {
        ABSENT => 0,
        offset => read::<u32>(sock, offset).unwrap_or(0),
    }
}

/// Whether data sent or queued for sending has not been acknowledged.
#[inline(always)]
fn has_unacknowledged(sock: Address) -> bool {
    let (acknowledged, written) = (config!(offsets.snd_una), config!(offsets.write_seq));
    if acknowledged == ABSENT || written == ABSENT {
        return false;
    }
    read::<u32>(sock, acknowledged) != read::<u32>(sock, written)
}
