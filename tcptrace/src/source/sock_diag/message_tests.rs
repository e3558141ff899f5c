//! Tests decoding with an answer of Linux 6.18 that contains every kind of socket, and with random bytes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::source::netlink::{Message, Messages, tests::message};

/// The answer to request 7: two concatenated datagrams. Recorded with connections over loopback, SYNs from an
/// address that never answers, and a fast open SYN with data.
const EVERY_STATE: &[u8] = include_bytes!("../fixtures/every_state.bin");
const SEQ: u32 = 7;

fn decode(bytes: &[u8], seq: u32) -> (Vec<SeedSocket>, Vec<String>) {
    let mut sockets = Vec::new();
    let mut rest = Vec::new();
    for message in Messages::new(bytes, seq) {
        match message {
            Message::Answer(kind, body) if is_socket(kind) => match DiagSocket::new(body) {
                Some(answer) => sockets.extend(answer.socket(Nanos(1), NetnsId(2))),
                None => rest.push("Malformed".into()),
            },
            other => rest.push(format!("{other:?}")),
        }
    }
    (sockets, rest)
}

fn with_ports(sport: u16, dport: u16) -> SeedSocket {
    *decode(EVERY_STATE, SEQ)
        .0
        .iter()
        .find(|socket| (socket.tuple.sport, socket.tuple.dport) == (sport, dport))
        .expect("a socket with these ports")
}

#[test]
fn a_real_answer_decodes_completely() {
    let (sockets, rest) = decode(EVERY_STATE, SEQ);
    assert_eq!(rest, ["Done"]);
    let mut states = BTreeMap::<_, u32>::new();
    for socket in &sockets {
        *states.entry(socket.state.name()).or_default() += 1;
    }
    let expected = [
        ("CLOSE_WAIT", 2),
        ("ESTABLISHED", 10),
        ("FIN_WAIT2", 2),
        ("LISTEN", 3),
        ("SYN_RECV", 4),
        ("SYN_SENT", 1),
        ("TIME_WAIT", 3),
    ];
    assert_eq!(states.into_iter().collect::<Vec<_>>(), expected);
    let ids: std::collections::HashSet<_> = sockets.iter().map(|socket| socket.id).collect();
    assert_eq!(ids.len(), sockets.len(), "no socket twice");
}

#[test]
fn a_listener_has_a_queue_and_no_remote_end() {
    let listener = with_ports(80, 0);
    assert_eq!(listener.tuple.local().to_string(), "*:80");
    assert!(listener.tuple.is_ipv4());
    assert_eq!(listener.tuple.daddr, Addr::ANY);
    assert_eq!((listener.rqueue, listener.wqueue), (1, 16));
    assert_eq!(listener.object, SeedObject::Full);
}

#[test]
fn timewait_sockets_are_identified_by_their_timer() {
    let orphan = with_ports(42_046, 80);
    assert_eq!(orphan.state, TcpState::FinWait2);
    assert_eq!(orphan.object, SeedObject::Timewait { left: Nanos(59_692_000_000) });
    let held = with_ports(34_840, 80);
    assert_eq!(held.state, TcpState::FinWait2);
    assert_eq!(held.object, SeedObject::Full);
    assert_ne!(held.inode, 0);
}

#[test]
fn request_sockets_differ_from_full_ones_in_the_same_state() {
    let object_of = |sport, dport| (with_ports(sport, dport).object, with_ports(sport, dport).inode != 0);
    assert_eq!(object_of(80, 4001), (SeedObject::Request { timeouts: 0 }, false));
    assert_eq!(object_of(8080, 4002), (SeedObject::Request { timeouts: 0 }, false));
    // A fast open child in the accept queue, and a simultaneous open.
    assert_eq!(object_of(90, 4003), (SeedObject::Full, false));
    assert_eq!(object_of(5001, 6001), (SeedObject::Full, true));
}

#[test]
fn both_families_use_one_address_format() {
    let mapped = with_ports(8080, 53_878);
    assert_eq!(mapped.tuple.local().to_string(), "127.0.0.4:8080");
    let ipv6 = with_ports(57_818, 8080);
    assert_eq!(ipv6.tuple.remote().to_string(), "[::1]:8080");
}

#[test]
fn another_requests_answer_is_ignored() {
    let (sockets, rest) = decode(EVERY_STATE, SEQ + 1);
    assert!(sockets.is_empty());
    assert!(rest.iter().all(|message| message == "Other"));
}

#[test]
fn a_short_socket_is_reported() {
    let bytes = message(SOCK_DIAG_BY_FAMILY, 0, &[0; BODY_LEN - 4]);
    assert_eq!(decode(&bytes, netlink::SEQ).1, ["Malformed"]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let seq = bytes.get(8..12).map_or(0, |seq| u32::from_ne_bytes([seq[0], seq[1], seq[2], seq[3]]));
        decode(&bytes, seq);
    }

    #[test]
    fn a_cut_answer_keeps_its_start_and_corruption_never_panics(
        cut in 0..EVERY_STATE.len(),
        spoilt in 0..EVERY_STATE.len(),
        with in any::<u8>(),
    ) {
        let whole = decode(EVERY_STATE, SEQ).0;
        let (sockets, _) = decode(&EVERY_STATE[..cut], SEQ);
        prop_assert!(sockets.iter().zip(&whole).all(|(a, b)| a.id == b.id));
        prop_assert!(cut / 132 <= sockets.len() + 1);

        let mut bytes = EVERY_STATE[..cut].to_vec();
        if let Some(byte) = bytes.get_mut(spoilt) {
            *byte = with;
        }
        decode(&bytes, SEQ);
    }
}
