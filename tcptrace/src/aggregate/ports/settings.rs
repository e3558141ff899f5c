//! Which ports `connect()` may choose from, and when it may take over a TIME_WAIT: out of the settings of one
//! network namespace.

use std::collections::BTreeMap;

use crate::model::{Nanos, Tuple};

/// What the settings of a network namespace say about its local ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSettings {
    /// First and last port of `ip_local_port_range`.
    pub range: (u16, u16),
    /// Ports of the range that `ip_local_reserved_ports` keeps from `connect()`.
    pub reserved: u64,
    /// `tcp_tw_reuse`; `None` when it is not known.
    pub tw_reuse: Option<u8>,
    /// `tcp_timestamps`, without which nothing is reused.
    pub timestamps: bool,
    /// How old a TIME_WAIT has to be before its port is reused.
    pub reuse_delay: Nanos,
    reserved_ranges: Vec<(u16, u16)>,
}

/// `tcp_twsk_unique()` waits a second where there is no `tcp_tw_reuse_delay` (6.14).
const REUSE_DELAY: Nanos = Nanos::SECOND;

impl PortSettings {
    /// Out of sysctls by name; `None` when they do not say which ports there are.
    pub fn of(sysctls: &BTreeMap<String, String>) -> Option<Self> {
        let value = |name: &str| sysctls.get(&format!("net.ipv4.{name}")).map(|value| value.trim());
        let mut ends = value("ip_local_port_range")?.split_whitespace().map(str::parse);
        let range @ (low, high) = (ends.next()?.ok()?, ends.next()?.ok()?);
        let mut reserved_ranges: Vec<(u16, u16)> = value("ip_local_reserved_ports")
            .unwrap_or_default()
            .split(',')
            .filter_map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                Some((first.trim().parse::<u16>().ok()?.max(low), last.trim().parse::<u16>().ok()?.min(high)))
            })
            .filter(|(first, last)| first <= last)
            .collect();
        reserved_ranges.sort_unstable();
        let mut next = u32::from(low);
        let mut reserved = 0;
        for &(first, last) in &reserved_ranges {
            reserved += u64::from((u32::from(last) + 1).saturating_sub(next.max(first.into())));
            next = next.max(u32::from(last) + 1);
        }
        let milliseconds = value("tcp_tw_reuse_delay").and_then(|ms| ms.parse().ok()).map(Nanos::of_millis);
        Some(Self {
            range,
            reserved,
            tw_reuse: value("tcp_tw_reuse").and_then(|value| value.parse().ok()),
            timestamps: value("tcp_timestamps") != Some("0"),
            reuse_delay: milliseconds.unwrap_or(REUSE_DELAY),
            reserved_ranges,
        })
    }

    /// Whether `connect()` may choose `port`.
    pub fn offers(&self, port: u16) -> bool {
        let within = |&(first, last): &(u16, u16)| (first..=last).contains(&port);
        within(&self.range) && !self.reserved_ranges.iter().any(within)
    }

    /// Whether `connect()` may choose from the same ports.
    pub fn offers_the_same(&self, other: &Self) -> bool {
        (self.range, &self.reserved_ranges) == (other.range, &other.reserved_ranges)
    }

    /// How many ports `connect()` can choose from. `__inet_hash_connect()` rounds the length of the range down
    /// to an even number: of an odd one, a call never tries the first or never the last.
    pub fn size(&self) -> u64 {
        let (low, high) = self.range;
        let ports = u64::from(high.saturating_sub(low)) + 1;
        let tried = if ports > 1 { ports & !1 } else { ports };
        tried.saturating_sub(self.reserved)
    }

    /// Whether `connect()` takes over a TIME_WAIT that holds the ends `tuple` (`tcp_twsk_unique()`), if the
    /// peer uses timestamps too.
    pub fn reuses(&self, tuple: &Tuple) -> bool {
        let is_loopback = tuple.saddr.is_loopback() || tuple.daddr.is_loopback();
        self.timestamps && (self.tw_reuse == Some(1) || (self.tw_reuse == Some(2) && is_loopback))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn settings(values: &[(&str, &str)]) -> Option<PortSettings> {
        let sysctls = values.iter().map(|(name, value)| (format!("net.ipv4.{name}"), (*value).to_owned()));
        PortSettings::of(&sysctls.collect())
    }

    #[test]
    fn reserved_ports_and_the_odd_one_are_not_offered() {
        // (range, reserved, offered, reserved in the range)
        let cases = [
            ("32768 60999", "", 28_232, 0),
            ("41000 41099", "", 100, 0),
            ("41000\t41099", "41000-41009", 90, 10),
            ("41000 41099", "80,8080-8090,41050", 99, 1),
            ("41000 41099", "40990-41004,41003,41098-41200", 93, 7),
            ("41000 41099", "nonsense,41001", 99, 1),
            ("41000 41100", "", 100, 0),
            ("41000 41000", "", 1, 0),
            ("1 65535", "1-65535", 0, 65_535),
        ];
        for (range, reserved, size, reserved_there) in cases {
            let settings = settings(&[("ip_local_port_range", range), ("ip_local_reserved_ports", reserved)])
                .expect("a range");
            assert_eq!(
                (settings.size(), settings.reserved),
                (size, reserved_there),
                "{range} less {reserved}"
            );
        }
    }

    #[test]
    fn a_port_is_offered_or_not() {
        let settings = settings(&[
            ("ip_local_port_range", "41000 41099"),
            ("ip_local_reserved_ports", "41010-41019,41030"),
        ])
        .expect("a range");
        let offered = [41_000, 41_009, 41_020, 41_099].map(|port| settings.offers(port));
        let kept = [40_999, 41_010, 41_019, 41_030, 41_100].map(|port| settings.offers(port));
        assert_eq!((offered, kept), ([true; 4], [false; 5]));
    }

    #[test]
    fn without_a_range_nothing_is_known() {
        for range in ["", "1", "a b", "1 70000"] {
            assert_eq!(settings(&[("ip_local_port_range", range)]), None, "{range}");
        }
        assert_eq!(settings(&[]), None);
    }

    #[test]
    fn reuse_needs_the_setting_timestamps_and_with_2_loopback() {
        let tuple = |daddr: &str| {
            let addr = |text: &str| text.parse::<IpAddr>().expect("an address").into();
            Tuple { saddr: addr("10.0.0.1"), daddr: addr(daddr), sport: 1, dport: 2, ifindex: 0 }
        };
        let reuses = |reuse, timestamps, daddr| {
            let values =
                [("ip_local_port_range", "1 2"), ("tcp_tw_reuse", reuse), ("tcp_timestamps", timestamps)];
            settings(&values).expect("a range").reuses(&tuple(daddr))
        };
        assert!(reuses("1", "1", "10.0.0.5") && reuses("2", "1", "127.0.0.1") && reuses("2", "1", "::1"));
        assert!(!reuses("0", "1", "127.0.0.1") && !reuses("2", "1", "10.0.0.5"));
        assert!(!reuses("1", "0", "10.0.0.5"));
    }

    #[test]
    fn the_delay_is_the_kernels() {
        let delay = |value| {
            let range = ("ip_local_port_range", "1 2");
            settings(&[range, ("tcp_tw_reuse_delay", value)]).expect("a range").reuse_delay
        };
        assert_eq!((delay("250"), delay("")), (Nanos(250_000_000), REUSE_DELAY));
    }
}
