//! Parses listen addresses: `ADDRESS:PORT`, a host name instead of the address, or `:PORT` for every address.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _},
};

use anyhow::{Error, Result};

/// Listen addresses, tried in this order, and the text they were parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    written: String,
    addresses: Vec<SocketAddr>,
}

/// Parses the value of `--listen`.
pub fn parse(text: &str) -> Result<Listen, String> {
    const EXPECTED: &str = "expected ADDRESS:PORT, such as 127.0.0.1:9435, [::1]:9435, localhost:9435, or :9435 for every \
                            address";
    let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
    let port: u16 = port.parse().map_err(|_| format!("'{port}' is not a port; {EXPECTED}"))?;
    let addresses = if host.is_empty() {
        // On Linux `[::]` accepts IPv4 too; `0.0.0.0` is for a kernel without IPv6.
        vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
    } else if let Ok(address) = text.parse() {
        vec![address]
    } else if host.contains([':', '[', ']', '/']) {
        return Err(EXPECTED.into());
    } else {
        let resolved = (host, port).to_socket_addrs().map_err(|error| format!("host '{host}': {error}"))?;
        resolved.collect()
    };
    Ok(Listen { written: text.into(), addresses })
}

impl Listen {
    /// Binds the first address that is available.
    pub fn bind(&self) -> Result<TcpListener> {
        TcpListener::bind(&*self.addresses).map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "another program uses this port; choose another: --listen ADDRESS:PORT"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "this host has no such address (`ip address` lists its addresses)"
                }
                io::ErrorKind::PermissionDenied => {
                    "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
                }
                _ => "see --listen",
            };
            Error::new(error).context(format!("can't listen on {}: {remedy}", self.written))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<String> {
        parse(text).expect(text).addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_form_of_address_parses() {
        assert_eq!(addresses("127.0.0.1:9435"), ["127.0.0.1:9435"]);
        assert_eq!(addresses("[::1]:9435"), ["[::1]:9435"]);
        assert_eq!(addresses(":9435"), ["[::]:9435", "0.0.0.0:9435"]);
        let local = addresses("localhost:9435");
        assert!(
            local.iter().any(|address| address == "127.0.0.1:9435" || address == "[::1]:9435"),
            "{local:?}"
        );
    }

    #[test]
    fn invalid_addresses_are_rejected() {
        for bad in ["", "9435", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "::1:9435", "http://a:1", "a:b"]
        {
            let error = parse(bad).expect_err(bad);
            assert!(
                error.contains("expected ADDRESS:PORT") && error.contains("localhost:9435"),
                "{bad}: {error}"
            );
        }
        let error = parse("no such host:9435").expect_err("no host");
        assert!(error.starts_with("host 'no such host': "), "{error}");
    }

    #[test]
    fn bind_errors_name_the_cause() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let in_use = parse(&taken.local_addr().expect("bound").to_string()).expect("an address").bind();
        let elsewhere = parse("192.0.2.1:9435").expect("an address").bind();
        for (result, word) in [(in_use, "another program uses this port"), (elsewhere, "no such address")] {
            let error = format!("{:#}", result.expect_err(word));
            assert!(error.contains(word) && error.contains("can't listen on"), "{error}");
        }
    }
}
