//! Computes the field [`Offsets`] from a kernel's types, or reports the missing fields.

use tcptrace_common::{
    config::{ABSENT, Offsets, SOCK_COMMON_LEN},
    record::ResetReason,
};

use super::blob::{Blob, BtfType, Member, TypeName, kind};

/// Types of the fields and flags: every path below begins with one of these.
pub const NAMES: [TypeName<'_>; 15] = [
    layout("sock_common"),
    layout("sock"),
    layout("socket"),
    layout("socket_alloc"),
    layout("inet_sock"),
    layout("tcp_sock"),
    layout("net"),
    layout("inet_timewait_sock"),
    layout("request_sock"),
    layout("timer_list"),
    layout("sk_buff"),
    layout("task_struct"),
    layout("bpf_prog"),
    TypeName { kind: kind::ENUM, text: "sock_flags" },
    TypeName { kind: kind::ENUM, text: RESET_REASONS },
];

const fn layout(text: &str) -> TypeName<'_> {
    TypeName { kind: kind::STRUCT, text }
}

/// The kernel's enum of reset reasons (6.10).
const RESET_REASONS: &str = "sk_rst_reason";

/// Deepest nesting of unnamed members: a type may contain itself.
const DEEPEST: usize = 32;
/// Most members searched for one field: a type may contain itself twice. `struct task_struct` has some 300.
const MAX_MEMBERS: u32 = 1 << 16;

/// Why the fields can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// These are missing, or begin inside a byte.
    #[error("this kernel's BTF does not say at which byte these begin: {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// A field ends at this byte.
    #[error(
        "this kernel's struct sock_common is laid out in an unknown way: a field ends at byte {0}, past {SOCK_COMMON_LEN}"
    )]
    SockCommon(u32),
}

/// Computes every offset the program needs.
pub fn offsets(blob: &Blob) -> Result<Offsets, LayoutError> {
    let whole = |path| bits(blob, path).filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
    let optional = |path| whole(path).unwrap_or(ABSENT);
    let flag = |name| enumerator(blob, "sock_flags", name);
    let mut missing = Vec::new();
    let mut need = |path| {
        whole(path).unwrap_or_else(|| {
            missing.push(path);
            0
        })
    };
    // The only bit field.
    let num_timeout = bits(blob, "request_sock.num_timeout");
    let offsets = Offsets {
        skc_daddr: need("sock_common.skc_daddr"),
        skc_rcv_saddr: need("sock_common.skc_rcv_saddr"),
        skc_dport: need("sock_common.skc_dport"),
        skc_num: need("sock_common.skc_num"),
        skc_family: need("sock_common.skc_family"),
        skc_state: need("sock_common.skc_state"),
        skc_bound_dev_if: need("sock_common.skc_bound_dev_if"),
        skc_net: need("sock_common.skc_net"),
        skc_v6_daddr: need("sock_common.skc_v6_daddr"),
        skc_v6_rcv_saddr: need("sock_common.skc_v6_rcv_saddr"),
        skc_cookie: need("sock_common.skc_cookie"),
        skc_flags: need("sock_common.skc_flags"),
        sk_protocol: need("sock.sk_protocol"),
        sk_err: need("sock.sk_err"),
        sk_err_soft: optional("sock.sk_err_soft"),
        sk_socket: optional("sock.sk_socket"),
        socket_state: optional("socket.state"),
        socket_inode: optional("socket_alloc.vfs_inode.i_ino"),
        sk_shutdown: need("sock.sk_shutdown"),
        sk_lingertime: need("sock.sk_lingertime"),
        inet_sport: need("inet_sock.inet_sport"),
        net_inum: need("net.ns.inum"),
        net_count: ["net.ns.__ns_ref", "net.ns.count", "net.count"]
            .into_iter()
            .find_map(whole)
            .unwrap_or(ABSENT),
        tw_substate: need("inet_timewait_sock.tw_substate"),
        tw_entry_stamp: optional("inet_timewait_sock.tw_entry_stamp"),
        tw_timer: need("inet_timewait_sock.tw_timer"),
        rsk_timer: need("request_sock.rsk_timer"),
        num_retrans: optional("request_sock.num_retrans"),
        num_timeout: num_timeout.unwrap_or(0) / 8,
        num_timeout_shift: num_timeout.unwrap_or(0) % 8,
        timer_function: need("timer_list.function"),
        timer_expires: need("timer_list.expires"),
        skb_head: need("sk_buff.head"),
        skb_transport_header: need("sk_buff.transport_header"),
        sock_linger: flag("SOCK_LINGER").unwrap_or(4),
        sock_dead: flag("SOCK_DEAD").unwrap_or(0),
        sock_done: flag("SOCK_DONE").unwrap_or(1),
        task_group_leader: optional("task_struct.group_leader"),
        task_comm: optional("task_struct.comm"),
        task_flags: optional("task_struct.flags"),
        task_stack: optional("task_struct.stack"),
        task_preempt_count: optional("task_struct.thread_info.preempt_count"),
        rcv_nxt: optional("tcp_sock.rcv_nxt"),
        copied_seq: optional("tcp_sock.copied_seq"),
        snd_una: optional("tcp_sock.snd_una"),
        write_seq: optional("tcp_sock.write_seq"),
        srtt_us: optional("tcp_sock.srtt_us"),
        net_fastopen: optional("net.ipv4.sysctl_tcp_fastopen"),
    };
    if num_timeout.is_none() {
        missing.push("request_sock.num_timeout");
    }
    if !missing.is_empty() {
        return Err(LayoutError::Missing(missing));
    }
    check_sock_common(&offsets)?;
    Ok(offsets)
}

/// Whether a tracing program that interrupts itself may be skipped on this kernel (5.12, tracepoints about 6.1).
pub fn has_recursion_guard(blob: &Blob) -> bool {
    bits(blob, "bpf_prog.active").is_some()
}

/// The program copies the start of `sock_common` at once: every field must be inside.
fn check_sock_common(offsets: &Offsets) -> Result<(), LayoutError> {
    let last = [
        offsets.skc_net + 8,
        offsets.skc_cookie + 8,
        offsets.skc_flags + 8,
        offsets.skc_v6_daddr + 16,
        offsets.skc_v6_rcv_saddr + 16,
        offsets.skc_daddr + 4,
        offsets.skc_rcv_saddr + 4,
        offsets.skc_bound_dev_if + 4,
        offsets.skc_dport + 2,
        offsets.skc_num + 2,
        offsets.skc_family + 2,
        offsets.skc_state + 1,
    ]
    .into_iter()
    .max()
    .unwrap_or(0);
    if last as usize > SOCK_COMMON_LEN {
        return Err(LayoutError::SockCommon(last));
    }
    Ok(())
}

/// Bit offset of the field at the end of `path` within the structure at its start: `net.ns.inum`.
fn bits(blob: &Blob, path: &str) -> Option<u32> {
    let mut steps = path.split('.');
    let mut type_id = blob.id_of(kind::STRUCT, steps.next()?)?;
    let mut bits: u32 = 0;
    for name in steps {
        let mut search = MemberSearch { blob, name, members_left: MAX_MEMBERS };
        let found = search.field(blob.target(type_id)?, DEEPEST)?;
        bits = bits.checked_add(found.bit_offset)?;
        type_id = found.type_id;
    }
    Some(bits)
}

/// Search for a member by name.
struct MemberSearch<'a> {
    blob: &'a Blob<'a>,
    name: &'a str,
    members_left: u32,
}

impl MemberSearch<'_> {
    /// The member of `outer`, or of its unnamed members, at most `depth` levels down.
    fn field(&mut self, outer: BtfType, depth: usize) -> Option<Member> {
        outer.members().find_map(|member| {
            self.members_left = self.members_left.checked_sub(1)?;
            if self.blob.has_name(member.name_offset, self.name) {
                return Some(member);
            }
            if !self.blob.has_name(member.name_offset, "") {
                return None;
            }
            let inner = self.field(self.blob.target(member.type_id)?, depth.checked_sub(1)?)?;
            Some(Member { bit_offset: member.bit_offset.checked_add(inner.bit_offset)?, ..inner })
        })
    }
}

/// The kernel's numbers of the reset reasons that are distinguished. Empty if the kernel has none.
pub fn reset_reasons(blob: &Blob) -> Vec<(u32, ResetReason)> {
    use ResetReason as R;
    let named = [
        ("SK_RST_REASON_NOT_SPECIFIED", R::NotSpecified),
        ("SK_RST_REASON_TCP_ABORT_ON_DATA", R::AbortOnData),
        ("SK_RST_REASON_TCP_ABORT_ON_CLOSE", R::AbortOnClose),
        ("SK_RST_REASON_TCP_ABORT_ON_LINGER", R::AbortOnLinger),
        ("SK_RST_REASON_TCP_ABORT_ON_MEMORY", R::AbortOnMemory),
        ("SK_RST_REASON_TCP_STATE", R::State),
        ("SK_RST_REASON_TCP_KEEPALIVE_TIMEOUT", R::KeepaliveTimeout),
        ("SK_RST_REASON_TCP_DISCONNECT_WITH_DATA", R::DisconnectWithData),
    ];
    named
        .into_iter()
        .filter_map(|(name, reason)| Some((enumerator(blob, RESET_REASONS, name)?, reason)))
        .collect()
}

fn enumerator(blob: &Blob, name: &str, wanted: &str) -> Option<u32> {
    let found = blob.type_by_id(blob.id_of(kind::ENUM, name)?)?;
    found.enumerators().find(|&(name_offset, _)| blob.has_name(name_offset, wanted)).map(|(_, value)| value)
}
