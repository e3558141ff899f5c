//! What existed before the hooks were attached: sockets of every reachable network namespace, their
//! owners, and names. Read on a thread of its own, so that the reader of the ring never waits.
//!
//! Where that was asked for, the thread goes on to look at what no hook tells: counters, queues and descriptors
//! ([`Looks`]).

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::filter::{Ends, KernelFilter};

use super::{
    host,
    looks::{Look, Looks},
    netns::{self, Netns, Round},
    owners::{self, Effort},
    sock_diag::{self, DumpError, StateMask, Summary},
};
use crate::{
    model::{Nanos, NetnsId, Record, SeedSocket, SocketId, record::HostFacts, units::plural},
    privileges::{self, Work},
};

/// Records in a batch, and batches under way: bounds what waits for the reader.
const BATCH: usize = 1024;
const BATCHES: usize = 64;

/// How often to look: a look walks the hash table of every namespace.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look may take one part in so many of the time.
const SHARE: u32 = 50;

/// A seed being read.
pub struct Reading {
    /// What was read; it ends when everything was sent.
    pub batches: Receiver<Vec<Record>>,
    last_look: Sender<()>,
}

impl Reading {
    /// Asks for one last look, after which the batches end.
    pub fn end(&self) {
        // Where nobody looks any more they have ended.
        let _ = self.last_look.send(());
    }
}

/// Begins to read.
///
/// Sockets that `filter` drops are left out, like their records: the listeners and owners that matter to those
/// it lets pass are not among them ([`Filter::kernel_part`](crate::filter::Filter::kernel_part)).
pub fn begin(facts: HostFacts, filter: &KernelFilter, look: Look) -> io::Result<Reading> {
    let (sender, batches) = sync_channel(BATCHES);
    let (last_look, end) = channel();
    let seed = Seed {
        sender,
        end,
        batch: Vec::with_capacity(BATCH),
        looks: Looks::new(&facts),
        facts,
        filter: *filter,
        look,
        inodes: FxHashMap::default(),
    };
    std::thread::Builder::new().name("seed".into()).spawn(move || {
        privileges::keep_for(Work::Looking);
        seed.read();
    })?;
    Ok(Reading { batches, last_look })
}

struct Seed {
    sender: SyncSender<Vec<Record>>,
    end: Receiver<()>,
    batch: Vec<Record>,
    facts: HostFacts,
    filter: KernelFilter,
    look: Look,
    looks: Looks,
    inodes: FxHashMap<u32, SocketId>,
}

/// The reader is gone: nobody wants the rest.
struct Unwanted;

impl Seed {
    fn read(mut self) {
        let began = host::monotonic_now();
        let _ = self.sockets(began).and_then(|()| self.owners()).and_then(|()| self.watch());
    }

    fn is_wanted(&self, socket: &SeedSocket) -> bool {
        self.filter.passes(&socket.tuple.ends(socket.netns))
    }

    /// Looks again and again, until it is to end.
    fn watch(&mut self) -> Result<(), Unwanted> {
        self.inodes = FxHashMap::default();
        let mut pause = LOOK_EVERY;
        while self.look == Look::Host {
            let ended = match self.end.recv_timeout(pause) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return Err(Unwanted),
            };
            let began = Instant::now();
            self.look_at_host()?;
            if ended {
                break;
            }
            pause = (began.elapsed() * SHARE).max(LOOK_EVERY);
        }
        Ok(())
    }

    fn look_at_host(&mut self) -> Result<(), Unwanted> {
        let mut seen = Vec::new();
        self.looks.begin();
        let (looks, filter) = (&mut self.looks, &self.filter);
        // What can't be visited now could not be seeded either, and was told then.
        let _ = netns::in_each(
            |netns| may_be_in(filter, netns.id),
            |netns| {
                looks.counters(netns.id, &mut seen);
                let _ = looks.sockets(netns.id, filter, &mut seen);
            },
        );
        looks.holders(&mut seen);
        seen.into_iter().try_for_each(|record| self.send(record))?;
        self.flush()
    }

    fn sockets(&mut self, began: Nanos) -> Result<(), Unwanted> {
        let mut wanted = true;
        let round = netns::in_each(
            |_| true,
            |netns| {
                // Only its name is wanted, for the round.
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
            Ok(round) => self.tell_round(round)?,
            Err(error) => {
                self.facts.limits.push(format!("Sockets older than the trace are unknown: {error}."));
            }
        }
        self.send(Record::Host(Box::new(self.facts.clone())))?;
        self.send(Record::SeedEnd { ts: host::monotonic_now(), began })?;
        self.flush()
    }

    fn tell_round(&mut self, round: Round<Result<Summary, DumpError>>) -> Result<(), Unwanted> {
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

    fn owners(&mut self) -> Result<(), Unwanted> {
        let wanted: FxHashSet<u32> = self.inodes.keys().copied().collect();
        match owners::find(&wanted, Effort::UntilFound) {
            Ok(owners) => {
                let ts = host::monotonic_now();
                for (inode, holder) in owners.by_inode {
                    if let Some(&id) = self.inodes.get(&inode) {
                        self.send(Record::Owner { ts, id, process: holder.process, fd: None })?;
                    }
                }
                if owners.unreadable_processes > 0 {
                    self.facts.limits.push(format!(
                        "Owners of sockets older than the trace may be missing: {} could not be looked into.",
                        plural(owners.unreadable_processes.into(), "process", "processes")
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

    fn send(&mut self, record: Record) -> Result<(), Unwanted> {
        self.batch.push(record);
        if self.batch.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Unwanted> {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        self.sender.send(batch).map_err(|_| Unwanted)
    }
}

/// Whether a socket that `filter` lets pass may be in `netns`.
pub fn may_be_in(filter: &KernelFilter, netns: NetnsId) -> bool {
    // Whatever is 0 is not known, and passes.
    filter.passes(&Ends { saddr: [0; 2], daddr: [0; 2], netns: netns.0, sport: 0, dport: 0 })
}
