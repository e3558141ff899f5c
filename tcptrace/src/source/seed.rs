//! Reads the state that existed before the hooks were attached: the sockets of every reachable network
//! namespace, their owners, and names. Runs on a worker thread, so that the ring reader never waits.
//!
//! On request the thread then polls state that no hook reports: counters, queues and descriptors
//! ([`HostPoller`]).

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::filter::{Ends, KernelFilter};

use super::{
    host,
    host_poller::{HostPoller, PollKind},
    netns::{self, Netns, Round},
    owners::{self, Effort},
    sock_diag::{self, DumpError, StateMask, Summary},
};
use crate::{
    model::{Nanos, NetnsId, Record, SeedSocket, SocketId, record::HostFacts, units::plural},
    privileges::{self, Work},
};

/// Records in a batch, and batches in the channel; together they bound what waits for the reader.
const BATCH: usize = 1024;
const BATCHES: usize = 64;

/// Poll interval: each poll walks the socket hash table of every namespace.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A poll may use at most one part in `SHARE` of the time.
const SHARE: u32 = 50;

/// A seed that is being read.
pub struct Reading {
    /// The records; the channel closes when all were sent.
    pub batches: Receiver<Vec<Record>>,
    last_look: Sender<()>,
}

impl Reading {
    /// Requests one last poll, after which the channel closes.
    pub fn end(&self) {
        // If the thread has ended, so have the batches.
        let _ = self.last_look.send(());
    }
}

/// Starts the worker thread.
///
/// Sockets that `filter` drops are omitted, like their records.
/// [`Filter::kernel_part`](crate::filter::Filter::kernel_part) ensures that these include no listener or owner
/// that a passing socket needs.
pub fn begin(facts: HostFacts, filter: &KernelFilter, look: PollKind) -> io::Result<Reading> {
    let (sender, batches) = sync_channel(BATCHES);
    let (last_look, end) = channel();
    let seed = Seed {
        sender,
        end,
        batch: Vec::with_capacity(BATCH),
        looks: HostPoller::new(&facts),
        facts,
        filter: *filter,
        look,
        inodes: FxHashMap::default(),
    };
    privileges::spawn("seed", Work::Looking, move || seed.read())?;
    Ok(Reading { batches, last_look })
}

struct Seed {
    sender: SyncSender<Vec<Record>>,
    end: Receiver<()>,
    batch: Vec<Record>,
    facts: HostFacts,
    filter: KernelFilter,
    look: PollKind,
    looks: HostPoller,
    inodes: FxHashMap<u32, SocketId>,
}

/// The receiver was dropped.
struct ReceiverGone;

impl Seed {
    fn read(mut self) {
        let began = host::monotonic_now();
        let _ = self.sockets(began).and_then(|()| self.owners()).and_then(|()| self.watch());
    }

    fn is_wanted(&self, socket: &SeedSocket) -> bool {
        self.filter.passes(&socket.tuple.ends(socket.netns))
    }

    /// Polls repeatedly, until the end is requested.
    fn watch(&mut self) -> Result<(), ReceiverGone> {
        self.inodes = FxHashMap::default();
        let mut pause = LOOK_EVERY;
        while self.look == PollKind::Host {
            let ended = match self.end.recv_timeout(pause) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return Err(ReceiverGone),
            };
            let began = Instant::now();
            self.poll_host()?;
            if ended {
                break;
            }
            pause = (began.elapsed() * SHARE).max(LOOK_EVERY);
        }
        Ok(())
    }

    fn poll_host(&mut self) -> Result<(), ReceiverGone> {
        let mut seen = Vec::new();
        self.looks.begin();
        let (looks, filter) = (&mut self.looks, &self.filter);
        // Namespaces that can't be visited could not be seeded either; the seed reported them.
        let _ = netns::visit_each(
            |netns| may_be_in(filter, netns.id),
            |netns| {
                looks.counters(netns.id, &mut seen);
                let _ = looks.sockets(netns.id, filter, &mut seen);
            },
        );
        looks.end(&mut seen);
        seen.into_iter().try_for_each(|record| self.send(record))?;
        self.flush()
    }

    fn sockets(&mut self, began: Nanos) -> Result<(), ReceiverGone> {
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
                self.looks.counters(netns.id, &mut seen);
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

    fn report_round(&mut self, round: Round<Result<Summary, DumpError>>) -> Result<(), ReceiverGone> {
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

    fn owners(&mut self) -> Result<(), ReceiverGone> {
        let wanted: FxHashSet<u32> = self.inodes.keys().copied().collect();
        match owners::find(&wanted, Effort::UntilFound) {
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
                        "{} no known owner: {process} could not be looked into.",
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

    fn send(&mut self, record: Record) -> Result<(), ReceiverGone> {
        self.batch.push(record);
        if self.batch.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), ReceiverGone> {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        self.sender.send(batch).map_err(|_| ReceiverGone)
    }
}

/// Whether `netns` may contain a socket that `filter` passes.
pub fn may_be_in(filter: &KernelFilter, netns: NetnsId) -> bool {
    // 0 means unknown, and passes.
    filter.passes(&Ends { saddr: [0; 2], daddr: [0; 2], netns: netns.0, sport: 0, dport: 0 })
}
