//! Where this kernel keeps the fields the program reads: BTF in, [`Offsets`] out.

use anyhow::{Context as _, Result, bail};
use btf_rs::{Btf, BtfType as _, Type};
use tcptrace_common::config::{ABSENT, Offsets, SOCK_COMMON_LEN};

/// Where the running kernel's BTF lies.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// How deep types are followed into one another: a type that leads to itself must not be followed for ever.
const DEEPEST: usize = 32;

/// What BTF says about this kernel.
pub struct KernelTypes {
    btf: Btf,
}

/// A field of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bit_offset: u32,
    type_id: u32,
}

impl KernelTypes {
    /// Parses the BTF blob `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Ok(Self { btf: Btf::from_bytes(bytes).context("the kernel's BTF can't be parsed")? })
    }

    /// Whether the kernel has the tracepoint `name`, and how many arguments it passes.
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let typedefs = self.btf.resolve_types_by_name(&format!("btf_trace_{name}")).ok()?;
        typedefs.iter().find_map(|typedef| {
            self.btf.chained_type_iter(typedef.as_btf_type()?).take(DEEPEST).find_map(|target| match target {
                // The first parameter is the tracepoint's own.
                Type::FuncProto(proto) => Some(proto.parameters.len().saturating_sub(1)),
                _ => None,
            })
        })
    }

    /// Whether BTF describes the kernel's function `name`.
    pub fn has_function(&self, name: &str) -> bool {
        let found = self.btf.resolve_types_by_name(name).unwrap_or_default();
        found.iter().any(|found| matches!(found, Type::Func(_)))
    }

    /// Every offset the program needs. An error names each field that is missing.
    pub fn offsets(&self) -> Result<Offsets> {
        let mut missing = Vec::new();
        let mut bits = |path: &[&str]| {
            self.path(path).unwrap_or_else(|| {
                missing.push(path.join("."));
                0
            })
        };
        let mut byte = |path: &[&str]| bits(path) / 8;
        let optional = |path: &[&str]| self.path(path).map_or(ABSENT, |bits| bits / 8);
        let offsets = Offsets {
            skc_daddr: byte(&["sock_common", "skc_daddr"]),
            skc_rcv_saddr: byte(&["sock_common", "skc_rcv_saddr"]),
            skc_dport: byte(&["sock_common", "skc_dport"]),
            skc_num: byte(&["sock_common", "skc_num"]),
            skc_family: byte(&["sock_common", "skc_family"]),
            skc_state: byte(&["sock_common", "skc_state"]),
            skc_bound_dev_if: byte(&["sock_common", "skc_bound_dev_if"]),
            skc_net: byte(&["sock_common", "skc_net"]),
            skc_v6_daddr: byte(&["sock_common", "skc_v6_daddr"]),
            skc_v6_rcv_saddr: byte(&["sock_common", "skc_v6_rcv_saddr"]),
            skc_cookie: byte(&["sock_common", "skc_cookie"]),
            skc_flags: byte(&["sock_common", "skc_flags"]),
            sk_protocol: byte(&["sock", "sk_protocol"]),
            sk_err: byte(&["sock", "sk_err"]),
            sk_shutdown: byte(&["sock", "sk_shutdown"]),
            sk_lingertime: byte(&["sock", "sk_lingertime"]),
            inet_sport: byte(&["inet_sock", "inet_sport"]),
            net_inum: byte(&["net", "ns", "inum"]),
            net_count: self
                .path(&["net", "ns", "__ns_ref"])
                .or_else(|| self.path(&["net", "ns", "count"]))
                .map_or(ABSENT, |bits| bits / 8),
            tw_substate: byte(&["inet_timewait_sock", "tw_substate"]),
            tw_entry_stamp: optional(&["inet_timewait_sock", "tw_entry_stamp"]),
            tw_timer: byte(&["inet_timewait_sock", "tw_timer"]),
            rsk_timer: byte(&["request_sock", "rsk_timer"]),
            num_timeout: byte(&["request_sock", "num_timeout"]),
            num_timeout_shift: self.path(&["request_sock", "num_timeout"]).unwrap_or(0) % 8,
            timer_function: byte(&["timer_list", "function"]),
            timer_expires: byte(&["timer_list", "expires"]),
            skb_head: byte(&["sk_buff", "head"]),
            skb_transport_header: byte(&["sk_buff", "transport_header"]),
            sock_linger: self.enumerator("sock_flags", "SOCK_LINGER").unwrap_or(4),
            sock_dead: self.enumerator("sock_flags", "SOCK_DEAD").unwrap_or(0),
            sock_done: self.enumerator("sock_flags", "SOCK_DONE").unwrap_or(1),
            tw_refcount: optional(&["net", "ipv4", "tcp_death_row", "tw_refcount"]),
            tw_max: optional(&["net", "ipv4", "tcp_death_row", "sysctl_max_tw_buckets"]),
            task_group_leader: optional(&["task_struct", "group_leader"]),
            task_comm: optional(&["task_struct", "comm"]),
            task_flags: optional(&["task_struct", "flags"]),
            task_stack: optional(&["task_struct", "stack"]),
            rcv_nxt: optional(&["tcp_sock", "rcv_nxt"]),
            copied_seq: optional(&["tcp_sock", "copied_seq"]),
        };
        if !missing.is_empty() {
            bail!("this kernel's BTF does not have {}", missing.join(", "));
        }
        check_sock_common(&offsets)?;
        Ok(offsets)
    }

    /// Bit offset of the field named by `path`, whose first element is a structure.
    fn path(&self, path: &[&str]) -> Option<u32> {
        let [name, fields @ ..] = path else { return None };
        let mut types = self.btf.resolve_types_by_name(name).ok()?;
        let mut bits = 0;
        for field in fields {
            let found = types.iter().find_map(|outer| self.field(outer, field, DEEPEST))?;
            bits = found.bit_offset.checked_add(bits)?;
            types = vec![self.target(found.type_id)?];
        }
        Some(bits)
    }

    /// The field `name` of the structure or union `outer`, looked for inside anonymous members too, `depth` levels down.
    fn field(&self, outer: &Type, name: &str, depth: usize) -> Option<Field> {
        let (Type::Struct(layout) | Type::Union(layout)) = outer else { return None };
        layout.members.iter().find_map(|member| {
            let bit_offset = member.bit_offset();
            let type_id = member.get_type_id()?;
            let member_name = self.btf.resolve_name(member).unwrap_or_default();
            if member_name == name {
                return Some(Field { bit_offset, type_id });
            }
            if !member_name.is_empty() {
                return None;
            }
            let inner = self.field(&self.target(type_id)?, name, depth.checked_sub(1)?)?;
            Some(Field { bit_offset: bit_offset.checked_add(inner.bit_offset)?, ..inner })
        })
    }

    /// The type `id`, typedefs and qualifiers taken off.
    fn target(&self, id: u32) -> Option<Type> {
        let mut found = self.btf.resolve_type_by_id(id).ok()?;
        for _ in 0..DEEPEST {
            if !matches!(found, Type::Typedef(_) | Type::Const(_) | Type::Volatile(_) | Type::TypeTag(_)) {
                return Some(found);
            }
            found = self.btf.resolve_chained_type(found.as_btf_type()?).ok()?;
        }
        None
    }

    fn enumerator(&self, name: &str, wanted: &str) -> Option<u32> {
        self.btf.resolve_types_by_name(name).ok()?.iter().find_map(|found| match found {
            Type::Enum(layout) => layout
                .members
                .iter()
                .find(|member| self.btf.resolve_name(*member).is_ok_and(|name| name == wanted))
                .map(btf_rs::EnumMember::val),
            _ => None,
        })
    }
}

/// The program copies the start of `sock_common` in one go: every field must lie inside.
fn check_sock_common(offsets: &Offsets) -> Result<()> {
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
        bail!(
            "this kernel's struct sock_common is laid out in an unknown way: a field ends at byte {last}, past {SOCK_COMMON_LEN}"
        );
    }
    Ok(())
}

#[cfg(test)]
#[path = "btf_tests.rs"]
mod tests;
