//! What existed before the hooks were attached: sockets of every reachable network namespace, their
//! owners, and names. Read on a thread of its own, so that the reader of the ring never waits.
//!
//! Where segments that reach a minisocket are not seen, the thread goes on to look at FIN_WAIT2 alone: an
//! orphan that is no longer there has gone on to TIME_WAIT.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::filter::KernelFilter;

use super::{
    host,
    netns::{self, Netns, Round},
    owners::{self, Effort},
    sock_diag::{self, DumpError, StateMask, Summary},
};
use crate::model::{
    Nanos, Record, SeedSocket, SocketId, TcpState,
    record::{HostFacts, SeedObject},
};

/// Records in a batch, and batches under way: bounds what waits for the reader.
const BATCH: usize = 1024;
const BATCHES: usize = 64;

const FIN_WAIT2: StateMask = StateMask::of(&[TcpState::FinWait2]);
/// How often to look at FIN_WAIT2: a look walks the hash table of every namespace.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look may take one part in so many of the time.
const SHARE: u32 = 50;

/// Begins to read; the receiver ends when everything was sent.
///
/// Sockets that `filter` drops are left out, like their records: the listeners and owners that matter to those
/// it lets pass are not among them ([`Filter::kernel_part`](crate::filter::Filter::kernel_part)).
pub fn begin(facts: HostFacts, filter: &KernelFilter) -> io::Result<Receiver<Vec<Record>>> {
    let (sender, receiver) = sync_channel(BATCHES);
    let batch = Vec::with_capacity(BATCH);
    let seed = Seed { sender, batch, facts, filter: *filter, inodes: FxHashMap::default() };
    std::thread::Builder::new().name("seed".into()).spawn(move || seed.read())?;
    Ok(receiver)
}

struct Seed {
    sender: SyncSender<Vec<Record>>,
    batch: Vec<Record>,
    facts: HostFacts,
    filter: KernelFilter,
    inodes: FxHashMap<u32, SocketId>,
}

/// The reader is gone: nobody wants the rest.
struct Unwanted;

impl Seed {
    fn read(mut self) {
        let began = host::monotonic_now();
        let _ = self.sockets(began).and_then(|()| self.owners()).and_then(|()| self.watch_fin_wait2());
    }

    fn is_wanted(&self, socket: &SeedSocket) -> bool {
        self.filter.passes(&socket.tuple.ends(socket.netns))
    }

    fn watch_fin_wait2(&mut self) -> Result<(), Unwanted> {
        while !self.facts.segments {
            let began = Instant::now();
            self.look_at_fin_wait2()?;
            std::thread::sleep((began.elapsed() * SHARE).max(LOOK_EVERY));
        }
        Ok(())
    }

    fn look_at_fin_wait2(&mut self) -> Result<(), Unwanted> {
        let mut wanted = Ok(());
        // What can't be visited now could not be seeded either, and was told then.
        let _ = netns::in_each(
            |_| true,
            |netns| {
                let began = host::monotonic_now();
                let looked = sock_diag::for_each(FIN_WAIT2, netns.id, |socket| {
                    let is_minisocket = matches!(socket.object, SeedObject::Minisocket { .. });
                    if wanted.is_ok() && is_minisocket && self.is_wanted(&socket) {
                        wanted = self.send(Record::Seed(socket));
                    }
                });
                if wanted.is_ok() && looked.is_ok() {
                    let ts = host::monotonic_now();
                    wanted = self.send(Record::FinWait2End { ts, began, netns: netns.id });
                }
            },
        );
        wanted?;
        self.flush()
    }

    fn sockets(&mut self, began: Nanos) -> Result<(), Unwanted> {
        let mut wanted = true;
        let round = netns::in_each(
            |_| true,
            |netns| {
                let settings = Record::NetnsSettings {
                    ts: host::monotonic_now(),
                    netns: netns.id,
                    sysctls: host::sysctls(),
                };
                wanted = wanted && self.send(settings).is_ok();
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
                        self.send(Record::Owner { ts, id, process: holder.process })?;
                    }
                }
                if owners.unreadable_processes > 0 {
                    self.facts.limits.push(format!(
                        "Owners of sockets older than the trace may be missing: {} processes could not be looked into.",
                        owners.unreadable_processes
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
