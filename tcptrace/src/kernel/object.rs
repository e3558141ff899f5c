//! The embedded eBPF object: loads it and attaches its programs.

use std::{
    collections::HashMap,
    io,
    panic::resume_unwind,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Btf, BtfError, Ebpf, EbpfError, EbpfLoader,
    programs::{BtfTracePoint, FExit, Program, ProgramError},
};
use tcptrace_common::{
    config::{Config, ring},
    filter::KernelFilter,
    record::SLOT_LEN,
};

use super::btf::LayoutError;
use crate::model::hooks::ACCEPT;

/// The object files in this crate's `ebpf` folder, as committed.
static EMBEDDED_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/tcptrace.bpf.o"));
static EMBEDDED_RINGBUF_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/tcptrace-ringbuf.bpf.o"));
/// Their sources and tool chain.
const PROVENANCE: &str = include_str!("../../ebpf/provenance.toml");

/// The hash of the object for current kernels, from the provenance.
pub fn object_sha256() -> &'static str {
    recorded_sha256("tcptrace.bpf.o")
}

fn recorded_sha256(name: &str) -> &'static str {
    let hash = |line: &'static str| line.strip_prefix('"')?.strip_prefix(name)?.strip_prefix("\" = ");
    PROVENANCE.lines().find_map(hash).map_or("unknown", |hash| hash.trim_matches('"'))
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
    /// The stacks of `accept()` are wanted, and no program can be attached to it.
    #[error(
        "the stacks of accept() need a program at the end of the kernel's function {ACCEPT}, and this kernel refuses it: {0}. Stacks of \
         connect() and close() work: --on close, --on connect, and --on leak for connections that this host opens"
    )]
    Accept(String),
    /// The addresses of the timer handlers are hidden and could not be learned.
    #[error(
        "the kernel hides its symbols (kptr_restrict, no CAP_SYSLOG) and a loopback connection did not show them: {0:#}"
    )]
    Handlers(anyhow::Error),
    /// The rings can't be mapped or polled.
    #[error("the rings can't be read: {0}")]
    Rings(io::Error),
    /// A part of the object is missing: the build is broken.
    #[error("the embedded eBPF object has no {0}")]
    Part(&'static str),
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// How records reach user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingKind {
    /// Memory-mapped rings of slots, one for each CPU. The programs need atomic instructions with a result: Linux 5.12, on
    /// arm64 5.18.
    Slots,
    /// Ring buffers of the kernel.
    Buffers,
}

impl RingKind {
    /// Most rings.
    pub(super) const fn most(self) -> usize {
        match self {
            Self::Slots => 4096,
            Self::Buffers => ring::BUFFERS.len(),
        }
    }
}

/// Size of the ring of stacks: 3,000 of them between two reads.
const STACK_RING_BYTES: u32 = 2 << 20;

/// Creates the maps and relocates the programs for `config` and `filter`.
pub(super) fn load_object(kind: RingKind, config: &Config, filter: &KernelFilter) -> Result<Ebpf, EbpfError> {
    let rings = config.ring_mask + 1;
    let mut loader = EbpfLoader::new();
    // The object needs no CO-RE relocation.
    loader.btf(None).override_global("CONFIG", bytemuck::bytes_of(config), true).override_global(
        "FILTER",
        bytemuck::bytes_of(filter),
        true,
    );
    if config.stacks_per_second != 0 {
        loader.map_max_entries(ring::STACKS, STACK_RING_BYTES);
    }
    match kind {
        RingKind::Slots => {
            loader.map_max_entries(ring::SLOTS, rings * config.ring_slots);
            loader.map_max_entries(ring::CURSORS, rings);
            loader.load(EMBEDDED_OBJECT)
        }
        RingKind::Buffers => {
            let bytes = (config.ring_slots * SLOT_LEN as u32).max(ring::SMALLEST);
            for name in &ring::BUFFERS[..rings as usize] {
                loader.map_max_entries(name, bytes);
            }
            loader.load(EMBEDDED_RINGBUF_OBJECT)
        }
    }
}

/// A program of the object, and its tracepoint.
pub(super) type Attachment = (&'static str, &'static str);

/// Loads the programs, then attaches them in this order.
pub(super) fn attach(ebpf: &mut Ebpf, programs: &[Attachment], btf: &Btf) -> Result<(), LoadError> {
    let mut by_name: HashMap<_, _> = ebpf.programs_mut().collect();
    let to_load = programs.iter().map(|&attachment| {
        let program = by_name.remove(attachment.0).ok_or(LoadError::Part(attachment.0))?;
        Ok((attachment, program))
    });
    let queue = Mutex::new(to_load.collect::<Result<Vec<_>, LoadError>>()?);
    // The kernel verifies the programs of two threads at the same time.
    thread::scope(|scope| {
        #[allow(clippy::disallowed_methods, reason = "loading takes the privileges of this thread")]
        let other = scope.spawn(|| load_all(&queue, btf));
        load_all(&queue, btf).and(other.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    for &(function, _) in programs {
        let program = ebpf.program_mut(function).ok_or(LoadError::Part(function))?;
        let attached = <&mut BtfTracePoint>::try_from(program).and_then(BtfTracePoint::attach);
        attached.map_err(|source| LoadError::Hook { hook: function, source })?;
    }
    Ok(())
}

/// Loads programs of the queue until it is empty.
fn load_all(queue: &Mutex<Vec<(Attachment, &mut Program)>>, btf: &Btf) -> Result<(), LoadError> {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(((function, tracepoint), program)) = next else { return Ok(()) };
        let loaded =
            <&mut BtfTracePoint>::try_from(program).and_then(|program| program.load(tracepoint, btf));
        loaded.map_err(|source| LoadError::Hook { hook: function, source })?;
    }
}

/// Loads a program and attaches it to the end of a function.
pub(super) fn attach_at_end(
    ebpf: &mut Ebpf,
    program: &'static str,
    function: &'static str,
    btf: &Btf,
) -> Result<(), LoadError> {
    let hook = |source| LoadError::Hook { hook: function, source };
    let program: &mut FExit =
        ebpf.program_mut(program).ok_or(LoadError::Part(program))?.try_into().map_err(hook)?;
    program.load(function, btf).map_err(hook)?;
    program.attach().map_err(hook)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_objects_match_their_provenance() {
        use sha2::{Digest as _, Sha256};
        let objects =
            [("tcptrace.bpf.o", EMBEDDED_OBJECT), ("tcptrace-ringbuf.bpf.o", EMBEDDED_RINGBUF_OBJECT)];
        for (name, object) in objects {
            assert_eq!(format!("{:x}", Sha256::digest(object)), recorded_sha256(name), "{name}");
        }
    }
}
