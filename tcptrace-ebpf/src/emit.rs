//! Reserves space in the rings (only here), and counts records that find none. Records that the filter rejects
//! are neither reported nor lost.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_ktime_get_ns},
    },
};
use aya_log_ebpf::warn;
use tcptrace_common::config::ABSENT;
use tcptrace_common::{
    filter::{Ends, passes, tested_sport},
    record::{Kind, RawRecord, Task, flag, loss},
};

use crate::{
    kernel::{Address, SockCommon, current_task, read},
    maps::{config, count, filter_term},
    ring::RingEntry,
};

/// Values of a record beyond the socket's common part.
pub struct Observation {
    pub kind: Kind,
    pub old: u8,
    pub new: u8,
    pub flags: u8,
    pub cookie: u64,
    pub object: Address,
    pub sport: u16,
    pub arg0: u64,
    pub arg1: u64,
}

/// The ends of a future record, if the filter passes it. Call it before reading anything else.
#[inline(always)]
pub fn wanted(common: &impl SockCommon, kind: Kind, old: u8, sport: u16) -> Option<Ends> {
    let [saddr_high, saddr_low, daddr_high, daddr_low] = common.addresses();
    let ends = Ends {
        saddr: [saddr_high, saddr_low],
        daddr: [daddr_high, daddr_low],
        netns: common.net_inum(),
        sport: tested_sport(kind as u8, old, sport),
        dport: common.dport(),
    };
    passes(filter_term, &ends).then_some(ends)
}

/// Writes one record that passed [`wanted`], with the current task when [`flag::TASK`] is set. Returns whether there
/// was space for it.
#[inline(always)]
pub fn emit(common: &impl SockCommon, ends: &Ends, observation: Observation) -> bool {
    // Before the reservation: the merge of the rings depends on this order, see `kernel/rings.rs`.
    // SAFETY: the helper has no preconditions.
    emit_at(unsafe { bpf_ktime_get_ns() }, common, ends, observation)
}

/// The same for an observation made at `ts_ns`.
#[inline(always)]
pub fn emit_at(ts_ns: u64, common: &impl SockCommon, ends: &Ends, observation: Observation) -> bool {
    let Some(mut entry) = RingEntry::reserve() else {
        count(loss::RING_FULL);
        return false;
    };
    let slot = entry.slot();
    let has_task = observation.flags & flag::TASK != 0;
    // SAFETY: `slot` is this program's until it is submitted; the record is written completely, and so is the task that
    // its flags announce.
    unsafe {
        write_record(&raw mut (*slot).record, ts_ns, common, ends, observation);
        if has_task {
            write_task(&raw mut (*slot).task);
        }
    }
    entry.submit();
    true
}

/// Counts a failed read of kernel memory that must be readable, and logs the first one per CPU.
#[inline(always)]
pub fn read_fault<C: EbpfContext>(ctx: &C, kind: Kind) {
    if count(loss::READ_FAULT) == 1 {
        warn!(ctx, "kernel memory could not be read; record kind {}", kind as u8);
    }
}

/// # Safety
/// `to` is valid for writing a complete record.
#[inline(always)]
unsafe fn write_record(
    to: *mut RawRecord,
    ts_ns: u64,
    common: &impl SockCommon,
    ends: &Ends,
    seen: Observation,
) {
    // SAFETY: by contract; the address fields are 8-byte aligned (`RawRecord` is 88 bytes of
    // naturally aligned fields).
    unsafe {
        (&raw mut (*to).ts_ns).write(ts_ns);
        (&raw mut (*to).cookie).write(seen.cookie);
        (&raw mut (*to).object).write(seen.object as u64);
        (&raw mut (*to).arg0).write(seen.arg0);
        (&raw mut (*to).arg1).write(seen.arg1);
        let saddr = (&raw mut (*to).saddr).cast::<u64>();
        saddr.write(ends.saddr[0]);
        saddr.add(1).write(ends.saddr[1]);
        let daddr = (&raw mut (*to).daddr).cast::<u64>();
        daddr.write(ends.daddr[0]);
        daddr.add(1).write(ends.daddr[1]);
        (&raw mut (*to).netns).write(ends.netns);
        (&raw mut (*to).ifindex).write(common.ifindex());
        (&raw mut (*to).sport).write(seen.sport);
        (&raw mut (*to).dport).write(ends.dport);
        (&raw mut (*to).kind).write(seen.kind as u8);
        (&raw mut (*to).old).write(seen.old);
        (&raw mut (*to).new).write(seen.new);
        (&raw mut (*to).flags).write(seen.flags);
    }
}

/// # Safety
/// `to` is valid for writing a complete task.
#[inline(always)]
unsafe fn write_task(to: *mut Task) {
    let ids = bpf_get_current_pid_tgid();
    // SAFETY: by contract; the helper fills `comm` completely, or zeroes it when it fails.
    unsafe {
        (&raw mut (*to).cgroup).write(bpf_get_current_cgroup_id());
        (&raw mut (*to).tgid).write((ids >> 32) as u32);
        (&raw mut (*to).tid).write(ids as u32);
        match process_name(ids) {
            Some(comm) => (&raw mut (*to).comm).cast::<[u64; 2]>().write(comm),
            None => {
                bpf_get_current_comm((&raw mut (*to).comm).cast(), 16);
            }
        }
    }
}

/// The name of the current process, which is its first thread's, for the current thread's `ids`. Threads have names of
/// their own.
#[inline(always)]
fn process_name(ids: u64) -> Option<[u64; 2]> {
    let (leader, comm) = (config!(offsets.task_group_leader), config!(offsets.task_comm));
    if leader == ABSENT || comm == ABSENT {
        return None;
    }
    let task = current_task();
    let leader = if ids >> 32 == ids & 0xffff_ffff { task } else { read::<u64>(task, leader)? as Address };
    read(leader, comm)
}
