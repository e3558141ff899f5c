//! Port settings of a network namespace: ports that `connect()` may choose, and when it may reuse a TIME_WAIT.

use std::collections::BTreeMap;

use crate::model::{Nanos, Tuple, sysctls};

/// Sysctls of a network namespace about local ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSettings {
    /// First and last port of `ip_local_port_range`.
    pub range: (u16, u16),
    /// Ports of the range that `ip_local_reserved_ports` excludes from `connect()`.
    pub reserved: u64,
    /// `tcp_tw_reuse`; `None` if unknown.
    pub tw_reuse: Option<u8>,
    /// `tcp_timestamps`; reuse needs them.
    pub timestamps: bool,
    /// Minimum age of a TIME_WAIT before its port is reused.
    pub reuse_delay: Nanos,
    /// Sorted; no range touches another.
    reserved_ranges: Vec<(u16, u16)>,
}

/// `tcp_twsk_unique()` requires a second on kernels without `tcp_tw_reuse_delay` (before 6.14).
const REUSE_DELAY: Nanos = Nanos::SECOND;

impl PortSettings {
    /// Parses sysctls by name; `None` if they contain no port range.
    pub fn of(sysctls: &BTreeMap<String, String>) -> Option<Self> {
        let value = |name: &str| sysctls.get(&format!("net.ipv4.{name}")).map(|value| value.trim());
        let range @ (low, high) = sysctls::local_port_range(sysctls)?;
        let mut reserved_ranges: Vec<(u16, u16)> = value("ip_local_reserved_ports")
            .unwrap_or_default()
            .split(',')
            .filter_map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                Some((first.trim().parse::<u16>().ok()?.max(low), last.trim().parse::<u16>().ok()?.min(high)))
            })
            .filter(|(first, last)| first <= last)
            .collect();
        // `offers()` uses a binary search: the owner of a namespace may reserve every other port.
        make_disjoint(&mut reserved_ranges);
        reserved_ranges.shrink_to_fit();
        let reserved = reserved_ranges.iter().map(|&(first, last)| u64::from(last - first) + 1).sum();
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
        let after = self.reserved_ranges.partition_point(|&(first, _)| first <= port);
        let nearest = after.checked_sub(1).and_then(|n| self.reserved_ranges.get(n));
        within(&self.range) && !nearest.is_some_and(within)
    }

    /// Number of reserved ranges.
    pub(super) const fn reserved_ranges(&self) -> usize {
        self.reserved_ranges.len()
    }

    /// Whether `connect()` may choose from the same ports as with `other`.
    pub fn has_same_ports(&self, other: &Self) -> bool {
        (self.range, &self.reserved_ranges) == (other.range, &other.reserved_ranges)
    }

    /// Budget: number of ports `connect()` can choose from. All ports of an odd-length range count:
    /// `__inet_hash_connect()` rounds the length down for one call, but the omitted port varies with the random offset
    /// of the call, so that calls together use every port.
    pub fn size(&self) -> u64 {
        self.length().saturating_sub(self.reserved)
    }

    /// Whether `connect()` tries `port` before ports of the other parity (`__inet_hash_connect()`).
    pub const fn is_tried_first(&self, port: u16) -> bool {
        port % 2 == self.range.0 % 2
    }

    /// Number of ports that `connect()` tries first; part of [`Self::size`].
    pub fn size_tried_first(&self) -> u64 {
        // Ports of the parity of the first one, in a range from `first` to `last`.
        let count = |first: u16, last: u16| {
            let first = u64::from(first) + u64::from(!self.is_tried_first(first));
            (u64::from(last) + 2).saturating_sub(first) / 2
        };
        let (low, high) = self.range;
        let reserved: u64 = self.reserved_ranges.iter().map(|&(first, last)| count(first, last)).sum();
        count(low, high.max(low)).saturating_sub(reserved)
    }

    /// Whether one `connect()` call tries all ports: it omits the first or the last of an odd-length range.
    pub fn one_call_tries_all(&self) -> bool {
        self.length() == 1 || self.length().is_multiple_of(2)
    }

    fn length(&self) -> u64 {
        let (low, high) = self.range;
        u64::from(high.saturating_sub(low)) + 1
    }

    /// Whether `connect()` reuses a TIME_WAIT socket with the endpoints `tuple` (`tcp_twsk_unique()`), provided that
    /// the peer uses timestamps.
    pub fn reuses(&self, tuple: &Tuple) -> bool {
        let is_loopback = tuple.saddr.is_loopback() || tuple.daddr.is_loopback();
        self.timestamps && (self.tw_reuse == Some(1) || (self.tw_reuse == Some(2) && is_loopback))
    }
}

/// Sorts ranges of ports, and joins those that overlap or touch.
pub(super) fn make_disjoint(ranges: &mut Vec<(u16, u16)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let touches = u32::from(next.0) <= u32::from(before.1) + 1;
        if touches {
            before.1 = before.1.max(next.1);
        }
        touches
    });
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
    fn budget_excludes_reserved_ports_and_includes_the_odd_one() {
        // (range, reserved, offered, reserved in the range)
        let cases = [
            ("32768 60999", "", 28_232, 0),
            ("41000 41099", "", 100, 0),
            ("41000\t41099", "41000-41009", 90, 10),
            ("41000 41099", "80,8080-8090,41050", 99, 1),
            ("41000 41099", "40990-41004,41003,41098-41200", 93, 7),
            ("41000 41099", "nonsense,41001", 99, 1),
            ("41000 41100", "", 101, 0),
            ("41000 41000", "", 1, 0),
            ("1 65535", "1-65535", 0, 65_535),
            ("41000 41100", "41100", 100, 1),
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
    fn ports_of_the_parity_of_the_first_are_tried_first() {
        let cases = [
            ("32768 60999", ""),
            ("41000 41099", "41000-41009"),
            ("41001 41100", "80,8080-8090,41050"),
            ("41000 41100", "40990-41004,41003,41098-41200"),
            ("41001 41001", ""),
            ("41000 41000", "41000"),
            ("1 65535", "2-65534"),
            ("1 65535", "1-65535"),
        ];
        for (range, reserved) in cases {
            let settings = settings(&[("ip_local_port_range", range), ("ip_local_reserved_ports", reserved)])
                .expect("a range");
            let ports = 0..=u16::MAX;
            let tried_first = ports.filter(|&port| settings.offers(port) && settings.is_tried_first(port));
            assert_eq!(settings.size_tried_first(), tried_first.count() as u64, "{range} less {reserved}");
        }
    }

    #[test]
    fn offers_only_unreserved_ports_of_the_range() {
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
    fn touching_reserved_ranges_merge() {
        let of = |reserved: &str| {
            settings(&[("ip_local_port_range", "41000 41099"), ("ip_local_reserved_ports", reserved)])
                .expect("a range")
        };
        let written = of("41010-41019,41015-41030,41031,41000,41099");
        assert_eq!(written.reserved_ranges, [(41_000, 41_000), (41_010, 41_031), (41_099, 41_099)]);
        assert!(written.has_same_ports(&of("41000,41010-41031,41099")));
        let odd: Vec<String> = (1..=u16::MAX).step_by(2).map(|port| port.to_string()).collect();
        let every_other =
            settings(&[("ip_local_port_range", "1 65535"), ("ip_local_reserved_ports", &odd.join(","))])
                .expect("a range");
        assert_eq!((every_other.size(), every_other.reserved), (32_767, 32_768));
        assert!((1..=u16::MAX).all(|port| every_other.offers(port) == port.is_multiple_of(2)));
    }

    #[test]
    fn settings_without_a_range_are_none() {
        for range in ["", "1", "a b", "1 70000"] {
            assert_eq!(settings(&[("ip_local_port_range", range)]), None, "{range}");
        }
        assert_eq!(settings(&[]), None);
    }

    #[test]
    fn reuse_needs_sysctl_timestamps_and_for_2_loopback() {
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
    fn reuse_delay_defaults_to_the_kernel_value() {
        let delay = |value| {
            let range = ("ip_local_port_range", "1 2");
            settings(&[range, ("tcp_tw_reuse_delay", value)]).expect("a range").reuse_delay
        };
        assert_eq!((delay("250"), delay("")), (Nanos(250_000_000), REUSE_DELAY));
    }
}
