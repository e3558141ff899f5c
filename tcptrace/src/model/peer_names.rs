//! Names of remote addresses and networks, for people: a peer is identified by its address alone.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::Addr;

/// Most names of one origin.
pub const MAX_PEER_NAMES: usize = 1 << 13;
/// Bits before the address in the mapped form of IPv4.
const MAPPED_BITS: u8 = 96;

/// Where a name comes from, in the order in which they win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameOrigin {
    /// The file of this run's `--names`.
    Given,
    /// The same of the run that wrote the recording.
    File,
    /// A container or pod of this host that has the address.
    Workload,
    /// `/etc/hosts`.
    Hosts,
}

impl NameOrigin {
    /// All, the winning one first.
    pub const ALL: [Self; 4] = [Self::Given, Self::File, Self::Workload, Self::Hosts];

    /// Its number in a recording, where the names given to its writer are those of a file.
    pub const fn number(self) -> i64 {
        match self {
            Self::Given | Self::File => 1,
            Self::Workload => 2,
            Self::Hosts => 3,
        }
    }

    /// The origin with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        usize::try_from(number)
            .ok()
            .filter(|&number| number > 0)
            .and_then(|number| Self::ALL.get(number))
            .copied()
    }
}

/// A network in the mapped form of [`Addr`], or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    bits: u8,
    network: u128,
}

impl Prefix {
    /// The network of `addr` with `bits` of the mapped form: 128 is the address alone.
    pub fn new(addr: Addr, bits: u8) -> Self {
        let bits = bits.min(128);
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        Self { bits, network: u128::from_be_bytes(addr.0) & mask }
    }

    /// The network of `addr` with `bits` as people count them: up to 32 of IPv4, up to 128 of IPv6.
    pub fn of_address(addr: Addr, bits: u8) -> Self {
        Self::new(addr, if addr.is_ipv4() { bits.saturating_add(MAPPED_BITS) } else { bits })
    }

    /// Its address.
    pub const fn addr(self) -> Addr {
        Addr(self.network.to_be_bytes())
    }

    /// Bits of the mapped form.
    pub const fn bits(self) -> u8 {
        self.bits
    }
}

/// The names of one origin.
#[derive(Clone, Debug, Default)]
struct NameTable {
    names: BTreeMap<Prefix, Arc<str>>,
    /// How many names have this number of bits.
    lengths: BTreeMap<u8, usize>,
}

impl NameTable {
    fn insert(&mut self, prefix: Prefix, name: Arc<str>) -> bool {
        if self.names.len() >= MAX_PEER_NAMES && !self.names.contains_key(&prefix) {
            return false;
        }
        if self.names.insert(prefix, name).is_none() {
            *self.lengths.entry(prefix.bits).or_default() += 1;
        }
        true
    }

    fn remove(&mut self, prefix: Prefix) {
        if self.names.remove(&prefix).is_some()
            && let Some(count) = self.lengths.get_mut(&prefix.bits)
        {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.bits);
            }
        }
    }

    /// The name of the smallest network that contains all of `peer`.
    fn find(&self, peer: Prefix) -> Option<&Arc<str>> {
        // `::/0` does not contain IPv4.
        let shortest = if peer.addr().is_ipv4() { MAPPED_BITS } else { 0 };
        let mut lengths = self.lengths.range(shortest.min(peer.bits)..=peer.bits).rev();
        lengths.find_map(|(&bits, _)| self.names.get(&Prefix::new(peer.addr(), bits)))
    }
}

/// The known names. A lookup costs O(log n) for each prefix length in use; nothing is looked up per record.
#[derive(Clone, Debug, Default)]
pub struct PeerNames {
    tables: [NameTable; NameOrigin::ALL.len()],
}

impl PeerNames {
    /// Stores a name, or removes it if it is empty; returns whether there was room.
    pub fn insert(&mut self, origin: NameOrigin, prefix: Prefix, name: &Arc<str>) -> bool {
        let table = &mut self.tables[origin as usize];
        if name.is_empty() {
            table.remove(prefix);
            return true;
        }
        table.insert(prefix, Arc::clone(name))
    }

    /// The name of an address.
    pub fn address(&self, addr: Addr) -> Option<&Arc<str>> {
        self.network(Prefix::new(addr, 128))
    }

    /// The name of a network: that of an equal or a greater one.
    pub fn network(&self, peer: Prefix) -> Option<&Arc<str>> {
        self.tables.iter().find_map(|table| table.find(peer))
    }

    /// `peer`, which is text about the address `addr`, with its name.
    pub fn with_name(&self, addr: Addr, peer: impl fmt::Display) -> String {
        with_name(&peer, self.address(addr))
    }

    /// Every name.
    pub fn iter(&self) -> impl Iterator<Item = (NameOrigin, Prefix, &Arc<str>)> {
        let tables = NameOrigin::ALL.into_iter().zip(&self.tables);
        tables
            .flat_map(|(origin, table)| table.names.iter().map(move |(&prefix, name)| (origin, prefix, name)))
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.names.len()).sum()
    }

    /// Whether there is no name.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `10.0.0.5:5432 [db-subnet]`.
pub fn with_name(peer: &impl fmt::Display, name: Option<&Arc<str>>) -> String {
    match name {
        Some(name) => format!("{peer} [{name}]"),
        None => peer.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn names(given: &[(NameOrigin, &str, u8, &str)]) -> PeerNames {
        let mut names = PeerNames::default();
        for &(origin, network, bits, name) in given {
            assert!(names.insert(origin, Prefix::of_address(addr(network), bits), &name.into()));
        }
        names
    }

    #[test]
    fn the_longest_prefix_of_the_first_origin_wins() {
        let names = names(&[
            (NameOrigin::File, "10.0.0.0", 8, "lan"),
            (NameOrigin::File, "10.1.0.0", 16, "db"),
            (NameOrigin::File, "0.0.0.0", 0, "any"),
            (NameOrigin::File, "2001:db8::", 32, "doc"),
            (NameOrigin::Workload, "10.1.0.5", 32, "shop/db-0"),
            (NameOrigin::Workload, "fd00::5", 128, "shop/db-1"),
            (NameOrigin::Hosts, "fd00::5", 128, "printer"),
            (NameOrigin::Hosts, "fd00::6", 128, "scanner"),
            (NameOrigin::Given, "10.9.0.0", 16, "mine"),
        ]);
        for (peer, expected) in [
            ("10.1.0.5", Some("db")),
            ("10.2.0.5", Some("lan")),
            ("10.9.0.5", Some("mine")),
            ("192.0.2.1", Some("any")),
            ("2001:db8::1", Some("doc")),
            ("fd00::5", Some("shop/db-1")),
            ("fd00::6", Some("scanner")),
            ("fd00::7", None),
        ] {
            assert_eq!(names.address(addr(peer)).map(|name| &**name), expected, "{peer}");
        }
        assert_eq!(names.with_name(addr("10.2.0.5"), "10.2.0.5:80"), "10.2.0.5:80 [lan]");
        assert_eq!(names.with_name(addr("fd00::7"), "fd00::7"), "fd00::7");
        // A network has the name of one that contains all of it.
        let network =
            |text: &str, bits| names.network(Prefix::of_address(addr(text), bits)).map(ToString::to_string);
        assert_eq!(network("10.1.2.0", 24).as_deref(), Some("db"));
        assert_eq!(network("10.0.0.0", 7).as_deref(), Some("any"));
        assert_eq!(network("fd00::", 64), None);
    }

    #[test]
    fn ipv6_networks_contain_no_ipv4() {
        let names = names(&[(NameOrigin::File, "::", 0, "all of IPv6")]);
        assert_eq!(names.address(addr("10.0.0.1")), None);
        assert!(names.address(addr("::1")).is_some());
    }

    #[test]
    fn names_are_removed_and_bounded() {
        let mut names = PeerNames::default();
        let prefix = |n: usize| Prefix::new(Addr((n as u128).to_be_bytes()), 128);
        for n in 0..MAX_PEER_NAMES {
            assert!(names.insert(NameOrigin::Hosts, prefix(n), &"a".into()));
        }
        let more = prefix(MAX_PEER_NAMES);
        assert!(!names.insert(NameOrigin::Hosts, more, &"b".into()));
        assert!(names.insert(NameOrigin::Hosts, prefix(0), &"b".into()), "it is known");
        assert!(names.insert(NameOrigin::Hosts, prefix(0), &"".into()));
        assert!(names.insert(NameOrigin::Hosts, more, &"c".into()));
        assert_eq!((names.len(), names.iter().count()), (MAX_PEER_NAMES, MAX_PEER_NAMES));
        for n in 0..=MAX_PEER_NAMES {
            names.insert(NameOrigin::Hosts, prefix(n), &"".into());
        }
        assert!(names.is_empty() && names.tables.iter().all(|table| table.lengths.is_empty()));
    }
}
