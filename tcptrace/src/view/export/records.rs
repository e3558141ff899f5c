//! The table `records`: one row per observation, with the values filled in that the recording stores only once.

use super::table::{
    ColumnKind::{Number, Signed, Text, Time},
    ExportColumn, ExportValue, column,
};
use crate::{
    model::{
        Addr, HookRecord, Record, SeedSocket, TcpState,
        record::{HostFacts, SeedObject, Sweep},
        text,
    },
    session::schema::{self, RowKind},
};
use tcptrace_common::record::Kind;

/// Columns of the table.
pub const RECORDS: [ExportColumn; 22] = [
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

type Row<'a> = [ExportValue<'a>; RECORDS.len()];

/// The row of `record`; `None` for a tick, which holds only the time, and for records that fit no row: host facts,
/// settings, counters and losses.
pub fn row<'a>(record: &'a Record, host: &HostFacts) -> Option<Row<'a>> {
    let mut row = [const { ExportValue::Missing }; RECORDS.len()];
    let ts = record.ts()?;
    row[0] = ExportValue::Number(host.wall_ns(ts));
    let kind = match record {
        Record::Kernel(seen) => {
            observation(seen, &mut row);
            RowKind::Kernel(Kind::from_raw(seen.raw.kind)?)
        }
        Record::Seed(seen) => {
            seed(seen, &mut row, [RowKind::Seed, RowKind::SeedTimewait, RowKind::SeedRequest])
        }
        Record::Found(seen) => {
            seed(seen, &mut row, [RowKind::Found, RowKind::FoundTimewait, RowKind::FoundRequest])
        }
        Record::Missing { id, netns, tuple, from, .. } => {
            ends(&mut row, id.0, netns.0, tuple.saddr, tuple.daddr);
            ports(&mut row, tuple.sport, tuple.dport, tuple.ifindex);
            if *from == Sweep::FinWait2 {
                row[11] = ExportValue::text(TcpState::FinWait2.name());
            }
            RowKind::Missing
        }
        Record::SocketCheckpoint(carried) => {
            let tuple = &carried.tuple;
            ends(&mut row, carried.id.0, carried.netns.0, tuple.saddr, tuple.daddr);
            ports(&mut row, tuple.sport, tuple.dport, tuple.ifindex);
            row[11] = ExportValue::text(carried.state.name());
            RowKind::Carried
        }
        Record::Owner { id, process, .. } => {
            row[2] = ExportValue::Number(id.0);
            row[15] = ExportValue::Number(process.pid.into());
            row[17] = ExportValue::Text(text::sanitise(&process.comm));
            row[18] = ExportValue::Number(process.cgroup);
            RowKind::Owner
        }
        Record::NetnsName { netns, name, .. } => {
            row[4] = ExportValue::Number(netns.0.into());
            row[21] = ExportValue::Text(text::sanitise(name));
            RowKind::NetnsName
        }
        Record::CgroupPath { cgroup, path, .. } => {
            row[18] = ExportValue::Number(*cgroup);
            row[21] = ExportValue::Text(text::sanitise(path));
            RowKind::CgroupPath
        }
        Record::Workload { cgroup, workload, .. } => {
            row[18] = ExportValue::Number(*cgroup);
            row[21] =
                workload.shown().map_or(ExportValue::Missing, |name| ExportValue::Text(text::sanitise(name)));
            RowKind::Workload
        }
        Record::ProcessFacts { pid, comm, facts, .. } => {
            row[15] = ExportValue::Number((*pid).into());
            row[17] = ExportValue::Text(text::sanitise(comm));
            row[20] = ExportValue::optional(facts.uid.map(u64::from));
            row[21] = facts
                .exe
                .as_deref()
                .map_or(ExportValue::Missing, |exe| ExportValue::Text(text::sanitise(exe)));
            RowKind::ProcessFacts
        }
        Record::AddressName { origin, prefix, name, .. } => {
            row[7] = ExportValue::text(prefix.addr().to_string());
            row[13] = ExportValue::Signed(prefix.bits().into());
            row[14] = ExportValue::Signed(origin.number());
            row[21] = ExportValue::Text(text::sanitise(name));
            RowKind::AddressName
        }
        Record::ClockStep(step) => {
            row[13] = ExportValue::Signed(step.offset_ns.cast_signed());
            RowKind::ClockStep
        }
        Record::SeedEnd { .. } => RowKind::SeedEnd,
        Record::OwnersEnd { .. } => RowKind::OwnersEnd,
        Record::TrackerCheckpoint(_) => RowKind::Continuation,
        Record::Host(_)
        | Record::Listing(_)
        | Record::NetnsSettings { .. }
        | Record::NetnsCounters { .. }
        | Record::Conntrack { .. }
        | Record::BoundPorts { .. }
        | Record::Stack { .. }
        | Record::Loss { .. }
        | Record::Restart { .. }
        | Record::Stream { .. }
        | Record::Tick { .. } => return None,
    };
    row[1] = ExportValue::text(schema::name_of(kind)?);
    Some(row)
}

fn ends(row: &mut Row<'_>, cookie: u64, netns: u32, saddr: Addr, daddr: Addr) {
    row[2] = ExportValue::Number(cookie);
    row[4] = ExportValue::Number(netns.into());
    row[5] = ExportValue::text(saddr.to_string());
    row[7] = ExportValue::text(daddr.to_string());
}

fn ports(row: &mut Row<'_>, sport: u16, dport: u16, ifindex: u32) {
    row[6] = ExportValue::Number(sport.into());
    row[8] = ExportValue::Number(dport.into());
    row[9] = ExportValue::Number(ifindex.into());
}

fn observation(seen: &HookRecord, row: &mut Row<'_>) {
    let raw = &seen.raw;
    ends(row, raw.cookie, raw.netns, Addr(raw.saddr), Addr(raw.daddr));
    ports(row, raw.sport, raw.dport, raw.ifindex);
    row[3] = ExportValue::Number(raw.object);
    if raw.old != 0 {
        row[10] = ExportValue::text(schema::state_name(raw.old));
    }
    if raw.new != 0 {
        row[11] = ExportValue::text(schema::state_name(raw.new));
    }
    row[12] = ExportValue::Number(raw.flags.into());
    row[13] = ExportValue::Signed(raw.arg0.cast_signed());
    row[14] = ExportValue::Signed(raw.arg1.cast_signed());
    if let Some(task) = &seen.task {
        row[15] = ExportValue::Number(task.tgid.into());
        row[16] = ExportValue::Number(task.tid.into());
        row[17] = ExportValue::text(text::from_kernel(&task.comm));
        row[18] = ExportValue::Number(task.cgroup);
    }
}

fn seed(found: &SeedSocket, row: &mut Row<'_>, [full, timewait, request]: [RowKind; 3]) -> RowKind {
    ends(row, found.id.0, found.netns.0, found.tuple.saddr, found.tuple.daddr);
    ports(row, found.tuple.sport, found.tuple.dport, found.tuple.ifindex);
    row[11] = ExportValue::text(found.state.name());
    row[19] = ExportValue::Number(found.inode.into());
    row[20] = ExportValue::Number(found.uid.into());
    match found.object {
        SeedObject::Full => full,
        SeedObject::Timewait { left } => {
            row[13] = ExportValue::Signed(left.0.cast_signed());
            timewait
        }
        SeedObject::Request { timeouts } => {
            row[13] = ExportValue::Signed(timeouts.into());
            request
        }
    }
}
