//! Stores addresses as 16 bytes, IPv4 in its mapped form.
//!
//! An `AF_INET6` socket connected to `::ffff:a.b.c.d` is IPv4 on the wire, its request socket is `AF_INET`, and its
//! timewait socket `AF_INET6` again. A single form makes them comparable.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcptrace_common::{
    filter::{Ends, words},
    record as raw,
};

use super::NetnsId;

/// An IP address; IPv4 is stored as `::ffff:a.b.c.d` and shown as `a.b.c.d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// `::`, any address; also used for `0.0.0.0`.
    pub const ANY: Self = Self([0; 16]);

    /// `::` and `0.0.0.0`.
    pub const ANY_FORMS: [Self; 2] =
        [Self::ANY, Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0])];

    /// Whether it is IPv4 on the wire.
    pub const fn is_ipv4(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
    }

    /// Whether it is a wildcard (`::` or `0.0.0.0`).
    pub fn is_any(self) -> bool {
        self == Self::ANY || (self.is_ipv4() && self.0[12..] == [0; 4])
    }

    /// Whether packets to it never leave the host.
    pub fn is_loopback(self) -> bool {
        self.ip().is_loopback()
    }

    /// The address in the standard library's form; mapped addresses become IPv4.
    pub fn ip(self) -> IpAddr {
        let [.., a, b, c, d] = self.0;
        if self.is_ipv4() { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::from(self.0).into() }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

/// One end of a connection. Shown as `10.0.0.5:5432`, `[fe80::1%2]:80`, and `*:80` for any address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The address.
    pub addr: Addr,
    /// The port; 0 while none is chosen.
    pub port: u16,
    /// The zone of a link-local address: an interface index, 0 for none.
    pub ifindex: u32,
}

impl Endpoint {
    /// Writes the displayed form; IPv4 without `format_args!`, because every line of `events` has two.
    pub fn write_to(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let mut digits = itoa::Buffer::new();
        match self.addr.ip() {
            _ if self.addr.is_any() => out.write_char('*')?,
            IpAddr::V4(v4) => {
                let [first, rest @ ..] = v4.octets();
                out.write_str(digits.format(first))?;
                for octet in rest {
                    out.write_char('.')?;
                    out.write_str(digits.format(octet))?;
                }
            }
            IpAddr::V6(v6) if v6.is_unicast_link_local() && self.ifindex != 0 => {
                write!(out, "[{v6}%{}]", self.ifindex)?;
            }
            IpAddr::V6(v6) => write!(out, "[{v6}]")?,
        }
        out.write_char(':')?;
        out.write_str(digits.format(self.port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_to(f)
    }
}

/// Both ends of a connection, as seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Local address.
    pub saddr: Addr,
    /// Remote address; [`Addr::ANY`] for a listener.
    pub daddr: Addr,
    /// Local port; 0 while none is chosen.
    pub sport: u16,
    /// Remote port; 0 for a listener.
    pub dport: u16,
    /// The interface the socket is bound to, 0 for none.
    pub ifindex: u32,
}

impl Tuple {
    /// The tuple of a record.
    pub const fn of(raw: &raw::RawRecord) -> Self {
        let raw::RawRecord { saddr, daddr, sport, dport, ifindex, .. } = *raw;
        Self { saddr: Addr(saddr), daddr: Addr(daddr), sport, dport, ifindex }
    }

    /// The local end.
    pub const fn local(&self) -> Endpoint {
        Endpoint { addr: self.saddr, port: self.sport, ifindex: self.ifindex }
    }

    /// The remote end.
    pub const fn remote(&self) -> Endpoint {
        Endpoint { addr: self.daddr, port: self.dport, ifindex: self.ifindex }
    }

    /// The same ends without the interface: hooks and `sock_diag` report different ones.
    #[must_use]
    pub const fn without_interface(&self) -> Self {
        Self { ifindex: 0, ..*self }
    }

    /// Both ends, in the namespace `netns`, for the kernel-side filter.
    pub const fn ends(&self, netns: NetnsId) -> Ends {
        Ends {
            saddr: words(&self.saddr.0),
            daddr: words(&self.daddr.0),
            netns: netns.0,
            sport: self.sport,
            dport: self.dport,
        }
    }

    /// Whether the connection is IPv4 on the wire.
    pub const fn is_ipv4(&self) -> bool {
        self.saddr.is_ipv4() || self.daddr.is_ipv4()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(ip: &str, port: u16, ifindex: u32) -> String {
        let addr = ip.parse::<IpAddr>().expect("an address").into();
        Endpoint { addr, port, ifindex }.to_string()
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert_eq!(endpoint("::ffff:10.0.0.5", 5432, 0), "10.0.0.5:5432");
        assert_eq!(endpoint("10.0.0.5", 5432, 7), "10.0.0.5:5432");
    }

    #[test]
    fn any_address_is_a_star_in_both_families() {
        assert_eq!(endpoint("0.0.0.0", 80, 0), "*:80");
        assert_eq!(endpoint("::", 80, 0), "*:80");
    }

    #[test]
    fn zone_is_shown_for_link_local_only() {
        assert_eq!(endpoint("fe80::1", 80, 2), "[fe80::1%2]:80");
        assert_eq!(endpoint("2001:db8::1", 80, 2), "[2001:db8::1]:80");
    }
}
