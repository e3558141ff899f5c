//! The table of live sockets: by kernel address, ends, inode number and cookie.

use std::collections::VecDeque;

use hashbrown::{HashMap, hash_map::Entry};

use crate::model::{Nanos, NetnsId, SeedSocket, SocketId, TcpState, Tuple};

/// How long an address still leads to a socket that ended: the records that explain an end follow within
/// `lifecycle::pending::GRACE`.
const KEEP_ENDED: Nanos = Nanos::SECOND;

/// The kernel objects that are identified by their address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LifeKind {
    /// A `struct sock`.
    Full,
    /// A `struct inet_timewait_sock`.
    Timewait,
}

/// Kind, namespace and tuple. A peer chooses tuples, so they are hashed with a random seed.
type Ends = (LifeKind, NetnsId, Tuple);

/// One kernel object from its first record to its last.
#[derive(Clone, Copy, Debug)]
pub(super) struct ObjectLife {
    /// The id of the socket; a timewait socket has that of its full socket. 0 where the seed must list it first.
    pub id: SocketId,
    pub kind: LifeKind,
    /// The cookie that something requested; 0 before.
    pub cookie: u64,
    pub netns: NetnsId,
    /// As last reported, without the interface.
    pub tuple: Tuple,
    /// Inode number at its first transition; 0 when it is not known.
    pub inode: u32,
    /// The last transition and its time.
    pub last: (u8, u8, Nanos),
    /// When it ended, or may have.
    pub ended: Option<Nanos>,
}

impl ObjectLife {
    fn ends(&self) -> Ends {
        (self.kind, self.netns, self.tuple)
    }

    /// Whether `tuple` may be its tuple: the kernel sets ports and addresses late and clears them early.
    pub fn may_have(&self, netns: NetnsId, tuple: &Tuple) -> bool {
        let ours = &self.tuple;
        let is_port = |ours, theirs| ours == theirs || ours == 0 || theirs == 0;
        netns == self.netns
            && is_port(ours.sport, tuple.sport)
            && is_port(ours.dport, tuple.dport)
            && (ours.daddr == tuple.daddr || ours.daddr.is_any() || tuple.daddr.is_any())
            && (ours.saddr == tuple.saddr || ours.saddr.is_any() || tuple.saddr.is_any())
    }

    /// Whether it is a child that has its listener's ends so far (before 6.15).
    pub const fn is_cloned(&self) -> bool {
        matches!(TcpState::from_kernel(self.last.1), Some(TcpState::SynRecv)) && self.tuple.dport == 0
    }

    /// Whether it may be the socket that `sock_diag` lists with the same ends: several listeners may share theirs.
    pub const fn may_be(&self, listed: &SeedSocket) -> bool {
        (self.cookie == 0 || self.cookie == listed.id.0)
            && (self.inode == 0 || listed.inode == 0 || self.inode == listed.inode)
    }

    /// Whether its full socket has sent or received a FIN: only then a timewait socket may follow.
    pub const fn is_closing(&self) -> bool {
        matches!(
            TcpState::from_kernel(self.last.1),
            Some(TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing)
        )
    }
}

/// All of them. Every operation takes constant time.
#[derive(Debug, Default)]
pub(super) struct Lives {
    by_address: HashMap<u64, ObjectLife>,
    by_ends: HashMap<Ends, u64>,
    by_inode: HashMap<u32, u64>,
    by_cookie: HashMap<u64, u64>,
    /// Addresses with the times of their ends, oldest first.
    ended: VecDeque<(Nanos, u64)>,
    most: usize,
}

impl Lives {
    /// A table of at most `most` sockets.
    pub fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    pub fn at(&self, address: u64) -> Option<&ObjectLife> {
        self.by_address.get(&address)
    }

    /// The socket that the indices name, if it has not ended.
    fn live(&self, address: Option<&u64>) -> Option<(u64, &ObjectLife)> {
        let &address = address?;
        let life = self.by_address.get(&address)?;
        life.ended.is_none().then_some((address, life))
    }

    pub fn with_ends(&self, kind: LifeKind, netns: NetnsId, tuple: &Tuple) -> Option<(u64, &ObjectLife)> {
        self.live(self.by_ends.get(&(kind, netns, tuple.without_interface())))
    }

    pub fn with_inode(&self, inode: u32) -> Option<(u64, &ObjectLife)> {
        self.live(self.by_inode.get(&inode).filter(|_| inode != 0))
    }

    pub fn with_cookie(&self, cookie: u64) -> Option<(u64, &ObjectLife)> {
        let address = self.by_cookie.get(&cookie).filter(|_| cookie != 0)?;
        Some((*address, self.by_address.get(address)?))
    }

    /// Begins a life at `address`. The one before has ended, even if its last record is missing.
    pub fn begin(&mut self, address: u64, life: ObjectLife) {
        self.remove(address);
        if self.by_address.len() >= self.most {
            return;
        }
        self.by_address.insert(address, life);
        self.index_ends(address, &life);
        if life.inode != 0 {
            self.by_inode.insert(life.inode, address);
        }
        if life.cookie != 0 {
            self.by_cookie.insert(life.cookie, address);
        }
    }

    /// Notes the newest tuple and cookie of the life at `address`.
    pub fn learn(&mut self, address: u64, tuple: &Tuple, cookie: u64) {
        self.learn_cookie(address, cookie);
        let Some(life) = self.by_address.get_mut(&address) else { return };
        let (before, tuple) = (*life, tuple.without_interface());
        if tuple.sport != 0 && tuple.dport != 0 && tuple != before.tuple {
            life.tuple = tuple;
            let now = *life;
            forget(&mut self.by_ends, &before.ends(), address);
            self.index_ends(address, &now);
        }
    }

    /// Notes the cookie of the life at `address`.
    pub fn learn_cookie(&mut self, address: u64, cookie: u64) {
        let Some(life) = self.by_address.get_mut(&address).filter(|_| cookie != 0) else { return };
        let before = std::mem::replace(&mut life.cookie, cookie);
        if before != cookie {
            forget(&mut self.by_cookie, &before, address);
        }
        self.by_cookie.insert(cookie, address);
    }

    /// Notes the last transition of the life at `address`.
    pub fn step(&mut self, address: u64, last: (u8, u8, Nanos)) {
        if let Some(life) = self.by_address.get_mut(&address) {
            life.last = last;
        }
    }

    /// Gives the life at `address` another id.
    pub fn rename(&mut self, address: u64, id: SocketId) {
        if let Some(life) = self.by_address.get_mut(&address) {
            life.id = id;
        }
    }

    /// Notes that the life at `address` ended, or may have.
    pub fn end(&mut self, address: u64, ts: Nanos) {
        if let Some(life) = self.by_address.get_mut(&address) {
            life.ended = Some(ts);
            self.ended.push_back((ts, address));
        }
    }

    /// The life at `address` goes on: its timer was armed again.
    pub fn continue_life(&mut self, address: u64) {
        if let Some(life) = self.by_address.get_mut(&address) {
            life.ended = None;
        }
    }

    /// Removes the lives that ended some time before `now`.
    pub fn remove_ended(&mut self, now: Nanos) {
        while let Some(&(ts, address)) = self.ended.front()
            && (now.since(ts) >= KEEP_ENDED || self.ended.len() > self.most)
        {
            self.ended.pop_front();
            if self.by_address.get(&address).is_some_and(|life| life.ended == Some(ts)) {
                self.remove(address);
            }
        }
    }

    fn index_ends(&mut self, address: u64, life: &ObjectLife) {
        if !life.is_cloned() {
            self.by_ends.insert(life.ends(), address);
        }
    }

    fn remove(&mut self, address: u64) {
        let Some(life) = self.by_address.remove(&address) else { return };
        forget(&mut self.by_ends, &life.ends(), address);
        forget(&mut self.by_inode, &life.inode, address);
        forget(&mut self.by_cookie, &life.cookie, address);
    }

    /// Entries of every index.
    #[cfg(test)]
    pub fn sizes(&self) -> [usize; 5] {
        [
            self.by_address.len(),
            self.by_ends.len(),
            self.by_inode.len(),
            self.by_cookie.len(),
            self.ended.len(),
        ]
    }
}

/// Removes the entry of `key`, unless it belongs to another socket by now.
fn forget<K: Copy + Eq + std::hash::Hash>(index: &mut HashMap<K, u64>, key: &K, address: u64) {
    if let Entry::Occupied(entry) = index.entry(*key)
        && *entry.get() == address
    {
        entry.remove();
    }
}
