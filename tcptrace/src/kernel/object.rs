//! The embedded eBPF object: loads it and attaches its programs.

use std::io;

use aya::{
    Btf, BtfError, Ebpf, EbpfError, EbpfLoader,
    programs::{BtfTracePoint, ProgramError},
};
use tcptrace_common::{
    config::{Config, ring},
    filter::KernelFilter,
};

use super::btf::LayoutError;

/// The object file in this crate's `ebpf` folder, as committed.
static EMBEDDED_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/tcptrace.bpf.o"));
/// Its sources and tool chain.
const PROVENANCE: &str = include_str!("../../ebpf/provenance.toml");

/// The hash of the embedded object, from its provenance.
pub fn object_sha256() -> &'static str {
    let line = PROVENANCE.lines().find_map(|line| line.strip_prefix("object_sha256 = "));
    line.map_or("unknown", |hash| hash.trim_matches('"'))
}

/// Why a trace could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's struct layout does not allow the program to read a field.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The tracepoints' BTF ids can't be passed on.
    #[error("the numbers of the tracepoints are not understood: {0}")]
    Numbers(#[from] BtfError),
    /// The object could not be loaded.
    #[error("the eBPF object can't be loaded: {0}")]
    Object(#[from] EbpfError),
    /// The program needs more memory than the user may lock (before 5.11).
    #[error(
        "this kernel counts the memory of eBPF programs against the limit of locked memory, {limit_kib} KiB for this user, and \
         CAP_SYS_RESOURCE to raise it is missing. Raise it (`ulimit -l`), or use smaller ring buffers: --ring-size 1 needs \
         2048 KiB. ({source})"
    )]
    Memlock {
        /// The limit.
        limit_kib: u64,
        /// The refusal.
        source: Box<Self>,
    },
    /// One program could not be loaded or attached.
    #[error("the hook {hook} can't be attached: {}", chain(.source))]
    Hook {
        /// The hook.
        hook: &'static str,
        /// The cause.
        source: ProgramError,
    },
    /// The addresses of the timer handlers are hidden and could not be learned.
    #[error(
        "the kernel hides its symbols (kptr_restrict, no CAP_SYSLOG) and a loopback connection did not show them: {0:#}"
    )]
    Handlers(anyhow::Error),
    /// The rings can't be polled.
    #[error("the ring buffers can't be polled: {0}")]
    Alarm(io::Error),
    /// A part of the object is missing: the build is broken.
    #[error("the embedded eBPF object has no {0}")]
    Part(&'static str),
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Size of the ring of stacks: 3,000 of them between two reads.
const STACK_RING_BYTES: u32 = 2 << 20;

/// Creates the maps and relocates the programs for `config` and `filter`.
pub(super) fn load_object(
    config: &Config,
    filter: &KernelFilter,
    ring_bytes: u32,
) -> Result<Ebpf, EbpfError> {
    let mut loader = EbpfLoader::new();
    // The object needs no CO-RE relocation.
    loader.btf(None).override_global("CONFIG", bytemuck::bytes_of(config), true).override_global(
        "FILTER",
        bytemuck::bytes_of(filter),
        true,
    );
    for name in &ring::MAPS[..=config.ring_mask as usize] {
        loader.map_max_entries(name, ring_bytes);
    }
    if config.stacks_per_second != 0 {
        loader.map_max_entries(ring::STACKS, STACK_RING_BYTES);
    }
    loader.load(EMBEDDED_OBJECT)
}

/// Loads and attaches one program.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    function: &'static str,
    tracepoint: &'static str,
    btf: &Btf,
) -> Result<(), LoadError> {
    let hook = |source| LoadError::Hook { hook: function, source };
    let program: &mut BtfTracePoint =
        ebpf.program_mut(function).ok_or(LoadError::Part(function))?.try_into().map_err(hook)?;
    program.load(tracepoint, btf).map_err(hook)?;
    program.attach().map_err(hook)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_object_matches_its_provenance() {
        use sha2::{Digest as _, Sha256};
        assert_eq!(format!("{:x}", Sha256::digest(EMBEDDED_OBJECT)), object_sha256());
    }
}
