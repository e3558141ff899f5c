//! The connection tracking table of a network namespace, as far as it translates the sources of TCP connections.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::Addr;

/// Most translations in one record.
pub const MAX_TRANSLATIONS: usize = 256;
/// Most sources of one translation in a record.
pub const MAX_SOURCES: usize = 8;
/// Most backends in one record.
pub const MAX_BACKENDS: usize = 512;
/// Most rules in one record.
pub const MAX_RULES: usize = 64;

/// What one poll found in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    /// Entries in the table: `nf_conntrack_count`.
    pub entries: u64,
    /// `nf_conntrack_max`.
    pub max: Option<u64>,
    /// Counters of all CPUs since the creation of the namespace, by kernel name: `insert_failed`, `drop`, `early_drop`.
    pub counters: BTreeMap<String, u64>,
    /// `nf_conntrack_tcp_timeout_time_wait`, in seconds.
    pub time_wait_s: Option<u64>,
    /// Whether a new connection may evict an entry in TIME_WAIT or CLOSE that has the port it needs (Linux 6.5).
    pub evicts: bool,
    /// Rules that translate source addresses.
    pub rules: Vec<SnatRule>,
    /// Connections by translated address and destination, those with the most ports first.
    pub translations: Vec<Translation>,
    /// Entries that `translations` leaves out because of its limit.
    pub other_entries: u64,
    /// Connections with a translated destination, by client and backend, those with the most connections first.
    #[serde(default)]
    pub backends: Vec<Backend>,
    /// Why the entries or the rules are unknown, one sentence each.
    pub unknown: Vec<String>,
}

/// Connections of one client to one destination that are sent to one backend instead (DNAT).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The client's own address.
    #[serde(with = "addr_text")]
    pub saddr: Addr,
    /// The address that it connects to.
    #[serde(with = "addr_text")]
    pub daddr: Addr,
    /// The port that it connects to.
    pub dport: u16,
    /// The address that the packets are sent to.
    #[serde(with = "addr_text")]
    pub addr: Addr,
    /// The port that they are sent to.
    pub port: u16,
    /// Entries.
    pub used: u64,
}

/// Connections with one translated source address to one destination: they must differ in their translated port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// The translated source address.
    #[serde(with = "addr_text")]
    pub snat_addr: Addr,
    /// The address that the packets are sent to.
    #[serde(with = "addr_text")]
    pub daddr: Addr,
    /// The port that they are sent to.
    pub dport: u16,
    /// Conntrack zone; entries of different zones don't compete for a port.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub zone: u16,
    /// Entries: each holds one port.
    pub used: u64,
    /// Those in TIME_WAIT.
    pub time_wait: u64,
    /// Those in CLOSE.
    #[serde(default)]
    pub close: u64,
    /// Lowest and highest translated port.
    pub ports: (u16, u16),
    /// The clients, those with the most ports first.
    pub sources: Vec<TranslatedSource>,
    /// Entries of further clients.
    #[serde(default)]
    pub other_sources: u64,
}

/// The ports that one client holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranslatedSource {
    /// Its own address.
    #[serde(with = "addr_text")]
    pub saddr: Addr,
    /// Entries.
    pub used: u64,
    /// Those in TIME_WAIT.
    pub time_wait: u64,
}

/// A rule that translates source addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatRule {
    /// First and last address to choose from; `None`: that of the outgoing interface (masquerade).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addrs: Option<AddrRange>,
    /// First and last port to choose from; `None`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<(u16, u16)>,
}

/// First and last address of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddrRange(#[serde(with = "addr_text")] pub Addr, #[serde(with = "addr_text")] pub Addr);

impl SnatRule {
    /// Ports above 1023 that NAT chooses from without a range of the rule (`nf_nat_l4proto_unique_tuple()`).
    pub const ANY_PORT: (u16, u16) = (1_024, 65_535);

    /// Whether the rule may choose `addr`.
    pub fn may_choose(&self, addr: Addr) -> bool {
        self.addrs.is_none_or(|AddrRange(first, last)| (first..=last).contains(&addr))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(zone: &u16) -> bool {
    *zone == 0
}

/// Addresses as text.
pub(super) mod addr_text {
    use super::{Addr, Deserialize, Deserializer, Serializer, fmt};

    pub(in crate::model) fn serialize<S: Serializer>(addr: &Addr, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(addr as &dyn fmt::Display)
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Addr, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let ip: std::net::IpAddr = text.parse().map_err(<D::Error as super::Error>::custom)?;
        Ok(ip.into())
    }
}
