//! Parses networks such as `10.0.0.0/8` or `2001:db8::1`, and tests whether an address is in one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::error::excerpt;
use crate::model::{Addr, peer_names::Prefix};

/// A network, or one address. Stored in the mapped form of [`Addr`].
///
/// An IPv6 network never contains an IPv4 address, not even `::/0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: u128,
    mask: u128,
    is_ipv4: bool,
}

/// Added to an IPv4 prefix length for the mapped form.
const MAPPED_BITS: u32 = 96;

impl Cidr {
    /// The network of `addr` with `prefix` bits, relative to the form of [`Addr::ip`]: up to 32 for IPv4, up to
    /// 128 for IPv6; longer prefixes are limited to that. Host bits are cleared.
    pub fn new(addr: Addr, prefix: u32) -> Self {
        let bits = u128::from_be_bytes(addr.0);
        let prefix = if addr.is_ipv4() { prefix.min(32) + MAPPED_BITS } else { prefix.min(128) };
        let mask = match prefix {
            0 => 0,
            _ => u128::MAX << (128 - prefix),
        };
        Self { network: bits & mask, mask, is_ipv4: addr.is_ipv4() }
    }

    /// Whether `addr` is in the network.
    #[inline]
    pub fn contains(&self, addr: Addr) -> bool {
        u128::from_be_bytes(addr.0) & self.mask == self.network && addr.is_ipv4() == self.is_ipv4
    }

    /// The network's address and mask, 16 bytes each.
    pub const fn bytes(&self) -> ([u8; 16], [u8; 16]) {
        (self.network.to_be_bytes(), self.mask.to_be_bytes())
    }

    /// Whether comparing under the mask gives the same result as [`Cidr::contains`]: true unless it is an IPv6
    /// network that contains the mapped form of IPv4.
    pub fn is_exact_mask(&self) -> bool {
        const MAPPED: u128 = 0xffff << 32;
        self.is_ipv4 || MAPPED & self.mask != self.network
    }

    fn addr(&self) -> Addr {
        Addr(self.network.to_be_bytes())
    }

    /// As the prefix of names.
    pub fn prefix(&self) -> Prefix {
        Prefix::new(self.addr(), self.mask.count_ones() as u8)
    }

    fn length(&self) -> u32 {
        self.mask.count_ones() - if self.is_ipv4 { MAPPED_BITS } else { 0 }
    }

    const fn longest_prefix(addr: Addr) -> u32 {
        if addr.is_ipv4() { 32 } else { 128 }
    }

    /// Parses an address or a network. An error states what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let Ok(ip) = address.parse::<IpAddr>() else { return Err(not_an_address(text)) };
        let addr = Addr::from(ip);
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let Some(prefix) = prefix else {
            return Ok(Self::new(addr, Self::longest_prefix(addr)));
        };
        let digits = prefix.bytes().all(|b| b.is_ascii_digit());
        let Some(bits) = prefix.parse::<u32>().ok().filter(|&bits| digits && bits <= longest) else {
            return Err(format!("expected a prefix length (0-{longest}), found {}", excerpt(prefix)));
        };
        // `::ffff:10.0.0.0/104` is 10.0.0.0/8.
        let bits = match (ip.is_ipv6() && addr.is_ipv4(), bits.checked_sub(MAPPED_BITS)) {
            (true, Some(mapped)) => mapped,
            (true, None) => return Err(format!("{text} cuts the mapped form of IPv4 in two")),
            (false, _) => bits,
        };
        let network = Self::new(addr, bits);
        if network.addr() == addr {
            Ok(network)
        } else {
            Err(format!("{text} has host bits set, the network is {network}"))
        }
    }
}

fn not_an_address(text: &str) -> String {
    match text.parse::<SocketAddr>() {
        Ok(end) => format!(
            "expected an address or network without a port; give the port {} to `rport` or `lport`",
            end.port()
        ),
        Err(_) => format!("expected an address or a network such as 10.0.0.0/8, found {}", excerpt(text)),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (addr, prefix) = (self.addr(), self.length());
        if prefix == Self::longest_prefix(addr) { addr.fmt(f) } else { write!(f, "{addr}/{prefix}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn networks_contain_their_addresses() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("10.0.0.5", "10.0.0.5", true),
            ("10.0.0.5", "10.0.0.4", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ];
        for (network, address, expected) in cases {
            let cidr = Cidr::parse(network).expect(network);
            assert_eq!(cidr.contains(addr(address)), expected, "{address} in {network}");
        }
    }

    #[test]
    fn networks_are_shown_in_their_shortest_form() {
        let cases = [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.5/32", "10.0.0.5"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.5", "10.0.0.5"),
            ("2001:DB8:0::/32", "2001:db8::/32"),
            ("::1/128", "::1"),
            ("::/0", "::/0"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ];
        for (text, shown) in cases {
            assert_eq!(Cidr::parse(text).map(|cidr| cidr.to_string()).as_deref(), Ok(shown));
        }
    }

    #[test]
    fn errors_suggest_a_correction() {
        let cases = [
            ("10.0.0.5/8", "10.0.0.5/8 has host bits set, the network is 10.0.0.0/8"),
            ("2001:db8::1/32", "2001:db8::1/32 has host bits set, the network is 2001:db8::/32"),
            ("10.0.0.0/33", "expected a prefix length (0-32), found \"33\""),
            ("::/+8", "expected a prefix length (0-128), found \"+8\""),
            ("::ffff:0.0.0.0/80", "::ffff:0.0.0.0/80 cuts the mapped form of IPv4 in two"),
            ("10.0.0", "expected an address or a network such as 10.0.0.0/8, found \"10.0.0\""),
            (
                "10.0.0.5:5432",
                "expected an address or network without a port; give the port 5432 to `rport` or `lport`",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(Cidr::parse(text).expect_err(text), message);
        }
    }

    #[test]
    fn networks_with_the_mapped_form_need_more_than_a_mask() {
        for (text, expected) in
            [("::/0", false), ("::/80", false), ("::/96", true), ("2001:db8::/32", true), ("0.0.0.0/0", true)]
        {
            assert_eq!(Cidr::parse(text).map(|cidr| cidr.is_exact_mask()), Ok(expected), "{text}");
        }
    }
}
