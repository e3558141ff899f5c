//! Identifies sockets where programs cannot request a socket's cookie (before Linux 5.12): records come in with kernel
//! addresses, and go out with ids of tcptrace in place of the cookies.
//!
//! - A socket gets a new id at CLOSE -> x and at LISTEN -> SYN_RECV; from then on its address identifies it.
//! - A timewait socket takes the id of the full socket with its tuple, whose -> CLOSE follows.
//! - Others may request cookies: `ss`, and the listings of tcptrace. A cookie in a record is an alias of the id.
//! - A listing is joined by alias, inode number, or tuple, and adds the alias. A socket that no record has shown keeps its
//!   cookie as its id.
//!
//! Ambiguous is only a listing that is older than the records by then: a tuple that was used again in between.

mod lives;
#[cfg(test)]
mod tests;

use hashbrown::HashMap;
use tcptrace_common::record::{Kind, RawRecord, identity::LISTENER};

use self::lives::{LifeKind, Lives, ObjectLife};
use crate::model::{
    HookRecord, Nanos, NetnsId, Record, SeedSocket, SocketId, TcpState, Tuple, record::SeedObject,
};

/// Between two reports of one transition, see `lifecycle::recently_closed`.
const DUPLICATE_WINDOW: Nanos = Nanos::SECOND;
/// As many sockets as the tracker follows.
const MOST: usize = 4_000_000;

/// The ids of all sockets.
#[derive(Debug)]
pub(super) struct Identities {
    lives: Lives,
    made: u64,
    most: usize,
    /// Sockets that ended while the seed is being read: their listing must not bring them back. `None` afterwards.
    ended_in_seed: Option<HashMap<(NetnsId, Tuple), SocketId>>,
}

impl Default for Identities {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Identities {
    fn new(most: usize) -> Self {
        Self { lives: Lives::new(most), made: 0, most, ended_in_seed: Some(HashMap::default()) }
    }

    /// Replaces the cookies of a hook's record by ids, and restores its `arg1`.
    pub fn identify(&mut self, seen: &mut HookRecord) {
        let raw = &mut seen.raw;
        self.lives.remove_ended(Nanos(raw.ts_ns));
        match Kind::from_raw(raw.kind) {
            Some(Kind::Transition) => self.transition(raw),
            Some(Kind::ResetSent | Kind::ResetReceived | Kind::ErrorReported | Kind::Accepted) => {
                let known = self.known(raw, LifeKind::Full);
                raw.cookie = self.known_or_older(known, raw).0;
            }
            Some(Kind::TimewaitArmed) => self.timewait_armed(raw),
            Some(Kind::TimewaitCancelled | Kind::TimewaitExpired | Kind::Segment) => self.timewait(raw),
            Some(Kind::RequestArmed | Kind::RequestCancelled | Kind::RequestExpired) => self.request(raw),
            None => {}
        }
    }

    /// Replaces the cookies of everything else that names a socket.
    pub fn identify_listed(&mut self, record: &mut Record) {
        match record {
            Record::Seed(socket) => socket.id = self.listed(socket),
            Record::Listing(listing) => {
                for socket in &mut listing.sockets {
                    socket.id = self.listed(socket);
                }
            }
            Record::Owner { id, .. } => {
                if let Some((_, life)) = self.lives.with_cookie(id.0) {
                    *id = life.id;
                }
            }
            Record::SeedEnd { .. } => self.ended_in_seed = None,
            _ => {}
        }
    }

    fn next_id(&mut self) -> SocketId {
        self.made += 1;
        SocketId::made_up(self.made)
    }

    fn transition(&mut self, raw: &mut RawRecord) {
        let (old, new) = (TcpState::from_kernel(raw.old), TcpState::from_kernel(raw.new));
        let last = (raw.old, raw.new, Nanos(raw.ts_ns));
        let is_first =
            old == Some(TcpState::Close) || (old, new) == (Some(TcpState::Listen), Some(TcpState::SynRecv));
        let inode = if old == Some(TcpState::Close) { std::mem::take(&mut raw.arg1) as u32 } else { 0 };
        let is_repeated = |life: &ObjectLife| {
            (life.last.0, life.last.1) == (raw.old, raw.new) && last.2.since(life.last.2) < DUPLICATE_WINDOW
        };
        let known = match self.lives.at(raw.object) {
            Some(life) if is_repeated(life) => Some(life.id),
            Some(life) if is_first || life.ended.is_some() => None,
            _ => self.known(raw, LifeKind::Full),
        };
        let id = if is_first && known.is_none() {
            // Before 6.15 the record of a child has its listener's cookie.
            let cookie = if old == Some(TcpState::Close) { raw.cookie } else { 0 };
            let id = self.next_id();
            self.begin(raw, id, LifeKind::Full, cookie, inode);
            id
        } else {
            self.known_or_older(known, raw)
        };
        raw.cookie = id.0;
        self.lives.step(raw.object, last);
        if new == Some(TcpState::Close) {
            self.end(raw, id);
        }
    }

    /// A timewait socket was created, or its timer was armed again.
    fn timewait_armed(&mut self, raw: &mut RawRecord) {
        let (netns, tuple) = (NetnsId(raw.netns), Tuple::of(raw));
        let full = self.lives.with_ends(LifeKind::Full, netns, &tuple);
        let full = full.filter(|(_, life)| life.is_closing()).map(|(_, life)| life.id);
        let known = self.known(raw, LifeKind::Timewait);
        let id = match (full, known) {
            (Some(full), known) if known != Some(full) => {
                self.begin(raw, full, LifeKind::Timewait, raw.cookie, 0);
                full
            }
            (_, Some(known)) => {
                self.lives.continue_life(raw.object);
                self.lives.learn(raw.object, &tuple, raw.cookie);
                known
            }
            // The full socket is older than the trace.
            _ => {
                let id = self.id_of_cookie(raw).unwrap_or_else(|| self.next_id());
                self.begin(raw, id, LifeKind::Timewait, raw.cookie, 0);
                id
            }
        };
        raw.cookie = id.0;
    }

    /// The timer of a timewait socket was cancelled or expired, or a segment arrived.
    fn timewait(&mut self, raw: &mut RawRecord) {
        let id = if let Some(known) = self.known(raw, LifeKind::Timewait) {
            self.lives.learn(raw.object, &Tuple::of(raw), raw.cookie);
            known
        } else {
            // Older than the trace: without a cookie, the seed lists it later if it goes on.
            let id = self.id_of_cookie(raw).unwrap_or(SocketId(0));
            self.begin(raw, id, LifeKind::Timewait, raw.cookie, 0);
            id
        };
        raw.cookie = id.0;
        if raw.kind != Kind::Segment as u8 {
            self.end(raw, id);
        }
    }

    /// The tracker identifies a handshake by its ends.
    fn request(&self, raw: &mut RawRecord) {
        /// Highest byte of every kernel address.
        const HIGHEST: u64 = 0xff << 56;
        raw.cookie = 0;
        let listener = self.lives.at(raw.arg1 >> LISTENER | HIGHEST);
        let listener = listener.filter(|life| life.ended.is_none() && life.kind == LifeKind::Full);
        let listener = listener.or_else(|| Some(self.lives.with_cookie(raw.arg0)?.1));
        raw.arg0 = listener.map_or(raw.arg0, |life| life.id.0);
        raw.arg1 &= (1 << LISTENER) - 1;
    }

    /// The id of the object of `raw`, unless its address belongs to another one by now.
    fn known(&self, raw: &RawRecord, kind: LifeKind) -> Option<SocketId> {
        let life = self.lives.at(raw.object)?;
        let is_it = life.kind == kind && life.may_have(NetnsId(raw.netns), &Tuple::of(raw));
        is_it.then_some(life.id)
    }

    /// The id of a full socket: `known`, or that of a socket older than the trace.
    fn known_or_older(&mut self, known: Option<SocketId>, raw: &RawRecord) -> SocketId {
        let (netns, tuple) = (NetnsId(raw.netns), Tuple::of(raw));
        if let Some(id) = known {
            let is_listed = self.is_unseen_child(raw) && self.lives.with_cookie(raw.cookie).is_none();
            self.lives.learn(raw.object, &tuple, raw.cookie);
            if is_listed {
                self.lives.rename(raw.object, SocketId(raw.cookie));
                return SocketId(raw.cookie);
            }
            return id;
        }
        let timewait = || {
            let handed_over = raw.kind == Kind::Transition as u8 && raw.new == TcpState::Close as u8;
            let timewait = self.lives.with_ends(LifeKind::Timewait, netns, &tuple).filter(|_| handed_over);
            timewait.map(|(_, life)| life.id)
        };
        let id = self.id_of_cookie(raw).or_else(timewait).unwrap_or_else(|| self.next_id());
        self.begin(raw, id, LifeKind::Full, raw.cookie, 0);
        id
    }

    /// Whether `raw` is the first record with the tuple of a child (before 6.15), and a listing has requested its cookie:
    /// none could be joined before.
    fn is_unseen_child(&self, raw: &RawRecord) -> bool {
        let life = self.lives.at(raw.object);
        raw.cookie != 0
            && raw.dport != 0
            && life.is_some_and(|life| life.kind == LifeKind::Full && life.is_cloned())
    }

    /// The id by the cookie of `raw`: the cookie itself, unless it is an alias. Timewait sockets may share their cookie with
    /// the next connection of one descriptor. `None` without a cookie.
    fn id_of_cookie(&self, raw: &RawRecord) -> Option<SocketId> {
        let is_it = |life: &ObjectLife| life.may_have(NetnsId(raw.netns), &Tuple::of(raw));
        let known = self.lives.with_cookie(raw.cookie).filter(|(_, life)| is_it(life));
        known.map(|(_, life)| life.id).or_else(|| (raw.cookie != 0).then_some(SocketId(raw.cookie)))
    }

    fn begin(&mut self, raw: &RawRecord, id: SocketId, kind: LifeKind, cookie: u64, inode: u32) {
        let life = ObjectLife {
            id,
            kind,
            cookie,
            netns: NetnsId(raw.netns),
            tuple: Tuple::of(raw).without_interface(),
            inode,
            last: (raw.old, raw.new, Nanos(raw.ts_ns)),
            ended: None,
        };
        self.lives.begin(raw.object, life);
    }

    fn end(&mut self, raw: &RawRecord, id: SocketId) {
        self.lives.end(raw.object, Nanos(raw.ts_ns));
        if let Some(ended) = &mut self.ended_in_seed
            && ended.len() < self.most
        {
            ended.insert((NetnsId(raw.netns), Tuple::of(raw).without_interface()), id);
        }
    }

    /// The id of a socket that `sock_diag` lists. Learns its cookie.
    fn listed(&mut self, listed: &SeedSocket) -> SocketId {
        let SeedSocket { id: SocketId(cookie), netns, ref tuple, object, inode, .. } = *listed;
        let kind = match object {
            SeedObject::Timewait { .. } => LifeKind::Timewait,
            // The full socket has replaced its request socket since.
            SeedObject::Full | SeedObject::Request { .. } => LifeKind::Full,
        };
        let is_it = |(_, life): &(u64, &ObjectLife)| life.kind == kind && life.may_have(netns, tuple);
        let found = self
            .lives
            .with_cookie(cookie)
            .filter(|(_, life)| life.ended.is_none())
            .or_else(|| self.lives.with_inode(inode))
            .filter(is_it)
            .or_else(|| self.lives.with_ends(kind, netns, tuple).filter(|(_, life)| life.may_be(listed)));
        if let Some((address, life)) = found {
            let id = life.id;
            self.lives.learn_cookie(address, cookie);
            if id == SocketId(0) {
                self.lives.rename(address, SocketId(cookie));
                return SocketId(cookie);
            }
            return id;
        }
        let ended =
            self.ended_in_seed.as_ref().and_then(|ended| ended.get(&(netns, tuple.without_interface())));
        ended.copied().filter(|id| id.0 != 0).unwrap_or(SocketId(cookie))
    }
}
