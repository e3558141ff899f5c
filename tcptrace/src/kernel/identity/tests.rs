use tcptrace_common::state::TcpState as S;

use super::*;
use crate::model::record::{Listing, Sweep};

const CLIENT: u64 = 0xffff_8880_0000_1000;
const LISTENER: u64 = 0xffff_8880_0000_2000;
const CHILD: u64 = 0xffff_8880_0000_3000;
const REQUEST: u64 = 0xffff_8880_0000_4000;
const TIMEWAIT: u64 = 0xffff_8880_0000_5000;
const NETNS: u32 = 7;
const FIRST: u64 = (1 << 50) + 1;

/// A stream of records with times that count up.
struct RecordStream {
    ids: Identities,
    now: u64,
}

impl RecordStream {
    fn new() -> Self {
        Self { ids: Identities::default(), now: 0 }
    }

    /// The id that a record gets.
    fn take(&mut self, raw: RawRecord) -> u64 {
        self.now += 1_000;
        let mut seen = HookRecord { raw: RawRecord { ts_ns: self.now, netns: NETNS, ..raw }, task: None };
        self.ids.identify(&mut seen);
        seen.raw.cookie
    }

    fn pause(&mut self, length: Nanos) {
        self.now += length.0;
    }

    fn seed(&mut self, socket: SeedSocket) -> u64 {
        let mut record = Record::Seed(socket);
        self.ids.identify_listed(&mut record);
        let Record::Seed(socket) = record else { return 0 };
        socket.id.0
    }

    fn end_seed(&mut self) {
        self.ids.identify_listed(&mut Record::SeedEnd { ts: Nanos(self.now), began: Nanos(0) });
    }
}

fn tuple(sport: u16, dport: u16) -> Tuple {
    let of = |port| if port == 0 { crate::model::Addr::ANY } else { crate::model::Addr([9; 16]) };
    Tuple { saddr: of(sport), daddr: of(dport), sport, dport, ifindex: 0 }
}

fn raw(kind: Kind, object: u64, (sport, dport): (u16, u16)) -> RawRecord {
    let Tuple { saddr, daddr, .. } = tuple(sport.max(1), dport);
    let zeroed: RawRecord = bytemuck::Zeroable::zeroed();
    RawRecord { kind: kind as u8, object, sport, dport, saddr: saddr.0, daddr: daddr.0, ..zeroed }
}

fn step(object: u64, old: S, new: S, ports: (u16, u16)) -> RawRecord {
    RawRecord { old: old as u8, new: new as u8, ..raw(Kind::Transition, object, ports) }
}

fn listed(cookie: u64, state: S, object: SeedObject, (sport, dport): (u16, u16), inode: u32) -> SeedSocket {
    SeedSocket {
        ts: Nanos(0),
        id: SocketId(cookie),
        netns: NetnsId(NETNS),
        tuple: tuple(sport, dport),
        state,
        object,
        inode,
        uid: 0,
        rqueue: 0,
        wqueue: 0,
    }
}

/// The client of a connection up to FIN_WAIT2.
fn connect(stream: &mut RecordStream) -> [u64; 4] {
    [
        stream.take(RawRecord { arg1: 77, ..step(CLIENT, S::Close, S::SynSent, (0, 80)) }),
        stream.take(step(CLIENT, S::SynSent, S::Established, (4000, 80))),
        stream.take(step(CLIENT, S::Established, S::FinWait1, (4000, 80))),
        stream.take(step(CLIENT, S::FinWait1, S::FinWait2, (4000, 80))),
    ]
}

#[test]
fn one_connection_has_one_id_per_socket() {
    let mut stream = RecordStream::new();
    let listener = stream.take(RawRecord { arg1: 5, ..step(LISTENER, S::Close, S::Listen, (80, 0)) });
    let client = stream.take(RawRecord { arg1: 6, ..step(CLIENT, S::Close, S::SynSent, (0, 80)) });
    let address = LISTENER << 8;
    let mut armed = HookRecord {
        raw: RawRecord { arg1: address | 3, netns: NETNS, ..raw(Kind::RequestArmed, REQUEST, (80, 4000)) },
        task: None,
    };
    stream.ids.identify(&mut armed);
    assert_eq!((armed.raw.cookie, armed.raw.arg0, armed.raw.arg1), (0, listener, 3));
    // Before 6.15 this record has the cookie and the ends of the listener.
    let child = stream.take(RawRecord { cookie: 9, ..step(CHILD, S::Listen, S::SynRecv, (80, 0)) });
    assert_eq!([listener, client, child], [FIRST, FIRST + 1, FIRST + 2]);
    for (object, old, new, ports, id) in [
        (CLIENT, S::SynSent, S::Established, (4000, 80), client),
        (CHILD, S::SynRecv, S::Established, (80, 4000), child),
        (CLIENT, S::Established, S::FinWait1, (4000, 80), client),
        (CHILD, S::Established, S::CloseWait, (80, 4000), child),
        (CLIENT, S::FinWait1, S::FinWait2, (4000, 80), client),
    ] {
        assert_eq!(stream.take(step(object, old, new, ports)), id, "{old:?} -> {new:?}");
    }
    let timewait = |kind| raw(kind, TIMEWAIT, (4000, 80));
    assert_eq!(stream.take(timewait(Kind::TimewaitArmed)), client);
    assert_eq!(stream.take(step(CLIENT, S::FinWait2, S::Close, (4000, 80))), client);
    // A listing has given the timewait socket a cookie of its own.
    let cookie = |kind| RawRecord { cookie: 12, ..timewait(kind) };
    assert_eq!(stream.take(cookie(Kind::TimewaitCancelled)), client);
    assert_eq!(stream.take(cookie(Kind::TimewaitArmed)), client, "armed again");
    assert_eq!(stream.take(cookie(Kind::TimewaitCancelled)), client);
    assert_eq!(stream.take(cookie(Kind::TimewaitExpired)), client);
    stream.pause(Nanos::SECOND);
    assert_eq!(stream.take(step(CHILD, S::CloseWait, S::LastAck, (80, 4000))), child);
    assert_eq!(stream.ids.lives.at(TIMEWAIT).map(|life| life.id), None);
}

#[test]
fn an_address_is_no_identity_across_close() {
    let mut stream = RecordStream::new();
    let first = connect(&mut stream)[0];
    assert_eq!(stream.take(step(CLIENT, S::FinWait2, S::Close, (4000, 80))), first);
    // The kernel reports why it closed.
    assert_eq!(stream.take(raw(Kind::ResetSent, CLIENT, (4000, 80))), first);
    assert_eq!(stream.take(raw(Kind::ErrorReported, CLIENT, (0, 0))), first);
    let second = connect(&mut stream);
    assert_eq!(second, [FIRST + 1; 4]);
}

#[test]
fn a_duplicate_report_keeps_the_id() {
    let mut stream = RecordStream::new();
    let begin = step(CLIENT, S::Close, S::SynSent, (0, 80));
    assert_eq!([stream.take(begin), stream.take(begin)], [FIRST; 2]);
    let end = step(CLIENT, S::SynSent, S::Close, (0, 80));
    assert_eq!([stream.take(end), stream.take(end)], [FIRST; 2]);
    assert_eq!(stream.take(begin), FIRST + 1);
}

#[test]
fn a_cookie_is_an_alias() {
    let mut stream = RecordStream::new();
    let id = connect(&mut stream)[0];
    let known = RawRecord { cookie: 40, ..step(CLIENT, S::FinWait2, S::TimeWait, (4000, 80)) };
    assert_eq!(stream.take(known), id);
    let mut owner = Record::Owner {
        ts: Nanos(0),
        id: SocketId(40),
        process: crate::model::record::Process::new(1, "", 0),
        fd: None,
    };
    stream.ids.identify_listed(&mut owner);
    assert!(matches!(owner, Record::Owner { id: SocketId(learned), .. } if learned == id));
    assert_eq!(stream.seed(listed(40, S::FinWait2, SeedObject::Full, (4000, 80), 0)), id);
}

#[test]
fn a_listing_is_joined_by_inode_or_by_tuple() {
    let mut stream = RecordStream::new();
    // Both have no port yet, and the same destination.
    let connecting = [(CLIENT, 31), (CHILD, 32)].map(|(object, inode)| {
        stream.take(RawRecord { arg1: inode, ..step(object, S::Close, S::SynSent, (0, 80)) })
    });
    let in_listing = [(9, 4001, 32), (8, 4000, 31), (7, 4002, 33)]
        .map(|(cookie, port, inode)| listed(cookie, S::SynSent, SeedObject::Full, (port, 80), inode));
    let mut listing =
        Record::Listing(Box::new(Listing { sweep: Sweep::Whole, sockets: in_listing.to_vec(), end: None }));
    stream.ids.identify_listed(&mut listing);
    let Record::Listing(listing) = listing else { return };
    let found: Vec<u64> = listing.sockets.iter().map(|socket| socket.id.0).collect();
    assert_eq!(found, [connecting[1], connecting[0], 7], "the last is older than the trace");
    // Listeners share their ends; a third one is older than the trace.
    let listeners = [(LISTENER, 41), (REQUEST, 42)].map(|(object, inode)| {
        stream.take(RawRecord { arg1: inode, ..step(object, S::Close, S::Listen, (80, 0)) })
    });
    let list = |cookie, inode| listed(cookie, S::Listen, SeedObject::Full, (80, 0), inode);
    let found = [(51, 42), (52, 41), (53, 43)].map(|(cookie, inode)| stream.seed(list(cookie, inode)));
    assert_eq!(found, [listeners[1], listeners[0], 53]);
}

#[test]
fn sockets_older_than_the_trace_keep_their_cookie() {
    let mut stream = RecordStream::new();
    assert_eq!(stream.seed(listed(5, S::Established, SeedObject::Full, (4000, 80), 3)), 5);
    let cookie = |raw: RawRecord| RawRecord { cookie: 5, ..raw };
    for (old, new) in [(S::Established, S::FinWait1), (S::FinWait1, S::FinWait2)] {
        assert_eq!(stream.take(cookie(step(CLIENT, old, new, (4000, 80)))), 5);
    }
    assert_eq!(stream.take(cookie(raw(Kind::TimewaitArmed, TIMEWAIT, (4000, 80)))), 5);
    assert_eq!(stream.take(cookie(step(CLIENT, S::FinWait2, S::Close, (4000, 80)))), 5);
}

#[test]
fn a_socket_without_a_cookie_is_joined_by_the_seed() {
    let mut stream = RecordStream::new();
    // Before the seed lists them.
    let full = stream.take(step(CHILD, S::Established, S::CloseWait, (80, 4001)));
    assert_eq!(full, FIRST);
    assert_eq!(stream.seed(listed(6, S::CloseWait, SeedObject::Full, (80, 4001), 3)), FIRST);
    // An old timewait socket stays unknown until then, even if its timer is armed again.
    let timewait = |kind| raw(kind, TIMEWAIT, (4000, 80));
    assert_eq!(stream.take(timewait(Kind::TimewaitCancelled)), 0);
    assert_eq!(stream.take(timewait(Kind::TimewaitArmed)), 0);
    let object = SeedObject::Timewait { left: Nanos::SECOND };
    assert_eq!(stream.seed(listed(7, S::TimeWait, object, (4000, 80), 0)), 7);
    assert_eq!(stream.take(timewait(Kind::TimewaitCancelled)), 7);
    // The full socket of a new one is known by its tuple only.
    let new = raw(Kind::TimewaitArmed, REQUEST, (4005, 80));
    assert_eq!(stream.take(new), FIRST + 1);
    assert_eq!(stream.take(step(LISTENER, S::FinWait2, S::Close, (4005, 80))), FIRST + 1);
}

#[test]
fn the_seed_does_not_bring_back_what_has_ended() {
    let mut stream = RecordStream::new();
    let id = connect(&mut stream)[0];
    stream.take(step(CLIENT, S::FinWait2, S::Close, (4000, 80)));
    let stale = listed(6, S::FinWait2, SeedObject::Full, (4000, 80), 0);
    assert_eq!(stream.seed(stale), id);
    stream.end_seed();
    assert_eq!(stream.seed(stale), 6, "a sweep lists twice before it corrects");
}

#[test]
fn a_listed_handshake_may_be_its_child_by_now() {
    let mut stream = RecordStream::new();
    let child = stream.take(step(CHILD, S::Listen, S::SynRecv, (80, 0)));
    stream.take(step(CHILD, S::SynRecv, S::Established, (80, 4000)));
    let object = SeedObject::Request { timeouts: 0 };
    assert_eq!(stream.seed(listed(8, S::SynRecv, object, (80, 4000), 0)), child);
    assert_eq!(stream.seed(listed(9, S::SynRecv, object, (80, 4001), 0)), 9);
}

#[test]
fn a_cookie_of_an_unseen_child_is_its_id() {
    let mut stream = RecordStream::new();
    // TCP Fast Open: the full socket stays in SYN_RECV, and a sweep lists it.
    stream.take(step(CHILD, S::Listen, S::SynRecv, (80, 0)));
    let child = listed(8, S::SynRecv, SeedObject::Full, (80, 4000), 0);
    assert_eq!(stream.seed(child), 8);
    let cookie = |raw: RawRecord| RawRecord { cookie: 8, ..raw };
    assert_eq!(stream.take(cookie(step(CHILD, S::SynRecv, S::Established, (80, 4000)))), 8);
    assert_eq!(stream.take(cookie(step(CHILD, S::Established, S::FinWait1, (80, 4000)))), 8);
    assert_eq!(stream.seed(child), 8);
}

#[test]
fn a_shared_cookie_is_not_confused() {
    let mut stream = RecordStream::new();
    // One descriptor: a timewait socket older than the trace, and a new connection.
    let object = SeedObject::Timewait { left: Nanos::SECOND };
    assert_eq!(stream.seed(listed(5, S::TimeWait, object, (4000, 80), 0)), 5);
    let cookie = |raw: RawRecord| RawRecord { cookie: 5, ..raw };
    let begin = step(CLIENT, S::Close, S::SynSent, (0, 81));
    let new = stream.take(cookie(begin));
    assert_eq!(new, FIRST);
    assert_eq!(stream.take(cookie(raw(Kind::TimewaitCancelled, TIMEWAIT, (4000, 80)))), 5);
    assert_eq!(stream.take(cookie(step(CLIENT, S::SynSent, S::Established, (4001, 81)))), new);
}

#[test]
fn every_index_is_empty_after_the_last_end() {
    let mut stream = RecordStream::new();
    stream.end_seed();
    for round in 0..50 {
        connect(&mut stream);
        stream.take(RawRecord { cookie: 1_000 + round, ..raw(Kind::TimewaitArmed, TIMEWAIT, (4000, 80)) });
        stream.take(step(CLIENT, S::FinWait2, S::Close, (4000, 80)));
        stream.take(raw(Kind::TimewaitExpired, TIMEWAIT, (4000, 80)));
    }
    stream.pause(Nanos::SECOND);
    stream.take(raw(Kind::RequestCancelled, REQUEST, (80, 4000)));
    assert_eq!(stream.ids.lives.sizes(), [0; 5]);
}

#[test]
fn a_full_table_is_not_exceeded() {
    let mut stream = RecordStream { ids: Identities::new(10), now: 0 };
    for n in 0..100 {
        stream.take(step(CLIENT + n, S::Close, S::SynSent, (4000 + n as u16, 80)));
        stream.take(raw(Kind::TimewaitCancelled, TIMEWAIT + n, (5000 + n as u16, 80)));
    }
    assert!(stream.ids.lives.sizes().iter().all(|&size| size <= 11), "{:?}", stream.ids.lives.sizes());
}
