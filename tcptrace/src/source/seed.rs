//! Reads the state that existed before the hooks were attached: the sockets of every reachable network
//! namespace, their owners, and names. Runs on a worker thread, so that the ring reader never waits.
//!
//! On request the thread then polls state that no hook reports: counters, queues and descriptors
//! ([`HostPoller`]).

use std::{
    io,
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::filter::{Ends, KernelFilter};

use super::{
    host,
    host_poller::{HostPoller, PollKind},
    netns::{self, Netns, Round},
    owners,
    poller::{LastPoll, PollBackoff, PollSchedule, Poller, PollerEnded, PollerThread},
    sock_diag::{self, DumpError, StateMask, Summary},
};
use crate::{
    model::{Nanos, NetnsId, Record, SeedSocket, SocketId, TcpState, record::HostFacts, units::plural},
    privileges::CpuTimer,
};

/// Records in a batch.
const BATCH: usize = 1024;
/// Each poll walks the socket hash table of every namespace.
const POLL_INTERVAL: PollBackoff = PollBackoff { least: Duration::from_secs(1), share: 50 };
/// Starts the worker thread.
///
/// Sockets that `filter` drops are omitted, like their records.
/// [`Filter::kernel_part`](crate::filter::Filter::kernel_part) ensures that these include no listener or owner
/// that a passing socket needs.
///
/// With `reports_held`, every poll reports the sockets that wait for a `close()`.
pub fn start(
    facts: HostFacts,
    filter: &KernelFilter,
    kind: PollKind,
    reports_held: bool,
) -> io::Result<PollerThread<Seed>> {
    PollerThread::start(|findings| Seed {
        findings,
        batch: Vec::with_capacity(BATCH),
        host_poller: HostPoller::new(reports_held),
        facts,
        filter: *filter,
        kind,
        inodes: FxHashMap::default(),
        is_read: false,
        schedule: PollSchedule::new(POLL_INTERVAL),
    })
}

/// Lists the listeners of every reachable network namespace. They precede the first records of the rings: so a connection
/// that is accepted before the seed is complete finds its listener. This costs little: the kernel walks no other socket.
pub fn listeners(filter: &KernelFilter) -> Vec<Record> {
    let mut found = Vec::new();
    // The complete seed reports what could not be read.
    let _ = netns::visit_each(
        |netns| may_be_in(filter, netns.id),
        |netns| {
            let _ = sock_diag::for_each(StateMask::of(&[TcpState::Listen]), netns.id, |socket| {
                if filter.passes(&socket.tuple.ends(socket.netns)) {
                    found.push(Record::Seed(socket));
                }
            });
        },
    );
    found
}

pub struct Seed {
    findings: SyncSender<Vec<Record>>,
    batch: Vec<Record>,
    facts: HostFacts,
    filter: KernelFilter,
    kind: PollKind,
    host_poller: HostPoller,
    inodes: FxHashMap<u32, SocketId>,
    /// Sockets and owners are complete: what remains is to poll.
    is_read: bool,
    schedule: PollSchedule,
}

impl Poller for Seed {
    const NAME: &'static str = "seed";
    type Request = LastPoll;
    type Finding = Vec<Record>;

    fn due(&self) -> Option<Instant> {
        Some(self.schedule.due())
    }

    fn request(&mut self, LastPoll: LastPoll) {
        self.schedule.request_last();
    }

    fn poll(&mut self) -> Result<(), PollerEnded> {
        let began = CpuTimer::start();
        if self.is_read {
            self.poll_host()?;
            return self.schedule.polled(began.elapsed());
        }
        self.sockets(host::monotonic_now())?;
        self.owners()?;
        if self.kind != PollKind::Host {
            return Err(PollerEnded);
        }
        self.inodes = FxHashMap::default();
        self.is_read = true;
        self.schedule.pause();
        Ok(())
    }
}

impl Seed {
    fn is_wanted(&self, socket: &SeedSocket) -> bool {
        self.filter.passes(&socket.tuple.ends(socket.netns))
    }

    fn poll_host(&mut self) -> Result<(), PollerEnded> {
        let mut seen = Vec::new();
        self.host_poller.begin();
        let (poller, filter) = (&mut self.host_poller, &self.filter);
        // Namespaces that can't be visited could not be seeded either; the seed reported them.
        let _ = netns::visit_each(
            |netns| may_be_in(filter, netns.id),
            |netns| {
                poller.counters(netns.id, &mut seen);
                let _ = poller.sockets(netns.id, filter, &mut seen);
            },
        );
        poller.end(&mut seen);
        seen.into_iter().try_for_each(|record| self.send(record))?;
        self.flush()
    }

    fn sockets(&mut self, began: Nanos) -> Result<(), PollerEnded> {
        let mut wanted = true;
        let round = netns::visit_each(
            |_| true,
            |netns| {
                // Only its name is needed.
                if !may_be_in(&self.filter, netns.id) {
                    return Ok(Summary::default());
                }
                let settings = Record::NetnsSettings {
                    ts: host::monotonic_now(),
                    netns: netns.id,
                    sysctls: host::sysctls(),
                };
                let mut seen = vec![settings];
                self.host_poller.counters(netns.id, &mut seen);
                wanted = wanted && seen.into_iter().try_for_each(|record| self.send(record)).is_ok();
                sock_diag::for_each(StateMask::ALL, netns.id, |socket| {
                    if !self.is_wanted(&socket) {
                        return;
                    }
                    if socket.inode != 0 {
                        self.inodes.insert(socket.inode, socket.id);
                    }
                    wanted = wanted && self.send(Record::Seed(socket)).is_ok();
                })
            },
        );
        match round {
            Ok(round) => self.report_round(round)?,
            Err(error) => {
                self.facts.limits.push(format!("Sockets older than the trace are unknown: {error}."));
            }
        }
        self.send(Record::Host(Box::new(self.facts.clone())))?;
        self.send(Record::SeedEnd { ts: host::monotonic_now(), began })?;
        self.flush()
    }

    fn report_round(&mut self, round: Round<Result<Summary, DumpError>>) -> Result<(), PollerEnded> {
        if let Some(first) = round.refused.first() {
            self.facts.limits.push(format!(
                "Sockets older than the trace are unknown in {} network namespaces ({first}).",
                round.refused.len()
            ));
        }
        for (Netns { id, name }, result) in round.visited {
            if let Err(error) = result {
                self.facts.limits.push(format!(
                    "Sockets older than the trace are unknown in network namespace {id}: {error}."
                ));
            }
            if let Some(name) = name {
                self.send(Record::NetnsName { ts: host::monotonic_now(), netns: id, name })?;
            }
        }
        Ok(())
    }

    fn owners(&mut self) -> Result<(), PollerEnded> {
        let wanted: FxHashSet<u32> = self.inodes.keys().copied().collect();
        match owners::find(&wanted) {
            Ok(owners) => {
                let missing = owners.missing(&wanted);
                let ts = host::monotonic_now();
                for (inode, holder) in owners.by_inode {
                    if let Some(&id) = self.inodes.get(&inode) {
                        self.send(Record::Owner { ts, id, process: holder.process, fd: None })?;
                    }
                }
                if let Some((missing, process)) = missing {
                    self.facts.limits.push(format!(
                        "{} no known owner: {process} could not be inspected.",
                        plural(
                            missing as u64,
                            "socket older than the trace has",
                            "sockets older than the trace have"
                        )
                    ));
                    self.send(Record::Host(Box::new(self.facts.clone())))?;
                }
            }
            Err(error) => {
                self.facts
                    .limits
                    .push(format!("Owners of sockets older than the trace are unknown: {error}."));
                self.send(Record::Host(Box::new(self.facts.clone())))?;
            }
        }
        self.send(Record::OwnersEnd { ts: host::monotonic_now() })?;
        self.flush()
    }

    fn send(&mut self, record: Record) -> Result<(), PollerEnded> {
        self.batch.push(record);
        if self.batch.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), PollerEnded> {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        Ok(self.findings.send(batch)?)
    }
}

/// Whether `netns` may contain a socket that `filter` passes.
pub fn may_be_in(filter: &KernelFilter, netns: NetnsId) -> bool {
    // 0 means unknown, and passes.
    filter.passes(&Ends { saddr: [0; 2], daddr: [0; 2], netns: netns.0, sport: 0, dport: 0 })
}
