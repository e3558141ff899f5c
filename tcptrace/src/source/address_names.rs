//! Names of addresses: a container or pod names the addresses in its network namespace, `/etc/hosts` names others.
//!
//! The namespace of PID 1 is the host's own: its addresses name no workload. An address in two namespaces with different
//! workloads has no name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    host, host_files,
    host_files::LastRead,
    netlink::{self, Attributes, DumpError, Interface},
    netns, process_facts,
    users::Users,
    workload_names::WorkloadNames,
};
use crate::model::{
    Addr, Record,
    peer_names::{MAX_PEER_NAMES, NameOrigin, Prefix},
    text,
    workload::Workload,
};

static RTNETLINK: Interface = Interface {
    name: "rtnetlink",
    // NETLINK_ROUTE is 0.
    protocol: None,
    lists: "addresses",
    needs: "no privilege",
};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// `struct ifaddrmsg`: family (0: every), prefix length, flags, scope, interface index.
const IFADDRMSG: [u8; 8] = [0; 8];
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Longest `/etc/hosts`.
const MAX_HOSTS_BYTES: u64 = 1 << 20;
/// Addresses of one namespace.
const MAX_ADDRESSES: usize = 64;
/// How long the address of a deleted container keeps its name: longer than its TIME_WAIT.
const KEPT: Duration = Duration::from_secs(120);

/// The names that were reported.
#[derive(Debug)]
pub(super) struct AddressNames {
    hosts: PathBuf,
    hosts_read: LastRead,
    of_hosts: BTreeMap<Addr, Arc<str>>,
    of_workloads: BTreeMap<Addr, WorkloadAddress>,
}

#[derive(Debug)]
struct WorkloadAddress {
    name: Arc<str>,
    /// When a workload last had it.
    seen: Instant,
}

/// The addresses of workloads; `None` for one that has no name, or two.
type Found = BTreeMap<Addr, Option<Arc<str>>>;

impl AddressNames {
    /// Reads below `root`, where the file system of the host is mounted.
    pub(super) fn below(root: &Path) -> Self {
        Self {
            hosts: root.join("etc/hosts"),
            hosts_read: LastRead::default(),
            of_hosts: BTreeMap::new(),
            of_workloads: BTreeMap::new(),
        }
    }

    /// Returns new, changed and removed names since the last call.
    pub(super) fn changes(&mut self, workloads: &mut WorkloadNames, users: &mut Users) -> Vec<Record> {
        let mut changes = Vec::new();
        if self.hosts_read.has_changed(&self.hosts) {
            let hosts = host_files::read(&self.hosts, MAX_HOSTS_BYTES).unwrap_or_default();
            self.compare_hosts(parse_hosts(&String::from_utf8_lossy(&hosts)), &mut changes);
        }
        // Without the privilege to enter namespaces nothing is found.
        let found = find(workloads, users).unwrap_or_default();
        self.compare_workloads(found, Instant::now(), &mut changes);
        changes
    }

    fn compare_hosts(&mut self, hosts: BTreeMap<Addr, Arc<str>>, changes: &mut Vec<Record>) {
        let gone = self.of_hosts.keys().filter(|addr| !hosts.contains_key(addr));
        changes.extend(gone.map(|&addr| record(NameOrigin::Hosts, addr, "".into())));
        let new = hosts.iter().filter(|(addr, name)| self.of_hosts.get(addr) != Some(name));
        changes.extend(new.map(|(&addr, name)| record(NameOrigin::Hosts, addr, Arc::clone(name))));
        self.of_hosts = hosts;
    }

    fn compare_workloads(&mut self, found: Found, now: Instant, changes: &mut Vec<Record>) {
        self.of_workloads.retain(|addr, known| {
            let stays = match found.get(addr) {
                Some(name) => name.is_some(),
                None => now.duration_since(known.seen) < KEPT,
            };
            if !stays {
                changes.push(record(NameOrigin::Workload, *addr, "".into()));
            }
            stays
        });
        for (addr, name) in found {
            let Some(name) = name else { continue };
            let known = self.of_workloads.get(&addr);
            if known.is_none() && self.of_workloads.len() >= MAX_PEER_NAMES {
                continue;
            }
            if known.is_none_or(|known| known.name != name) {
                changes.push(record(NameOrigin::Workload, addr, Arc::clone(&name)));
            }
            self.of_workloads.insert(addr, WorkloadAddress { name, seen: now });
        }
    }
}

fn record(origin: NameOrigin, addr: Addr, name: Arc<str>) -> Record {
    Record::AddressName { ts: host::monotonic_now(), origin, prefix: Prefix::new(addr, 128), name }
}

/// The first name of each address. The first line about an address counts, as in `getnameinfo()`.
fn parse_hosts(content: &str) -> BTreeMap<Addr, Arc<str>> {
    let mut names = BTreeMap::new();
    for line in content.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let (Some(Ok(ip)), Some(name)) = (words.next().map(str::parse::<IpAddr>), words.next()) else {
            continue;
        };
        if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
            continue;
        }
        if names.len() < MAX_PEER_NAMES {
            names.entry(ip.into()).or_insert_with(|| text::bounded(name));
        }
    }
    names
}

/// The addresses in the network namespaces of workloads.
fn find(workloads: &mut WorkloadNames, users: &mut Users) -> std::io::Result<Found> {
    let members = netns::members()?;
    let names: BTreeMap<_, _> = members
        .into_iter()
        .map(|(netns, pids)| {
            let paths: BTreeSet<String> = pids.into_iter().filter_map(process_facts::cgroup_path).collect();
            let workload = |path: &String| match workloads.find(path, users) {
                Some(found) => found.workload,
                None => Workload::from_path(path),
            };
            (netns, common_name(&paths.iter().map(workload).collect::<Vec<_>>()))
        })
        .collect();
    let round = netns::visit_each(|netns| names.contains_key(&netns.id), |_| addresses())?;
    let mut found = Found::new();
    for (netns, addresses) in round.visited {
        let name = names.get(&netns.id).cloned().flatten();
        for addr in addresses.unwrap_or_default() {
            found
                .entry(addr)
                .and_modify(|known| *known = known.take().filter(|known| Some(known) == name.as_ref()))
                .or_insert_with(|| name.clone());
        }
    }
    Ok(found)
}

/// The name that workloads in one network namespace share: of their pod, else of their container, else of their service.
fn common_name(workloads: &[Workload]) -> Option<Arc<str>> {
    let only = |names: BTreeSet<&str>| match names.len() {
        0 => None,
        1 => Some(names.first().map(|&name| name.into())),
        _ => Some(None),
    };
    let pods = workloads.iter().filter_map(|workload| workload.pod_label.as_deref()).collect();
    let containers = || workloads.iter().filter_map(|workload| workload.container_label.as_deref()).collect();
    let services = || workloads.iter().filter_map(Workload::shown).collect();
    only(pods).or_else(|| only(containers())).or_else(|| only(services())).flatten()
}

/// The addresses of the calling thread's network namespace that other namespaces can reach.
fn addresses() -> Result<Vec<Addr>, DumpError> {
    let mut addresses = Vec::new();
    netlink::dump(&RTNETLINK, &netlink::request(RTM_GETADDR, &IFADDRMSG), |_, kind, body| {
        match decode(kind, body) {
            Some(addr) if is_reachable(addr) && addresses.len() < MAX_ADDRESSES => addresses.push(addr),
            _ => {}
        }
        true
    })?;
    Ok(addresses)
}

/// The local address in a message.
fn decode(kind: u16, body: &[u8]) -> Option<Addr> {
    let attributes = Attributes(body.get(IFADDRMSG.len()..).filter(|_| kind == RTM_NEWADDR)?);
    // With a point-to-point link IFA_ADDRESS is the other end.
    let bytes = attributes.clone().find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?;
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(ip.into())
}

/// Neither loopback nor link-local: every namespace has these.
fn is_reachable(addr: Addr) -> bool {
    match addr.ip() {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn addresses_and_names(changes: &[Record]) -> Vec<(String, &str)> {
        let mut names = Vec::new();
        for change in changes {
            let Record::AddressName { prefix, name, .. } = change else { panic!("{change:?} is no name") };
            names.push((prefix.addr().to_string(), &**name));
        }
        names
    }

    #[test]
    fn hosts_name_addresses() {
        let hosts = parse_hosts(
            "127.0.0.1 localhost\n::1 localhost\nff02::1 ip6-allnodes\n# 10.0.0.9 no\n\
             10.0.0.5\tdb-0.example db-0 # ours\r\n10.0.0.5 second\n10.0.0.6\n10.0.0 x\n2001:db8::5 \u{1b}[2Jevil\n",
        );
        let shown: Vec<_> = hosts.iter().map(|(addr, name)| (addr.to_string(), name.to_string())).collect();
        let expected = [("10.0.0.5", "db-0.example"), ("2001:db8::5", "?[2Jevil")];
        assert_eq!(shown, expected.map(|(addr, name)| (addr.to_owned(), name.to_owned())));
    }

    #[test]
    fn only_changes_are_reported() {
        let mut known = AddressNames::below(Path::new("/nonexistent"));
        let mut changes = Vec::new();
        let hosts = |lines: &str| parse_hosts(lines);
        known.compare_hosts(hosts("10.0.0.5 a\n10.0.0.6 b"), &mut changes);
        assert_eq!(addresses_and_names(&changes).len(), 2);
        changes.clear();
        known.compare_hosts(hosts("10.0.0.5 c"), &mut changes);
        assert_eq!(
            addresses_and_names(&changes),
            [("10.0.0.6".to_owned(), ""), ("10.0.0.5".to_owned(), "c")]
        );
    }

    #[test]
    fn a_deleted_container_keeps_its_address_until_another_has_it() {
        let mut known = AddressNames::below(Path::new("/nonexistent"));
        let began = Instant::now();
        let mut at = |seconds: u64, found: &[(&str, Option<&str>)]| {
            let found = found.iter().map(|&(ip, name)| (addr(ip), name.map(Into::into))).collect();
            let mut changes = Vec::new();
            known.compare_workloads(found, began + Duration::from_secs(seconds), &mut changes);
            addresses_and_names(&changes)
                .into_iter()
                .map(|(addr, name)| format!("{addr} {name}"))
                .collect::<Vec<_>>()
        };
        let both = [("10.0.0.5", Some("web")), ("10.0.0.6", Some("db")), ("10.0.0.7", None)];
        assert_eq!(at(0, &both), ["10.0.0.5 web", "10.0.0.6 db"]);
        assert!(at(1, &both).is_empty());
        assert!(at(100, &[("10.0.0.6", Some("db"))]).is_empty());
        // The address of one is used again, first by a container without a name.
        assert_eq!(at(101, &[("10.0.0.6", None)]), ["10.0.0.6 "]);
        assert_eq!(at(102, &[("10.0.0.6", Some("new"))]), ["10.0.0.6 new"]);
        assert_eq!(at(130, &[]), ["10.0.0.5 "]);
        assert_eq!(at(300, &[]), ["10.0.0.6 "]);
    }

    #[test]
    fn processes_of_a_namespace_share_a_name() {
        let pod = |container: &str| {
            let workload = Workload {
                pod: Some("pay-0".into()),
                k8s_namespace: Some("shop".into()),
                container: Some(container.into()),
                ..Workload::default()
            };
            workload.labelled()
        };
        let container =
            |name: &str| Workload { container: Some(name.into()), ..Workload::default() }.labelled();
        let unit = |name: &str| Workload::from_path(&format!("/system.slice/{name}"));
        let name = |workloads: &[Workload]| common_name(workloads).map(|name| name.to_string());
        assert_eq!(name(&[pod("app"), pod("pause"), unit("x.service")]).as_deref(), Some("shop/pay-0"));
        assert_eq!(name(&[container("web"), unit("session-1.scope")]).as_deref(), Some("web"));
        assert_eq!(name(&[container("web"), container("db")]), None);
        assert_eq!(name(&[unit("nginx.service")]).as_deref(), Some("nginx.service"));
        assert_eq!(name(&[unit("session-1.scope")]), None);
    }

    #[test]
    fn addresses_are_decoded_without_panic() {
        let message = |attributes: &[(u16, &[u8])]| {
            let attributes = attributes.iter().flat_map(|&(kind, value)| netlink::attribute(kind, value));
            IFADDRMSG.into_iter().chain(attributes).collect::<Vec<u8>>()
        };
        let local = message(&[(IFA_ADDRESS, &[10, 0, 0, 1]), (IFA_LOCAL, &[10, 0, 0, 5])]);
        assert_eq!(decode(RTM_NEWADDR, &local), Some(addr("10.0.0.5")));
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
        assert_eq!(decode(RTM_NEWADDR, &message(&[(IFA_ADDRESS, &v6)])), Some(addr("2001:db8::5")));
        assert_eq!(decode(RTM_NEWADDR, &message(&[(IFA_LOCAL, &[1, 2, 3])])), None);
        assert_eq!(decode(RTM_GETADDR, &local), None);
        for cut in 0..local.len() {
            let _ = decode(RTM_NEWADDR, &local[..cut]);
        }
        for unreachable in ["127.0.0.1", "::1", "fe80::1", "169.254.1.1"] {
            assert!(!is_reachable(addr(unreachable)), "{unreachable}");
        }
        // This host's own.
        assert!(addresses().is_ok());
    }
}
