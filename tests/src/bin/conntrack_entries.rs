//! Fills the connection tracking table of the current network namespace: `conntrack_entries NUMBER` makes entries with a
//! translated source through ctnetlink, and keeps them until its standard input ends. For `docs/benchmarks.md`.

use std::io::Read as _;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use rustix::net::netlink::NETFILTER;
use tests::netlink::{ACK, request};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`.
const CT_NEW: u16 = 1 << 8;
/// `NLM_F_EXCL | NLM_F_CREATE`.
const CREATE: u16 = 0x600;
/// `struct nfgenmsg` of `AF_INET`.
const AF_INET: [u8; 4] = [2, 0, 0, 0];
const TCP: u8 = 6;
const ESTABLISHED: u8 = 3;
const TIMEOUT_S: u32 = 3_600;
const TRANSLATED: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
/// Translated ports per destination.
const PORTS: u32 = 60_000;

fn main() -> Result<()> {
    let count = std::env::args().nth(1).context("usage: conntrack_entries NUMBER")?.parse()?;
    for n in 0..count {
        request(Some(NETFILTER), CT_NEW, CREATE | ACK, &entry(n)).with_context(|| format!("entry {n}"))?;
    }
    println!("{count} entries");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn entry(n: u32) -> Vec<u8> {
    let client = Ipv4Addr::from(0x0a01_0000 + n / PORTS);
    let server = Ipv4Addr::from(0x0ac8_0000 + n / PORTS);
    let port = (1_024 + n % PORTS) as u16;
    let nat_port = port.to_be_bytes();
    let ports = [attribute(1, &nat_port), attribute(2, &nat_port)].concat();
    let address = TRANSLATED.octets();
    let nat = [attribute(1, &address), attribute(2, &address), attribute(3, &ports)].concat();
    [
        AF_INET.to_vec(),
        attribute(1, &tuple((client, port), (server, 80))),
        attribute(2, &tuple((server, 80), (client, port))),
        attribute(4, &attribute(1, &attribute(1, &[ESTABLISHED]))),
        attribute(6, &nat),
        attribute(7, &TIMEOUT_S.to_be_bytes()),
    ]
    .concat()
}

/// `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`.
fn tuple(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let addresses = [attribute(1, &from.0.octets()), attribute(2, &to.0.octets())].concat();
    let ports =
        [attribute(1, &[TCP]), attribute(2, &from.1.to_be_bytes()), attribute(3, &to.1.to_be_bytes())]
            .concat();
    [attribute(1, &addresses), attribute(2, &ports)].concat()
}

/// A netlink attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
