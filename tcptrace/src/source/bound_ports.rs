//! Lists sockets that hold a local port by `bind()` without a connection. No hook reports them: `bind()` changes no state.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::net::{AddressFamily, SocketType};
use tcptrace_common::filter::KernelFilter;

use super::{
    host, netns, owners,
    poller::{LastPoll, PollBackoff, PollSchedule, Poller, PollerEnded, PollerThread},
    seed::may_be_in,
    sock_diag::{self, StateMask},
};
use crate::{
    model::{
        Addr, NetnsId, Record, SeedSocket,
        bound_ports::{BoundAddr, BoundPorts, MAX_ADDRS, MAX_HOLDERS, MAX_RANGES, PortHolder},
        record::Process,
    },
    privileges::CpuTimer,
};

/// Each poll walks the kernel's table of local ports for every namespace.
const INTERVAL: PollBackoff = PollBackoff { least: Duration::from_secs(1), share: 50 };
/// Sockets listed in one namespace.
const MAX_SOCKETS: usize = 1 << 16;
/// Sockets whose owner is searched in one poll.
const MAX_WANTED_OWNERS: usize = 4096;

/// The limit of a trace where [`is_listed`] is false.
pub const NOT_LISTED: &str = "This kernel does not list sockets that are bound and not connected (6.8 does): the ports that \
                              they hold count as available.";

/// Whether the kernel lists such sockets (`TCPF_BOUND_INACTIVE`, 6.8): it must list one that is bound meanwhile.
pub fn is_listed() -> bool {
    // Without a free port there are others to list.
    let _own = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).and_then(|socket| {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        rustix::net::bind(&socket, &any).map(|()| socket)
    });
    let mut listed = 0;
    let _ = sock_diag::for_each(StateMask::BOUND, NetnsId(0), |_| listed += 1);
    listed > 0
}

/// Reports the ports of the namespaces where they changed.
pub struct BoundPortPoller {
    findings: SyncSender<Record>,
    filter: KernelFilter,
    list: BoundPortList,
    schedule: PollSchedule,
}

impl BoundPortPoller {
    /// Starts the thread, which reports the sockets that `filter` passes.
    pub fn start(filter: &KernelFilter) -> io::Result<PollerThread<Self>> {
        PollerThread::start(|findings| Self {
            findings,
            filter: *filter,
            list: BoundPortList::default(),
            schedule: PollSchedule::new(INTERVAL),
        })
    }
}

impl Poller for BoundPortPoller {
    const NAME: &'static str = "bound_ports";
    type Request = LastPoll;
    type Finding = Record;

    fn due(&self) -> Option<Instant> {
        Some(self.schedule.due())
    }

    fn request(&mut self, LastPoll: LastPoll) {
        self.schedule.request_last();
        self.list.searched_all = false;
    }

    fn poll(&mut self) -> Result<(), PollerEnded> {
        let began = CpuTimer::start();
        for record in self.list.poll(&self.filter) {
            self.findings.send(record)?;
        }
        self.schedule.polled(began.elapsed())
    }
}

/// Lists the bound ports of all namespaces once.
pub fn records(filter: &KernelFilter) -> Vec<Record> {
    BoundPortList::default().poll(filter)
}

/// The ports reported so far.
#[derive(Default)]
struct BoundPortList {
    reported: FxHashMap<NetnsId, BoundPorts>,
    /// By inode number; `None` for a socket of the last poll without a known owner.
    owners: FxHashMap<u32, Option<Process>>,
    /// Whether an owner was searched for every socket that the first poll listed.
    searched_all: bool,
}

impl BoundPortList {
    /// Polls once: returns the ports of the namespaces where they changed.
    fn poll(&mut self, filter: &KernelFilter) -> Vec<Record> {
        // Namespaces that can't be visited could not be seeded either; the seed reports them.
        let Ok(round) =
            netns::visit_each(|netns| may_be_in(filter, netns.id), |netns| list(netns.id, filter))
        else {
            return Vec::new();
        };
        self.search_owners(round.visited.iter().flat_map(|(_, (sockets, _))| sockets));
        let there: FxHashSet<NetnsId> = round.visited.iter().map(|(netns, _)| netns.id).collect();
        self.reported.retain(|netns, _| there.contains(netns));
        let ts = host::monotonic_now();
        let mut records = Vec::new();
        for (netns, (sockets, beyond)) in round.visited {
            let bound = self.summarise(&sockets, beyond);
            if self.reported.get(&netns.id).unwrap_or(&BoundPorts::default()) != &bound {
                records.push(Record::BoundPorts { ts, netns: netns.id, bound: Box::new(bound.clone()) });
                self.reported.insert(netns.id, bound);
            }
        }
        records
    }

    /// Searches the owners of sockets that the previous poll listed, too, in the first poll and the last one of all: most
    /// others connect at once, and a hook reports their owner.
    fn search_owners<'a>(&mut self, sockets: impl Iterator<Item = &'a SeedSocket>) {
        let mut owners = FxHashMap::default();
        let mut wanted = FxHashSet::default();
        for socket in sockets {
            let known = self.owners.get(&socket.inode);
            let is_wanted = matches!(known, Some(None)) || !self.searched_all;
            if is_wanted && socket.inode != 0 && wanted.len() < MAX_WANTED_OWNERS {
                wanted.insert(socket.inode);
            }
            owners.insert(socket.inode, known.cloned().flatten());
        }
        // If /proc is unreadable, the seed reports that.
        if !wanted.is_empty()
            && let Ok(found) = owners::find(&wanted)
        {
            owners.extend(found.by_inode.into_iter().map(|(inode, holder)| (inode, Some(holder.process))));
        }
        self.owners = owners;
        self.searched_all = true;
    }

    fn summarise(&self, sockets: &[SeedSocket], beyond: u64) -> BoundPorts {
        let mut by_addr = BTreeMap::<Addr, (BTreeSet<u16>, Vec<PortHolder>)>::new();
        for socket in sockets {
            let saddr = if socket.tuple.saddr.is_any() { Addr::ANY } else { socket.tuple.saddr };
            let (ports, holders) = by_addr.entry(saddr).or_default();
            ports.insert(socket.tuple.sport);
            let Some(Some(process)) = self.owners.get(&socket.inode) else { continue };
            match holders.iter_mut().find(|holder| holder.pid == process.pid) {
                Some(holder) => holder.sockets += 1,
                None => holders.push(PortHolder {
                    pid: process.pid,
                    comm: process.comm.to_string(),
                    cgroup: process.cgroup,
                    sockets: 1,
                }),
            }
        }
        let mut by_addr: Vec<_> = by_addr.into_iter().collect();
        by_addr.sort_by_key(|(_, (ports, _))| std::cmp::Reverse(ports.len()));
        let mut bound = BoundPorts { addrs: Vec::new(), other_ports: beyond };
        let mut room = MAX_RANGES;
        for (saddr, (ports, mut holders)) in by_addr {
            let ranges = ranges(&ports);
            if bound.addrs.len() >= MAX_ADDRS || ranges.len() > room {
                bound.other_ports += ports.len() as u64;
                continue;
            }
            room -= ranges.len();
            holders.sort_by_key(|holder| (std::cmp::Reverse(holder.sockets), holder.pid));
            holders.truncate(MAX_HOLDERS);
            bound.addrs.push(BoundAddr { saddr, ports: ranges, holders });
        }
        bound
    }
}

/// The bound sockets of the calling thread's namespace, and the number of those beyond the limit.
fn list(netns: NetnsId, filter: &KernelFilter) -> (Vec<SeedSocket>, u64) {
    let (mut sockets, mut beyond) = (Vec::new(), 0);
    let _ = sock_diag::for_each(StateMask::BOUND, netns, |socket| {
        if !filter.passes(&socket.tuple.ends(netns)) {
            return;
        }
        if sockets.len() < MAX_SOCKETS {
            sockets.push(socket);
        } else {
            beyond += 1;
        }
    });
    (sockets, beyond)
}

fn ranges(ports: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let mut ranges = Vec::<(u16, u16)>::new();
    for &port in ports {
        match ranges.last_mut() {
            Some((_, last)) if u32::from(*last) + 1 == u32::from(port) => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_follow_each_other_are_one_range() {
        let ports = [1, 2, 3, 5, 7, 8, 65_534, 65_535].into();
        assert_eq!(ranges(&ports), [(1, 3), (5, 5), (7, 8), (65_534, 65_535)]);
    }
}
