//! The table `records`: what was observed, a row each, with everything that the recording says once only
//! filled in.

use super::{
    Column,
    Kind::{Number, Signed, Text, Time},
    Value, column,
};
use crate::{
    model::{
        Addr, Observation, Record, SeedSocket, TcpState,
        record::{HostFacts, SeedObject, Sweep},
        text,
    },
    session::schema::{self, RowKind},
};
use tcptrace_common::record::Kind;

/// Its columns.
pub const RECORDS: [Column; 22] = [
    column("ts_ns", Time),
    column("kind", Text),
    column("cookie", Number),
    column("object", Number),
    column("netns", Number),
    column("saddr", Text),
    column("sport", Number),
    column("daddr", Text),
    column("dport", Number),
    column("ifindex", Number),
    column("from", Text),
    column("to", Text),
    column("flags", Number),
    column("arg0", Signed),
    column("arg1", Signed),
    column("pid", Number),
    column("tid", Number),
    column("comm", Text),
    column("cgroup", Number),
    column("inode", Number),
    column("uid", Number),
    column("name", Text),
];

type Row<'a> = [Value<'a>; RECORDS.len()];

/// The row of `record`; `None` for a tick, which says nothing but the time, and for what is no row of a table:
/// the host's facts, settings, counters and losses.
pub fn row<'a>(record: &'a Record, host: &HostFacts) -> Option<Row<'a>> {
    let mut row = [const { Value::Missing }; RECORDS.len()];
    let ts = record.ts()?;
    row[0] = Value::Number(host.clock_offset_ns.saturating_add(ts.0));
    let kind = match record {
        Record::Kernel(seen) => {
            observation(seen, &mut row);
            RowKind::Kernel(Kind::from_raw(seen.raw.kind)?)
        }
        Record::Seed(seen) => {
            seed(seen, &mut row, [RowKind::Seed, RowKind::SeedMinisocket, RowKind::SeedRequest])
        }
        Record::Found(seen) => {
            seed(seen, &mut row, [RowKind::Found, RowKind::FoundMinisocket, RowKind::FoundRequest])
        }
        Record::Missing { id, netns, tuple, from, .. } => {
            ends(&mut row, id.0, netns.0, tuple.saddr, tuple.daddr);
            ports(&mut row, tuple.sport, tuple.dport, tuple.ifindex);
            if *from == Sweep::FinWait2 {
                row[11] = Value::text(TcpState::FinWait2.name());
            }
            RowKind::Missing
        }
        Record::Carried(carried) => {
            let socket = &carried.socket;
            ends(&mut row, carried.id.0, socket.netns.0, socket.tuple.saddr, socket.tuple.daddr);
            ports(&mut row, socket.tuple.sport, socket.tuple.dport, socket.tuple.ifindex);
            row[11] = Value::text(socket.state.name());
            RowKind::Carried
        }
        Record::Owner { id, process, .. } => {
            row[2] = Value::Number(id.0);
            row[15] = Value::Number(process.pid.into());
            row[17] = Value::Text(text::sanitise(&process.comm));
            row[18] = Value::Number(process.cgroup);
            RowKind::Owner
        }
        Record::NetnsName { netns, name, .. } => {
            row[4] = Value::Number(netns.0.into());
            row[21] = Value::Text(text::sanitise(name));
            RowKind::NetnsName
        }
        Record::CgroupPath { cgroup, path, .. } => {
            row[18] = Value::Number(*cgroup);
            row[21] = Value::Text(text::sanitise(path));
            RowKind::CgroupPath
        }
        Record::SeedEnd { .. } => RowKind::SeedEnd,
        Record::OwnersEnd { .. } => RowKind::OwnersEnd,
        Record::Continuation(_) => RowKind::Continuation,
        Record::Host(_)
        | Record::Listing(_)
        | Record::NetnsSettings { .. }
        | Record::NetnsCounters { .. }
        | Record::Loss { .. }
        | Record::Tick { .. } => return None,
    };
    let (name, _) = schema::KINDS.iter().find(|(_, known)| *known == kind)?;
    row[1] = Value::text(*name);
    Some(row)
}

fn ends(row: &mut Row<'_>, cookie: u64, netns: u32, saddr: Addr, daddr: Addr) {
    row[2] = Value::Number(cookie);
    row[4] = Value::Number(netns.into());
    row[5] = Value::text(saddr.to_string());
    row[7] = Value::text(daddr.to_string());
}

fn ports(row: &mut Row<'_>, sport: u16, dport: u16, ifindex: u32) {
    row[6] = Value::Number(sport.into());
    row[8] = Value::Number(dport.into());
    row[9] = Value::Number(ifindex.into());
}

fn observation(seen: &Observation, row: &mut Row<'_>) {
    let raw = &seen.raw;
    ends(row, raw.cookie, raw.netns, Addr(raw.saddr), Addr(raw.daddr));
    ports(row, raw.sport, raw.dport, raw.ifindex);
    row[3] = Value::Number(raw.object);
    if raw.old != 0 {
        row[10] = Value::text(schema::state_name(raw.old));
    }
    if raw.new != 0 {
        row[11] = Value::text(schema::state_name(raw.new));
    }
    row[12] = Value::Number(raw.flags.into());
    row[13] = Value::Signed(raw.arg0.cast_signed());
    row[14] = Value::Signed(raw.arg1.cast_signed());
    if let Some(task) = &seen.task {
        row[15] = Value::Number(task.tgid.into());
        row[16] = Value::Number(task.tid.into());
        row[17] = Value::text(text::from_kernel(&task.comm));
        row[18] = Value::Number(task.cgroup);
    }
}

fn seed(found: &SeedSocket, row: &mut Row<'_>, [full, minisocket, request]: [RowKind; 3]) -> RowKind {
    ends(row, found.id.0, found.netns.0, found.tuple.saddr, found.tuple.daddr);
    ports(row, found.tuple.sport, found.tuple.dport, found.tuple.ifindex);
    row[11] = Value::text(found.state.name());
    row[19] = Value::Number(found.inode.into());
    row[20] = Value::Number(found.uid.into());
    match found.object {
        SeedObject::Full => full,
        SeedObject::Minisocket { left } => {
            row[13] = Value::Signed(left.0.cast_signed());
            minisocket
        }
        SeedObject::Request { timeouts } => {
            row[13] = Value::Signed(timeouts.into());
            request
        }
    }
}
