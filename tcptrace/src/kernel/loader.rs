//! Loads and attaches the program, and owns what runs of it: the rings, the counters, the links.

use std::{io, os::fd::AsFd as _, time::Duration};

use aya::{
    Btf, BtfError, Ebpf, EbpfError, EbpfLoader, Endianness,
    maps::{MapData, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, ProgramError},
    util::online_cpus,
};
use aya_log::EbpfLogger;
use tcptrace_common::{
    config::{Config, ring},
    filter::KernelFilter,
    record::loss,
};

use super::{
    btf::{KernelTypes, LayoutError},
    counters::recursion_misses,
    learn,
    rings::{Alarm, Rings},
    symbols::Handlers,
};
use crate::model::{Nanos, Observation, record::KernelLosses};

/// The program, as committed beside this crate; `build.rs` embeds it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/tcptrace.bpf.o"));
/// What it was built from and with.
const PROVENANCE: &str = include_str!("../../ebpf/provenance.toml");

/// The hash of the embedded program, as its provenance says.
pub fn object_sha256() -> &'static str {
    let line = PROVENANCE.lines().find_map(|line| line.strip_prefix("object_sha256 = "));
    line.map_or("unknown", |hash| hash.trim_matches('"'))
}

/// What can go wrong between an object and a running trace.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's fields are not where they can be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The hooks' numbers in the kernel's BTF can't be passed on.
    #[error("the numbers of the tracepoints are not understood: {0}")]
    Numbers(#[from] BtfError),
    /// The object could not be loaded.
    #[error("the eBPF object can't be loaded: {0}")]
    Object(#[from] EbpfError),
    /// One program could not be loaded or attached.
    #[error("the hook {hook} can't be attached: {}", chain(.source))]
    Hook {
        /// Which.
        hook: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// The handlers' addresses are hidden and could not be learned.
    #[error(
        "the kernel hides its symbols (kptr_restrict, no CAP_SYSLOG) and a loopback connection did not show them: {0:#}"
    )]
    Handlers(anyhow::Error),
    /// The rings can't be waited for.
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

/// Whether an optional hook is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Where the kernel has it.
    Auto,
    /// Not at all: to see what older kernels see.
    Off,
}

/// How to load the program.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of all ring buffers together in bytes: a power of two, at least a MiB.
    pub ring_bytes: u32,
    /// The hook that shows segments received by minisockets.
    pub segments: Hook,
    /// `tw_entry_stamp` of minisockets.
    pub entry_stamp: Hook,
    /// `/proc/kallsyms`; [`Hook::Off`] learns the addresses from an own connection.
    pub kallsyms: Hook,
    /// What the programs do; [`Hook::Off`] lets them end at once, to measure what the hooks cost.
    pub reports: Hook,
    /// Which records are wanted.
    pub filter: KernelFilter,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes: 16 << 20,
            segments: Hook::Auto,
            entry_stamp: Hook::Auto,
            kallsyms: Hook::Auto,
            reports: Hook::Auto,
            filter: KernelFilter::default(),
        }
    }
}

/// Which of the optional hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Segments received by minisockets are seen: FIN_WAIT2 -> TIME_WAIT is exact.
    pub segments: bool,
    /// Minisockets carry the time of their entry into TIME_WAIT.
    pub entry_stamp: bool,
}

/// One program: its function, its tracepoint.
struct Program {
    function: &'static str,
    tracepoint: &'static str,
}

const fn program(function: &'static str, tracepoint: &'static str) -> Program {
    Program { function, tracepoint }
}

/// Attached in this order: ends before beginnings would leave sockets that never end.
const PROGRAMS: [Program; 5] = [
    program("timer_expire_entry", "timer_expire_entry"),
    program("timer_cancel", "timer_cancel"),
    program("timer_start", "timer_start"),
    program("set_state_first", "inet_sock_set_state"),
    program("set_state_second", "inet_sock_set_state"),
];
const SEGMENTS: [Program; 2] = [program("segment_first", KFREE_SKB), program("segment_second", KFREE_SKB)];
/// The optional tracepoint that shows segments received by minisockets.
pub(super) const KFREE_SKB: &str = "kfree_skb";
/// Arguments of `kfree_skb` where it names the receiving socket (6.11).
pub(super) const SEGMENTS_ARGUMENTS: usize = 4;

/// The tracepoints without which nothing can be traced.
pub(super) const NEEDED_TRACEPOINTS: [&str; 4] =
    ["inet_sock_set_state", "timer_start", "timer_cancel", "timer_expire_entry"];

/// A running trace. Dropping it detaches everything.
pub struct Tracer {
    rings: Rings<RingBuf<MapData>>,
    alarm: Alarm,
    losses: PerCpuArray<MapData, u64>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    hooks: Hooks,
    /// Keeps programs and links alive.
    ebpf: Ebpf,
}

impl Tracer {
    /// Loads and attaches every hook.
    pub fn start(types: &KernelTypes, options: &Options) -> Result<Self, LoadError> {
        let mut offsets = types.offsets()?;
        if options.entry_stamp == Hook::Off {
            offsets.tw_entry_stamp = tcptrace_common::config::ABSENT;
        }
        let btf = Btf::parse(&types.tracepoints_only(), Endianness::default())?;
        let rings = rings_for(online_cpus().map_or(1, |cpus| cpus.len()));
        let ring_bytes = options.ring_bytes / rings as u32;
        let mut config = Config {
            tw_timer_handler: 0,
            reqsk_timer_handler: 0,
            wakeup_bytes: u64::from(ring_bytes / 4),
            learn_cookie: 0,
            learn_ports: 0,
            idle: u32::from(options.reports == Hook::Off),
            ring_mask: rings as u32 - 1,
            padding: 0,
            offsets,
        };
        let mut handlers = match options.kallsyms {
            Hook::Auto => Handlers::from_kallsyms(),
            Hook::Off => Handlers::default(),
        };
        if !handlers.are_known() {
            handlers = learn::handlers(&config, &btf).map_err(LoadError::Handlers)?;
        }
        config.tw_timer_handler = handlers.tw_timer;
        config.reqsk_timer_handler = handlers.reqsk_timer;

        let mut ebpf = load_object(&config, &options.filter, ring_bytes)?;
        let segments = options.segments == Hook::Auto
            && types.tracepoint_arguments(KFREE_SKB) == Some(SEGMENTS_ARGUMENTS);
        for program in SEGMENTS.iter().filter(|_| segments).chain(&PROGRAMS) {
            attach(&mut ebpf, program.function, program.tracepoint, &btf)?;
        }
        let rings: Vec<RingBuf<_>> = ring::MAPS[..rings]
            .iter()
            .map(|name| {
                let map = ebpf.take_map(name).ok_or(LoadError::Part("ring"))?;
                map.try_into().map_err(|_| LoadError::Part("ring buffer"))
            })
            .collect::<Result<_, LoadError>>()?;
        let losses = ebpf.take_map("LOSSES").ok_or(LoadError::Part("LOSSES map"))?;
        let logger = EbpfLogger::init(&mut ebpf).ok();
        Ok(Self {
            alarm: Alarm::of(&rings).map_err(LoadError::Alarm)?,
            rings: Rings::new(rings),
            losses: losses.try_into().map_err(|_| LoadError::Part("LOSSES array"))?,
            logger,
            hooks: Hooks { segments, entry_stamp: offsets.tw_entry_stamp != tcptrace_common::config::ABSENT },
            ebpf,
        })
    }

    /// Which optional hooks run.
    pub const fn hooks(&self) -> Hooks {
        self.hooks
    }

    /// Hands out at most so many records of those made by `until`, a moment that has passed; a socket's in order.
    pub fn drain(&mut self, most: usize, until: Nanos, take: impl FnMut(Observation)) {
        self.rings.drain(most, until, take);
    }

    /// Waits so long, or until a ring fills faster than that.
    pub fn wait(&self, longest: Duration) {
        self.alarm.wait(longest);
    }

    /// Whether losses can be read.
    pub fn can_count(&self) -> bool {
        self.losses.get(&loss::RING_FULL, 0).is_ok()
    }

    /// Everything lost so far, by cause, when `before` was lost the last time: a counter that can't be read stays
    /// as it was, and that is told.
    pub fn losses(&mut self, before: &KernelLosses) -> KernelLosses {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        let count = |cause| Some(self.losses.get(&cause, 0).ok()?.iter().copied().sum::<u64>());
        let mut unread = 0;
        let mut known = |now: Option<u64>, before| {
            now.unwrap_or_else(|| {
                unread += 1;
                before
            })
        };
        KernelLosses {
            ring_full: known(count(loss::RING_FULL), before.ring_full),
            recursion_missed: known(self.recursion_missed(), before.recursion_missed),
            read_faults: known(count(loss::READ_FAULT), before.read_faults),
            decode_errors: self.rings.unknown,
            not_recorded: before.not_recorded,
            uncounted: before.uncounted.max(unread),
        }
    }

    /// Events that both copies of a program may have skipped. Each copy's misses are covered by the other
    /// unless both were active at once: the smaller count is a bound. `None` when the kernel does not say.
    fn recursion_missed(&self) -> Option<u64> {
        let misses = |name| {
            let program = self.ebpf.program(name)?.fd().ok()?;
            recursion_misses(program.as_fd()).ok()
        };
        let both = |first, second| Some(misses(first)?.min(misses(second)?));
        let of_segments = if self.hooks.segments { both("segment_first", "segment_second")? } else { 0 };
        Some(both("set_state_first", "set_state_second")? + of_segments)
    }
}

/// How many rings so many CPUs get: a power of two.
fn rings_for(cpus: usize) -> usize {
    let most = ring::MAPS.len().ilog2();
    1 << cpus.max(1).ilog2().min(most)
}

/// Creates the maps and relocates the programs for `config` and `filter`.
pub(super) fn load_object(
    config: &Config,
    filter: &KernelFilter,
    ring_bytes: u32,
) -> Result<Ebpf, EbpfError> {
    let mut loader = EbpfLoader::new();
    // The object asks for no relocation.
    loader.btf(None).override_global("CONFIG", bytemuck::bytes_of(config), true).override_global(
        "FILTER",
        bytemuck::bytes_of(filter),
        true,
    );
    for name in &ring::MAPS[..=config.ring_mask as usize] {
        loader.map_max_entries(name, ring_bytes);
    }
    loader.load(OBJECT)
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
    fn rings_are_a_power_of_two_and_no_more_than_there_are() {
        let of = [0, 1, 2, 3, 4, 6, 8, 128].map(rings_for);
        assert_eq!(of, [1, 1, 2, 2, 4, 4, 8, 8]);
    }

    #[test]
    fn the_embedded_program_is_the_one_of_the_provenance() {
        use sha2::{Digest as _, Sha256};
        assert_eq!(format!("{:x}", Sha256::digest(OBJECT)), object_sha256());
    }
}
