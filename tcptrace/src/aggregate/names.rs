//! Bounded tables of host names and settings by id: namespace names, cgroup paths, sysctls.
//!
//! Container churn leaves ids behind. A crowded table evicts rows that no socket and no group refers to, oldest first;
//! records refused by a full table are counted.

use std::{collections::BTreeMap, hash::Hash, sync::Arc};

use hashbrown::{DefaultHashBuilder, HashMap, HashSet};

use crate::model::{MAX_UNUSED_NAMES, Nanos, NetnsId, Record, peer_names::PeerNames};

/// Settings by name: `net.ipv4.tcp_tw_reuse`.
pub type Sysctls = Arc<BTreeMap<String, String>>;

/// Rows per table.
const MOST: usize = 1 << 14;
/// Text bytes per table of names.
const MOST_BYTES: usize = 16 << 20;
/// Bytes of the settings table: the sysctls that are read take some 3 KiB per namespace.
const MAX_SETTINGS_BYTES: usize = 64 << 20;
/// Longest text of one row: a path; settings are far shorter.
const LONGEST: usize = 16 << 10;
/// Bytes of a setting besides its name and its value.
const ENTRY_BYTES: usize = 96;
/// Minimum number of new rows between two cleanups.
const MIN_ROWS_BETWEEN_CLEANUPS: u64 = 1 << 10;
/// Sockets that a successful cleanup may scan per new row.
const SOCKETS_PER_ROW: u64 = 128;

/// Namespace and cgroup ids that sockets and groups refer to.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// Network namespaces.
    pub netns: HashSet<NetnsId>,
    /// Cgroups.
    pub cgroups: HashSet<u64>,
}

/// Names and settings of the live host by id.
#[derive(Clone, Debug)]
pub struct HostNames {
    netns: BoundedTable<NetnsId, Arc<str>>,
    cgroups: BoundedTable<u64, Arc<str>>,
    settings: BoundedTable<NetnsId, Sysctls>,
    /// Most namespaces have equal settings, so one copy is shared.
    last_settings: Sysctls,
    /// Shared with snapshots: views look names up.
    peers: Arc<PeerNames>,
}

impl Default for HostNames {
    fn default() -> Self {
        Self {
            netns: BoundedTable::new(MOST_BYTES),
            cgroups: BoundedTable::new(MOST_BYTES),
            settings: BoundedTable::new(MAX_SETTINGS_BYTES),
            last_settings: Sysctls::default(),
            peers: Arc::default(),
        }
    }
}

impl HostNames {
    /// Stores a name or setting from `record`; returns whether there was room.
    pub fn take(&mut self, record: &Record) -> bool {
        match record {
            // An empty name: the namespace has no name any more.
            Record::NetnsName { netns, name, .. } if name.is_empty() => {
                self.netns.remove(*netns);
                true
            }
            Record::NetnsName { netns, name, .. } => self.netns.insert(*netns, Arc::clone(name), name.len()),
            Record::CgroupPath { cgroup, path, .. } => {
                self.cgroups.insert(*cgroup, Arc::clone(path), path.len())
            }
            Record::AddressName { origin, prefix, name, .. } => {
                Arc::make_mut(&mut self.peers).insert(*origin, *prefix, name)
            }
            Record::NetnsSettings { netns, sysctls, .. } if sysctls.is_empty() => {
                self.settings.remove(*netns);
                true
            }
            Record::NetnsSettings { netns, sysctls, .. } => {
                if *self.last_settings != *sysctls {
                    self.last_settings = Arc::new(sysctls.clone());
                }
                let bytes = sysctls.iter().map(|(name, value)| name.len() + value.len() + ENTRY_BYTES).sum();
                self.settings.insert(*netns, Arc::clone(&self.last_settings), bytes)
            }
            _ => true,
        }
    }

    /// The name of a network namespace (`ip netns`).
    pub fn netns(&self, netns: NetnsId) -> Option<&Arc<str>> {
        self.netns.get(netns)
    }

    /// The path of a cgroup.
    pub fn cgroup(&self, cgroup: u64) -> Option<&Arc<str>> {
        self.cgroups.get(cgroup)
    }

    /// The settings of a network namespace.
    pub fn settings(&self, netns: NetnsId) -> Option<&Sysctls> {
        self.settings.get(netns)
    }

    /// Names of remote addresses.
    pub const fn peers(&self) -> &Arc<PeerNames> {
        &self.peers
    }

    /// Starts with these names of remote addresses.
    #[must_use]
    pub fn with_peers(self, peers: Arc<PeerNames>) -> Self {
        Self { peers, ..self }
    }

    /// The names of remote addresses as records.
    pub fn peer_records(&self, ts: Nanos) -> impl Iterator<Item = Record> {
        let record = move |(origin, prefix, name): (_, _, &Arc<str>)| Record::AddressName {
            ts,
            origin,
            prefix,
            name: Arc::clone(name),
        };
        self.peers.iter().map(record)
    }

    /// Every network namespace with a name.
    pub fn all_netns(&self) -> impl Iterator<Item = (NetnsId, &Arc<str>)> {
        self.netns.iter()
    }

    /// Every cgroup with a path.
    pub fn all_cgroups(&self) -> impl Iterator<Item = (u64, &Arc<str>)> {
        self.cgroups.iter()
    }

    /// The settings of every network namespace.
    pub fn all_settings(&self) -> impl Iterator<Item = (NetnsId, &Sysctls)> {
        self.settings.iter()
    }

    /// Whether a table holds as many unreferenced rows as allowed.
    pub fn is_crowded(&self) -> bool {
        self.netns.is_crowded() || self.cgroups.is_crowded() || self.settings.is_crowded()
    }

    /// Evicts unreferenced rows from crowded tables.
    pub fn make_room(&mut self, used: &Used) {
        self.netns.make_room(|netns| used.netns.contains(netns));
        self.cgroups.make_room(|cgroup| used.cgroups.contains(cgroup));
        self.settings.make_room(|netns| used.netns.contains(netns));
    }

    /// Row count of each table.
    pub fn sizes(&self) -> [(&'static str, usize); 4] {
        [
            ("netns_names", self.netns.rows.len()),
            ("cgroup_paths", self.cgroups.rows.len()),
            ("netns_settings", self.settings.rows.len()),
            ("peer_names", self.peers.len()),
        ]
    }
}

/// Rows by id. The hash is randomly seeded because the author of a recording chooses the ids.
#[derive(Clone, Debug)]
struct BoundedTable<K, V> {
    rows: HashMap<K, NameRow<V>, DefaultHashBuilder>,
    bytes: usize,
    most_bytes: usize,
    inserted: u64,
    /// Rows that were referenced at the last cleanup.
    used: usize,
}

#[derive(Clone, Debug)]
struct NameRow<V> {
    value: V,
    bytes: usize,
    /// Sequence number of the insertion.
    inserted: u64,
}

impl<K: Copy + Eq + Hash, V> BoundedTable<K, V> {
    fn new(most_bytes: usize) -> Self {
        Self { rows: HashMap::default(), bytes: 0, most_bytes, inserted: 0, used: 0 }
    }

    fn get(&self, key: K) -> Option<&V> {
        self.rows.get(&key).map(|row| &row.value)
    }

    fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.rows.iter().map(|(&key, row)| (key, &row.value))
    }

    /// Inserts a row; returns whether there was room.
    fn insert(&mut self, key: K, value: V, bytes: usize) -> bool {
        self.remove(key);
        if bytes > LONGEST || self.rows.len() >= MOST || self.bytes + bytes > self.most_bytes {
            return false;
        }
        self.inserted += 1;
        self.bytes += bytes;
        self.rows.insert(key, NameRow { value, bytes, inserted: self.inserted });
        true
    }

    fn remove(&mut self, key: K) {
        if let Some(row) = self.rows.remove(&key) {
            self.bytes -= row.bytes;
        }
    }

    fn is_crowded(&self) -> bool {
        let most = (self.used + 2 * MAX_UNUSED_NAMES).min(MOST);
        self.rows.len() >= most || self.bytes + LONGEST > self.most_bytes
    }

    fn make_room(&mut self, is_used: impl Fn(&K) -> bool) {
        if !self.is_crowded() {
            return;
        }
        let mut unused: Vec<(u64, K)> = self
            .rows
            .iter()
            .filter(|(key, _)| !is_used(key))
            .map(|(key, row)| (row.inserted, *key))
            .collect();
        self.used = self.rows.len() - unused.len();
        // A table of few long texts evicts as many rows as one of many short texts.
        let stay = MAX_UNUSED_NAMES.min(unused.len() / 2);
        let goes = unused.len() - stay;
        if stay > 0 {
            unused.select_nth_unstable_by_key(goes, |(inserted, _)| *inserted);
        }
        unused[..goes].iter().for_each(|&(_, key)| self.remove(key));
    }
}

/// Rate limit for cleanups: a cleanup scans all sockets, and the rows added since the last one must justify that.
#[derive(Clone, Copy, Debug, Default)]
pub struct CleanupThrottle {
    inserted: u64,
    wanted: u64,
}

impl CleanupThrottle {
    /// Counts one more row.
    pub const fn note(&mut self) {
        self.inserted += 1;
    }

    /// Whether enough rows were added since the last cleanup.
    pub const fn is_over(&self) -> bool {
        self.inserted >= self.wanted
    }

    /// Restarts the count after a cleanup that scanned `sockets` sockets, and found room or not.
    pub fn restart(&mut self, sockets: usize, has_room: bool) {
        let sockets = sockets as u64;
        *self = Self {
            inserted: 0,
            wanted: MIN_ROWS_BETWEEN_CLEANUPS.max(if has_room { sockets / SOCKETS_PER_ROW } else { sockets }),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Nanos;

    fn path(cgroup: u64, path: &str) -> Record {
        Record::CgroupPath { ts: Nanos(0), cgroup, path: path.into() }
    }

    fn settings(netns: u32, values: &[(&str, &str)]) -> Record {
        let sysctls = values.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Record::NetnsSettings { ts: Nanos(0), netns: NetnsId(netns), sysctls }
    }

    fn name(netns: u32, name: &str) -> Record {
        Record::NetnsName { ts: Nanos(0), netns: NetnsId(netns), name: name.into() }
    }

    #[test]
    fn container_churn_leaves_room() {
        let mut names = HostNames::default();
        let mut used = Used::default();
        used.cgroups.insert(7);
        for cgroup in 0..10 * MOST as u64 {
            let record = path(cgroup, "/kubepods/pod/container");
            if !names.take(&record) {
                names.make_room(&used);
                assert!(names.take(&record), "{cgroup}");
            }
            assert!(names.cgroups.rows.len() <= MOST);
        }
        assert!(names.cgroup(7).is_some(), "a socket refers to it");
        assert!(names.cgroup(8).is_none());
        let newest = 10 * MOST as u64 - MAX_UNUSED_NAMES as u64;
        assert!((newest..10 * MOST as u64).all(|cgroup| names.cgroup(cgroup).is_some()));
    }

    #[test]
    fn full_table_of_referenced_rows_refuses_new_ones() {
        let mut names = HostNames::default();
        let used = Used { cgroups: (0..2 * MOST as u64).collect(), ..Used::default() };
        assert!((0..MOST as u64).all(|cgroup| names.take(&path(cgroup, "/a"))));
        names.make_room(&used);
        assert!(!names.take(&path(MOST as u64, "/a")));
        assert!(names.take(&path(3, "/b")), "it is known");
        assert_eq!(names.cgroup(3).map(|path| &**path), Some("/b"));
    }

    #[test]
    fn long_texts_are_bounded_by_their_bytes() {
        let mut names = HostNames::default();
        assert!(!names.take(&path(1, &"x".repeat(LONGEST + 1))));
        assert!(!names.take(&settings(1, &[("a", &"x".repeat(LONGEST))])));
        let long = "x".repeat(LONGEST);
        let taken = (0..MOST as u64).filter(|&cgroup| names.take(&path(cgroup, &long))).count();
        assert_eq!(taken, MOST_BYTES / LONGEST);
        names.make_room(&Used::default());
        assert!(names.take(&path(u64::MAX, &long)));
        assert!(names.cgroups.bytes <= MOST_BYTES);
    }

    #[test]
    fn cleanups_scan_a_bounded_number_of_sockets_per_row() {
        let sockets_per_row = |sockets: usize, has_room: bool| {
            const ROWS: usize = 1 << 24;
            let mut patience = CleanupThrottle::default();
            let lookups = (0..ROWS).filter(|_| {
                patience.note();
                let is_over = patience.is_over();
                if is_over {
                    patience.restart(sockets, has_room);
                }
                is_over
            });
            lookups.count() * sockets / ROWS
        };
        for sockets in [1 << 10, 1 << 17, 1 << 22] {
            assert!(
                sockets_per_row(sockets, true) <= 128 && sockets_per_row(sockets, false) <= 1,
                "{sockets}"
            );
        }
    }

    #[test]
    fn empty_record_removes_name_or_settings() {
        let mut names = HostNames::default();
        assert!(names.take(&name(5, "blue")) && names.take(&settings(5, &[("a", "1")])));
        assert!(names.take(&settings(6, &[("a", "1")])));
        let shared = |names: &HostNames| names.settings(NetnsId(6)).cloned().expect("known");
        assert!(Arc::ptr_eq(&shared(&names), names.settings(NetnsId(5)).expect("known")));
        assert!(names.take(&settings(5, &[])));
        assert!(names.settings(NetnsId(5)).is_none());
        assert!(names.settings(NetnsId(6)).is_some() && names.netns(NetnsId(5)).is_some());
        assert!(names.take(&name(5, "")));
        assert!(names.netns(NetnsId(5)).is_none());
    }

    #[test]
    fn tables_need_cleanup_at_twice_the_spare_rows() {
        let rows = 2 * MAX_UNUSED_NAMES as u32;
        let makers: [fn(u32) -> Record; 3] =
            [|n| name(n, "a"), |n| path(n.into(), "/a"), |n| settings(n, &[("a", "1")])];
        for (table, record) in makers.into_iter().enumerate() {
            let mut names = HostNames::default();
            for n in 1..rows {
                assert!(names.take(&record(n)) && !names.is_crowded(), "{table} {n}");
            }
            assert!(names.take(&record(rows)) && names.is_crowded(), "{table}");
            assert_eq!(names.sizes()[table].1, rows as usize);
            assert_eq!(names.sizes().iter().map(|(_, rows)| rows).sum::<usize>(), rows as usize);
            // Those referred to stay, and of the others the newest half.
            let stay = (rows - 5) / 2;
            let used = Used { netns: (1..=5).map(NetnsId).collect(), cgroups: (1..=5).collect() };
            names.make_room(&used);
            assert_eq!(names.sizes()[table].1, (5 + stay) as usize, "{table}");
            assert!(!names.is_crowded(), "{table}");
            let newest = rows + 1 - stay;
            let is_there = |n: u32| match table {
                0 => names.netns(NetnsId(n)).is_some(),
                1 => names.cgroup(n.into()).is_some(),
                _ => names.settings(NetnsId(n)).is_some(),
            };
            assert!((1..=5).chain(newest..=rows).all(is_there), "{table}");
            assert!((6..newest).all(|n| !is_there(n)), "{table}");
            names.make_room(&Used::default());
            assert_eq!(names.sizes()[table].1, (5 + stay) as usize, "{table}: it is not crowded");
        }
    }

    #[test]
    fn longest_text_fits_and_counts_once() {
        let mut names = HostNames::default();
        let long = "x".repeat(LONGEST);
        for _ in 0..3 {
            assert!(names.take(&path(1, &long)));
            assert_eq!(names.cgroups.bytes, LONGEST);
        }
        assert!(names.take(&settings(1, &[("ab", "c"), ("d", "")])));
        assert_eq!(names.settings.bytes, 4 + 2 * ENTRY_BYTES);
        assert_eq!(names.all_cgroups().map(|(cgroup, _)| cgroup).collect::<Vec<_>>(), [1]);
        assert_eq!((names.all_settings().count(), names.all_netns().count()), (1, 0));
        names.take(&path(1, ""));
        assert_eq!(names.cgroups.bytes, 0);
    }
}
