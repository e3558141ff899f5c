//! What sockets can be grouped by: one row in [`KEYS`] each.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use rustc_hash::FxHashMap;

use super::cgroup;
use crate::{
    filter::Cidr,
    lifecycle::{Processes, Role, Socket},
    model::{Addr, Endpoint, NetnsId, Record, TcpState, record::Process, text},
};

/// What the live host knows about numbers: names, and the settings of network namespaces.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Network namespaces (`ip netns`).
    pub netns: FxHashMap<NetnsId, Arc<str>>,
    /// Paths of cgroups by id.
    pub cgroup: FxHashMap<u64, Arc<str>>,
    /// Settings of network namespaces.
    pub settings: FxHashMap<NetnsId, BTreeMap<String, String>>,
}

impl Names {
    /// Keeps what `record` tells of them.
    pub fn take(&mut self, record: &Record) {
        match record {
            Record::NetnsName { netns, name, .. } => {
                self.netns.insert(*netns, Arc::clone(name));
            }
            Record::CgroupPath { cgroup, path, .. } => {
                self.cgroup.insert(*cgroup, Arc::clone(path));
            }
            Record::NetnsSettings { netns, sysctls, .. } => {
                self.settings.insert(*netns, sysctls.clone());
            }
            _ => {}
        }
    }
}

/// One thing to group by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The end that names the traffic.
    Service,
    /// Remote address, or the network it is in.
    Peer,
    /// Remote port.
    Rport,
    /// Local port.
    Lport,
    /// Owning process.
    Process,
    /// The owner's name: a server that forks for every connection is one.
    Comm,
    /// The owner's cgroup.
    Cgroup,
    /// Network namespace.
    Netns,
    /// The state it is in.
    State,
}

/// One way to group.
struct Row {
    key: Key,
    name: &'static str,
    head: &'static str,
    of: fn(&Socket, &Processes, PeerPrefix) -> Part,
}

const KEYS: [Row; 9] = [
    Row { key: Key::Service, name: "service", head: "SERVICE", of: service },
    Row { key: Key::Peer, name: "peer", head: "PEER", of: peer },
    Row { key: Key::Rport, name: "rport", head: "RPORT", of: |s, _, _| Part::Port(s.tuple.dport) },
    Row { key: Key::Lport, name: "lport", head: "LPORT", of: |s, _, _| Part::Port(s.tuple.sport) },
    Row { key: Key::Process, name: "process", head: "PROCESS", of: process },
    Row { key: Key::Comm, name: "comm", head: "COMM", of: comm },
    Row { key: Key::Cgroup, name: "cgroup", head: "CGROUP", of: cgroup },
    Row { key: Key::Netns, name: "netns", head: "NETNS", of: |s, _, _| Part::Netns(s.netns) },
    Row { key: Key::State, name: "state", head: "STATE", of: |s, _, _| Part::State(s.state) },
];

impl Key {
    fn row(self) -> &'static Row {
        KEYS.iter().find(|row| row.key == self).unwrap_or(&KEYS[0])
    }
}

/// How many bits of a peer's address count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerPrefix {
    /// Of an IPv4 address, up to 32.
    pub ipv4: u8,
    /// Of an IPv6 address, up to 128.
    pub ipv6: u8,
}

impl PeerPrefix {
    /// Every address is a peer of its own.
    pub const WHOLE: Self = Self { ipv4: 32, ipv6: 128 };

    /// The network of `addr`, and its length.
    fn of(self, addr: Addr) -> (Addr, u8) {
        let bits = if addr.is_ipv4() { self.ipv4 } else { self.ipv6 };
        let (network, _mask) = Cidr::new(addr, bits.into()).bytes();
        (Addr(network), bits)
    }
}

impl FromStr for PeerPrefix {
    type Err = String;

    /// `24` or `24,56`: the bits of IPv4, then those of IPv6, which are 64 when they are not said.
    fn from_str(text: &str) -> Result<Self, String> {
        let bits = |text: &str, longest: u8| {
            let digits = text.strip_prefix('/').unwrap_or(text);
            let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits
                .parse()
                .ok()
                .filter(|&bits| all_digits && bits <= longest)
                .ok_or_else(|| format!("expected a prefix length (0-{longest}), found '{text}'"))
        };
        let (ipv4, ipv6) = text.split_once(',').unwrap_or((text, "64"));
        Ok(Self { ipv4: bits(ipv4, 32)?, ipv6: bits(ipv6, 128)? })
    }
}

/// What the sockets of a group have in common: nothing, one key or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    keys: [Option<Key>; 2],
    peers: PeerPrefix,
}

impl Grouping {
    /// All sockets are one group.
    pub const NONE: Self = Self { keys: [None; 2], peers: PeerPrefix::WHOLE };
    /// By service.
    pub const SERVICE: Self = Self { keys: [Some(Key::Service), None], peers: PeerPrefix::WHOLE };

    /// The same with peers taken together by network; `None` where peers do not matter.
    #[must_use]
    pub fn with_peers(self, peers: PeerPrefix) -> Option<Self> {
        self.has(Key::Peer).then_some(Self { peers, ..self })
    }

    /// By each key alone, in the order of their names.
    pub fn single() -> impl Iterator<Item = Self> {
        KEYS.iter().map(|row| Self { keys: [Some(row.key), None], peers: PeerPrefix::WHOLE })
    }

    /// Every key's name, for help and errors.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KEYS.iter().map(|row| row.name)
    }

    /// Head of the groups' column: `SERVICE / PROCESS`.
    pub fn head(self) -> String {
        self.join(" / ", |row| row.head)
    }

    /// Whether all sockets are one group.
    pub const fn is_none(self) -> bool {
        self.keys[0].is_none()
    }

    /// Whether it takes the sockets' owners to group them.
    pub fn needs_owners(self) -> bool {
        [Key::Process, Key::Comm, Key::Cgroup].into_iter().any(|key| self.has(key))
    }

    /// Whether the sockets of a group have one role, which tells it from another with the same name.
    pub fn has_roles(self) -> bool {
        self.has(Key::Service)
    }

    /// Whether a socket changes its group with its state.
    pub(super) fn has_state(self) -> bool {
        self.has(Key::State)
    }

    pub(super) fn of(self, socket: &Socket, processes: &Processes) -> GroupKey {
        let [first, second] =
            self.keys.map(|key| key.map(|key| (key.row().of)(socket, processes, self.peers)));
        GroupKey { first: first.unwrap_or(Part::All), second }
    }

    fn has(self, key: Key) -> bool {
        self.keys.contains(&Some(key))
    }

    fn join(self, by: &str, of: fn(&Row) -> &'static str) -> String {
        self.keys.iter().flatten().map(|key| of(key.row())).collect::<Vec<_>>().join(by)
    }
}

/// As on the command line: `service,process`.
impl fmt::Display for Grouping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.join(",", |row| row.name))
    }
}

impl FromStr for Grouping {
    type Err = String;

    /// One key or two: `service`, `service,process`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut keys = [None; 2];
        for (n, name) in text.split(',').enumerate() {
            let row = KEYS.iter().find(|row| row.name == name.trim()).ok_or_else(|| {
                let known = Self::names().collect::<Vec<_>>().join(", ");
                format!("unknown key '{}'; expected one or two of {known}", name.trim())
            })?;
            if keys.contains(&Some(row.key)) {
                return Err(format!("'{}' twice", row.name));
            }
            *keys.get_mut(n).ok_or("at most two keys can be combined")? = Some(row.key);
        }
        Ok(Self { keys, peers: PeerPrefix::WHOLE })
    }
}

/// The value of one key for one socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Service { netns: NetnsId, role: Role, end: Endpoint },
    Peer { network: Addr, bits: u8 },
    Port(u16),
    Process(Option<(u32, Arc<str>)>),
    Comm(Option<Arc<str>>),
    Cgroup(u64),
    Netns(NetnsId),
    State(TcpState),
    All,
    Other,
}

/// What makes a group: equal for the same group in every snapshot, however its name changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    first: Part,
    second: Option<Part>,
}

fn service(socket: &Socket, _: &Processes, _: PeerPrefix) -> Part {
    let role = if socket.role == Role::Listener { Role::Inbound } else { socket.role };
    let mut end = socket.service();
    if socket.role == Role::Listener && end.addr.is_any() {
        end.addr = Addr::ANY;
    }
    Part::Service { netns: socket.netns, role, end }
}

fn peer(socket: &Socket, _: &Processes, prefix: PeerPrefix) -> Part {
    let (network, bits) = prefix.of(socket.tuple.daddr);
    Part::Peer { network, bits }
}

fn owner<'a>(socket: &Socket, processes: &'a Processes) -> Option<&'a Arc<Process>> {
    socket.process.and_then(|id| processes.get(id))
}

fn process(socket: &Socket, processes: &Processes, _: PeerPrefix) -> Part {
    Part::Process(owner(socket, processes).map(|process| (process.pid, Arc::clone(&process.comm))))
}

fn comm(socket: &Socket, processes: &Processes, _: PeerPrefix) -> Part {
    Part::Comm(owner(socket, processes).map(|process| Arc::clone(&process.comm)))
}

fn cgroup(socket: &Socket, processes: &Processes, _: PeerPrefix) -> Part {
    Part::Cgroup(owner(socket, processes).map_or(0, |process| process.cgroup))
}

impl GroupKey {
    /// The group of what has no group of its own.
    pub const OTHER: Self = Self { first: Part::Other, second: None };
    /// The only group where sockets are not grouped.
    pub const ALL: Self = Self { first: Part::All, second: None };

    /// One that is told from others by its name and role.
    #[cfg(test)]
    pub(crate) fn named(name: &str, role: Role) -> Self {
        Self { first: Part::Comm(Some(name.into())), second: Some(Part::Port(role as u16)) }
    }

    /// As text, sanitised. A service in another namespace than the tracer's says which.
    pub(super) fn label(&self, names: &Names, own_netns: u32) -> String {
        let mut label = self.first.label(names, own_netns);
        if let Some(second) = &self.second {
            label.push_str(" / ");
            label.push_str(&second.label(names, own_netns));
        }
        label
    }

    /// The namespace and the end that the group is about, where the key says it.
    pub(super) fn service(&self) -> Option<(NetnsId, Endpoint)> {
        match &self.first {
            Part::Service { netns, end, .. } => Some((*netns, *end)),
            _ => None,
        }
    }

    /// The role that all sockets of the group have, where the key says it.
    pub(super) fn role(&self) -> Option<Role> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten().find_map(|part| match part {
            Part::Service { role, .. } => Some(*role),
            _ => None,
        })
    }
}

impl Part {
    fn label(&self, names: &Names, own_netns: u32) -> String {
        match self {
            Self::Service { netns, end, .. } if netns.0 != own_netns => {
                format!("{end} @{}", netns_label(*netns, names))
            }
            Self::Service { end, .. } => end.to_string(),
            Self::Peer { network, bits } => Cidr::new(*network, (*bits).into()).to_string(),
            Self::Port(port) => port.to_string(),
            Self::Process(Some((pid, comm))) => format!("{} ({pid})", text::sanitise(comm)),
            Self::Comm(Some(comm)) => text::sanitise(comm).into_owned(),
            Self::Process(None) | Self::Comm(None) | Self::Cgroup(0) => "unknown".into(),
            Self::Cgroup(id) => match names.cgroup.get(id) {
                Some(path) => cgroup::name(path),
                None => format!("cgroup {id}"),
            },
            Self::Netns(netns) => netns_label(*netns, names),
            Self::State(state) => state.name().into(),
            Self::All => "all".into(),
            Self::Other => "other".into(),
        }
    }
}

fn netns_label(netns: NetnsId, names: &Names) -> String {
    match names.netns.get(&netns) {
        Some(name) => text::sanitise(name).into_owned(),
        None => netns.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for text in ["service", "process,peer", "cgroup,netns"] {
            assert_eq!(text.parse::<Grouping>().map(|keys| keys.to_string()), Ok(text.into()));
        }
        assert_eq!("service, comm".parse().map(Grouping::head), Ok("SERVICE / COMM".into()));
        let error = |text: &str| text.parse::<Grouping>().expect_err("no grouping");
        assert_eq!(
            error("port"),
            "unknown key 'port'; expected one or two of service, peer, rport, lport, process, comm, cgroup, \
             netns, state"
        );
        assert_eq!(error("peer,peer"), "'peer' twice");
        assert_eq!(error("peer,lport,rport"), "at most two keys can be combined");
        assert!(error("").starts_with("unknown key ''"));
    }

    #[test]
    fn peers_are_taken_together_by_network() {
        let prefix = |text: &str| text.parse::<PeerPrefix>();
        assert_eq!(prefix("24"), Ok(PeerPrefix { ipv4: 24, ipv6: 64 }));
        assert_eq!(prefix("/8,/48"), Ok(PeerPrefix { ipv4: 8, ipv6: 48 }));
        assert_eq!(prefix("33"), Err("expected a prefix length (0-32), found '33'".into()));
        assert!(prefix("+8").is_err() && prefix("").is_err() && prefix("24,").is_err());
        let network = |ip: &str| {
            let addr = ip.parse::<std::net::IpAddr>().expect("an address").into();
            let (network, bits) = PeerPrefix { ipv4: 24, ipv6: 64 }.of(addr);
            Part::Peer { network, bits }.label(&Names::default(), 0)
        };
        assert_eq!(network("10.1.2.3"), "10.1.2.0/24");
        assert_eq!(network("2001:db8:1:2:3::9"), "2001:db8:1:2::/64");
        assert!("service".parse::<Grouping>().expect("a key").with_peers(PeerPrefix::WHOLE).is_none());
    }
}
