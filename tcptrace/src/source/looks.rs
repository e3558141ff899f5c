//! What no hook tells and a look from time to time does: settings and counters of a network namespace, accept
//! queues, and who holds the sockets that wait for a `close()`. Out come records, of what has changed.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::filter::KernelFilter;

use super::{
    counters, host,
    owners::{self, Effort},
    sock_diag::{self, DumpError, StateMask},
};
use crate::model::{
    NetnsId, Record, SocketId, TcpState,
    record::{HostFacts, SeedObject},
};

/// What to look at while a trace goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Only at what the hooks can't show of a socket's states.
    States,
    /// Also at what surrounds the sockets: counters, queues, descriptors.
    Host,
}

const LISTEN: StateMask = StateMask::of(&[TcpState::Listen]);
/// States that last until a process calls `close()`.
const HELD: StateMask = StateMask::of(&[TcpState::CloseWait, TcpState::FinWait2]);
/// Sockets whose holder is looked for in one go.
const MOST_WANTED: usize = 4096;

/// What was told before.
#[derive(Debug, Default)]
pub struct Looks {
    /// Tell of sockets that wait for a `close()` as long as they do: no hook tells of their end.
    tells_held: bool,
    counters: FxHashMap<NetnsId, BTreeMap<String, u64>>,
    /// Length and limit of the accept queues.
    queues: FxHashMap<SocketId, (u32, u32)>,
    /// Sockets that wait for a `close()`.
    held: FxHashMap<SocketId, Held>,
    made: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    inode: u32,
    /// The look that found it first, and the last one.
    looks: (u64, u64),
    is_told: bool,
}

impl Looks {
    /// Nothing was told yet.
    pub fn new(facts: &HostFacts) -> Self {
        Self { tells_held: facts.blind, ..Self::default() }
    }

    /// A look begins.
    pub fn begin(&mut self) {
        self.made += 1;
    }

    /// The counters of `netns`, in which the calling thread is.
    pub fn counters(&mut self, netns: NetnsId, out: &mut Vec<Record>) {
        let ts = host::monotonic_now();
        let counters = counters::counters();
        if self.counters.get(&netns) != Some(&counters) {
            self.counters.insert(netns, counters.clone());
            out.push(Record::NetnsCounters { ts, netns, counters });
        }
    }

    /// The sockets of `netns` that pass `filter` and are worth more than one look.
    pub fn sockets(
        &mut self,
        netns: NetnsId,
        filter: &KernelFilter,
        out: &mut Vec<Record>,
    ) -> Result<(), DumpError> {
        sock_diag::for_each(LISTEN, netns, |socket| {
            let queue = (socket.rqueue, socket.wqueue);
            let is_news = self.queues.insert(socket.id, queue) != Some(queue);
            if is_news && filter.passes(&socket.tuple.ends(netns)) {
                out.push(Record::Seed(socket));
            }
        })?;
        let look = self.made;
        sock_diag::for_each(HELD, netns, |socket| {
            let is_held = socket.inode != 0 && socket.object == SeedObject::Full;
            if is_held && filter.passes(&socket.tuple.ends(netns)) {
                if self.tells_held {
                    out.push(Record::Seed(socket));
                }
                let first = Held { inode: socket.inode, looks: (look, look), is_told: false };
                self.held.entry(socket.id).or_insert(first).looks.1 = look;
            }
        })?;
        Ok(())
    }

    /// Who holds the sockets that have waited since an earlier look, and by which descriptor.
    pub fn holders(&mut self, out: &mut Vec<Record>) {
        let look = self.made;
        self.held.retain(|_, held| held.looks.1 == look);
        let waiting = self.held.iter_mut().filter(|(_, held)| !held.is_told && held.looks.0 < look);
        let mut wanted = FxHashSet::default();
        let mut ids = Vec::new();
        for (&id, held) in waiting.take(MOST_WANTED) {
            held.is_told = true;
            wanted.insert(held.inode);
            ids.push((id, held.inode));
        }
        if wanted.is_empty() {
            return;
        }
        // Where /proc can't be read the seed has said so.
        let Ok(mut found) = owners::find(&wanted, Effort::UntilFound) else { return };
        let ts = host::monotonic_now();
        for (id, inode) in ids {
            if let Some(holder) = found.by_inode.remove(&inode) {
                out.push(Record::Owner { ts, id, process: holder.process, fd: Some(holder.fd) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Two looks at this process's own namespace.
    fn look(looks: &mut Looks) -> Vec<Record> {
        let netns = host::own_netns().expect("/proc is mounted");
        let mut out = Vec::new();
        looks.begin();
        looks.counters(netns, &mut out);
        looks.sockets(netns, &KernelFilter::default(), &mut out).expect("sock_diag answers");
        looks.holders(&mut out);
        out
    }

    #[test]
    fn a_descriptor_is_told_once_when_its_socket_has_waited() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
        let (server, _) = listener.accept().expect("a client");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&server).cast_unsigned();
        drop(client);
        let mut looks = Looks::default();
        let mine = |records: &[Record]| {
            let pid = std::process::id();
            let is_it = |record: &&Record| matches!(record, Record::Owner { process, fd: Some(of), .. } if process.pid == pid && *of == fd);
            records.iter().filter(is_it).count()
        };
        let first = look(&mut looks);
        assert_eq!(mine(&first), 0);
        assert!(first.iter().any(|record| matches!(record, Record::NetnsCounters { .. })));
        let second = look(&mut looks);
        assert_eq!(mine(&second), 1);
        assert_eq!(mine(&look(&mut looks)), 0);
    }
}
