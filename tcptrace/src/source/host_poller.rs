//! Polls host state that no hook reports: counters of a network namespace, accept queues, and the owners of
//! sockets that wait for a `close()`. Emits records of changes.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::filter::KernelFilter;

use super::{
    counters, host, owners,
    sock_diag::{self, DumpError, StateMask},
};
use crate::model::{NetnsId, Record, SocketId, TcpState, record::SeedObject};

/// What to poll during a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollKind {
    /// Only socket states that the hooks can't report.
    States,
    /// Also what holds ports besides connections: connection tracking tables, bound sockets.
    Ports,
    /// All that, and the surroundings of the sockets: counters, queues, descriptors.
    Host,
}

const LISTEN: StateMask = StateMask::of(&[TcpState::Listen]);
/// States that last until a process calls `close()`.
const HELD: StateMask = StateMask::of(&[TcpState::CloseWait, TcpState::FinWait2]);
/// Sockets whose owner is searched in one poll.
const MAX_WANTED_OWNERS: usize = 4096;

/// The values reported so far.
#[derive(Debug, Default)]
pub struct HostPoller {
    /// Report the sockets that wait for a `close()` in every poll: where no hook reports their end, and where their cookies
    /// must be learned before their owners.
    reports_held: bool,
    counters: FxHashMap<NetnsId, Seen<BTreeMap<String, u64>>>,
    /// Length and limit of the accept queues.
    queues: FxHashMap<SocketId, Seen<(u32, u32)>>,
    /// Sockets that wait for a `close()`.
    held: FxHashMap<SocketId, Held>,
    /// Number of the current poll.
    round: u64,
}

/// Last value of something that may be gone in the next poll, with the number of the last poll that found it.
#[derive(Debug)]
struct Seen<T> {
    last: T,
    round: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    inode: u32,
    /// Numbers of the first and the last poll that found it.
    rounds: (u64, u64),
    is_reported: bool,
}

impl HostPoller {
    /// Creates a poller that has reported nothing.
    pub fn new(reports_held: bool) -> Self {
        Self { reports_held, ..Self::default() }
    }

    /// Begins a poll.
    pub fn begin(&mut self) {
        self.round += 1;
    }

    /// Reports the counters of `netns`, which the calling thread is in, if they have changed.
    pub fn counters(&mut self, netns: NetnsId, out: &mut Vec<Record>) {
        let ts = host::monotonic_now();
        let counters = counters::counters();
        let seen = Seen { last: counters.clone(), round: self.round };
        if self.counters.insert(netns, seen).is_none_or(|before| before.last != counters) {
            out.push(Record::NetnsCounters { ts, netns, counters });
        }
    }

    /// Polls the listeners of `netns` that pass `filter`, and its sockets that wait for a `close()`.
    pub fn sockets(
        &mut self,
        netns: NetnsId,
        filter: &KernelFilter,
        out: &mut Vec<Record>,
    ) -> Result<(), DumpError> {
        let round = self.round;
        sock_diag::for_each(LISTEN, netns, |socket| {
            let queue = (socket.rqueue, socket.wqueue);
            let seen = Seen { last: queue, round };
            let is_changed = self.queues.insert(socket.id, seen).is_none_or(|before| before.last != queue);
            if is_changed && filter.passes(&socket.tuple.ends(netns)) {
                out.push(Record::Seed(socket));
            }
        })?;
        sock_diag::for_each(HELD, netns, |socket| {
            let is_held = socket.inode != 0 && socket.object == SeedObject::Full;
            if is_held && filter.passes(&socket.tuple.ends(netns)) {
                if self.reports_held {
                    out.push(Record::Seed(socket));
                }
                let first = Held { inode: socket.inode, rounds: (round, round), is_reported: false };
                self.held.entry(socket.id).or_insert(first).rounds.1 = round;
            }
        })?;
        Ok(())
    }

    /// Ends a poll: evicts the entries it did not find, and reports owner and descriptor of the sockets that
    /// have waited since an earlier poll.
    pub fn end(&mut self, out: &mut Vec<Record>) {
        let round = self.round;
        self.counters.retain(|_, seen| seen.round == round);
        self.queues.retain(|_, seen| seen.round == round);
        self.held.retain(|_, held| held.rounds.1 == round);
        let waiting = self.held.iter_mut().filter(|(_, held)| !held.is_reported && held.rounds.0 < round);
        let mut wanted = FxHashSet::default();
        let mut ids = Vec::new();
        for (&id, held) in waiting.take(MAX_WANTED_OWNERS) {
            held.is_reported = true;
            wanted.insert(held.inode);
            ids.push((id, held.inode));
        }
        if wanted.is_empty() {
            return;
        }
        // If /proc is unreadable, the seed has reported that.
        let Ok(mut found) = owners::find(&wanted) else { return };
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

    /// Polls this process's own namespace once.
    fn poll(poller: &mut HostPoller) -> Vec<Record> {
        let netns = host::own_netns().expect("/proc is mounted");
        let mut out = Vec::new();
        poller.begin();
        poller.counters(netns, &mut out);
        poller.sockets(netns, &KernelFilter::default(), &mut out).expect("sock_diag answers");
        poller.end(&mut out);
        out
    }

    #[test]
    fn vanished_entries_are_evicted() {
        let mut poller = HostPoller::default();
        poll(&mut poller);
        let before = poller.queues.len();
        let listeners: Vec<_> =
            (0..50).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        poll(&mut poller);
        assert!(poller.queues.len() >= before.min(25) + 25, "{before}, then {}", poller.queues.len());
        drop(listeners);
        let netns = NetnsId(u32::MAX);
        poller.counters(netns, &mut Vec::new());
        poll(&mut poller);
        let mut own = FxHashSet::default();
        let of = host::own_netns().expect("/proc is mounted");
        sock_diag::for_each(LISTEN, of, |socket| {
            own.insert(socket.id);
        })
        .expect("sock_diag answers");
        // Other processes open and close listeners meanwhile.
        assert!(poller.queues.keys().filter(|id| !own.contains(id)).count() < 25);
        assert!(!poller.counters.contains_key(&netns));
    }

    #[test]
    fn a_descriptor_is_reported_once_its_socket_has_waited() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
        let (server, _) = listener.accept().expect("a client");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&server).cast_unsigned();
        drop(client);
        let mut poller = HostPoller::default();
        let mine = |records: &[Record]| {
            let pid = std::process::id();
            let is_it = |record: &&Record| matches!(record, Record::Owner { process, fd: Some(of), .. } if process.pid == pid && *of == fd);
            records.iter().filter(is_it).count()
        };
        let first = poll(&mut poller);
        assert_eq!(mine(&first), 0);
        assert!(first.iter().any(|record| matches!(record, Record::NetnsCounters { .. })));
        let second = poll(&mut poller);
        assert_eq!(mine(&second), 1);
        assert_eq!(mine(&poll(&mut poller)), 0);
    }
}
