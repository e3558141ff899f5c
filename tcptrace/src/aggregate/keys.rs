//! What sockets can be grouped by: one row in [`KEYS`] each.

use std::{fmt::Write as _, sync::Arc};

use rustc_hash::FxHashMap;

use crate::{
    lifecycle::{Processes, Role, Socket},
    model::{Addr, Endpoint, NetnsId, record::Process, text},
};

/// Names that the live host knows for numbers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Network namespaces (`ip netns`).
    pub netns: FxHashMap<NetnsId, Arc<str>>,
    /// Paths of cgroups by id.
    pub cgroup: FxHashMap<u64, Arc<str>>,
}

/// What to group by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Key {
    /// The end that names the traffic.
    #[default]
    Service,
    /// Remote address.
    Peer,
    /// Remote port.
    Rport,
    /// Local port.
    Lport,
    /// Owning process.
    Process,
    /// Network namespace.
    Netns,
}

/// One way to group.
struct Row {
    key: Key,
    name: &'static str,
    head: &'static str,
    of: fn(&Socket, &Processes) -> GroupKey,
}

const KEYS: [Row; 6] = [
    Row { key: Key::Service, name: "service", head: "SERVICE", of: service },
    Row { key: Key::Peer, name: "peer", head: "PEER", of: |socket, _| GroupKey::Peer(socket.tuple.daddr) },
    Row { key: Key::Rport, name: "rport", head: "RPORT", of: |socket, _| GroupKey::Port(socket.tuple.dport) },
    Row { key: Key::Lport, name: "lport", head: "LPORT", of: |socket, _| GroupKey::Port(socket.tuple.sport) },
    Row { key: Key::Process, name: "process", head: "PROCESS", of: process },
    Row { key: Key::Netns, name: "netns", head: "NETNS", of: |socket, _| GroupKey::Netns(socket.netns) },
];

/// The value of a key for one socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum GroupKey {
    Service { netns: NetnsId, role: Role, end: Endpoint },
    Peer(Addr),
    Port(u16),
    Process(Option<(u32, Arc<str>)>),
    Netns(NetnsId),
    Other,
}

impl Key {
    /// Every name, for help and errors.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KEYS.iter().map(|row| row.name)
    }

    /// The key called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        KEYS.iter().find(|row| row.name == name).map(|row| row.key)
    }

    /// Head of its column.
    pub fn head(self) -> &'static str {
        self.row().map_or("KEY", |row| row.head)
    }

    pub(super) fn of(self, socket: &Socket, processes: &Processes) -> GroupKey {
        self.row().map_or(GroupKey::Other, |row| (row.of)(socket, processes))
    }

    fn row(self) -> Option<&'static Row> {
        KEYS.iter().find(|row| row.key == self)
    }
}

fn service(socket: &Socket, _: &Processes) -> GroupKey {
    let role = if socket.role == Role::Listener { Role::Inbound } else { socket.role };
    let mut end = socket.service();
    if socket.role == Role::Listener && end.addr.is_any() {
        end.addr = Addr::ANY;
    }
    GroupKey::Service { netns: socket.netns, role, end }
}

fn process(socket: &Socket, processes: &Processes) -> GroupKey {
    let process = socket.process.and_then(|id| processes.get(id));
    GroupKey::Process(process.map(|process| (process.pid, Arc::clone(&process.comm))))
}

impl GroupKey {
    /// As text, sanitised. A service in another namespace than the tracer's says which.
    pub(super) fn label(&self, names: &Names, own_netns: u32) -> String {
        match self {
            Self::Service { netns, end, .. } => {
                let mut label = end.to_string();
                if netns.0 != own_netns {
                    let _ = write!(label, " @{}", netns_label(*netns, names));
                }
                label
            }
            Self::Peer(addr) => addr.to_string(),
            Self::Port(port) => port.to_string(),
            Self::Process(Some((pid, comm))) => format!("{} ({pid})", text::sanitise(comm)),
            Self::Process(None) => "unknown".into(),
            Self::Netns(netns) => netns_label(*netns, names),
            Self::Other => "other".into(),
        }
    }

    pub(super) const fn role(&self) -> Option<Role> {
        match self {
            Self::Service { role, .. } => Some(*role),
            _ => None,
        }
    }
}

fn netns_label(netns: NetnsId, names: &Names) -> String {
    match names.netns.get(&netns) {
        Some(name) => text::sanitise(name).into_owned(),
        None => netns.to_string(),
    }
}

/// Counts which processes own the sockets of a group: the few with the most are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    most: Vec<(Arc<Process>, u64)>,
    others: u64,
}

impl Owners {
    const KEPT: usize = 4;

    pub(super) fn note(&mut self, process: &Arc<Process>) {
        if let Some((_, count)) =
            self.most.iter_mut().find(|(known, _)| known.pid == process.pid && known.comm == process.comm)
        {
            *count += 1;
        } else if self.most.len() < Self::KEPT {
            self.most.push((Arc::clone(process), 1));
        } else if let Some(least) = self.most.iter_mut().min_by_key(|(_, count)| *count) {
            // Space-saving: the newcomer takes the place, and the count, of the least.
            *least = (Arc::clone(process), least.1 + 1);
            self.others += 1;
        }
    }

    pub(super) fn main(&self) -> Option<Process> {
        self.most.iter().max_by_key(|(_, count)| *count).map(|(process, _)| Process::clone(process))
    }

    pub(super) fn others(&self) -> u64 {
        (self.most.len() as u64).saturating_sub(1) + self.others
    }
}
