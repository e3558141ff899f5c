//! Fuzzes the filter parser: arbitrary text is parsed, or refused with a position. A parsed filter reads the same after
//! printing, and its kernel part passes every socket that it matches.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use tcptrace::{
    filter::{Filter, parse},
    lifecycle::{Processes, Since, Socket},
    model::{Addr, Nanos, NetnsId, TcpState, Tuple},
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let expr = match parse("--filter", text) {
        Ok(expr) => expr,
        Err(error) => {
            // Both are shown to the user.
            assert!(!error.to_string().is_empty());
            let _ = error.pointer();
            return;
        }
    };
    let printed = expr.to_string();
    let again =
        parse("--filter", &printed).unwrap_or_else(|error| panic!("{text:?} prints as {printed:?}: {error}"));
    assert_eq!(again.to_string(), printed, "{text:?}");

    let Ok(filter) = Filter::new(Some(expr), &BTreeMap::from([("blue".to_owned(), NetnsId(1))])) else {
        return;
    };
    let scope = filter.kernel_part();
    let processes = Processes::default();
    let v4 = |last| Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]);
    for (saddr, daddr, sport, dport) in
        [(v4(1), v4(2), 40_000, 80), (Addr([0xfe; 16]), Addr::ANY, 80, 0), (Addr::ANY, v4(200), 443, 5432)]
    {
        let tuple = Tuple { saddr, daddr, sport, dport, ifindex: 0 };
        let socket = Socket::new(tuple, NetnsId(1), TcpState::TimeWait, Since::Exact(Nanos(1)));
        let subject = socket.subject(&processes);
        if TcpState::ALL.into_iter().any(|state| filter.matches(&subject, state)) {
            assert!(scope.passes(&tuple.ends(NetnsId(1))), "{text:?} matches what its kernel part drops");
        }
    }
});
