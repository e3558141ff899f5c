//! Reads the rules that translate source addresses from `nf_tables`, which `iptables-nft` uses, too: the addresses and
//! ports that they choose from. Rules of `iptables-legacy`, and sets and maps of addresses, are not read.

use super::message::address;
use crate::{
    model::{
        Addr,
        nat::{AddrRange, MAX_RULES, SnatRule},
    },
    source::netlink::{self, Attributes, DumpError, Interface},
};

static NF_TABLES: Interface = Interface {
    name: "nf_tables",
    protocol: Some(rustix::net::netlink::NETFILTER),
    lists: "NAT rules",
    needs: "CAP_NET_ADMIN and the module nf_tables",
};

/// `NFNL_SUBSYS_NFTABLES << 8`, with `NFT_MSG_NEWRULE` and `NFT_MSG_GETRULE`.
const NEWRULE: u16 = (10 << 8) | 6;
const GETRULE: u16 = (10 << 8) | 7;
const NFGENMSG_LEN: usize = 4;

const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_MASQ_REG_PROTO_MIN: u16 = 2;
const NFTA_MASQ_REG_PROTO_MAX: u16 = 3;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_ADDR_MAX: u16 = 4;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFTA_NAT_REG_PROTO_MAX: u16 = 6;
const NFT_NAT_SNAT: u32 = 0;
const NFTA_TARGET_NAME: u16 = 1;
const NFTA_TARGET_REV: u16 = 2;
const NFTA_TARGET_INFO: u16 = 3;
/// Flags of `struct nf_nat_range`.
const RANGE_MAP_IPS: u32 = 1;
const RANGE_PROTO_SPECIFIED: u32 = 2;
const AF_INET: u8 = 2;

/// The rules in the network namespace of the calling thread, without duplicates.
pub(super) fn read() -> Result<Vec<SnatRule>, DumpError> {
    let mut rules = Vec::new();
    let request = netlink::request(GETRULE, &[0; NFGENMSG_LEN]);
    netlink::dump(&NF_TABLES, &request, |_, kind, body| {
        if let Some(rule) = decode(kind, body)
            && !rules.contains(&rule)
            && rules.len() < MAX_RULES
        {
            rules.push(rule);
        }
        true
    })?;
    Ok(rules)
}

/// The source translation of a rule, if it has one.
pub(super) fn decode(kind: u16, body: &[u8]) -> Option<SnatRule> {
    let attributes = body.get(NFGENMSG_LEN..).filter(|_| kind == NEWRULE).map(Attributes)?;
    let family = *body.first()?;
    // Values that the rule has loaded, by register.
    let mut registers: Vec<(u32, &[u8])> = Vec::new();
    for (_, expression) in attributes.nested(NFTA_RULE_EXPRESSIONS)? {
        let expression = Attributes(expression);
        let Some(data) = expression.clone().nested(NFTA_EXPR_DATA) else { continue };
        let register = |of: u16| {
            let wanted = number(data.clone().find(of)?)?;
            registers.iter().rev().find(|(register, _)| *register == wanted).map(|&(_, value)| value)
        };
        let range = |(first, last): (u16, u16)| {
            let first = register(first)?;
            Some((first, register(last).unwrap_or(first)))
        };
        let port_range = |of| range(of).and_then(|(first, last)| Some((port(first)?, port(last)?)));
        match text(expression.find(NFTA_EXPR_NAME)?) {
            b"immediate" => {
                let register = number(data.clone().find(NFTA_IMMEDIATE_DREG)?)?;
                let value = data.nested(NFTA_IMMEDIATE_DATA)?.find(NFTA_DATA_VALUE);
                registers.extend(value.map(|value| (register, value)));
            }
            b"masq" => {
                let ports = port_range((NFTA_MASQ_REG_PROTO_MIN, NFTA_MASQ_REG_PROTO_MAX));
                return Some(SnatRule { addrs: None, ports });
            }
            b"nat" if data.clone().find(NFTA_NAT_TYPE).and_then(number) == Some(NFT_NAT_SNAT) => {
                let addrs = range((NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_ADDR_MAX));
                let addrs = addrs.and_then(|(first, last)| Some(AddrRange(address(first)?, address(last)?)));
                let ports = port_range((NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_REG_PROTO_MAX));
                return Some(SnatRule { addrs, ports });
            }
            b"target" => {
                let name = text(data.clone().find(NFTA_TARGET_NAME)?);
                if matches!(name, b"MASQUERADE" | b"SNAT") {
                    let revision = data.clone().find(NFTA_TARGET_REV).and_then(number)?;
                    return target(family, revision, data.find(NFTA_TARGET_INFO)?);
                }
            }
            _ => {}
        }
    }
    None
}

/// The data of an iptables target: `struct nf_nat_ipv4_multi_range_compat` (revision 0, IPv4), else the start of
/// `struct nf_nat_range2`.
fn target(family: u8, revision: u32, info: &[u8]) -> Option<SnatRule> {
    let native = |at: usize| info.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let (flags, addrs, ports) = if family == AF_INET && revision == 0 {
        (
            native(4)?,
            (addr(info, 8, 4)?, addr(info, 12, 4)?),
            (port(info.get(16..)?)?, port(info.get(18..)?)?),
        )
    } else {
        let len = if family == AF_INET { 4 } else { 16 };
        let ports = (port(info.get(36..)?)?, port(info.get(38..)?)?);
        (native(0)?, (addr(info, 4, len)?, addr(info, 20, len)?), ports)
    };
    Some(SnatRule {
        addrs: (flags & RANGE_MAP_IPS != 0).then_some(AddrRange(addrs.0, addrs.1)),
        ports: (flags & RANGE_PROTO_SPECIFIED != 0).then_some(ports),
    })
}

fn addr(info: &[u8], at: usize, len: usize) -> Option<Addr> {
    address(info.get(at..at + len)?)
}

/// A 32-bit number in network byte order.
fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// A port in network byte order.
fn port(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// A text without its terminating 0.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}
