//! Fuzzes the parsers of netlink datagrams: tracks the sockets of `sock_diag`, and counts the entries of ctnetlink.

#![no_main]

use fuzz::mirror::Mirror;
use libfuzzer_sys::fuzz_target;
use tcptrace::{
    lifecycle::{Tracker, TrackerLimits},
    model::{Nanos, NetnsId, Record},
    source::{conntrack, sock_diag},
};

fuzz_target!(|bytes: &[u8]| {
    let mut sockets = Vec::new();
    let read = sock_diag::read_datagram(bytes, Nanos(1), NetnsId(1), |socket| sockets.push(socket));
    // A message has a header of 16 bytes.
    let most = bytes.len() as u64 / 16 + 1;
    assert!(sockets.len() as u64 + read.map_or(0, |summary| summary.undecoded) <= most);
    if let Ok((table, entries)) = conntrack::read_datagram(bytes) {
        assert!(entries <= most && table.translations.len() as u64 <= entries);
    }
    let mut tracker = Tracker::new(TrackerLimits { sockets: 64 });
    let mut mirror = Mirror::default();
    for socket in sockets {
        tracker.take(&Record::Seed(socket), &mut mirror);
    }
    mirror.compare(&tracker, Nanos(1));
});
