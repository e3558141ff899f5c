//! Reads the kernel's own counters of a network namespace: `/proc/net/netstat`, `snmp` and `sockstat`.

use std::{collections::BTreeMap, fs};

/// The counters to keep, by kernel name. Not every kernel has all of them.
const KEPT: [&str; 33] = [
    "ActiveOpens",
    "AttemptFails",
    "CurrEstab",
    "EstabResets",
    "ListenDrops",
    "ListenOverflows",
    "OutRsts",
    "PAWSActive",
    "PAWSEstab",
    "PAWSTimewait",
    "PassiveOpens",
    "RetransSegs",
    "SyncookiesFailed",
    "SyncookiesRecv",
    "SyncookiesSent",
    "TCPAbortFailed",
    "TCPAbortOnClose",
    "TCPAbortOnData",
    "TCPAbortOnLinger",
    "TCPAbortOnMemory",
    "TCPAbortOnTimeout",
    "TCPReqQFullDoCookies",
    "TCPReqQFullDrop",
    "TCPSynRetrans",
    "TCPTimeWaitOverflow",
    "TCPTimeouts",
    "TW",
    "TWKilled",
    "TWRecycled",
    "sockstat.alloc",
    "sockstat.inuse",
    "sockstat.orphan",
    "sockstat.tw",
];

/// The counters in the network namespace of the calling thread.
pub fn counters() -> BTreeMap<String, u64> {
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let mut counters = BTreeMap::new();
    tables(&read("netstat"), "TcpExt:", &mut counters);
    tables(&read("snmp"), "Tcp:", &mut counters);
    sockstat(&read("sockstat"), &mut counters);
    counters
}

/// Reads the table `name`: a line of names, then a line of values.
fn tables(text: &str, name: &str, counters: &mut BTreeMap<String, u64>) {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        if !names.starts_with(name) {
            continue;
        }
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()).skip(1) {
            keep(name, value, counters);
        }
    }
}

/// Reads the TCP line: alternating names and values.
fn sockstat(text: &str, counters: &mut BTreeMap<String, u64>) {
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("TCP:")) else { return };
    let words: Vec<&str> = line.split_whitespace().collect();
    for pair in words.chunks_exact(2) {
        keep(&format!("sockstat.{}", pair[0]), pair[1], counters);
    }
}

fn keep(name: &str, value: &str, counters: &mut BTreeMap<String, u64>) {
    if KEPT.contains(&name)
        && let Ok(value) = value.parse()
    {
        counters.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let mut counters = BTreeMap::new();
        let netstat = "TcpExt: SyncookiesSent New TW TCPTimeWaitOverflow\nTcpExt: 1 9 20 3\n\
                       IpExt: TW InOctets\nIpExt: 77 5\n";
        tables(netstat, "TcpExt:", &mut counters);
        tables("Tcp: MaxConn ActiveOpens\nTcp: -1 17\n", "Tcp:", &mut counters);
        sockstat("sockets: used 40\nTCP: inuse 5 orphan 0 tw 12 alloc 7 mem 3\n", &mut counters);
        let shown: Vec<String> = counters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            shown.join(" "),
            "ActiveOpens=17 SyncookiesSent=1 TCPTimeWaitOverflow=3 TW=20 \
             sockstat.alloc=7 sockstat.inuse=5 sockstat.orphan=0 sockstat.tw=12"
        );
    }

    #[test]
    fn this_host_has_every_counter() {
        let counters = counters();
        for name in KEPT {
            assert!(counters.contains_key(name), "{name}");
        }
    }

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(KEPT.is_sorted_by(|a, b| a < b));
    }
}
