//! Counts entries by translated address and destination, and by client, in bounded memory.

use std::{
    cmp::Reverse,
    fs,
    io::{self, BufRead, BufReader},
    net::IpAddr,
};

use hashbrown::HashMap;

use crate::model::{
    Addr,
    nat::{Backend, MAX_BACKENDS, MAX_SOURCES, MAX_TRANSLATIONS, TranslatedSource, Translation},
};

/// `TCP_CONNTRACK_TIME_WAIT`.
const TIME_WAIT: u8 = 7;
/// `TCP_CONNTRACK_CLOSE`.
const CLOSE: u8 = 8;
/// Destinations, and clients with backends, counted individually.
const MAX_COUNTED: usize = 1 << 13;
/// Clients of a destination counted individually.
const MAX_COUNTED_SOURCES: usize = 64;

/// Ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryTuple {
    pub(super) saddr: Addr,
    pub(super) daddr: Addr,
    pub(super) sport: u16,
    pub(super) dport: u16,
}

impl Default for EntryTuple {
    fn default() -> Self {
        Self { saddr: Addr::ANY, daddr: Addr::ANY, sport: 0, dport: 0 }
    }
}

/// A TCP connection in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConntrackEntry {
    /// Packets of the side that connected, as they arrive.
    pub(super) original: EntryTuple,
    /// Packets of the other side: from the real destination to the translated source.
    pub(super) reply: EntryTuple,
    /// `enum tcp_conntrack`.
    pub(super) state: u8,
    pub(super) zone: u16,
}

impl ConntrackEntry {
    pub(super) fn has_translated_source(&self) -> bool {
        let Self { original, reply, .. } = self;
        (original.saddr, original.sport) != (reply.daddr, reply.dport)
    }

    fn has_translated_destination(&self) -> bool {
        let Self { original, reply, .. } = self;
        (original.daddr, original.dport) != (reply.saddr, reply.sport)
    }
}

#[derive(PartialEq, Eq, Hash)]
struct TranslationKey {
    snat_addr: Addr,
    daddr: Addr,
    dport: u16,
    zone: u16,
}

/// Ends as the client knows them, and the backend.
#[derive(PartialEq, Eq, Hash)]
struct BackendKey {
    saddr: Addr,
    daddr: Addr,
    dport: u16,
    addr: Addr,
    port: u16,
}

#[derive(Default)]
struct PortCounts {
    used: u64,
    time_wait: u64,
    close: u64,
    ports: Option<(u16, u16)>,
    sources: Vec<TranslatedSource>,
    other_sources: u64,
}

/// The counts of one dump.
#[derive(Default)]
pub(super) struct TranslationTable {
    /// Randomly seeded: clients choose the destinations.
    counts: HashMap<TranslationKey, PortCounts>,
    other_entries: u64,
    backends: HashMap<BackendKey, u64>,
}

impl TranslationTable {
    /// Counts an entry if its destination is translated.
    pub(super) fn add_destination(&mut self, entry: ConntrackEntry) {
        let ConntrackEntry { original, reply, .. } = entry;
        let key = BackendKey {
            saddr: original.saddr,
            daddr: original.daddr,
            dport: original.dport,
            addr: reply.saddr,
            port: reply.sport,
        };
        let has_room = self.backends.len() < MAX_COUNTED || self.backends.contains_key(&key);
        if entry.has_translated_destination() && has_room {
            *self.backends.entry(key).or_default() += 1;
        }
    }

    /// The backends with the most entries.
    pub(super) fn backends(&self) -> Vec<Backend> {
        let mut backends: Vec<Backend> = self
            .backends
            .iter()
            .map(|(&BackendKey { saddr, daddr, dport, addr, port }, &used)| Backend {
                saddr,
                daddr,
                dport,
                addr,
                port,
                used,
            })
            .collect();
        backends.sort_by_key(|row| (Reverse(row.used), row.saddr, row.daddr, row.dport, row.addr, row.port));
        backends.truncate(MAX_BACKENDS);
        backends
    }

    /// Counts an entry if its source is translated.
    pub(super) fn add_source(&mut self, entry: ConntrackEntry) {
        if !entry.has_translated_source() {
            return;
        }
        let ConntrackEntry { original, reply, state, zone } = entry;
        let key = TranslationKey { snat_addr: reply.daddr, daddr: reply.saddr, dport: reply.sport, zone };
        if self.counts.len() >= MAX_COUNTED && !self.counts.contains_key(&key) {
            self.other_entries += 1;
            return;
        }
        let counts = self.counts.entry(key).or_default();
        let time_wait = u64::from(state == TIME_WAIT);
        counts.used += 1;
        counts.time_wait += time_wait;
        counts.close += u64::from(state == CLOSE);
        let (low, high) = counts.ports.unwrap_or((reply.dport, reply.dport));
        counts.ports = Some((low.min(reply.dport), high.max(reply.dport)));
        match counts.sources.iter().position(|source| source.saddr == original.saddr) {
            Some(at) => {
                counts.sources[at].used += 1;
                counts.sources[at].time_wait += time_wait;
            }
            None if counts.sources.len() < MAX_COUNTED_SOURCES => {
                counts.sources.push(TranslatedSource { saddr: original.saddr, used: 1, time_wait });
            }
            None => counts.other_sources += 1,
        }
    }

    /// The translations with the most ports, and the number of entries of the others.
    pub(super) fn finish(self) -> (Vec<Translation>, u64) {
        let mut other_entries = self.other_entries;
        let mut translations: Vec<Translation> = self
            .counts
            .into_iter()
            .map(|(key, counts)| Translation {
                snat_addr: key.snat_addr,
                daddr: key.daddr,
                dport: key.dport,
                zone: key.zone,
                used: counts.used,
                time_wait: counts.time_wait,
                close: counts.close,
                ports: counts.ports.unwrap_or_default(),
                sources: counts.sources,
                other_sources: counts.other_sources,
            })
            .collect();
        translations.sort_by_key(|row| (Reverse(row.used), row.snat_addr, row.daddr, row.dport, row.zone));
        other_entries +=
            translations.drain(MAX_TRANSLATIONS.min(translations.len())..).map(|row| row.used).sum::<u64>();
        for row in &mut translations {
            row.sources.sort_by_key(|source| (Reverse(source.used), source.saddr));
            let rest = row.sources.drain(MAX_SOURCES.min(row.sources.len())..);
            row.other_sources += rest.map(|source| source.used).sum::<u64>();
        }
        (translations, other_entries)
    }
}

/// Adds the entries of `/proc/net/nf_conntrack`.
pub(super) fn read_text(table: &mut TranslationTable) -> io::Result<()> {
    let file = fs::File::open("/proc/thread-self/net/nf_conntrack")?;
    for line in BufReader::new(file).lines() {
        if let Some(entry) = parse_line(&line?) {
            table.add_source(entry);
            table.add_destination(entry);
        }
    }
    Ok(())
}

/// Parses `ipv4 2 tcp 6 117 TIME_WAIT src=10.0.0.1 dst=... sport=... dport=... src=... [ASSURED] mark=0 zone=0 use=2`.
pub(super) fn parse_line(line: &str) -> Option<ConntrackEntry> {
    let mut words = line.split_whitespace();
    if words.by_ref().nth(2)? != "tcp" {
        return None;
    }
    let mut entry = ConntrackEntry::default();
    // Each of these words appears twice: original, then reply.
    let mut seen = [0_usize; 4];
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            match word {
                "TIME_WAIT" => entry.state = TIME_WAIT,
                "CLOSE" => entry.state = CLOSE,
                _ => {}
            }
            continue;
        };
        let field = match name {
            "src" => 0,
            "dst" => 1,
            "sport" => 2,
            "dport" => 3,
            "zone" => {
                entry.zone = value.parse().ok()?;
                continue;
            }
            _ => continue,
        };
        let tuple = if seen[field] == 0 { &mut entry.original } else { &mut entry.reply };
        seen[field] += 1;
        match field {
            0 => tuple.saddr = value.parse::<IpAddr>().ok()?.into(),
            1 => tuple.daddr = value.parse::<IpAddr>().ok()?.into(),
            2 => tuple.sport = value.parse().ok()?,
            _ => tuple.dport = value.parse().ok()?,
        }
    }
    (seen == [2; 4]).then_some(entry)
}
