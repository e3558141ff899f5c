//! Parses the settings of a network namespace.

use std::collections::BTreeMap;

/// First and last port that `connect()` chooses from: `net.ipv4.ip_local_port_range`.
pub fn local_port_range(sysctls: &BTreeMap<String, String>) -> Option<(u16, u16)> {
    let mut ends = sysctls.get("net.ipv4.ip_local_port_range")?.split_whitespace().map(str::parse);
    Some((ends.next()?.ok()?, ends.next()?.ok()?))
}
