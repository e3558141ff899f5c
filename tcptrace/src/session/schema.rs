//! The schema of a recording: its columns, the names in its dictionaries, the keys of its metadata.
//! docs/session-format.md documents them.

use std::borrow::Cow;

use tcptrace_common::{record::Kind, state::TcpState};

use crate::model::hooks::{REPORTED, reported};

/// The version of the format this program writes: a reader rejects another major version, and skips columns and
/// kinds it does not know within the same one.
pub const FORMAT: Version = Version { major: 1, minor: newest_minor() };

/// The minor version that introduced the newest kind or column.
const fn newest_minor() -> u32 {
    /// Of columns, and of kinds that no hook reports.
    const OTHERS: u32 = 6;
    let (mut newest, mut n) = (OTHERS, 0);
    while n < REPORTED.len() {
        if REPORTED[n].since > newest {
            newest = REPORTED[n].since;
        }
        n += 1;
    }
    newest
}

/// A version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Changes when an older reader would misread the file.
    pub major: u32,
    /// Increases when something is added.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl std::str::FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Self { major: major.parse().map_err(|_| ())?, minor: minor.parse().map_err(|_| ())? })
    }
}

/// Keys of the schema's metadata.
pub mod key {
    /// [`super::FORMAT`].
    pub const FORMAT: &str = "tcptrace.format";
    /// Version of the program that wrote the file.
    pub const VERSION: &str = "tcptrace.version";
    /// Subtract from `ts` to get `CLOCK_MONOTONIC`, nanoseconds.
    pub const CLOCK_OFFSET_NS: &str = "tcptrace.clock_offset_ns";
    /// Host name.
    pub const HOST: &str = "tcptrace.host";
    /// Kernel release.
    pub const KERNEL: &str = "tcptrace.kernel";
    /// Boot id.
    pub const BOOT_ID: &str = "tcptrace.boot_id";
    /// The filter, as an expression; empty for everything.
    pub const FILTER: &str = "tcptrace.filter";
    /// Kernel settings at the start, a JSON object.
    pub const SYSCTLS: &str = "tcptrace.sysctls";
    /// The findings that made the recorder write the file, a JSON array; only in files of `record --when`.
    pub const INCIDENTS: &str = "tcptrace.incidents";
}

/// A type of column, as Arrow names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrowType {
    /// `timestamp[ns, UTC]`.
    Time,
    /// `uint8`.
    U8,
    /// `uint16`.
    U16,
    /// `uint32`.
    U32,
    /// `uint64`.
    U64,
    /// `int64`.
    I64,
    /// `fixed_size_binary[16]`: an address in network order, IPv4 as `::ffff:a.b.c.d`.
    Addr,
    /// `utf8`.
    Text,
    /// `dictionary<uint8, utf8>` of [`KINDS`].
    Kind,
    /// `dictionary<uint8, utf8>` of states, indexed by the kernel's number.
    State,
}

impl ArrowType {
    /// Bytes per value; `None` for texts.
    pub const fn width(self) -> Option<usize> {
        Some(match self {
            Self::U8 | Self::Kind | Self::State => 1,
            Self::U16 => 2,
            Self::U32 => 4,
            Self::U64 | Self::I64 | Self::Time => 8,
            Self::Addr => 16,
            Self::Text => return None,
        })
    }
}

macro_rules! columns {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal $type:ident;)+) => {
        /// A column of a recording.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Column { $($(#[doc = $doc])+ $variant,)+ }

        impl Column {
            /// Every column, in the order of the file.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];
            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
            /// Its type.
            pub const fn of_type(self) -> ArrowType {
                match self { $(Self::$variant => ArrowType::$type),+ }
            }
        }
    };
}

columns! {
    /// Time of the record; null for facts without a time.
    Ts "ts" Time;
    /// Kind of the row: one of [`KINDS`].
    Kind "kind" Kind;
    /// A number for the row's socket; a `socket` row defines it for the rows that follow. In other rows the
    /// columns from `cookie` to `ifindex` are null where nothing has changed.
    Socket "socket" U32;
    /// The kernel's socket cookie; 0 for a request socket.
    Cookie "cookie" U64;
    /// A number for the kernel object behind a timewait socket or request socket.
    Object "object" U32;
    /// Network namespace: inode number.
    Netns "netns" U32;
    /// Local address.
    Saddr "saddr" Addr;
    /// Remote address.
    Daddr "daddr" Addr;
    /// Local port.
    Sport "sport" U16;
    /// Remote port.
    Dport "dport" U16;
    /// The interface the socket is bound to; 0 for none.
    Ifindex "ifindex" U32;
    /// Request sockets: the listener's cookie.
    Listener "listener" U64;
    /// The state before; null where the kind has none.
    From "from" State;
    /// The state after, or the state it is in; null where the kind has none.
    To "to" State;
    /// Bits of [`tcptrace_common::record::flag`].
    Flags "flags" U8;
    /// Meaning depends on the kind; null is 0, or `listener` in the rows of request sockets.
    Arg0 "arg0" I64;
    /// Meaning depends on the kind; null is 0.
    Arg1 "arg1" I64;
    /// A number for the task that was current; a `task` row defines it.
    Task "task" U32;
    /// Process id of the current task, or of the owner.
    Pid "pid" U32;
    /// Thread id.
    Tid "tid" U32;
    /// Name of the thread, or of the process.
    Comm "comm" Text;
    /// cgroup v2 id.
    Cgroup "cgroup" U64;
    /// Inode number of the socket.
    Inode "inode" U32;
    /// User id of the owner.
    Uid "uid" U32;
    /// Listener: connections waiting to be accepted; otherwise unread bytes.
    Rqueue "rqueue" U32;
    /// Listener: limit of the accept queue; otherwise unacknowledged bytes.
    Wqueue "wqueue" U32;
    /// A name or path.
    Name "name" Text;
    /// A JSON object.
    Facts "facts" Text;
}

/// The kind of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// An observation of a hook.
    Kernel(Kind),
    /// Defines a number in `socket`.
    Socket,
    /// Defines a number in `task`.
    Task,
    /// A full socket that existed at the start.
    Seed,
    /// A timewait socket that existed at the start; `arg0`: nanoseconds left.
    SeedTimewait,
    /// A request socket that existed at the start; `arg0`: SYN-ACK timeouts.
    SeedRequest,
    /// The seed is complete; `arg0`: when it began, `CLOCK_MONOTONIC`.
    SeedEnd,
    /// A full socket that a sweep found, unknown or in another state in the earlier rows.
    Found,
    /// A timewait socket, likewise; `arg0`: nanoseconds left.
    FoundTimewait,
    /// A request socket, likewise; `arg0`: SYN-ACK timeouts.
    FoundRequest,
    /// A socket that sweeps no longer find; `to`: the only state that was swept, null for all.
    Missing,
    /// The process that holds a socket; `arg0`: its descriptor, if requested.
    Owner,
    /// All processes have been searched.
    OwnersEnd,
    /// Name of a network namespace.
    NetnsName,
    /// Path of a cgroup.
    CgroupPath,
    /// Names of the workload in a cgroup, in `facts`.
    Workload,
    /// Program and user of a process, in `facts`.
    ProcessFacts,
    /// Name of an address or a network; `arg0`: bits of the prefix, `arg1`: where it comes from.
    AddressName,
    /// Settings of a network namespace, in `facts`.
    NetnsSettings,
    /// Counters of a network namespace, in `facts`.
    NetnsCounters,
    /// Connection tracking table of a network namespace, in `facts`.
    Conntrack,
    /// Ports of a network namespace that sockets hold by `bind()` without a connection, in `facts`.
    BoundPorts,
    /// The frames of a user stack, in `facts`; `arg0`: its number.
    Stack,
    /// The wall clock was set; `arg0`: its new offset from `CLOCK_MONOTONIC`.
    ClockStep,
    /// Facts about the host, in `facts`.
    Host,
    /// Total losses since the start, in `facts`.
    Loss,
    /// Losses before this file began, in `facts`; they do not belong to this file.
    LossBefore,
    /// Only advances the time.
    Tick,
    /// Checkpoint of a socket that was tracked when this file began; `facts`: fields without a column.
    Carried,
    /// The rest of the tracker's state when this file began, in `facts`.
    Continuation,
}

/// The row kinds that no hook reports: index in the dictionary of new recordings, name, kind.
const OTHER_KINDS: &[(u8, &str, RowKind)] = &[
    (8, "socket", RowKind::Socket),
    (9, "task", RowKind::Task),
    (10, "seed", RowKind::Seed),
    (11, "seed_minisocket", RowKind::SeedTimewait),
    (12, "seed_request", RowKind::SeedRequest),
    (13, "seed_end", RowKind::SeedEnd),
    (14, "found", RowKind::Found),
    (15, "found_minisocket", RowKind::FoundTimewait),
    (16, "found_request", RowKind::FoundRequest),
    (17, "missing", RowKind::Missing),
    (18, "owner", RowKind::Owner),
    (19, "owners_end", RowKind::OwnersEnd),
    (20, "netns_name", RowKind::NetnsName),
    (21, "cgroup_path", RowKind::CgroupPath),
    (22, "host", RowKind::Host),
    (23, "loss", RowKind::Loss),
    (24, "loss_before", RowKind::LossBefore),
    (25, "tick", RowKind::Tick),
    (26, "carried", RowKind::Carried),
    (27, "netns_settings", RowKind::NetnsSettings),
    (28, "netns_counters", RowKind::NetnsCounters),
    (29, "continuation", RowKind::Continuation),
    (33, "clock_step", RowKind::ClockStep),
    (34, "workload", RowKind::Workload),
    (35, "process_facts", RowKind::ProcessFacts),
    (36, "conntrack", RowKind::Conntrack),
    (37, "address_name", RowKind::AddressName),
    (38, "bound_ports", RowKind::BoundPorts),
    (39, "stack", RowKind::Stack),
];

/// Every row kind by name; the position is the index in the file's dictionary. Does not compile unless each has an
/// index of its own, without gaps.
pub static KINDS: [(&str, RowKind); OTHER_KINDS.len() + REPORTED.len()] = {
    let mut kinds = [("", RowKind::Tick); OTHER_KINDS.len() + REPORTED.len()];
    let mut n = 0;
    while n < kinds.len() {
        let (index, name, kind) = if n < OTHER_KINDS.len() {
            OTHER_KINDS[n]
        } else {
            let entry = REPORTED[n - OTHER_KINDS.len()];
            (entry.index, entry.name, RowKind::Kernel(entry.kind))
        };
        assert!(kinds[index as usize].0.is_empty(), "two kinds have this index");
        kinds[index as usize] = (name, kind);
        n += 1;
    }
    kinds
};

/// The name of `kind`.
pub fn name_of(kind: RowKind) -> Option<&'static str> {
    KINDS.get(usize::from(index_of(kind)?)).map(|&(name, _)| name)
}

/// The index of `kind` in the dictionary.
pub fn index_of(kind: RowKind) -> Option<u8> {
    match kind {
        RowKind::Kernel(kind) => Some(reported(kind).index),
        _ => OTHER_KINDS.iter().find(|&&(.., row)| row == kind).map(|&(index, ..)| index),
    }
}

/// `TCP_NEW_SYN_RECV`, the state of a request socket.
const NEW_SYN_RECV: u8 = 12;

/// The names of the kernel's 256 possible state numbers: the dictionary of the columns `from` and `to`.
pub fn state_names() -> impl Iterator<Item = Cow<'static, str>> {
    (0..=u8::MAX).map(state_name)
}

/// The name of the kernel's state `number`.
pub fn state_name(number: u8) -> Cow<'static, str> {
    match (number, TcpState::from_kernel(number)) {
        (0, _) => "NONE".into(),
        (NEW_SYN_RECV, _) => "NEW_SYN_RECV".into(),
        (_, Some(state)) => state.name().into(),
        (_, None) => format!("STATE_{number}").into(),
    }
}

/// Inverse of [`state_name`].
pub fn state_number(name: &str) -> Option<u8> {
    let known = || TcpState::ALL.into_iter().find(|state| state.name() == name).map(|state| state as u8);
    match name {
        "NONE" => Some(0),
        "NEW_SYN_RECV" => Some(NEW_SYN_RECV),
        _ => known().or_else(|| name.strip_prefix("STATE_")?.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (number, name) in state_names().enumerate() {
            assert_eq!(state_number(&name).map(usize::from), Some(number), "{name}");
        }
        let mut states: Vec<_> = state_names().collect();
        states.sort_unstable();
        states.dedup();
        assert_eq!(states.len(), 256);
        for (index, (name, _)) in KINDS.iter().enumerate() {
            assert!(KINDS[index + 1..].iter().all(|(other, _)| other != name));
        }
    }
}
