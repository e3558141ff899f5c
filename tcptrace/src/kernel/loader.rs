//! Loads and attaches the eBPF program, and owns its rings, counters and links.

use std::{os::fd::AsFd as _, time::Duration};

use aya::{
    Btf, Ebpf, Endianness,
    maps::{Map, MapData, PerCpuArray, RingBuf},
    programs::ProgramError,
    util::online_cpus,
};
use aya_log::EbpfLogger;
use rustix::system::uname;
use tcptrace_common::{
    config::{ABSENT, Config, ring},
    filter::KernelFilter,
    record::{Kind, Reentrant, ResetReason, SLOT_LEN, loss},
};

use super::{
    any_ring::AnyRing,
    btf::KernelTypes,
    counters::recursion_misses,
    doubles::Doubles,
    identity::Identities,
    learn, memlock,
    object::{LoadError, RingKind, attach, attach_at_end, load_object},
    rings::{Alarm, Rings},
    slot_ring::SlotRing,
    stacks::{CallerWord, CapturedStack, StackRing},
    symbols::Handlers,
};
use crate::model::{
    HookRecord, Nanos, Record,
    hooks::{ACCEPT, HOOKS, Hook, Programs, Requirement, SEND_RESET},
    record::KernelLosses,
};

/// A part of tracing that [`Options`] can switch off, to reproduce what other kernels show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disabled {
    /// The optional hook of this name, and those attached together with it.
    Hook(&'static str),
    /// The field `tw_entry_stamp` of timewait sockets.
    EntryStamp,
    /// `/proc/kallsyms`: the addresses are learned from a loopback connection.
    Kallsyms,
    /// The cookies of sockets, and what else kernels before 5.12 lack: ids are made in user space.
    Cookies,
    /// Memory-mapped rings: the kernel's ring buffers are used.
    MappedRings,
    /// All reports: the programs return at once, to measure the overhead of the hooks.
    Reports,
}

impl Disabled {
    /// Every part, by the name of its argument.
    pub fn all() -> impl Iterator<Item = (&'static str, Self)> {
        let others = [
            ("entry-stamp", Self::EntryStamp),
            ("kallsyms", Self::Kallsyms),
            ("cookies", Self::Cookies),
            ("mapped-rings", Self::MappedRings),
            ("everything", Self::Reports),
        ];
        let hooks = HOOKS.iter().filter_map(Hook::optional).map(|hook| (hook.name, Self::Hook(hook.name)));
        hooks.chain(others)
    }
}

/// How to load the program.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Size of all rings together in bytes: a power of two, at least a MiB. `None`: 16 MiB, and at least 2 MiB for each ring.
    pub ring_bytes: Option<u32>,
    /// What not to use.
    pub without: Vec<Disabled>,
    /// Which records to report.
    pub filter: KernelFilter,
    /// User stacks captured per process, kind of call and second before they are sampled; 0 captures none.
    pub stacks_per_second: u32,
    /// Whether to fail where the stacks of `accept()` can't be captured.
    pub needs_accept: bool,
}

/// Arguments of [`SEND_RESET`] where it passes a reason (6.10).
const SEND_RESET_ARGUMENTS: usize = 3;

/// A running trace. Dropping it detaches everything.
pub struct Tracer {
    ring_kind: RingKind,
    rings: Rings<AnyRing>,
    alarm: Alarm,
    /// The kernel's numbers for reset reasons.
    reset_reasons: Vec<(u32, ResetReason)>,
    doubles: Doubles,
    /// The ids of sockets, where the kernel assigns no cookies.
    identities: Option<Identities>,
    /// Number of copies of the programs of hooks that may interrupt themselves.
    copies: usize,
    /// Events missed by every copy, when last computed.
    previous_missed: u64,
    losses: PerCpuArray<MapData, u64>,
    /// `None` if no stacks are captured.
    stacks: Option<StackRing>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// The attached hooks.
    attached: Vec<&'static Hook>,
    /// Why `accept()` is not seen although stacks are captured.
    accept_refused: Option<String>,
    /// Keeps programs and links alive.
    ebpf: Ebpf,
}

impl Tracer {
    /// Loads the object and attaches every hook.
    pub fn start(types: &KernelTypes, options: &Options) -> Result<Self, LoadError> {
        if types.counts_locked_memory() {
            // Such a kernel (before 5.11) lacks the instructions of the other kind, too.
            memlock::raise_soft_limit();
            return Self::load(RingKind::Buffers, types, options).map_err(memlock::explain);
        }
        if options.without.contains(&Disabled::MappedRings) {
            return Self::load(RingKind::Buffers, types, options);
        }
        match Self::load(RingKind::Slots, types, options) {
            Err(LoadError::Hook { .. }) => Self::load(RingKind::Buffers, types, options),
            result => result,
        }
    }

    fn load(kind: RingKind, types: &KernelTypes, options: &Options) -> Result<Self, LoadError> {
        let mut offsets = types.offsets()?;
        let is_disabled = |part| options.without.contains(&part);
        if is_disabled(Disabled::EntryStamp) {
            offsets.tw_entry_stamp = ABSENT;
        }
        let has_reset_reason = types.hook_arguments(SEND_RESET) == Some(SEND_RESET_ARGUMENTS);
        let mut attached = hooks_to_attach(types, &options.without);
        if attached.iter().any(|hook| hook.tracepoint == SEND_RESET) && has_reset_reasons(types) {
            // The reset reason shows unread data, so the program need not read this field.
            offsets.copied_seq = ABSENT;
        }
        let copies = if types.has_recursion_guard() { copies_for(uname().release().to_bytes()) } else { 1 };
        let has_cookies = types.has_cookie_helper() && !is_disabled(Disabled::Cookies);
        let btf = Btf::parse(&types.hooks_only(), Endianness::default())?;
        let rings = ring_count(kind, online_cpus().map_or(1, |cpus| cpus.len()));
        let ring_bytes = options.ring_bytes.map_or_else(|| default_ring_bytes(rings), |bytes| bytes as usize);
        let slots = (ring_bytes / rings / SLOT_LEN).max(LEAST_SLOTS);
        let mut config = Config {
            tw_timer_handler: 0,
            reqsk_timer_handler: 0,
            learn_cookie: 0,
            learn_ports: 0,
            idle: u32::from(is_disabled(Disabled::Reports)),
            ring_mask: rings as u32 - 1,
            ring_slots: slots as u32,
            ordered_writes: u32::from(cfg!(target_arch = "x86_64")),
            has_reset_reason: u32::from(has_reset_reason),
            copies: copies as u32,
            has_helpers: u32::from(has_cookies),
            stack_len: 16 << 10,
            stacks_per_second: options.stacks_per_second,
            user_sp: if types.has_registers_helper() && has_cookies { USER_STACK_POINTER } else { ABSENT },
            reserved: 0,
            offsets,
        };
        let mut handlers =
            if is_disabled(Disabled::Kallsyms) { Handlers::default() } else { Handlers::from_kallsyms() };
        if !handlers.are_known() {
            handlers = learn::handlers(kind, &config, &btf).map_err(LoadError::Handlers)?;
        }
        config.tw_timer_handler = handlers.tw_timer;
        config.reqsk_timer_handler = handlers.reqsk_timer;

        let mut ebpf = load_object(kind, &config, &options.filter)?;
        let accept_refused = attach_all(&mut ebpf, &mut attached, copies, types, &btf, options)?;
        let (rings, alarm) = open_rings(kind, &mut ebpf, rings, slots)?;
        let captures_stacks = options.stacks_per_second != 0;
        let stacks = captures_stacks.then(|| ring_buffer(take_map(&mut ebpf, ring::STACKS)?)).transpose()?;
        let losses = ebpf.take_map("LOSSES").ok_or(LoadError::Part("LOSSES map"))?;
        let logger = EbpfLogger::init(&mut ebpf).ok();
        Ok(Self {
            ring_kind: kind,
            alarm,
            rings: Rings::new(rings),
            doubles: Doubles::new(copies),
            identities: (!has_cookies).then(Identities::default),
            copies,
            previous_missed: 0,
            reset_reasons: types.reset_reasons().to_vec(),
            losses: losses.try_into().map_err(|_| LoadError::Part("LOSSES array"))?,
            stacks: stacks.map(StackRing::new),
            logger,
            attached,
            accept_refused,
            ebpf,
        })
    }

    /// How records reach user space.
    pub const fn ring_kind(&self) -> RingKind {
        self.ring_kind
    }

    /// Whether the hook at `tracepoint` is attached.
    pub fn is_attached(&self, tracepoint: &str) -> bool {
        self.attached.iter().any(|hook| hook.tracepoint == tracepoint)
    }

    /// Why `accept()` is not seen although stacks are captured.
    pub fn accept_refused(&self) -> Option<&str> {
        self.accept_refused.as_deref()
    }

    /// Passes on at most `most` records up to `until`, a time in the past; the records of a socket come in order. Returns the time up
    /// to which all were passed on, as `Rings::drain` does.
    pub fn drain(&mut self, most: usize, until: Nanos, mut take: impl FnMut(HookRecord)) -> Nanos {
        if self.stacks.as_mut().is_some_and(|stacks| !stacks.read()) {
            return self.rings.passed();
        }
        let covered = Reentrant::ALL.map(|hook| self.covered(hook).unwrap_or(0));
        let Self { rings, reset_reasons, doubles, identities, stacks, .. } = self;
        let mut watch = doubles.begin(covered.iter().sum());
        let passed = rings.drain(most, until, |mut seen| {
            if let Some(stacks) = stacks {
                stacks.numbers().join(&mut seen.raw);
            }
            watch.check(&seen.raw);
            if seen.raw.kind == Kind::ResetSent as u8 {
                seen.raw.arg0 = translate_reset_reason(reset_reasons, seen.raw.arg0) as u64;
            }
            if let Some(identities) = identities {
                identities.identify(&mut seen);
            }
            take(seen);
        });
        watch.end(most);
        passed
    }

    /// Captured stacks that are new since the last call.
    pub fn new_stacks(&mut self) -> Vec<CapturedStack> {
        self.stacks.as_mut().map(|stacks| stacks.numbers().take_new()).unwrap_or_default()
    }

    /// Tells stacks with different callers apart, now that the place of the caller is known.
    pub fn set_caller(&mut self, caller: CallerWord) {
        if let Some(stacks) = &mut self.stacks {
            stacks.numbers().set_caller(caller);
        }
    }

    /// Whether the ids of sockets are tcptrace's own, because the kernel assigns no cookies.
    pub const fn makes_ids(&self) -> bool {
        self.identities.is_some()
    }

    /// Replaces the cookie in a record that no hook reported by the id of the socket. The hooks' records of everything
    /// that it lists must have been drained before.
    pub fn identify(&mut self, record: &mut Record) {
        if let Some(identities) = &mut self.identities {
            identities.identify_listed(record);
        }
    }

    /// Waits for `longest`, or until a ring fills faster than that.
    pub fn wait(&mut self, longest: Duration) {
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
            stacks: known(count(loss::STACK), before.stacks),
            uncounted: before.uncounted.max(unread),
        }
    }

    /// Events that every copy of a program missed. Of the events that the first copy missed, later ones reported `covered`
    /// minus the duplicates. The result is at most the rest, and at most what each copy missed. `None` when the kernel
    /// does not expose the counters.
    fn recursion_missed(&self) -> Option<u64> {
        let misses = |name: &str| {
            let program = self.ebpf.program(name)?.fd().ok()?;
            recursion_misses(program.as_fd()).ok()
        };
        let by_all = |hook: Reentrant, names: &[&str; 3]| {
            // The order matters: a duplicate is counted as covered before the reader sees it.
            let by_copy = names[..self.copies].iter().map(|name| misses(name)).collect::<Option<Vec<_>>>()?;
            let rest = not_covered(by_copy[0], self.covered(hook)?, self.doubles.of(hook));
            by_copy.into_iter().chain([rest]).min()
        };
        let of_hook = |hook: &&Hook| match hook.programs {
            Programs::One(_) => Some(0),
            Programs::Copies(hook, ref names) => by_all(hook, names),
            // Only one of them is loaded.
            Programs::FunctionEnd(hook, ref programs) => {
                programs.iter().find_map(|(_, names)| by_all(hook, names))
            }
        };
        self.attached.iter().map(of_hook).sum()
    }

    /// How often a later copy of a program found no mark of an earlier one.
    fn covered(&self, hook: Reentrant) -> Option<u64> {
        Some(self.losses.get(&(loss::COVERED + hook as u32), 0).ok()?.iter().copied().sum())
    }
}

/// Offset of the user stack pointer in `struct pt_regs`. Elsewhere a wrapper of a system call returns to an address in a register.
const USER_STACK_POINTER: u32 = if cfg!(target_arch = "x86_64") { 152 } else { ABSENT };

/// How many copies of the programs of a hook that may interrupt itself a kernel needs that skips such programs: since 7.0 a
/// task may lose its CPU inside a program.
fn copies_for(release: &[u8]) -> usize {
    let major =
        str::from_utf8(release).ok().and_then(|release| release.split('.').next()?.parse::<u32>().ok());
    if major.is_none_or(|major| major >= 7) { 3 } else { 2 }
}

/// Of the events that the first copy `missed`, those that the others did not report.
const fn not_covered(missed: u64, covered: u64, doubles: u64) -> u64 {
    (missed + doubles).saturating_sub(covered)
}

/// The hooks to attach on this kernel, in order.
fn hooks_to_attach(types: &KernelTypes, without: &[Disabled]) -> Vec<&'static Hook> {
    let is_disabled =
        |leader: &Hook| leader.optional().is_some_and(|hook| without.contains(&Disabled::Hook(hook.name)));
    let is_wanted = |hook: &&Hook| match hook.requirement {
        Requirement::Needed => true,
        Requirement::ForStacks => false,
        Requirement::Optional(_) | Requirement::With(_) | Requirement::WithIfPresent(_) => {
            let leader = HOOKS.iter().find(|leader| leader.tracepoint == hook.leader());
            leader.is_some_and(|leader| !is_disabled(leader)) && types.has_hook(hook)
        }
    };
    HOOKS.iter().rev().filter(is_wanted).collect()
}

/// Attaches every hook in `attached`, and adds the one that only stacks need. If the kernel refuses that one, the result says why.
fn attach_all(
    ebpf: &mut Ebpf,
    attached: &mut Vec<&'static Hook>,
    copies: usize,
    types: &KernelTypes,
    btf: &Btf,
    options: &Options,
) -> Result<Option<String>, LoadError> {
    let programs = attached
        .iter()
        .flat_map(|hook| hook.functions(copies).iter().map(|&function| (function, hook.tracepoint)));
    attach(ebpf, &programs.collect::<Vec<_>>(), btf)?;
    if options.stacks_per_second == 0 {
        return Ok(None);
    }
    match attach_to_accept(ebpf, copies, types, btf) {
        Ok(hook) => {
            attached.push(hook);
            Ok(None)
        }
        Err(refusal) if options.needs_accept => Err(LoadError::Accept(refusal)),
        Err(refusal) => Ok(Some(refusal)),
    }
}

/// Opens the rings, each of `slots` slots, and what wakes their reader.
fn open_rings(
    kind: RingKind,
    ebpf: &mut Ebpf,
    rings: usize,
    slots: usize,
) -> Result<(Vec<AnyRing>, Alarm), LoadError> {
    match kind {
        RingKind::Slots => {
            let (slot_map, cursor_map) = (take_map(ebpf, ring::SLOTS)?, take_map(ebpf, ring::CURSORS)?);
            let maps = (map_data(&slot_map)?.fd(), map_data(&cursor_map)?.fd());
            let all = SlotRing::all(maps.0, maps.1, rings, slots).map_err(LoadError::Rings)?;
            let alarm = Alarm::own(ring_buffer(take_map(ebpf, ring::ALARM)?)?).map_err(LoadError::Rings)?;
            Ok((all.into_iter().map(AnyRing::Slots).collect(), alarm))
        }
        RingKind::Buffers => {
            let all = ring::BUFFERS[..rings].iter().map(|name| ring_buffer(take_map(ebpf, name)?));
            let all = all.collect::<Result<Vec<_>, _>>()?;
            let alarm = Alarm::of(&all).map_err(LoadError::Rings)?;
            Ok((all.into_iter().map(AnyRing::Buffer).collect(), alarm))
        }
    }
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Part("ring"))
}

/// Attaches the programs at the end of `accept()`; the error says in a few words why that is impossible.
fn attach_to_accept(
    ebpf: &mut Ebpf,
    copies: usize,
    types: &KernelTypes,
    btf: &Btf,
) -> Result<&'static Hook, String> {
    let hook = HOOKS.iter().find(|hook| hook.tracepoint == ACCEPT).ok_or("no such hook")?;
    let programs = types.programs_at_end(hook).ok_or("it has no such function with known arguments")?;
    // The kernel calls the one that was attached last first (`bpf_trampoline_link_prog()`).
    let mut programs = programs[..copies].iter().rev();
    programs.try_for_each(|program| attach_at_end(ebpf, program, hook.tracepoint, btf)).map_err(|error| {
        match error {
            // The verifier's log has many lines.
            LoadError::Hook { source: ProgramError::LoadError { io_error, .. }, .. } => io_error.to_string(),
            LoadError::Hook { source: ProgramError::SyscallError(error), .. } => error.io_error.to_string(),
            error => error.to_string(),
        }
    })?;
    Ok(hook)
}

/// Least slots of a ring.
const LEAST_SLOTS: usize = 128;

/// Memory of all rings by default. A ring below 2 MiB is a quarter full before the reader looks again, at the rate of a CPU
/// that does nothing but open and close connections.
const fn default_ring_bytes(rings: usize) -> usize {
    const LEAST: usize = 16 << 20;
    let scaled = rings * (2 << 20);
    if scaled > LEAST { scaled } else { LEAST }
}

/// Number of rings for `cpus`: a power of two.
fn ring_count(kind: RingKind, cpus: usize) -> usize {
    cpus.max(1).next_power_of_two().min(kind.most())
}

fn map_data(map: &Map) -> Result<&MapData, LoadError> {
    match map {
        Map::Array(data) => Ok(data),
        _ => Err(LoadError::Part("array of slots")),
    }
}

fn ring_buffer(map: Map) -> Result<RingBuf<MapData>, LoadError> {
    map.try_into().map_err(|_| LoadError::Part("ring buffer"))
}

/// Translates the kernel's number of a reset reason. A number outside of the table is another reason; without a table
/// the reason is not specified.
fn translate_reset_reason(table: &[(u32, ResetReason)], number: u64) -> ResetReason {
    let named = table.iter().find(|&&(known, _)| u64::from(known) == number).map(|&(_, reason)| reason);
    let otherwise = if table.is_empty() { ResetReason::NotSpecified } else { ResetReason::Other };
    named.unwrap_or(otherwise)
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
        let of = |kind| [0, 1, 2, 3, 4, 6, 8, 128, 6000].map(|cpus| ring_count(kind, cpus));
        assert_eq!(of(RingKind::Slots), [1, 1, 2, 4, 4, 8, 8, 128, 4096]);
        assert_eq!(of(RingKind::Buffers), [1, 1, 2, 4, 4, 8, 8, 8, 8]);
    }

    #[test]
    fn default_ring_memory_grows_with_the_cpus() {
        assert_eq!([1, 2, 8, 64].map(default_ring_bytes), [16 << 20, 16 << 20, 16 << 20, 128 << 20]);
    }

    #[test]
    fn preemptible_programs_need_a_third_copy() {
        let releases: [&[u8]; 5] = [b"5.10.0-36", b"6.18.5+", b"7.2.13+deb14-cloud-amd64", b"10.0", b"?"];
        assert_eq!(releases.map(copies_for), [2, 2, 3, 3, 3]);
    }

    #[test]
    fn kernel_and_options_select_the_hooks() {
        let attached = |btf: &[u8], without: &[Disabled]| -> Vec<&str> {
            let types = KernelTypes::parse(btf).expect("BTF");
            hooks_to_attach(&types, without).iter().map(|hook| hook.tracepoint).collect()
        };
        let old = attached(include_bytes!("fixtures/5.10.btf"), &[]);
        assert!(old.contains(&SEND_RESET) && !old.contains(&"inet_sk_error_report"), "{old:?}");
        assert!(attached(include_bytes!("fixtures/6.1.btf"), &[]).contains(&"inet_sk_error_report"));
        let middle = attached(include_bytes!("fixtures/6.1.btf"), &[]);
        assert!(middle.contains(&SEND_RESET) && !middle.contains(&"kfree_skb"), "{middle:?}");
        let new: &[u8] = include_bytes!("fixtures/7.2.btf");
        assert!(attached(new, &[]).contains(&"kfree_skb"));
        assert!(!attached(new, &[Disabled::Hook("segment")]).contains(&"kfree_skb"));
        let all: Vec<_> = Disabled::all().map(|(_, part)| part).collect();
        let needed = ["timer_expire_entry", "timer_cancel", "timer_start", "inet_sock_set_state"];
        assert_eq!(attached(new, &all), needed);
    }
}
