//! Reads the running kernel's types from BTF: field offsets and available hooks.
//!
//! All requested names are known in advance, so one pass suffices and the blob is freed afterwards.

mod blob;
mod layout;

pub use blob::FormatError;
use blob::{Blob, TypeName, kind};
pub use layout::LayoutError;
use tcptrace_common::{config::Offsets, record::ResetReason};

use crate::model::hooks::{HOOKS, Hook, OptionalHook, Programs};

/// Path of the running kernel's BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// `bpf_get_socket_cookie()` for a socket pointer, as callable by a program attached to a tracepoint.
const COOKIE_HELPER: &str = "bpf_get_socket_ptr_cookie";
/// Gives a program the user registers of the current task.
const REGISTERS_HELPER: &str = "bpf_task_pt_regs";
const FUNCTIONS: [TypeName<'_>; 2] = [
    TypeName { kind: kind::FUNC, text: COOKIE_HELPER },
    TypeName { kind: kind::FUNC, text: REGISTERS_HELPER },
];

/// Prefix of the typedef of a tracepoint.
const TRACEPOINT: &str = "btf_trace_";

/// What the programs of a hook are attached to: kind and name of its type.
fn target(hook: &Hook) -> (u32, String) {
    if hook.is_at_function() {
        (kind::FUNC, hook.tracepoint.to_owned())
    } else {
        (kind::TYPEDEF, format!("{TRACEPOINT}{}", hook.tracepoint))
    }
}

/// Facts about this kernel from BTF.
pub struct KernelTypes {
    targets: Vec<HookTarget>,
    functions: Vec<&'static str>,
    offsets: Result<Offsets, LayoutError>,
    has_recursion_guard: bool,
    reset_reasons: Vec<(u32, ResetReason)>,
}

/// The type of a tracepoint or function that programs attach to.
struct HookTarget {
    /// Name of the hook.
    hook: &'static str,
    kind: u32,
    /// Name of the type.
    name: String,
    type_id: u32,
    arguments: usize,
}

impl KernelTypes {
    /// Parses the BTF blob `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let targets: Vec<(u32, String)> = HOOKS.iter().map(target).collect();
        let of_hooks = targets.iter().map(|&(kind, ref text)| TypeName { kind, text });
        let names: Vec<TypeName<'_>> = layout::NAMES.into_iter().chain(of_hooks).chain(FUNCTIONS).collect();
        let blob = Blob::read(bytes, &names)?;
        Ok(Self {
            targets: HOOKS.iter().filter_map(|hook| HookTarget::find(&blob, hook)).collect(),
            functions: FUNCTIONS
                .iter()
                .filter(|name| blob.id_of(name.kind, name.text).is_some())
                .map(|name| name.text)
                .collect(),
            offsets: layout::offsets(&blob),
            has_recursion_guard: layout::has_recursion_guard(&blob),
            reset_reasons: layout::reset_reasons(&blob),
        })
    }

    /// Number of arguments of the tracepoint or function of the hook `name`, if the kernel has it.
    pub fn hook_arguments(&self, name: &str) -> Option<usize> {
        self.targets.iter().find(|found| found.hook == name).map(|found| found.arguments)
    }

    /// The copies of the program for the end of the function of `hook`; `None` if the kernel's function has other arguments.
    pub fn programs_at_end(&self, hook: &Hook) -> Option<[&'static str; 3]> {
        let Programs::FunctionEnd(_, programs) = hook.programs else { return None };
        let found = self.hook_arguments(hook.tracepoint)?;
        programs.into_iter().find(|&(arguments, _)| arguments == found).map(|(_, programs)| programs)
    }

    /// Whether this kernel has `hook` and those that are attached together with it.
    pub fn has_hook(&self, hook: &Hook) -> bool {
        let is_usable = |hook: &Hook| match (self.hook_arguments(hook.tracepoint), hook.optional()) {
            _ if hook.is_at_function() => self.programs_at_end(hook).is_some(),
            (Some(found), Some(OptionalHook { arguments: Some(wanted), .. })) => found == *wanted,
            (found, _) => found.is_some(),
        };
        is_usable(hook) && HOOKS.iter().filter(|other| other.is_part_of(hook.leader())).all(is_usable)
    }

    /// Whether BTF describes the kernel's function `name`.
    pub fn has_function(&self, name: &str) -> bool {
        self.functions.contains(&name)
    }

    /// Whether a program at a tracepoint may request a socket's cookie (5.12).
    pub fn has_cookie_helper(&self) -> bool {
        self.has_function(COOKIE_HELPER)
    }

    /// Whether a program may read the user registers of the current task (5.15).
    pub fn has_registers_helper(&self) -> bool {
        self.has_function(REGISTERS_HELPER)
    }

    /// Whether the kernel may skip a tracing program that interrupts itself (5.12).
    pub fn has_recursion_guard(&self) -> bool {
        self.has_recursion_guard || self.has_cookie_helper()
    }

    /// Whether the memory of programs and maps counts against the limit of locked memory (before 5.11).
    pub fn counts_locked_memory(&self) -> bool {
        !self.has_recursion_guard()
    }

    /// Every offset the program needs. An error names each missing field.
    pub fn offsets(&self) -> Result<Offsets, LayoutError> {
        self.offsets.clone()
    }

    /// The kernel's numbers of `enum sk_rst_reason` and their meaning; empty where there is none (before 6.10).
    pub fn reset_reasons(&self) -> &[(u32, ResetReason)] {
        &self.reset_reasons
    }

    /// BTF of the hooks only, with their ids in the kernel's BTF: looking up an id then need not parse 150,000 types.
    pub fn hooks_only(&self) -> Vec<u8> {
        blob::with_types(self.targets.iter().map(|found| (found.type_id, found.kind, &*found.name)))
    }
}

impl HookTarget {
    fn find(blob: &Blob<'_>, hook: &'static Hook) -> Option<Self> {
        let (kind, name) = target(hook);
        let type_id = blob.id_of(kind, &name)?;
        let prototype = blob.chain(type_id).find(|found| found.kind() == kind::FUNC_PROTO)?;
        // The first parameter of a tracepoint is its own.
        let own = usize::from(!hook.is_at_function());
        let arguments = prototype.parts().saturating_sub(own);
        Some(Self { hook: hook.tracepoint, kind, name, type_id, arguments })
    }
}

#[cfg(test)]
mod tests;
