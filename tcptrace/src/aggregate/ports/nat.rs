//! Translated source ports (SNAT, masquerade), per translated address and destination: ports held, their growth, and when
//! none will be left.
//!
//! NAT chooses a port such that translated address, translated port, destination address and port together are unused in
//! the connection tracking table. An entry stays there for `nf_conntrack_tcp_timeout_time_wait` after the connection.
//! Since Linux 6.5 a new connection may evict an entry in TIME_WAIT or CLOSE (`nf_nat_used_tuple_harder()`), so these
//! are not held.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use hashbrown::HashMap;

use super::predict::{EXHAUSTION_HORIZON, MIN_HELD_SHARE};
use crate::{
    aggregate::HostNames,
    model::{
        Addr, Nanos, NetnsId, Record,
        nat::{
            Backend, Conntrack, MAX_BACKENDS, MAX_RULES, MAX_SOURCES, MAX_TRANSLATIONS, SnatRule, Translation,
        },
    },
};

/// Namespaces with a connection tracking table.
const MAX_NETNS: usize = 1 << 10;
/// Translations of all namespaces.
const MAX_ROWS: usize = 1 << 14;
/// Counters and sentences of a record.
const MAX_TEXTS: usize = 16;
/// Levels kept per translation.
const MAX_LEVELS: usize = 12;
/// Levels older than this are not used for growth while enough younger ones exist.
const GROWTH_WINDOW: Nanos = Nanos(10 * Nanos::SECOND.0);
/// Levels that growth needs.
const MIN_LEVELS: usize = 3;
/// Growth must exceed this many standard errors.
const SPREADS: f64 = 2.0;
/// `nf_conntrack_tcp_timeout_time_wait` by default.
const TIME_WAIT_S: u64 = 120;

/// The connection tracking tables of all namespaces.
#[derive(Clone, Debug, Default)]
pub(super) struct NatTables {
    netns: BTreeMap<NetnsId, NatTable>,
    rows: usize,
    pub(super) refused: u64,
}

#[derive(Clone, Debug)]
struct NatTable {
    conntrack: Conntrack,
    /// Counters at the first read.
    first: BTreeMap<String, u64>,
    /// Levels of the translations at the latest reads.
    levels: HashMap<TranslationId, VecDeque<Level>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TranslationId {
    snat_addr: Addr,
    daddr: Addr,
    dport: u16,
    zone: u16,
}

impl TranslationId {
    const fn of(row: &Translation) -> Self {
        Self { snat_addr: row.snat_addr, daddr: row.daddr, dport: row.dport, zone: row.zone }
    }
}

/// Ports at one moment.
#[derive(Clone, Copy, Debug)]
struct Level {
    ts: Nanos,
    held: u64,
    time_wait: u64,
}

/// Growth of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct HeldGrowth {
    per_s: f64,
    /// Standard error.
    spread: f64,
}

impl HeldGrowth {
    fn is_certain(self) -> bool {
        self.per_s > SPREADS * self.spread
    }

    /// The slope of a line through `levels` by least squares; `None` if there are too few.
    fn of(levels: &VecDeque<Level>, value: impl Fn(&Level) -> u64) -> Option<Self> {
        let newest = levels.back()?.ts;
        let young = levels.iter().filter(|level| newest.since(level.ts) <= GROWTH_WINDOW).count();
        let used = levels.iter().skip(levels.len() - young.max(MIN_LEVELS.min(levels.len())));
        let points: Vec<(f64, f64)> =
            used.map(|level| (-newest.since(level.ts).as_secs_f64(), value(level) as f64)).collect();
        if points.len() < MIN_LEVELS {
            return None;
        }
        let n = points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
        let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
        let sum = |of: &dyn Fn(f64, f64) -> f64| {
            points.iter().map(|&(x, y)| of(x - mean_x, y - mean_y)).sum::<f64>()
        };
        let squares = sum(&|x, _| x * x);
        if squares <= 0.0 {
            return None;
        }
        let per_s = sum(&|x, y| x * y) / squares;
        let errors = sum(&|x, y| (y - per_s * x).powi(2));
        Some(Self { per_s, spread: (errors / (n - 2.0) / squares).sqrt() })
    }
}

/// NAT at one moment.
#[derive(Clone, Debug, Default)]
pub struct NatSnapshot {
    /// Namespaces that track connections.
    pub tables: Vec<ConntrackTable>,
    /// Translations, the earliest exhaustion first.
    pub translations: Vec<NatPorts>,
    /// Entries with a translated source that no translation counts.
    pub other_entries: u64,
}

impl NatSnapshot {
    /// The table of a namespace.
    pub fn table(&self, netns: NetnsId) -> Option<&ConntrackTable> {
        self.tables.iter().find(|table| table.netns == netns)
    }
}

/// The connection tracking table of a namespace.
#[derive(Clone, Debug)]
pub struct ConntrackTable {
    /// Namespace id.
    pub netns: NetnsId,
    /// Its name in `ip netns`. Untrusted.
    pub name: Option<Arc<str>>,
    /// Entries of any protocol.
    pub entries: u64,
    /// `nf_conntrack_max`.
    pub max: Option<u64>,
    /// Growth of the counters since the first read, by kernel name.
    pub grown: BTreeMap<String, u64>,
    /// `nf_conntrack_tcp_timeout_time_wait`, in seconds.
    pub time_wait_s: Option<u64>,
    /// Whether a new connection may evict an entry in TIME_WAIT or CLOSE.
    pub evicts: bool,
    /// Why entries or rules are unknown, one sentence each. Untrusted.
    pub unknown: Vec<String>,
}

impl ConntrackTable {
    /// Growth of a counter.
    pub fn grown(&self, counter: &str) -> u64 {
        self.grown.get(counter).copied().unwrap_or_default()
    }

    /// Share of the table in use.
    pub fn share(&self) -> Option<f64> {
        self.max.filter(|&max| max > 0).map(|max| self.entries as f64 / max as f64)
    }
}

/// The translated ports of one address to one destination.
#[derive(Clone, Debug)]
pub struct NatPorts {
    /// Network namespace that translates.
    pub netns: NetnsId,
    /// Connections and clients.
    pub of: Translation,
    /// First and last port that NAT chooses from.
    pub range: (u16, u16),
    /// Whether a rule gives the range; else it is the kernel's default.
    pub has_rule: bool,
    /// Ports that a new connection can get: those in TIME_WAIT or CLOSE, where the kernel evicts them.
    pub reclaimable: u64,
    /// Growth of the held ports per second; `None` before enough reads.
    pub growth_per_s: Option<f64>,
    /// Time until no port is left; `None`: never, at these rates.
    pub exhausted_in: Option<Nanos>,
}

impl NatPorts {
    /// Number of ports in the range.
    pub fn available(&self) -> u64 {
        u64::from(self.range.1.saturating_sub(self.range.0)) + 1
    }

    /// Ports unavailable to new connections.
    pub const fn held(&self) -> u64 {
        self.of.used.saturating_sub(self.reclaimable)
    }

    /// Share of the ports unavailable to new connections.
    pub fn held_share(&self) -> f64 {
        self.held() as f64 / self.available() as f64
    }

    /// Time until no port is left, if that is soon and a good part of the ports is held.
    pub fn runs_out_soon(&self) -> Option<Nanos> {
        self.exhausted_in.filter(|left| {
            left.0 == 0 || (*left <= EXHAUSTION_HORIZON && self.held_share() >= MIN_HELD_SHARE)
        })
    }

    fn urgency(&self) -> (bool, Option<Nanos>, Reverse<u64>, Reverse<u64>, Addr, Addr, u16) {
        let share = Reverse((self.held_share() * 1e6) as u64);
        let Translation { snat_addr, daddr, dport, used, .. } = self.of;
        (self.exhausted_in.is_none(), self.exhausted_in, share, Reverse(used), snat_addr, daddr, dport)
    }
}

impl NatTables {
    /// Stores a table, or removes that of a namespace that is gone.
    pub(super) fn take(&mut self, record: &Record) {
        match record {
            Record::NetnsSettings { netns, sysctls, .. } if sysctls.is_empty() => self.remove(*netns),
            Record::Conntrack { ts, netns, conntrack }
                if conntrack.entries > 0 || self.netns.contains_key(netns) =>
            {
                self.update(*ts, *netns, conntrack);
            }
            _ => {}
        }
    }

    fn remove(&mut self, netns: NetnsId) {
        if let Some(removed) = self.netns.remove(&netns) {
            self.rows -= removed.conntrack.translations.len();
        }
    }

    fn update(&mut self, ts: Nanos, netns: NetnsId, conntrack: &Conntrack) {
        let before = self.netns.remove(&netns);
        self.rows -= before.as_ref().map_or(0, |before| before.conntrack.translations.len());
        if self.netns.len() >= MAX_NETNS {
            self.refused += 1;
            return;
        }
        let mut counters = take_some(&conntrack.counters);
        let (before, first) = match before {
            Some(NatTable { levels, first, conntrack: before }) => {
                if counters.is_empty() {
                    // An empty table is reported without counters.
                    counters = before.counters;
                }
                (levels, first)
            }
            None => (HashMap::default(), counters.clone()),
        };
        let mut conntrack = Conntrack {
            counters,
            rules: conntrack.rules.iter().take(MAX_RULES).copied().collect(),
            backends: conntrack.backends.iter().take(MAX_BACKENDS).copied().collect(),
            unknown: conntrack.unknown.iter().take(MAX_TEXTS).cloned().collect(),
            ..conntrack.clone()
        };
        let room = MAX_TRANSLATIONS.min(MAX_ROWS - self.rows);
        let rest = conntrack.translations.drain(room.min(conntrack.translations.len())..);
        let left_out = rest.fold(0, |sum: u64, row| sum.saturating_add(row.used));
        conntrack.other_entries = conntrack.other_entries.saturating_add(left_out);
        let mut levels = HashMap::with_capacity(conntrack.translations.len());
        for row in &mut conntrack.translations {
            row.sources.truncate(MAX_SOURCES);
            let id = TranslationId::of(row);
            let mut known = before.get(&id).cloned().unwrap_or_default();
            if known.len() >= MAX_LEVELS {
                known.pop_front();
            }
            let held = row.used.saturating_sub(row.time_wait.saturating_add(row.close));
            known.push_back(Level { ts, held, time_wait: row.used.saturating_sub(held) });
            levels.insert(id, known);
        }
        self.rows += conntrack.translations.len();
        self.netns.insert(netns, NatTable { conntrack, first, levels });
    }

    /// The tables as records for the start of a recording that begins at `ts`.
    pub(super) fn records(&self, ts: Nanos) -> impl Iterator<Item = Record> {
        self.netns.iter().map(move |(&netns, table)| Record::Conntrack {
            ts,
            netns,
            conntrack: Box::new(table.conntrack.clone()),
        })
    }

    /// The backends of all namespaces: NAT may happen in another one than that of the socket.
    pub(super) fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.netns.values().flat_map(|table| &table.conntrack.backends)
    }

    /// Number of translations.
    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn snapshot(&self, now: Nanos, names: &HostNames) -> NatSnapshot {
        let tables = self.netns.iter().map(|(&netns, table)| {
            let counters = table.conntrack.counters.iter();
            let grown = counters.map(|(name, now)| {
                (name.clone(), now.saturating_sub(table.first.get(name).copied().unwrap_or_default()))
            });
            ConntrackTable {
                netns,
                name: names.netns(netns).cloned(),
                entries: table.conntrack.entries,
                max: table.conntrack.max,
                grown: grown.collect(),
                time_wait_s: table.conntrack.time_wait_s,
                evicts: table.conntrack.evicts,
                unknown: table.conntrack.unknown.clone(),
            }
        });
        let mut translations: Vec<NatPorts> = self
            .netns
            .iter()
            .flat_map(|(&netns, table)| {
                table.conntrack.translations.iter().map(move |row| table.ports(now, netns, row))
            })
            .collect();
        translations.sort_by_cached_key(NatPorts::urgency);
        let other_entries = self.netns.values().map(|table| table.conntrack.other_entries);
        NatSnapshot {
            tables: tables.collect(),
            translations,
            other_entries: other_entries.fold(0, u64::saturating_add),
        }
    }
}

impl NatTable {
    fn ports(&self, now: Nanos, netns: NetnsId, row: &Translation) -> NatPorts {
        let range = range(&self.conntrack.rules, row);
        let closed = row.time_wait.saturating_add(row.close).min(row.used);
        let mut ports = NatPorts {
            netns,
            of: row.clone(),
            range: range.unwrap_or(SnatRule::ANY_PORT),
            has_rule: range.is_some(),
            reclaimable: if self.conntrack.evicts { closed } else { 0 },
            growth_per_s: None,
            exhausted_in: None,
        };
        let levels = self.levels.get(&TranslationId::of(row));
        let growth = |value: fn(&Level) -> u64| levels.and_then(|levels| HeldGrowth::of(levels, value));
        let open = growth(|level| level.held);
        let all = growth(|level| level.held.saturating_add(level.time_wait));
        let held = if self.conntrack.evicts { open } else { all };
        ports.growth_per_s = held.map(|held| held.per_s);
        let left = ports.available().saturating_sub(ports.held());
        ports.exhausted_in = match held {
            _ if left == 0 => Some(Nanos(0)),
            Some(held) if held.is_certain() && !self.settles(&ports, open, held) => {
                let at = levels.and_then(|levels| levels.back()).map_or(now, |level| level.ts);
                let left = Nanos((left as f64 / held.per_s * 1e9) as u64);
                // The table is as old as the last read; exhaustion itself is only seen.
                Some(Nanos(left.0.saturating_sub(now.since(at).0).max(1)))
            }
            _ => None,
        };
        ports
    }

    /// Whether only TIME_WAIT grows, and its level at this rate (rate x timeout) fits.
    fn settles(&self, ports: &NatPorts, open: Option<HeldGrowth>, held: HeldGrowth) -> bool {
        let timeout = self.conntrack.time_wait_s.unwrap_or(TIME_WAIT_S) as f64;
        let closed = ports.of.time_wait.saturating_add(ports.of.close);
        let open_ports = ports.of.used.saturating_sub(closed) as f64;
        !self.conntrack.evicts
            && !open.is_some_and(HeldGrowth::is_certain)
            && open_ports + held.per_s * timeout <= ports.available() as f64
    }
}

/// The ports that `row` is chosen from: those of the rule with the fewest ports that may have made all of it.
fn range(rules: &[SnatRule], row: &Translation) -> Option<(u16, u16)> {
    let fits = |range: &(u16, u16)| range.0 <= row.ports.0 && row.ports.1 <= range.1;
    let may_choose = rules.iter().filter(|rule| rule.may_choose(row.snat_addr));
    let ranges = may_choose.map(|rule| rule.ports.unwrap_or(SnatRule::ANY_PORT));
    ranges.filter(fits).min_by_key(|range| range.1 - range.0)
}

fn take_some(counters: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    counters.iter().take(MAX_TEXTS).map(|(name, &value)| (name.clone(), value)).collect()
}

#[cfg(test)]
#[path = "nat_tests.rs"]
mod tests;
