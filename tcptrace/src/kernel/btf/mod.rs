//! What the program has to know of the running kernel's types: BTF in; where fields are, and which hooks there are, out.
//!
//! Everything asked for is known beforehand, so the blob is gone through once, and let go.

mod blob;
mod layout;

pub use blob::FormatError;
use blob::{Blob, Name, kind};
pub use layout::LayoutError;
use tcptrace_common::config::Offsets;

/// Where the running kernel's BTF lies.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// `bpf_get_socket_cookie()` for a socket pointer: what a program attached to a tracepoint may call.
pub const COOKIE_HELPER: &str = "bpf_get_socket_ptr_cookie";
const FUNCTIONS: [Name; 1] = [Name { kind: kind::FUNC, text: COOKIE_HELPER }];

/// A tracepoint is declared as this and its name.
const TRACEPOINT: &str = "btf_trace_";
const TRACEPOINTS: [Name; 5] = [
    tracepoint("btf_trace_inet_sock_set_state"),
    tracepoint("btf_trace_timer_start"),
    tracepoint("btf_trace_timer_cancel"),
    tracepoint("btf_trace_timer_expire_entry"),
    tracepoint("btf_trace_kfree_skb"),
];

const fn tracepoint(text: &'static str) -> Name {
    Name { kind: kind::TYPEDEF, text }
}

/// What BTF says about this kernel.
pub struct KernelTypes {
    tracepoints: Vec<Tracepoint>,
    functions: Vec<&'static str>,
    offsets: Result<Offsets, LayoutError>,
}

/// A tracepoint that BTF programs attach to.
struct Tracepoint {
    /// Of its typedef, with [`TRACEPOINT`].
    name: &'static str,
    type_id: u32,
    arguments: usize,
}

impl KernelTypes {
    /// Goes through the BTF blob `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let names: Vec<Name> = layout::NAMES.into_iter().chain(TRACEPOINTS).chain(FUNCTIONS).collect();
        let blob = Blob::read(bytes, &names)?;
        Ok(Self {
            tracepoints: TRACEPOINTS.iter().filter_map(|name| Tracepoint::find(&blob, name.text)).collect(),
            functions: FUNCTIONS
                .iter()
                .filter(|name| blob.id_of(name.kind, name.text).is_some())
                .map(|name| name.text)
                .collect(),
            offsets: layout::offsets(&blob),
        })
    }

    /// Whether the kernel has the tracepoint `name`, and how many arguments it passes.
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let wanted = |found: &&Tracepoint| found.name.strip_prefix(TRACEPOINT) == Some(name);
        self.tracepoints.iter().find(wanted).map(|found| found.arguments)
    }

    /// Whether BTF describes the kernel's function `name`.
    pub fn has_function(&self, name: &str) -> bool {
        self.functions.contains(&name)
    }

    /// Every offset the program needs. An error names each field that is missing.
    pub fn offsets(&self) -> Result<Offsets, LayoutError> {
        self.offsets.clone()
    }

    /// BTF that has the tracepoints under the numbers they have in the kernel's, and nothing else: who wants to know a
    /// number need not parse 150,000 types for it.
    pub fn tracepoints_only(&self) -> Vec<u8> {
        blob::with_types(self.tracepoints.iter().map(|found| (found.type_id, kind::TYPEDEF, found.name)))
    }
}

impl Tracepoint {
    fn find(blob: &Blob, name: &'static str) -> Option<Self> {
        let type_id = blob.id_of(kind::TYPEDEF, name)?;
        let prototype = blob.chain(type_id).find(|found| found.kind() == kind::FUNC_PROTO)?;
        // The first parameter is the tracepoint's own.
        Some(Self { name, type_id, arguments: prototype.parts().saturating_sub(1) })
    }
}

#[cfg(test)]
mod tests;
