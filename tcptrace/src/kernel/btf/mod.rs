//! Reads the running kernel's types from BTF: field offsets and available hooks.
//!
//! All requested names are known in advance, so one pass suffices and the blob is freed afterwards.

mod blob;
mod layout;

pub use blob::FormatError;
use blob::{Blob, TypeName, kind};
pub use layout::LayoutError;
use tcptrace_common::{config::Offsets, record::ResetReason};

use crate::model::hooks::{HOOKS, Hook, OptionalHook};

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

/// The typedefs of all hooks' tracepoints.
fn typedefs() -> Vec<String> {
    HOOKS.iter().map(|hook| format!("{TRACEPOINT}{}", hook.tracepoint)).collect()
}

/// Facts about this kernel from BTF.
pub struct KernelTypes {
    tracepoints: Vec<Tracepoint>,
    functions: Vec<&'static str>,
    offsets: Result<Offsets, LayoutError>,
    has_recursion_guard: bool,
    reset_reasons: Vec<(u32, ResetReason)>,
}

/// A tracepoint that BTF programs attach to.
struct Tracepoint {
    /// Name of its typedef, with [`TRACEPOINT`].
    name: String,
    type_id: u32,
    arguments: usize,
}

impl KernelTypes {
    /// Parses the BTF blob `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let typedefs = typedefs();
        let tracepoints = typedefs.iter().map(|text| TypeName { kind: kind::TYPEDEF, text });
        let names: Vec<TypeName<'_>> =
            layout::NAMES.into_iter().chain(tracepoints).chain(FUNCTIONS).collect();
        let blob = Blob::read(bytes, &names)?;
        Ok(Self {
            tracepoints: typedefs.iter().filter_map(|name| Tracepoint::find(&blob, name)).collect(),
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

    /// Number of arguments of the tracepoint `name`, if the kernel has it.
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let wanted = |found: &&Tracepoint| found.name.strip_prefix(TRACEPOINT) == Some(name);
        self.tracepoints.iter().find(wanted).map(|found| found.arguments)
    }

    /// Whether this kernel has `hook` and those that are attached together with it.
    pub fn has_hook(&self, hook: &Hook) -> bool {
        let is_usable = |hook: &Hook| match (self.tracepoint_arguments(hook.tracepoint), hook.optional()) {
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

    /// BTF of the tracepoints only, with their ids in the kernel's BTF: looking up an id then need not parse 150,000
    /// types.
    pub fn tracepoints_only(&self) -> Vec<u8> {
        blob::with_types(self.tracepoints.iter().map(|found| (found.type_id, kind::TYPEDEF, &*found.name)))
    }
}

impl Tracepoint {
    fn find(blob: &Blob<'_>, name: &str) -> Option<Self> {
        let type_id = blob.id_of(kind::TYPEDEF, name)?;
        let prototype = blob.chain(type_id).find(|found| found.kind() == kind::FUNC_PROTO)?;
        // The first parameter is the tracepoint's own.
        Some(Self { name: name.to_owned(), type_id, arguments: prototype.parts().saturating_sub(1) })
    }
}

#[cfg(test)]
mod tests;
