//! Encodes and decodes every field of a record with values from its full range.

use proptest::prelude::*;
use tcptrace_common::record::{self as raw, Kind, flag};

use super::*;
use crate::{
    model::{
        Addr, HookRecord, NetnsId, SocketId, TcpState, Tuple,
        bound_ports::{BoundAddr, BoundPorts, PortHolder},
        hooks,
        nat::{AddrRange, Backend, Conntrack, SnatRule, TranslatedSource, Translation},
        peer_names::{NameOrigin, Prefix},
        process::ParentProcess,
        record::{Process, ProcessFacts},
        stack::{StackFrame, UserStack},
        workload::Workload,
    },
    session::{
        dictionary::{NumberTable, Objects, Tasks},
        encode::Encoder,
        message::{Compressor, END, header},
        schema::{FORMAT, key},
    },
};

const OFFSET: u64 = 1_767_323_045_000_000_000;

/// A recording of `records` in batches of `portion`.
fn written(records: &[Record], portion: usize) -> Vec<u8> {
    let mut compressor = Compressor::new().expect("memory");
    let metadata = [
        (key::FORMAT, FORMAT.to_string()),
        (key::VERSION, "0".to_owned()),
        (key::CLOCK_OFFSET_NS, OFFSET.to_string()),
    ];
    let mut out = header(&metadata, &mut compressor).expect("memory");
    let mut encoder = Encoder::default();
    encoder.set_clock_offset(OFFSET);
    for portion in records.chunks(portion) {
        for record in portion {
            encoder.record(record);
        }
        encoder.take_batch(&mut compressor, &mut out).expect("memory");
    }
    out.extend_from_slice(&END);
    out
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>(), 0..300_u64]
}

fn small() -> impl Strategy<Value = u32> {
    number().prop_map(|n| n as u32)
}

/// Cookies as the kernel counts them, up and down.
fn cookie() -> impl Strategy<Value = u64> {
    prop_oneof![1..20_u64, (1..20_u64).prop_map(|n| u64::MAX - n)]
}

fn tuple() -> impl Strategy<Value = Tuple> {
    (any::<[u8; 2]>(), small(), small(), small()).prop_map(|([s, d], sport, dport, ifindex)| Tuple {
        saddr: Addr([s % 3; 16]),
        daddr: Addr([d % 3; 16]),
        sport: sport as u16,
        dport: dport as u16,
        ifindex,
    })
}

fn state() -> impl Strategy<Value = TcpState> {
    (0..TcpState::COUNT).prop_map(|n| TcpState::ALL[n])
}

fn process() -> impl Strategy<Value = Process> {
    (small(), "[ -~]{0,16}", number()).prop_map(|(pid, comm, cgroup)| Process::new(pid, comm, cgroup))
}

fn optional_name() -> impl Strategy<Value = Option<std::sync::Arc<str>>> {
    prop::option::of("[ -~]{0,20}".prop_map(Into::into))
}

fn workload() -> impl Strategy<Value = Workload> {
    let name = optional_name;
    (name(), name(), name(), name(), name(), name()).prop_map(
        |(runtime, pod, k8s_namespace, container, image, unit)| {
            let workload =
                Workload { runtime, pod, k8s_namespace, container, image, unit, ..Workload::default() };
            workload.labelled()
        },
    )
}

fn facts() -> impl Strategy<Value = ProcessFacts> {
    let name = optional_name;
    let parents = prop::collection::vec((small(), "[ -~]{0,15}"), 0..3);
    let of_process = (prop::option::of(small()), parents, prop::option::of(workload()));
    (name(), name(), name(), name(), of_process).prop_map(
        |(exe, user, name, command, (uid, parents, workload))| {
            let parents =
                parents.into_iter().map(|(pid, comm)| ParentProcess { pid, comm: comm.into() }).collect();
            let workload = workload.map(Into::into);
            ProcessFacts { exe, uid, user, name, command, parents, workload, user_label: None }.labelled()
        },
    )
}

fn kernel() -> impl Strategy<Value = Record> {
    let task = prop::option::of((number(), small(), small(), "[a-z]{0,16}"));
    let ends = (tuple(), small(), any::<u8>());
    (1..=14_u8, number(), cookie(), 0..9_u64, number(), number(), ends, (state(), state()), task).prop_map(
        |(kind, ts_ns, cookie, object, arg0, arg1, (tuple, netns, flags), (old, new), task)| {
            let kind = Kind::from_raw(kind).map_or(Kind::Transition as u8, |kind| kind as u8);
            let task = task.map(|(cgroup, tgid, tid, name)| {
                let mut comm = [0; 16];
                comm[..name.len()].copy_from_slice(name.as_bytes());
                raw::Task { cgroup, tgid, tid, comm }
            });
            let raw = raw::RawRecord {
                ts_ns,
                cookie,
                object,
                arg0,
                arg1,
                saddr: tuple.saddr.0,
                daddr: tuple.daddr.0,
                netns,
                ifindex: tuple.ifindex,
                sport: tuple.sport,
                dport: tuple.dport,
                kind,
                old: old as u8,
                new: new as u8,
                flags: flags & !flag::TASK | if task.is_some() { flag::TASK } else { 0 },
            };
            Record::Kernel(HookRecord { raw, task })
        },
    )
}

fn listed() -> impl Strategy<Value = SeedSocket> {
    let object = prop_oneof![
        Just(SeedObject::Full),
        number().prop_map(|left| SeedObject::Timewait { left: Nanos(left) }),
        any::<u8>().prop_map(|timeouts| SeedObject::Request { timeouts }),
    ];
    (number(), cookie(), small(), tuple(), state(), object, (small(), small(), small(), small())).prop_map(
        |(ts, id, netns, tuple, state, object, (inode, uid, rqueue, wqueue))| SeedSocket {
            ts: Nanos(ts),
            id: SocketId(id),
            netns: NetnsId(netns),
            tuple,
            state,
            object,
            inode,
            uid,
            rqueue,
            wqueue,
        },
    )
}

fn any_record() -> impl Strategy<Value = Record> {
    let at = || number().prop_map(Nanos);
    prop_oneof![
        8 => kernel(),
        2 => listed().prop_map(Record::Seed),
        2 => listed().prop_map(Record::Found),
        1 => (at(), cookie(), small(), tuple(), any::<bool>()).prop_map(|(ts, id, netns, tuple, whole)| {
            let from = if whole { Sweep::Whole } else { Sweep::FinWait2 };
            Record::Missing { ts, id: SocketId(id), netns: NetnsId(netns), tuple, from }
        }),
        1 => (at(), at()).prop_map(|(ts, began)| Record::SeedEnd { ts, began }),
        1 => (at(), cookie(), process(), prop::option::of(small())).prop_map(|(ts, id, process, fd)| {
            Record::Owner { ts, id: SocketId(id), process, fd }
        }),
        1 => at().prop_map(|ts| Record::OwnersEnd { ts }),
        1 => (at(), small(), "[ -~]{0,40}").prop_map(|(ts, netns, name)| {
            Record::NetnsName { ts, netns: NetnsId(netns), name: name.into() }
        }),
        1 => (at(), number(), "[ -~]{0,40}").prop_map(|(ts, cgroup, path)| {
            Record::CgroupPath { ts, cgroup, path: path.into() }
        }),
        1 => (at(), number(), workload()).prop_map(|(ts, cgroup, workload)| {
            Record::Workload { ts, cgroup, workload: workload.into() }
        }),
        1 => (at(), process(), facts()).prop_map(|(ts, process, facts)| {
            Record::ProcessFacts { ts, pid: process.pid, comm: process.comm, facts: facts.into() }
        }),
        1 => (at(), 1..4_u64, tuple(), 0..=128_u8, "[ -~]{0,40}").prop_map(
            |(ts, origin, tuple, bits, name)| Record::AddressName {
                ts,
                origin: NameOrigin::from_number(origin).expect("an origin"),
                prefix: Prefix::new(tuple.daddr, bits),
                name: name.into(),
            }
        ),
        1 => (at(), number()).prop_map(|(ts, offset_ns)| Record::ClockStep(ClockStep { ts, offset_ns })),
        1 => (at(), small(), prop::collection::btree_map("[a-z]{1,9}", number(), 0..4)).prop_map(
            |(ts, netns, counters)| Record::NetnsCounters { ts, netns: NetnsId(netns), counters }
        ),
        1 => (at(), small(), number(), tuple(), number()).prop_map(|(ts, netns, entries, tuple, used)| {
            let row = Translation {
                snat_addr: tuple.saddr,
                daddr: tuple.daddr,
                dport: tuple.dport,
                zone: tuple.sport,
                used,
                time_wait: entries,
                close: 0,
                ports: (tuple.sport, tuple.dport),
                sources: vec![TranslatedSource { saddr: tuple.daddr, used, time_wait: 1 }],
                other_sources: used,
            };
            let rule = SnatRule { addrs: Some(AddrRange(tuple.saddr, tuple.daddr)), ports: None };
            let (translations, rules) = (vec![row], vec![rule, SnatRule::default()]);
            let backends = vec![Backend {
                saddr: tuple.saddr,
                daddr: tuple.daddr,
                dport: tuple.dport,
                addr: tuple.saddr,
                port: tuple.sport,
                used,
            }];
            let conntrack =
                Box::new(Conntrack { entries, rules, translations, backends, ..Conntrack::default() });
            Record::Conntrack { ts, netns: NetnsId(netns), conntrack }
        }),
        1 => (at(), small(), tuple(), number(), "\\PC{0,15}").prop_map(|(ts, netns, tuple, sockets, comm)| {
            let holder = PortHolder { pid: netns, comm, cgroup: sockets, sockets };
            let ports = vec![(tuple.sport, tuple.dport), (tuple.dport, tuple.dport)];
            let addr = BoundAddr { saddr: tuple.saddr, ports, holders: vec![holder] };
            let bound = Box::new(BoundPorts { addrs: vec![addr], other_ports: sockets });
            Record::BoundPorts { ts, netns: NetnsId(netns), bound }
        }),
        1 => (at(), small(), "[ -~]{0,15}", number(), any::<bool>()).prop_map(|(ts, number, name, offset, is_cut)| {
            let frame = |line| StackFrame {
                function: name.as_str().into(),
                offset,
                module: name.as_str().into(),
                file: name.as_str().into(),
                line,
                is_inlined: is_cut,
            };
            let stack = Arc::new(UserStack { frames: vec![frame(0), frame(number)], is_cut });
            Record::Stack { ts, number, stack }
        }),
        1 => (at(), number(), number()).prop_map(|(ts, ring_full, uncounted)| {
            Record::Loss { ts, losses: KernelLosses { ring_full, uncounted, ..KernelLosses::default() } }
        }),
    ]
}

/// Describes records; kernel objects are numbered in order of appearance, if the file contains them.
fn as_text(records: &[Record]) -> Vec<String> {
    let mut objects = std::collections::HashMap::new();
    let as_text = |record: &Record| {
        let Record::Kernel(seen) = record else { return format!("{record:?}") };
        let mut seen = *seen;
        let is_unpaired = Kind::from_raw(seen.raw.kind)
            .is_some_and(|kind| hooks::reported(kind).object == hooks::KernelObject::Full);
        let next = objects.len() as u64 + 1;
        seen.raw.object = match seen.raw.object {
            _ if is_unpaired => 0,
            0 => 0,
            object => *objects.entry(object).or_insert(next),
        };
        format!("{seen:?}")
    };
    records.iter().map(as_text).collect()
}

proptest! {
    #[test]
    fn whatever_is_written_comes_back(
        records in prop::collection::vec(any_record(), 1..80), portion in 1..40_usize,
    ) {
        let (read, ending) = read_all(&written(&records, portion)).expect("a recording");
        prop_assert_eq!(ending, Ending::Closed);
        prop_assert_eq!(as_text(&read), as_text(&records));
    }
}

#[test]
fn recording_with_only_its_end_is_closed() {
    let (read, ending) = read_all(&written(&[], 1)).expect("a recording");
    assert_eq!((read.len(), ending), (0, Ending::Closed));
}

#[test]
fn ticks_alone_are_no_content() {
    let mut encoder = Encoder::default();
    let mut compressor = Compressor::new().expect("memory");
    let mut out = Vec::new();
    encoder.take_batch(&mut compressor, &mut out).expect("memory");
    assert!(out.is_empty(), "no batch of no rows");
    encoder.record(&Record::Tick { ts: Nanos(1) });
    assert_eq!(encoder.non_tick_rows(), 0);
    encoder.record(&Record::OwnersEnd { ts: Nanos(1) });
    for record in made(200).iter().filter(|record| matches!(record, Record::Kernel(_))).take(5) {
        encoder.record(record);
    }
    assert_eq!(encoder.non_tick_rows(), 6);
    assert!(!encoder.is_full());
    encoder.take_batch(&mut compressor, &mut out).expect("memory");
    assert_eq!(encoder.non_tick_rows(), 0);
    assert!(!out.is_empty());
    for _ in 1..super::super::encode::MOST_ROWS {
        encoder.record(&Record::Tick { ts: Nanos(1) });
    }
    assert!(!encoder.is_full());
    encoder.record(&Record::Tick { ts: Nanos(1) });
    assert!(encoder.is_full());
}

#[test]
fn text_of_16_mib_ends_a_batch() {
    let mut encoder = Encoder::default();
    let name = |length: usize| Record::NetnsName {
        ts: Nanos(1),
        netns: NetnsId(1),
        name: "x".repeat(length).into(),
    };
    encoder.record(&name((16 << 20) - 1));
    assert!(!encoder.is_full());
    encoder.record(&name(1));
    assert!(encoder.is_full());
}

#[test]
fn number_exhaustion_ends_the_batch() {
    use super::super::dictionary::{MAX_SOCKET_NUMBERS, MAX_TASK_NUMBERS};
    let mut numbers = NumberTable::default();
    let most = MAX_SOCKET_NUMBERS as u64;
    (0..most - 2).for_each(|key| assert_eq!(u64::from(numbers.of(key).number), key));
    assert!(!numbers.is_full());
    numbers.of(most);
    assert!(numbers.is_full());
    numbers.release(3);
    assert!(numbers.is_full(), "it is free from the next batch on");
    // Few numbers are left: everything is defined again.
    numbers.end_batch();
    assert!(!numbers.is_full() && numbers.of(5).is_new);

    let mut tasks = Tasks::default();
    let task = |n: usize| raw::Task { cgroup: n as u64, tgid: 1, tid: 1, comm: [0; 16] };
    for n in 0..MAX_TASK_NUMBERS {
        assert!(!tasks.is_full());
        let numbered = tasks.of(&task(n));
        assert_eq!((numbered.number as usize, numbered.is_new), (n, true));
    }
    assert!(tasks.is_full());
    let numbered = tasks.of(&task(7));
    assert_eq!((numbered.number, numbered.is_new), (7, false));
    tasks.forget();
    assert!(!tasks.is_full() && tasks.of(&task(7)).is_new);

    let mut objects = Objects::default();
    assert_eq!([5, 9, 5, 0, 9, 7].map(|address| objects.number(address)), [1, 2, 1, 0, 2, 3]);
}

#[test]
fn ended_socket_numbers_are_reused_in_order() {
    use super::super::dictionary::MAX_SOCKET_NUMBERS;
    let mut numbers = NumberTable::default();
    // As many sockets exist at once as fit in a batch; all end before the next.
    let mut given = Vec::new();
    for batch in 0..40_u64 {
        for n in 0..(1_u64 << 15) {
            let key = 1 + batch * (1 << 15) + n;
            let numbered = numbers.of(key);
            assert!(numbered.is_new);
            if n == 0 {
                given.push(numbered.number as usize);
            }
            numbers.release(key);
        }
        numbers.end_batch();
    }
    let wanted: Vec<usize> = (0..40).map(|batch| (batch << 15) % MAX_SOCKET_NUMBERS).collect();
    assert_eq!(given, wanted);
}
