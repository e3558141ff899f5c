//! Ports that `bind()` holds, per local address: with a connection, and without one.
//!
//! `bind()` without `IP_BIND_ADDRESS_NO_PORT` takes a port for every destination, so that a local address has one budget.
//! Without a given port it chooses from `ip_local_port_range`, in both parities, one that no socket with the same local
//! address, or with any, holds (`inet_csk_find_open_port()`, `inet_bind_conflict()`).

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::settings::{PortSettings, make_disjoint};
use crate::{
    aggregate::owners::OwnerCounts,
    lifecycle::{Processes, Socket},
    model::{
        Addr, Nanos, NetnsId, Record,
        bound_ports::{BoundAddr, BoundPorts, MAX_ADDRS, MAX_HOLDERS, MAX_RANGES, PortHolder},
        record::Process,
    },
};

/// Ports without a connection, of all namespaces.
const MAX_IDLE_PORTS: usize = 1 << 20;
/// Local addresses in a snapshot.
const MAX_ROWS: usize = 256;

/// The ports that `bind()` holds in all namespaces.
#[derive(Clone, Debug, Default)]
pub(super) struct Binds {
    /// Ports of sockets with a connection. Randomly seeded: local users choose the addresses.
    open: HashMap<(NetnsId, Addr), LocalAddress>,
    /// Ports of sockets without one.
    idle: BTreeMap<NetnsId, BoundPorts>,
    idle_ports: usize,
    pub(super) refused: u64,
}

/// Ports of connections from one local address.
#[derive(Clone, Debug, Default)]
struct LocalAddress {
    sockets: HashMap<u16, u32>,
    owners: OwnerCounts,
}

/// The ports that `bind()` holds at one local address.
#[derive(Clone, Debug)]
pub struct BindPorts {
    /// Network namespace.
    pub netns: NetnsId,
    /// The local address; [`Addr::ANY`] for every address of the host.
    pub saddr: Addr,
    /// Ports of the range that `bind()` holds at this address, or at every address.
    pub bound: u64,
    /// Those of them at this address whose sockets have a connection.
    pub open: u64,
    /// Those of them at this address whose sockets have none.
    pub idle: u64,
    /// Ports that `bind()` may choose from; `None` if the settings of the namespace are unknown.
    pub available: Option<u64>,
    /// At least so many further ports hold connections from this address whose port `connect()` chose.
    pub connected: u64,
    /// Processes that hold the most of them.
    pub processes: Vec<Process>,
}

impl BindPorts {
    /// Ports that `bind()` can't choose.
    pub const fn held(&self) -> u64 {
        self.bound + self.connected
    }

    /// Share of the available ports that `bind()` can't choose; `None` if the budget is unknown.
    pub fn share(&self) -> Option<f64> {
        self.available.map(|available| self.held() as f64 / available.max(1) as f64)
    }
}

impl Binds {
    /// Stores the ports without a connection of a namespace, or removes those of a namespace that is gone.
    pub(super) fn take(&mut self, record: &Record) {
        match record {
            Record::NetnsSettings { netns, sysctls, .. } if sysctls.is_empty() => self.remove(*netns),
            Record::BoundPorts { netns, bound, .. } => {
                self.remove(*netns);
                let bound = normalised(bound);
                let ports = bound.addrs.iter().flat_map(BoundAddr::ports).count();
                if self.idle_ports + ports > MAX_IDLE_PORTS {
                    self.refused += 1;
                } else if bound != BoundPorts::default() {
                    self.idle_ports += ports;
                    self.idle.insert(*netns, bound);
                }
            }
            _ => {}
        }
    }

    fn remove(&mut self, netns: NetnsId) {
        if let Some(removed) = self.idle.remove(&netns) {
            self.idle_ports -= removed.addrs.iter().flat_map(BoundAddr::ports).count();
        }
    }

    /// The ports without a connection as records for the start of a recording that begins at `ts`.
    pub(super) fn records(&self, ts: Nanos) -> impl Iterator<Item = Record> {
        self.idle.iter().map(move |(&netns, bound)| Record::BoundPorts {
            ts,
            netns,
            bound: Box::new(bound.clone()),
        })
    }

    /// Counts a connection whose port came from `bind()`.
    pub(super) fn add(&mut self, socket: &Socket, processes: &Processes) {
        let addr = self.open.entry((socket.netns, socket.tuple.saddr)).or_default();
        *addr.sockets.entry(socket.tuple.sport).or_default() += 1;
        addr.owners.note(socket, processes);
    }

    /// Reverts [`Self::add`].
    pub(super) fn sub(&mut self, socket: &Socket) {
        let key = (socket.netns, socket.tuple.saddr);
        let Some(addr) = self.open.get_mut(&key) else { return };
        if let Some(sockets) = addr.sockets.get_mut(&socket.tuple.sport) {
            *sockets -= 1;
            if *sockets == 0 {
                addr.sockets.remove(&socket.tuple.sport);
            }
        }
        if addr.sockets.is_empty() {
            self.open.remove(&key);
        }
    }

    /// The ports without a connection; one of two addresses appears twice.
    pub(super) fn idle(&self) -> impl Iterator<Item = (NetnsId, u16)> {
        self.idle.iter().flat_map(|(&netns, bound)| {
            bound.addrs.iter().flat_map(BoundAddr::ports).map(move |port| (netns, port))
        })
    }

    /// Ports whose address the limit of a record left out.
    pub(super) fn others(&self) -> u64 {
        self.idle.values().fold(0, |sum, bound| sum.saturating_add(bound.other_ports))
    }
}

/// The ports of a local address that are in the range.
#[derive(Default)]
struct HeldPorts {
    open: Vec<u16>,
    idle: Vec<u16>,
    processes: Vec<Process>,
}

impl HeldPorts {
    fn all(&self) -> impl Iterator<Item = u16> + '_ {
        self.open.iter().chain(&self.idle).copied()
    }
}

impl Binds {
    /// The local addresses with the most ports, and the number of those left out. `taken` are the ports that are unavailable
    /// to every destination; `destinations` are the local addresses of destinations with the ports that they use.
    pub(super) fn snapshot(
        &self,
        settings: &HashMap<NetnsId, PortSettings>,
        taken: impl Iterator<Item = (NetnsId, u16)>,
        destinations: impl Iterator<Item = (NetnsId, Addr, u64)>,
    ) -> (Vec<BindPorts>, u64) {
        let held = self.held(settings);
        let mut bound = BTreeMap::<NetnsId, Vec<u16>>::new();
        for (&(netns, _), ports) in &held {
            bound.entry(netns).or_default().extend(ports.all());
        }
        bound.values_mut().for_each(sort);
        let mut served = BTreeMap::<NetnsId, u64>::new();
        for (netns, port) in taken {
            let is_bound = bound.get(&netns).is_some_and(|ports| ports.binary_search(&port).is_ok());
            let is_offered = settings.get(&netns).is_some_and(|settings| settings.offers(port));
            *served.entry(netns).or_default() += u64::from(is_offered && !is_bound);
        }
        let mut connected = HashMap::<(NetnsId, Addr), u64>::new();
        for (netns, local, used) in destinations {
            for saddr in [local, Addr::ANY] {
                let most = connected.entry((netns, saddr)).or_default();
                *most = used.max(*most);
            }
        }
        let mut order: Vec<_> = held.iter().collect();
        order.sort_by_key(|(_, ports)| std::cmp::Reverse(ports.open.len() + ports.idle.len()));
        let others = order.len().saturating_sub(MAX_ROWS) as u64 + self.others();
        let rows = order.into_iter().take(MAX_ROWS).map(|(&(netns, saddr), ports)| {
            let everywhere = held.get(&(netns, Addr::ANY)).filter(|_| saddr != Addr::ANY);
            let mut here: Vec<u16> = ports.all().chain(everywhere.iter().flat_map(|any| any.all())).collect();
            sort(&mut here);
            if saddr == Addr::ANY {
                here.clone_from(&bound[&netns]);
            }
            let served = served.get(&netns).copied().unwrap_or_default();
            BindPorts {
                netns,
                saddr,
                bound: here.len() as u64,
                open: ports.open.len() as u64,
                idle: ports.idle.len() as u64,
                available: settings.get(&netns).map(|settings| settings.size().saturating_sub(served)),
                connected: connected.get(&(netns, saddr)).copied().unwrap_or_default(),
                processes: ports.processes.clone(),
            }
        });
        (rows.collect(), others)
    }

    /// The ports that `bind()` holds and `connect()` could choose, by local address.
    fn held(&self, settings: &HashMap<NetnsId, PortSettings>) -> BTreeMap<(NetnsId, Addr), HeldPorts> {
        let is_offered =
            |netns, port| settings.get(&netns).is_none_or(|settings: &PortSettings| settings.offers(port));
        let mut held = BTreeMap::<(NetnsId, Addr), HeldPorts>::new();
        for (&key, addr) in &self.open {
            let ports = held.entry(key).or_default();
            ports.open.extend(addr.sockets.keys().filter(|&&port| is_offered(key.0, port)));
            ports.processes = addr.owners.most();
        }
        for (&netns, bound) in &self.idle {
            for addr in &bound.addrs {
                let ports = held.entry((netns, addr.saddr)).or_default();
                ports.idle.extend(addr.ports().filter(|&port| is_offered(netns, port)));
                // Sockets without a connection are more likely forgotten.
                let more = addr.holders.iter().map(PortHolder::process).collect();
                let open = std::mem::replace(&mut ports.processes, more);
                let is_new =
                    |process: &Process, known: &[Process]| known.iter().all(|of| of.pid != process.pid);
                for process in open {
                    if is_new(&process, &ports.processes) {
                        ports.processes.push(process);
                    }
                }
                ports.processes.truncate(MAX_HOLDERS);
            }
        }
        for ports in held.values_mut() {
            sort(&mut ports.open);
            sort(&mut ports.idle);
            // One that connected since it was listed.
            ports.idle.retain(|port| ports.open.binary_search(port).is_err());
        }
        held.retain(|_, ports| ports.all().next().is_some());
        held
    }
}

fn sort(ports: &mut Vec<u16>) {
    ports.sort_unstable();
    ports.dedup();
}

/// `bound` within its limits, with disjoint ranges: the author of a recording chooses it.
fn normalised(bound: &BoundPorts) -> BoundPorts {
    let mut room = MAX_RANGES;
    let addrs = bound.addrs.iter().take(MAX_ADDRS).map(|addr| {
        let mut ports: Vec<(u16, u16)> = addr.ports.iter().copied().take(room).collect();
        room -= ports.len();
        ports.retain(|(first, last)| first <= last);
        make_disjoint(&mut ports);
        let holders = addr.holders.iter().take(MAX_HOLDERS).cloned().collect();
        BoundAddr { saddr: addr.saddr, ports, holders }
    });
    BoundPorts { addrs: addrs.collect(), other_ports: bound.other_ports }
}
