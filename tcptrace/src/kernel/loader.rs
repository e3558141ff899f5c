//! Loads and attaches the eBPF program, and owns its rings, counters and links.

use std::{os::fd::AsFd as _, time::Duration};

use aya::{
    Btf, Ebpf, Endianness,
    maps::{MapData, PerCpuArray, RingBuf},
    util::online_cpus,
};
use aya_log::EbpfLogger;
use tcptrace_common::{
    config::{Config, ring},
    filter::KernelFilter,
    record::{Kind, ResetReason, Twice, loss},
};

use super::{
    btf::KernelTypes,
    counters::recursion_misses,
    doubles::Doubles,
    learn,
    object::{LoadError, attach, load_object},
    rings::{Alarm, Rings},
    symbols::Handlers,
};
use crate::model::{HookRecord, Nanos, record::KernelLosses};

/// Whether an optional hook is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// If the kernel has it.
    Auto,
    /// Never, to reproduce what older kernels show.
    Off,
}

/// How to load the program.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of all ring buffers together in bytes: a power of two, at least a MiB.
    pub ring_bytes: u32,
    /// The hook that shows segments received by timewait sockets.
    pub segments: Hook,
    /// The field `tw_entry_stamp` of timewait sockets.
    pub entry_stamp: Hook,
    /// The hooks that show why a socket ended.
    pub ends: Hook,
    /// `/proc/kallsyms`; [`Hook::Off`] learns the addresses from a loopback connection.
    pub kallsyms: Hook,
    /// Whether the programs report; [`Hook::Off`] makes them return at once, to measure the overhead of the hooks.
    pub reports: Hook,
    /// Which records to report.
    pub filter: KernelFilter,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes: 16 << 20,
            segments: Hook::Auto,
            entry_stamp: Hook::Auto,
            ends: Hook::Auto,
            kallsyms: Hook::Auto,
            reports: Hook::Auto,
            filter: KernelFilter::default(),
        }
    }
}

/// Which optional hooks are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Segments received by timewait sockets are reported: FIN_WAIT2 -> TIME_WAIT is exact.
    pub segments: bool,
    /// Timewait sockets carry the time of their entry into TIME_WAIT.
    pub entry_stamp: bool,
    /// RSTs and errors are reported where the kernel sends, receives and reports them.
    pub ends: bool,
}

/// One program: function and tracepoint.
struct Program {
    function: &'static str,
    tracepoint: &'static str,
}

const fn program(function: &'static str, tracepoint: &'static str) -> Program {
    Program { function, tracepoint }
}

/// In attach order: ends first; the reverse order would leave sockets that never end.
const PROGRAMS: [Program; 5] = [
    program("timer_expire_entry", "timer_expire_entry"),
    program("timer_cancel", "timer_cancel"),
    program("timer_start", "timer_start"),
    program("set_state_first", "inet_sock_set_state"),
    program("set_state_second", "inet_sock_set_state"),
];
/// Attached before the transitions that they explain.
const ENDS: [Program; 5] = [
    program("reset_sent_first", SEND_RESET),
    program("reset_sent_second", SEND_RESET),
    program("reset_received_first", "tcp_receive_reset"),
    program("reset_received_second", "tcp_receive_reset"),
    program("error_reported", "inet_sk_error_report"),
];
/// The tracepoint of the RSTs that this host sends.
pub(super) const SEND_RESET: &str = "tcp_send_reset";
/// Arguments of `tcp_send_reset` where it passes a reason (6.10).
const SEND_RESET_ARGUMENTS: usize = 3;
const SEGMENTS: [Program; 2] = [program("segment_first", KFREE_SKB), program("segment_second", KFREE_SKB)];
/// The optional tracepoint that shows segments received by timewait sockets.
pub(super) const KFREE_SKB: &str = "kfree_skb";
/// Arguments of `kfree_skb` where it names the receiving socket (6.11).
pub(super) const SEGMENTS_ARGUMENTS: usize = 4;

/// The tracepoints that tracing needs.
pub(super) const NEEDED_TRACEPOINTS: [&str; 4] =
    ["inet_sock_set_state", "timer_start", "timer_cancel", "timer_expire_entry"];

/// A running trace. Dropping it detaches everything.
pub struct Tracer {
    rings: Rings<RingBuf<MapData>>,
    alarm: Alarm,
    /// The kernel's numbers for reset reasons.
    reset_reasons: Vec<(u32, ResetReason)>,
    doubles: Doubles,
    /// Events missed by both copies, when last computed.
    previous_missed: u64,
    losses: PerCpuArray<MapData, u64>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    hooks: Hooks,
    /// Keeps programs and links alive.
    ebpf: Ebpf,
}

impl Tracer {
    /// Loads the object and attaches every hook.
    pub fn start(types: &KernelTypes, options: &Options) -> Result<Self, LoadError> {
        let mut offsets = types.offsets()?;
        if options.entry_stamp == Hook::Off {
            offsets.tw_entry_stamp = tcptrace_common::config::ABSENT;
        }
        let has_reset_reason = types.tracepoint_arguments(SEND_RESET) == Some(SEND_RESET_ARGUMENTS);
        let ends = options.ends == Hook::Auto && has_end_hooks(types);
        if ends && has_reset_reasons(types) {
            // The reset reason shows unread data, so the program need not read this field.
            offsets.copied_seq = tcptrace_common::config::ABSENT;
        }
        let btf = Btf::parse(&types.tracepoints_only(), Endianness::default())?;
        let rings = ring_count(online_cpus().map_or(1, |cpus| cpus.len()));
        let ring_bytes = options.ring_bytes / rings as u32;
        let mut config = Config {
            tw_timer_handler: 0,
            reqsk_timer_handler: 0,
            wakeup_bytes: u64::from(ring_bytes / 4),
            learn_cookie: 0,
            learn_ports: 0,
            idle: u32::from(options.reports == Hook::Off),
            ring_mask: rings as u32 - 1,
            has_reset_reason: u32::from(has_reset_reason),
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
        let optional = SEGMENTS.iter().filter(|_| segments).chain(ENDS.iter().filter(|_| ends));
        for program in optional.chain(&PROGRAMS) {
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
            doubles: Doubles::default(),
            previous_missed: 0,
            reset_reasons: types.reset_reasons().to_vec(),
            losses: losses.try_into().map_err(|_| LoadError::Part("LOSSES array"))?,
            logger,
            hooks: Hooks {
                segments,
                entry_stamp: offsets.tw_entry_stamp != tcptrace_common::config::ABSENT,
                ends,
            },
            ebpf,
        })
    }

    /// Which optional hooks are attached.
    pub const fn hooks(&self) -> Hooks {
        self.hooks
    }

    /// Passes on at most `most` records up to `until`, a time in the past; the records of a socket come in order.
    pub fn drain(&mut self, most: usize, until: Nanos, mut take: impl FnMut(HookRecord)) {
        let covered = Twice::ALL.map(|hook| self.covered(hook).unwrap_or(0));
        let Self { rings, reset_reasons, doubles, .. } = self;
        let mut watch = doubles.begin(covered.iter().sum());
        rings.drain(most, until, |mut seen| {
            watch.look_at(&seen.raw);
            if seen.raw.kind == Kind::ResetSent as u8 {
                seen.raw.arg0 = translate_reset_reason(reset_reasons, seen.raw.arg0) as u64;
            }
            take(seen);
        });
        watch.end(most);
    }

    /// Waits for `longest`, or until a ring fills faster than that.
    pub fn wait(&self, longest: Duration) {
        self.alarm.wait(longest);
    }

    /// Whether losses can be read.
    pub fn can_read_losses(&self) -> bool {
        self.losses.get(&loss::RING_FULL, 0).is_ok()
    }

    /// All losses so far, by cause. `before` is the previous result: a counter that can't be read keeps its value from
    /// there, and counts as uncounted.
    pub fn losses(&mut self, before: &KernelLosses) -> KernelLosses {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        let recursion_missed = self.recursion_missed().map(|now| {
            // A real miss persists; an event that is between its two programs right now does not.
            let last = std::mem::replace(&mut self.previous_missed, now);
            now.min(last).max(before.recursion_missed)
        });
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
            recursion_missed: known(recursion_missed, before.recursion_missed),
            read_faults: known(count(loss::READ_FAULT), before.read_faults),
            decode_errors: self.rings.unknown,
            not_recorded: before.not_recorded,
            uncounted: before.uncounted.max(unread),
        }
    }

    /// Events that both copies of a program missed. Of the events that the first copy missed, the second one reported
    /// `covered` minus the duplicates. The result is at most the rest, and at most what the second copy missed. `None`
    /// when the kernel does not expose the counters.
    fn recursion_missed(&self) -> Option<u64> {
        let misses = |name: &str| {
            let program = self.ebpf.program(name)?.fd().ok()?;
            recursion_misses(program.as_fd()).ok()
        };
        let attached = |hook: &Twice| match hook {
            Twice::SetState => true,
            Twice::Segment => self.hooks.segments,
            Twice::ResetSent | Twice::ResetReceived => self.hooks.ends,
        };
        let by_both = |hook: Twice| {
            let [first, second] = copies(hook);
            // The order matters: a duplicate is counted as covered before the reader sees it.
            let (first, second) = (misses(first)?, misses(second)?);
            Some(second.min(not_covered(first, self.covered(hook)?, self.doubles.of(hook))))
        };
        Twice::ALL.into_iter().filter(attached).map(by_both).sum()
    }

    /// How often the second copy of a program found no mark of the first.
    fn covered(&self, hook: Twice) -> Option<u64> {
        Some(self.losses.get(&(loss::COVERED + hook as u32), 0).ok()?.iter().copied().sum())
    }
}

/// Of the events that the first copy `missed`, those that the second did not report.
const fn not_covered(missed: u64, covered: u64, doubles: u64) -> u64 {
    (missed + doubles).saturating_sub(covered)
}

/// The two copies of a program.
const fn copies(hook: Twice) -> [&'static str; 2] {
    match hook {
        Twice::SetState => ["set_state_first", "set_state_second"],
        Twice::Segment => ["segment_first", "segment_second"],
        Twice::ResetSent => ["reset_sent_first", "reset_sent_second"],
        Twice::ResetReceived => ["reset_received_first", "reset_received_second"],
    }
}

/// Number of rings for `cpus`: a power of two.
fn ring_count(cpus: usize) -> usize {
    let most = ring::MAPS.len().ilog2();
    1 << cpus.max(1).ilog2().min(most)
}

/// Translates the kernel's number of a reset reason. A number outside of the table is another reason; without a table
/// the reason is not specified.
fn translate_reset_reason(table: &[(u32, ResetReason)], number: u64) -> ResetReason {
    let named = table.iter().find(|&&(known, _)| u64::from(known) == number).map(|&(_, reason)| reason);
    let otherwise = if table.is_empty() { ResetReason::NotSpecified } else { ResetReason::Other };
    named.unwrap_or(otherwise)
}

/// Whether the kernel has every hook that shows why a socket ended.
pub(super) fn has_end_hooks(types: &KernelTypes) -> bool {
    ENDS.iter().all(|program| types.tracepoint_arguments(program.tracepoint).is_some())
}

/// Whether the kernel gives a reason for a RST that a socket sends on its own (6.12).
pub(super) fn has_reset_reasons(types: &KernelTypes) -> bool {
    types.reset_reasons().iter().any(|&(_, reason)| reason == ResetReason::AbortOnClose)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_count_is_a_bounded_power_of_two() {
        let of = [0, 1, 2, 3, 4, 6, 8, 128].map(ring_count);
        assert_eq!(of, [1, 1, 2, 2, 4, 4, 8, 8]);
    }
}
