//! Keys that sockets can be grouped by: one row each in [`KEYS`].

use std::{fmt, str::FromStr, sync::Arc};

use super::{
    names::{HostNames, Used},
    streams::{KeyNames, SocketOrigin},
};
use crate::{
    filter::Cidr,
    lifecycle::{Processes, Role, Socket},
    model::{
        Addr, Endpoint, NetnsId, TcpState, cgroup, peer_names::Prefix, process::NameKind, record::Process,
        text,
    },
};

/// A grouping key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The endpoint that names the traffic.
    Service,
    /// Remote address or its network.
    Peer,
    /// Remote port.
    Rport,
    /// Local port.
    Lport,
    /// Owning process.
    Process,
    /// Name of the owner: a server that forks per connection is one group.
    Comm,
    /// The owner's cgroup.
    Cgroup,
    /// Network namespace.
    Netns,
    /// TCP state.
    State,
    /// Local address.
    Laddr,
    /// Host that was traced.
    Host,
    /// A name of the owner: pod, container, unit, program, user.
    Owner(NameKind),
}

/// Name, heading and extractor of one key.
struct KeyRow {
    key: Key,
    name: &'static str,
    head: &'static str,
    of: ValueOfKey,
    needs_owner: bool,
}

type ValueOfKey = fn(&Socket, &Processes, &KeyContext<'_>) -> KeyPart;

/// What a key depends on besides the socket.
struct KeyContext<'a> {
    peers: PeerPrefix,
    host: &'a Arc<str>,
}

const fn row(key: Key, name: &'static str, head: &'static str, of: ValueOfKey) -> KeyRow {
    KeyRow { key, name, head, of, needs_owner: false }
}

const fn owner_row(kind: NameKind, head: &'static str, of: ValueOfKey) -> KeyRow {
    row(Key::Owner(kind), kind.name(), head, of).of_owner()
}

const KEYS: &[KeyRow] = &[
    row(Key::Service, "service", "SERVICE", service),
    row(Key::Peer, "peer", "PEER", peer),
    row(Key::Rport, "rport", "RPORT", |s, _, _| KeyPart::Port(s.tuple.dport)),
    row(Key::Lport, "lport", "LPORT", |s, _, _| KeyPart::Port(s.tuple.sport)),
    row(Key::Process, "process", "PROCESS", process).of_owner(),
    row(Key::Comm, "comm", "COMM", comm).of_owner(),
    row(Key::Cgroup, "cgroup", "CGROUP", cgroup).of_owner(),
    row(Key::Netns, "netns", "NETNS", |s, _, _| KeyPart::Netns(s.netns)),
    row(Key::State, "state", "STATE", |s, _, _| KeyPart::State(s.state)),
    row(Key::Laddr, "laddr", "LADDR", |s, _, _| KeyPart::Address(s.tuple.saddr)),
    row(Key::Host, "host", "HOST", |_, _, context| KeyPart::Host(Arc::clone(context.host))),
    owner_row(NameKind::Pod, "POD", |s, p, _| named(NameKind::Pod, s, p)),
    owner_row(NameKind::Container, "CONTAINER", |s, p, _| named(NameKind::Container, s, p)),
    owner_row(NameKind::K8sNamespace, "K8S-NAMESPACE", |s, p, _| named(NameKind::K8sNamespace, s, p)),
    owner_row(NameKind::Unit, "UNIT", |s, p, _| named(NameKind::Unit, s, p)),
    owner_row(NameKind::Exe, "EXE", |s, p, _| named(NameKind::Exe, s, p)),
    owner_row(NameKind::Uid, "UID", |s, p, _| named(NameKind::Uid, s, p)),
];

impl KeyRow {
    /// The value comes from the owner: commands search `/proc` for it.
    const fn of_owner(self) -> Self {
        Self { needs_owner: true, ..self }
    }
}

impl Key {
    fn row(self) -> &'static KeyRow {
        KEYS.iter().find(|row| row.key == self).unwrap_or(&KEYS[0])
    }
}

/// Prefix lengths that peers are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerPrefix {
    /// Bits of an IPv4 address, up to 32.
    pub ipv4: u8,
    /// Bits of an IPv6 address, up to 128.
    pub ipv6: u8,
}

impl PeerPrefix {
    /// Every address is its own peer.
    pub const WHOLE: Self = Self { ipv4: 32, ipv6: 128 };

    /// The network of `addr`, and its prefix length.
    fn of(self, addr: Addr) -> (Addr, u8) {
        let bits = if addr.is_ipv4() { self.ipv4 } else { self.ipv6 };
        let (network, _mask) = Cidr::new(addr, bits.into()).bytes();
        (Addr(network), bits)
    }
}

impl FromStr for PeerPrefix {
    type Err = String;

    /// `24` or `24,56`: prefix lengths for IPv4 and IPv6; the latter defaults to 64.
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

/// Key of a group: none, one or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    keys: [Option<Key>; 2],
    peers: PeerPrefix,
}

impl Grouping {
    /// All sockets are one group.
    pub const NONE: Self = Self { keys: [None; 2], peers: PeerPrefix::WHOLE };
    /// By service.
    pub const SERVICE: Self = Self::by(Key::Service);

    /// Groups peers by network; `None` if peers are not a key.
    #[must_use]
    pub fn with_peers(self, peers: PeerPrefix) -> Option<Self> {
        self.has(Key::Peer).then_some(Self { peers, ..self })
    }

    /// By one key.
    pub const fn by(key: Key) -> Self {
        Self { keys: [Some(key), None], peers: PeerPrefix::WHOLE }
    }

    /// Groupings by a single key, in table order.
    pub fn single() -> impl Iterator<Item = Self> {
        KEYS.iter().map(|row| Self::by(row.key))
    }

    /// Names of all keys, for help, errors and documents.
    pub fn names() -> Vec<&'static str> {
        KEYS.iter().map(|row| row.name).collect()
    }

    /// Heading of the group column: `SERVICE / PROCESS`.
    pub fn head(self) -> String {
        self.join(" / ", |row| row.head)
    }

    /// Whether all sockets form one group.
    pub const fn is_none(self) -> bool {
        self.keys[0].is_none()
    }

    /// Whether grouping needs the owners of sockets.
    pub fn needs_owners(self) -> bool {
        self.keys.iter().flatten().any(|key| key.row().needs_owner)
    }

    /// Whether all sockets of a group have one role, which distinguishes groups with the same name.
    pub fn has_roles(self) -> bool {
        self.has(Key::Service)
    }

    /// Whether a state change moves a socket to another group.
    pub(super) fn has_state(self) -> bool {
        self.has(Key::State)
    }

    pub(super) fn of(self, socket: &Socket, processes: &Processes, origin: &SocketOrigin) -> GroupKey {
        let context = KeyContext { peers: self.peers, host: &origin.host };
        let [first, second] = self.keys.map(|key| key.map(|key| (key.row().of)(socket, processes, &context)));
        let mut key = GroupKey { first: first.unwrap_or(KeyPart::All), second, stream: None };
        if let Some(merged) = origin.merged {
            let mut has_ids = key.first.has_ids(merged.own_netns);
            if let Some(second) = &mut key.second {
                has_ids |= second.has_ids(merged.own_netns);
            }
            key.stream = has_ids.then_some(merged.stream);
        }
        key
    }

    fn has(self, key: Key) -> bool {
        self.keys.contains(&Some(key))
    }

    fn join(self, by: &str, of: fn(&KeyRow) -> &'static str) -> String {
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
                let known = Self::names().join(", ");
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
enum KeyPart {
    Service { netns: NetnsId, role: Role, end: Endpoint },
    Peer { network: Addr, bits: u8 },
    Port(u16),
    Process(Option<(u32, Arc<str>)>),
    Comm(Option<Arc<str>>),
    Cgroup(u64),
    Netns(NetnsId),
    State(TcpState),
    Address(Addr),
    Host(Arc<str>),
    Named(NameKind, OwnerName),
    All,
    Other,
}

/// A name of the owner of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum OwnerName {
    Unknown,
    /// The owner is in no pod, container or unit.
    Absent,
    Name(Arc<str>),
}

/// Identity of a group: stays equal across snapshots even if the label changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    first: KeyPart,
    second: Option<KeyPart>,
    /// The stream whose ids are in the parts, if several are merged.
    stream: Option<u16>,
}

fn service(socket: &Socket, _: &Processes, _: &KeyContext<'_>) -> KeyPart {
    let role = if socket.role == Role::Listener { Role::Inbound } else { socket.role };
    let mut end = socket.service();
    if socket.role == Role::Listener && end.addr.is_any() {
        end.addr = Addr::ANY;
    }
    KeyPart::Service { netns: socket.netns, role, end }
}

fn peer(socket: &Socket, _: &Processes, context: &KeyContext<'_>) -> KeyPart {
    let (network, bits) = context.peers.of(socket.tuple.daddr);
    KeyPart::Peer { network, bits }
}

fn owner<'a>(socket: &Socket, processes: &'a Processes) -> Option<&'a Arc<Process>> {
    socket.process.and_then(|id| processes.get(id))
}

fn process(socket: &Socket, processes: &Processes, _: &KeyContext<'_>) -> KeyPart {
    KeyPart::Process(owner(socket, processes).map(|process| (process.pid, Arc::clone(&process.comm))))
}

fn comm(socket: &Socket, processes: &Processes, _: &KeyContext<'_>) -> KeyPart {
    KeyPart::Comm(owner(socket, processes).map(|process| Arc::clone(&process.comm)))
}

fn cgroup(socket: &Socket, processes: &Processes, _: &KeyContext<'_>) -> KeyPart {
    KeyPart::Cgroup(owner(socket, processes).map_or(0, |process| process.cgroup))
}

fn named(kind: NameKind, socket: &Socket, processes: &Processes) -> KeyPart {
    let name = match owner(socket, processes) {
        None => OwnerName::Unknown,
        Some(process) => match kind.of(process) {
            Some(name) => OwnerName::Name(Arc::clone(name)),
            None if kind.is_absent(process) => OwnerName::Absent,
            None => OwnerName::Unknown,
        },
    };
    KeyPart::Named(kind, name)
}

impl GroupKey {
    /// Sockets without a group of their own.
    pub const OTHER: Self = Self { first: KeyPart::Other, second: None, stream: None };
    /// All sockets, if they are not grouped.
    pub const ALL: Self = Self { first: KeyPart::All, second: None, stream: None };

    /// A key that differs from others by name and role.
    #[cfg(test)]
    pub(crate) fn named(name: &str, role: Role) -> Self {
        let second = Some(KeyPart::Port(role as u16));
        Self { first: KeyPart::Comm(Some(name.into())), second, stream: None }
    }

    /// Sanitised label. A service outside the tracer's namespace includes its namespace; an id of one of several hosts
    /// includes the host.
    pub(super) fn label(&self, names: KeyNames<'_>) -> String {
        let Some((names, own_netns, host)) = names.of(self.stream) else { return "unknown".into() };
        let mut label = self.first.label(names, own_netns);
        if let Some(second) = &self.second {
            label.push_str(" / ");
            label.push_str(&second.label(names, own_netns));
        }
        if let Some(host) = host.filter(|_| self.host_part().is_none()) {
            label.push_str(" on ");
            label.push_str(&text::sanitise(host));
        }
        label
    }

    /// The host of all sockets of the group, if it is part of the key.
    pub(super) fn host<'a>(&'a self, names: KeyNames<'a>) -> Option<&'a str> {
        self.host_part().map(AsRef::as_ref).or_else(|| names.of(self.stream)?.2)
    }

    fn host_part(&self) -> Option<&Arc<str>> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten().find_map(|part| match part {
            KeyPart::Host(host) => Some(host),
            _ => None,
        })
    }

    /// Collects the ids that the label is made of.
    pub(super) fn note(&self, used: &mut Used) {
        for part in [Some(&self.first), self.second.as_ref()].into_iter().flatten() {
            match part {
                KeyPart::Service { netns, .. } | KeyPart::Netns(netns) => drop(used.netns.insert(*netns)),
                KeyPart::Cgroup(cgroup) => drop(used.cgroups.insert(*cgroup)),
                KeyPart::Peer { .. }
                | KeyPart::Port(_)
                | KeyPart::Process(_)
                | KeyPart::Comm(_)
                | KeyPart::State(_)
                | KeyPart::Address(_)
                | KeyPart::Host(_)
                | KeyPart::Named(..)
                | KeyPart::All
                | KeyPart::Other => {}
            }
        }
    }

    /// Namespace and endpoint of the group, if part of the key.
    pub(super) fn service(&self) -> Option<(NetnsId, Endpoint)> {
        match &self.first {
            KeyPart::Service { netns, end, .. } => Some((*netns, *end)),
            _ => None,
        }
    }

    /// The remote address or network in the key: of a peer, or of a service that this host connects to.
    pub(super) fn peer(&self) -> Option<Prefix> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten().find_map(|part| match part {
            KeyPart::Peer { network, bits } => Some(Prefix::of_address(*network, *bits)),
            KeyPart::Service { role: Role::Outbound, end, .. } => Some(Prefix::new(end.addr, 128)),
            _ => None,
        })
    }

    /// Role of all sockets of the group, if part of the key.
    pub(super) fn role(&self) -> Option<Role> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten().find_map(|part| match part {
            KeyPart::Service { role, .. } => Some(*role),
            _ => None,
        })
    }
}

impl KeyPart {
    /// Whether it has an id of one host. Of several merged hosts, services in the tracer's own network namespace are
    /// one service: their namespace becomes 0.
    fn has_ids(&mut self, own: u32) -> bool {
        match self {
            Self::Service { netns, .. } if netns.0 == own => {
                *netns = NetnsId(0);
                false
            }
            Self::Service { .. } | Self::Netns(_) | Self::Process(Some(_)) => true,
            Self::Cgroup(id) => *id != 0,
            _ => false,
        }
    }

    fn label(&self, names: &HostNames, own_netns: u32) -> String {
        match self {
            Self::Service { netns, end, .. } if netns.0 != own_netns => {
                format!("{end} @{}", netns_label(*netns, names))
            }
            Self::Service { end, .. } => end.to_string(),
            Self::Peer { network, bits } => Cidr::new(*network, (*bits).into()).to_string(),
            Self::Port(port) => port.to_string(),
            Self::Process(Some((pid, comm))) => format!("{} ({pid})", text::sanitise(comm)),
            Self::Comm(Some(comm)) => text::sanitise(comm).into_owned(),
            Self::Named(_, OwnerName::Name(name)) => text::sanitise(name).into_owned(),
            // No name of theirs contains a blank.
            Self::Named(kind, OwnerName::Absent) => format!("no {}", kind.name()),
            Self::Process(None) | Self::Comm(None) | Self::Cgroup(0) | Self::Named(_, OwnerName::Unknown) => {
                "unknown".into()
            }
            Self::Cgroup(id) => match names.cgroup(*id) {
                Some(path) => cgroup::name(path),
                None => format!("cgroup {id}"),
            },
            Self::Netns(netns) => netns_label(*netns, names),
            Self::State(state) => state.name().into(),
            Self::Address(addr) if addr.is_any() => "*".into(),
            Self::Address(addr) => addr.to_string(),
            Self::Host(host) if host.is_empty() => "unknown".into(),
            Self::Host(host) => text::sanitise(host).into_owned(),
            Self::All => "all".into(),
            Self::Other => "other".into(),
        }
    }
}

fn netns_label(netns: NetnsId, names: &HostNames) -> String {
    match names.netns(netns) {
        Some(name) => text::sanitise(name).into_owned(),
        None => netns.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_through_text() {
        for text in ["service", "process,peer", "cgroup,netns", "pod,container", "exe,k8s-namespace"] {
            assert_eq!(text.parse::<Grouping>().map(|keys| keys.to_string()), Ok(text.into()));
        }
        assert_eq!("service, comm".parse().map(Grouping::head), Ok("SERVICE / COMM".into()));
        let error = |text: &str| text.parse::<Grouping>().expect_err("not a grouping");
        assert_eq!(
            error("port"),
            format!("unknown key 'port'; expected one or two of {}", Grouping::names().join(", "))
        );
        assert_eq!(error("peer,peer"), "'peer' twice");
        assert_eq!(error("peer,lport,rport"), "at most two keys can be combined");
        assert!(error("").starts_with("unknown key ''"));
    }

    #[test]
    fn peers_group_by_network() {
        let prefix = |text: &str| text.parse::<PeerPrefix>();
        assert_eq!(prefix("24"), Ok(PeerPrefix { ipv4: 24, ipv6: 64 }));
        assert_eq!(prefix("/8,/48"), Ok(PeerPrefix { ipv4: 8, ipv6: 48 }));
        assert_eq!(prefix("33"), Err("expected a prefix length (0-32), found '33'".into()));
        assert!(prefix("+8").is_err() && prefix("").is_err() && prefix("24,").is_err());
        let network = |ip: &str| {
            let addr = ip.parse::<std::net::IpAddr>().expect("an address").into();
            let (network, bits) = PeerPrefix { ipv4: 24, ipv6: 64 }.of(addr);
            KeyPart::Peer { network, bits }.label(&HostNames::default(), 0)
        };
        assert_eq!(network("10.1.2.3"), "10.1.2.0/24");
        assert_eq!(network("2001:db8:1:2:3::9"), "2001:db8:1:2::/64");
        assert!("service".parse::<Grouping>().expect("a key").with_peers(PeerPrefix::WHOLE).is_none());
    }

    #[test]
    fn peers_and_outbound_services_have_remote_addresses() {
        let addr: Addr = std::net::IpAddr::from([10, 0, 0, 5]).into();
        let service = |role| KeyPart::Service {
            netns: NetnsId(1),
            role,
            end: Endpoint { addr, port: 5432, ifindex: 0 },
        };
        let comm = || KeyPart::Comm(Some("curl".into()));
        let peer = |first, second| GroupKey { first, second, stream: None }.peer();
        let address = Some(Prefix::new(addr, 128));
        assert_eq!(peer(service(Role::Outbound), None), address);
        assert_eq!(peer(service(Role::Inbound), None), None);
        assert_eq!(peer(comm(), Some(KeyPart::Peer { network: addr, bits: 32 })), address);
        let network = KeyPart::Peer { network: addr, bits: 24 };
        assert_eq!(peer(network, Some(comm())), Some(Prefix::of_address(addr, 24)));
        assert_eq!(peer(comm(), None), None);
    }

    #[test]
    fn grouping_reports_its_requirements() {
        let of = |text: &str| {
            let grouping: Grouping = text.parse().expect("a grouping");
            (grouping.has_roles(), grouping.needs_owners(), grouping.has_state(), grouping.is_none())
        };
        assert_eq!(of("service"), (true, false, false, false));
        assert_eq!(of("peer,lport"), (false, false, false, false));
        assert_eq!(of("state,rport"), (false, false, true, false));
        for text in ["process", "netns,comm", "cgroup", "pod", "k8s-namespace,unit", "uid"] {
            assert_eq!(of(text), (false, true, false, false), "{text}");
        }
        assert_eq!(of("comm,service"), (true, true, false, false));
        assert!(Grouping::NONE.is_none());
        let single: Vec<String> = Grouping::single().map(|grouping| grouping.to_string()).collect();
        assert_eq!(single, Grouping::names());
    }
}
