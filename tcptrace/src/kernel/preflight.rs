//! Checks what this host and this user allow: one [`Check`] per requirement.

use std::fs;

use super::{
    btf::{KernelTypes, VMLINUX},
    loader::has_reset_reasons,
    symbols::Handlers,
};
use crate::{
    model::hooks::{HOOKS, Hook, Requirement, SEND_RESET},
    privileges::{self, Work},
};

/// One thing that tracing needs or uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Name, such as `CAP_BPF` or `BTF`.
    pub name: String,
    /// Result.
    pub status: CheckStatus,
    /// One sentence: what was found, or what is missing and why it is needed.
    pub finding: String,
    /// How to fix it, unless it works.
    pub remedy: Option<String>,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStatus {
    /// Available.
    Works,
    /// Not available; tracing works, but shows less.
    Limited,
    /// Not available; tracing is impossible.
    Missing,
}

impl Check {
    fn works(name: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { name: name.into(), status: CheckStatus::Works, finding: finding.into(), remedy: None }
    }

    fn limited(name: impl Into<String>, finding: impl Into<String>, remedy: &str) -> Self {
        Self {
            name: name.into(),
            status: CheckStatus::Limited,
            finding: finding.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn missing(name: impl Into<String>, finding: impl Into<String>, remedy: &str) -> Self {
        Self {
            name: name.into(),
            status: CheckStatus::Missing,
            finding: finding.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// Results of all checks.
pub struct Preflight {
    /// In display order.
    pub checks: Vec<Check>,
    /// This kernel's types from BTF, if readable.
    pub types: Option<KernelTypes>,
}

/// This host can't be traced by this user.
#[derive(Debug, thiserror::Error)]
#[error("{}", sentences(.0))]
pub struct CannotTrace(pub Vec<Check>);

fn sentences(checks: &[Check]) -> String {
    let mut text = String::from("this host can't be traced by this user:");
    for (n, check) in checks.iter().enumerate() {
        text.push_str("\n  ");
        text.push_str(&check.finding);
        // One remedy for several capabilities stands once, after the last.
        let next = checks.get(n + 1).and_then(|next| next.remedy.as_ref());
        if let Some(remedy) = check.remedy.as_ref().filter(|&remedy| Some(remedy) != next) {
            text.push(' ');
            text.push_str(remedy);
        }
    }
    text.push_str(
        "\n`tcptrace check` lists everything. Without tracing, `tcptrace states` counts and `tcptrace doctor` judges what \
         is there now.",
    );
    text
}

impl Preflight {
    /// Runs all checks.
    pub fn run() -> Self {
        // Reading the symbols takes as long as the other checks, so a thread begins now; if none starts, `symbols()`
        // reads them.
        let _ = privileges::spawn("symbols", Work::Symbols, Handlers::from_kallsyms);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = effective_capabilities(&status);
        let mut checks = capabilities(effective);
        checks.extend(user_namespace());
        checks.push(lockdown());
        let types = match read_types() {
            Ok(types) => {
                checks.push(Check::works("BTF", format!("{VMLINUX} describes this kernel.")));
                checks.extend(HOOKS.iter().filter_map(|hook| check_hook(hook, &types)));
                checks.push(helpers(&types));
                checks.extend(fields(&types));
                if types.counts_locked_memory() {
                    checks.push(check_capability(&TO_LOCK_MEMORY, effective));
                }
                Some(types)
            }
            Err(check) => {
                checks.push(check);
                None
            }
        };
        checks.push(symbols());
        Self { checks, types }
    }

    /// This kernel's types, if nothing that tracing needs is missing.
    pub fn types(self) -> Result<KernelTypes, CannotTrace> {
        let missing: Vec<Check> =
            self.checks.into_iter().filter(|check| check.status == CheckStatus::Missing).collect();
        match self.types {
            Some(types) if missing.is_empty() => Ok(types),
            _ => Err(CannotTrace(missing)),
        }
    }
}

/// A capability, by the kernel's number (`include/uapi/linux/capability.h`).
struct Capability {
    name: &'static str,
    bit: u8,
    is_needed: bool,
    what_for: &'static str,
}

/// The purpose of each. `CAP_SYS_ADMIN` includes `CAP_BPF` and `CAP_PERFMON`.
const CAPABILITIES: [Capability; 6] = [
    Capability { name: "CAP_BPF", bit: 39, is_needed: true, what_for: "to load the eBPF program" },
    Capability {
        name: "CAP_PERFMON",
        bit: 38,
        is_needed: true,
        what_for: "to attach it to tracepoints and read kernel memory",
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        bit: SYS_ADMIN,
        is_needed: false,
        what_for: "to list the sockets that exist already in other network namespaces",
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        bit: 19,
        is_needed: false,
        what_for: "to find the owners of sockets that exist already, and network namespaces",
    },
    Capability {
        name: "CAP_DAC_READ_SEARCH",
        bit: 2,
        is_needed: false,
        what_for: "to list the descriptors of other users' processes, with CAP_SYS_PTRACE",
    },
    Capability { name: "CAP_SYSLOG", bit: 34, is_needed: false, what_for: "to read kernel symbols" },
];
const SYS_ADMIN: u8 = 21;
/// Before 5.11.
const TO_LOCK_MEMORY: Capability = Capability {
    name: "CAP_SYS_RESOURCE",
    bit: 24,
    is_needed: false,
    what_for: "to raise the limit of locked memory (`ulimit -l`), against which this kernel counts the ring buffers \
               (--ring-size)",
};
const AS_ROOT: &str = "Run as root: sudo tcptrace ...";

fn capabilities(effective: u64) -> Vec<Check> {
    CAPABILITIES.iter().map(|capability| check_capability(capability, effective)).collect()
}

fn check_capability(capability: &Capability, effective: u64) -> Check {
    let Capability { name, bit, is_needed, what_for } = capability;
    let has = |bit: u8| effective >> bit & 1 != 0;
    if has(*bit) {
        Check::works(*name, format!("Held; it serves {what_for}."))
    } else if *is_needed && has(SYS_ADMIN) {
        Check::works(*name, format!("CAP_SYS_ADMIN includes it; it serves {what_for}."))
    } else if *is_needed {
        Check::missing(*name, format!("{name} is missing: it is needed {what_for}."), AS_ROOT)
    } else {
        Check::limited(*name, format!("{name} is missing: it serves {what_for}."), AS_ROOT)
    }
}

fn effective_capabilities(status: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    value.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Capabilities count in the initial user namespace only.
fn user_namespace() -> Option<Check> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let is_initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    (!is_initial).then(|| {
        Check::missing(
            "user namespace",
            "This is a container with user ids of its own: what root may do here does not reach the kernel.",
            "Run on the host, or in a container without a user namespace.",
        )
    })
}

fn lockdown() -> Check {
    const PATH: &str = "/sys/kernel/security/lockdown";
    match fs::read_to_string(PATH) {
        Ok(modes) if modes.contains("[confidentiality]") => Check::missing(
            "lockdown",
            "The kernel is locked down for confidentiality: no program may read its memory.",
            "Boot with lockdown=integrity or without.",
        ),
        Ok(modes) => {
            let mode = modes.split(['[', ']']).nth(1).unwrap_or("none");
            Check::works("lockdown", format!("{mode}: kernel memory may be read."))
        }
        Err(_) => Check::works("lockdown", "Not in use, or not to be seen."),
    }
}

fn read_types() -> Result<KernelTypes, Check> {
    let missing = |finding: String, remedy| Check::missing("BTF", finding, remedy);
    let bytes = fs::read(VMLINUX).map_err(|error| {
        missing(
            format!("{VMLINUX} can't be read ({error}): it says where this kernel keeps its fields."),
            "Use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as the distributions' are.",
        )
    })?;
    KernelTypes::parse(&bytes).map_err(|error| {
        missing(format!("{VMLINUX} is not understood: {error}."), "Please report this kernel's version.")
    })
}

/// Whether the kernel has `hook`; `None` if the check of another hook covers it.
fn check_hook(hook: &Hook, types: &KernelTypes) -> Option<Check> {
    let name = hook.tracepoint;
    Some(match (&hook.requirement, types.has_hook(hook)) {
        // Whether the kernel allows it shows when it is attached.
        (Requirement::ForStacks | Requirement::With(_), _) | (Requirement::WithIfPresent(_), true) => {
            return None;
        }
        (Requirement::WithIfPresent(_), false) => Check::limited(
            name,
            "Errors are not seen where a socket reports them: a listener that `ss -K` closes counts as closed by its owner, and \
             a close in TCP_REPAIR stays unexplained.",
            "Linux 5.14 or later shows them.",
        ),
        (Requirement::Needed, true) => Check::works(name, "The hook is there."),
        (Requirement::Needed, false) => Check::missing(
            name,
            format!(
                "The tracepoint {name} is missing from this kernel: no state can be followed without it."
            ),
            "Use Linux 5.10 or later with CONFIG_TRACEPOINTS.",
        ),
        (Requirement::Optional(optional), false) => {
            Check::limited(name, optional.lost_without, optional.available)
        }
        (Requirement::Optional(_), true) if name == SEND_RESET && !has_reset_reasons(types) => {
            Check::limited(
                name,
                "It does not say why a RST is sent: that is inferred from unread data, SO_LINGER and the state.",
                "Linux 6.12 or later says it.",
            )
        }
        (Requirement::Optional(optional), true) => Check::works(name, optional.shows),
    })
}

fn fields(types: &KernelTypes) -> Vec<Check> {
    match types.offsets() {
        Ok(offsets) if offsets.tw_entry_stamp == tcptrace_common::config::ABSENT => vec![
            Check::works("fields", "Every field that is needed was found."),
            Check::limited(
                "tw_entry_stamp",
                "TIME_WAIT sockets do not say when they began: where a segment was not seen, it is computed from \
                 their timer.",
                "Linux 6.14 or later says it.",
            ),
        ],
        Ok(_) => vec![
            Check::works("fields", "Every field that is needed was found."),
            Check::works("tw_entry_stamp", "TIME_WAIT sockets say when they began."),
        ],
        Err(error) => {
            vec![Check::missing("fields", format!("{error}."), "Please report this kernel's version.")]
        }
    }
}

fn symbols() -> Check {
    if Handlers::from_kallsyms().are_known() {
        return Check::works("kallsyms", "The timer handlers' addresses are known.");
    }
    Check::limited(
        "kallsyms",
        "Kernel symbols are hidden (kptr_restrict, or no CAP_SYSLOG): the timer handlers are found by an own \
         loopback connection at every start.",
        "Nothing needs to be done.",
    )
}

fn helpers(types: &KernelTypes) -> Check {
    const NAME: &str = "socket cookie";
    if types.has_cookie_helper() {
        return Check::works(
            NAME,
            "A program may ask for the id that a socket keeps to the end of TIME_WAIT.",
        );
    }
    Check::limited(
        NAME,
        "This kernel has no bpf_get_socket_cookie for programs at tracepoints: tcptrace identifies sockets by their kernel \
         addresses, and assigns ids of its own.",
        "Linux 5.12 or later has it.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let none: Vec<Check> =
            CAPABILITIES.iter().map(|capability| check_capability(capability, 0)).collect();
        let missing: Vec<&str> =
            none.iter().filter(|c| c.status == CheckStatus::Missing).map(|c| c.name.as_str()).collect();
        assert_eq!(missing, ["CAP_BPF", "CAP_PERFMON"]);
        let reasons = CannotTrace(none).to_string();
        assert!(reasons.contains("CAP_PERFMON is missing"));
        assert_eq!(reasons.matches("sudo").count(), 1, "{reasons}");
    }

    #[test]
    fn sys_admin_includes_the_needed_capabilities() {
        let admin = 1 << SYS_ADMIN;
        assert!(
            CAPABILITIES.iter().all(|c| check_capability(c, admin).status != CheckStatus::Missing),
            "CAP_SYS_ADMIN is enough"
        );
    }

    #[test]
    fn effective_capabilities_are_parsed() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), 0x1ff_ffff_ffff);
        assert_eq!(effective_capabilities(""), 0);
    }
}
