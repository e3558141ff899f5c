//! Reads the connection tracking table: which translated source ports (SNAT, masquerade) are in use, by which clients,
//! which backends translated destinations (DNAT) lead to, the level of the table and its counters.
//!
//! The entries come from ctnetlink, which needs `CAP_NET_ADMIN`, or from `/proc/net/nf_conntrack`, which root can
//! read. A dump walks the hash table in the order of a keyed hash, so large destinations and clients appear early in it:
//! tables of a fixed size lose only small ones, and count what they lose.

mod message;
mod poller;
mod rules;
mod table;

use std::{collections::BTreeMap, fs};

use rustix::system::uname;

pub use self::poller::ConntrackPoller;
pub(crate) use self::poller::records;
use self::{
    message::{DST_NAT, SRC_NAT},
    table::TranslationTable,
};
use super::netlink::{self, DumpError};
use crate::model::nat::Conntrack;

/// Linux with commit 458972550287, which lets a new connection evict closed entries.
const EVICTS_SINCE: (u32, u32) = (6, 5);

/// Up to this size the table is listed at once.
const FEW_ENTRIES: u64 = 1 << 14;

/// Reads the table of the calling thread's network namespace; `None` if it tracks no connection.
pub fn read() -> Option<Conntrack> {
    let entries = setting("nf_conntrack_count").filter(|&entries| entries > 0)?;
    let mut unknown = Vec::new();
    let mut table = TranslationTable::default();
    // Walking the hash table costs as much as a few entries; many that are not translated are better left to the kernel.
    let parts: &[_] = if entries <= FEW_ENTRIES { &[None] } else { &[Some(SRC_NAT), Some(DST_NAT)] };
    let listed = parts.iter().try_for_each(|&part| {
        message::entries(part, |entry| {
            if part != Some(DST_NAT) {
                table.add_source(entry);
            }
            if part != Some(SRC_NAT) {
                table.add_destination(entry);
            }
        })
    });
    if let Err(error) = listed {
        table = TranslationTable::default();
        if let Err(and) = table::read_text(&mut table) {
            unknown.push(format!("{error}; /proc/net/nf_conntrack: {and}"));
        }
    }
    let backends = table.backends();
    let (translations, other_entries) = table.finish();
    let rules = if translations.is_empty() { Ok(Vec::new()) } else { rules::read() };
    let rules = rules.unwrap_or_else(|error| {
        unknown.push(error.to_string());
        Vec::new()
    });
    Some(Conntrack {
        entries,
        max: setting("nf_conntrack_max"),
        counters: message::counters().or_else(|_| counters_as_text()).unwrap_or_default(),
        time_wait_s: setting("nf_conntrack_tcp_timeout_time_wait"),
        evicts: is_at_least(uname().release().to_bytes(), EVICTS_SINCE),
        rules,
        translations,
        other_entries,
        backends,
        unknown,
    })
}

fn setting(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).ok()?.trim().parse().ok()
}

/// Sums the columns of `/proc/net/stat/nf_conntrack`, one line per CPU, in hexadecimal.
fn counters_as_text() -> std::io::Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack")?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let mut counters = BTreeMap::new();
    for line in lines {
        for (name, value) in names.iter().zip(line.split_whitespace()) {
            if message::COUNTERS.iter().any(|(_, kept)| kept == name) {
                *counters.entry((*name).to_owned()).or_default() +=
                    u64::from_str_radix(value, 16).unwrap_or(0);
            }
        }
    }
    Ok(counters)
}

/// Whether a kernel release (`6.18.5+deb13`) is `version` or later.
fn is_at_least(release: &[u8], version: (u32, u32)) -> bool {
    let mut numbers = release.split(|byte| !byte.is_ascii_digit()).map(|digits| {
        std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok()).unwrap_or(0)
    });
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= version
}

/// Decodes a datagram of ctnetlink without I/O, for the fuzz target; returns the number of entries.
#[doc(hidden)]
pub fn read_datagram(datagram: &[u8]) -> Result<(Conntrack, u64), DumpError> {
    let mut summary = netlink::Summary::default();
    let mut table = TranslationTable::default();
    let mut entries = 0;
    netlink::read_datagram(&message::CTNETLINK, datagram, &mut summary, |kind, body| {
        entries += 1;
        message::decode(kind, body, &mut |entry| {
            table.add_source(entry);
            table.add_destination(entry);
        })
    })?;
    let backends = table.backends();
    let (translations, other_entries) = table.finish();
    Ok((Conntrack { translations, other_entries, backends, ..Conntrack::default() }, entries))
}

#[cfg(test)]
mod tests;
