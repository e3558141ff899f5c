//! Encodes ctnetlink requests and decodes the answers. Never panics on any bytes.

use std::collections::BTreeMap;

use super::table::{ConntrackEntry, EntryTuple};
use crate::{
    model::Addr,
    source::netlink::{self, Attributes, DumpError, Interface, attribute},
};

pub(super) static CTNETLINK: Interface = Interface {
    name: "ctnetlink",
    protocol: Some(rustix::net::netlink::NETFILTER),
    lists: "connection tracking entries",
    needs: "CAP_NET_ADMIN and the module nf_conntrack_netlink",
};

/// Message types: `NFNL_SUBSYS_CTNETLINK << 8`, with `IPCTNL_MSG_CT_NEW` to `IPCTNL_MSG_CT_GET_STATS_CPU`.
const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = (1 << 8) | 1;
const CT_GET_STATS_CPU: u16 = (1 << 8) | 4;
/// `struct nfgenmsg`: family, version, resource id; all 0 for every family.
const NFGENMSG: [u8; 4] = [0; 4];

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_ZONE: u16 = 18;
const CTA_STATUS_MASK: u16 = 26;
/// `IPS_SRC_NAT`: the source address or port is translated.
pub(super) const SRC_NAT: u32 = 1 << 4;
/// `IPS_DST_NAT`: the destination is.
pub(super) const DST_NAT: u32 = 1 << 5;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const IPPROTO_TCP: u8 = 6;

/// Counters that are kept: attribute of `enum ctattr_stats_cpu`, and name in `/proc/net/stat/nf_conntrack`.
pub(super) const COUNTERS: [(u16, &str); 3] = [(9, "insert_failed"), (10, "drop"), (11, "early_drop")];

/// Passes every TCP entry to `each`; with `status` only those with this bit of `enum ip_conntrack_status`, from Linux 5.15 on.
pub(super) fn entries(status: Option<u32>, mut each: impl FnMut(ConntrackEntry)) -> Result<(), DumpError> {
    let filter = status.map(u32::to_be_bytes).map_or_else(Vec::new, |status| {
        [attribute(CTA_STATUS, &status), attribute(CTA_STATUS_MASK, &status)].concat()
    });
    let request = netlink::request(CT_GET, &[&NFGENMSG, &filter[..]].concat());
    netlink::dump(&CTNETLINK, &request, |_, kind, body| decode(kind, body, &mut each)).map(drop)
}

/// Decodes one message; returns whether it was complete.
pub(super) fn decode(kind: u16, body: &[u8], each: &mut impl FnMut(ConntrackEntry)) -> bool {
    let Some(attributes) = body.get(NFGENMSG.len()..).filter(|_| kind == CT_NEW).map(Attributes) else {
        return kind != CT_NEW;
    };
    let mut entry = ConntrackEntry::default();
    let mut has_tuples = (false, false);
    for (kind, value) in attributes {
        match kind {
            CTA_TUPLE_ORIG | CTA_TUPLE_REPLY => {
                let Some((protocol, tuple)) = tuple(value) else { return false };
                if protocol != IPPROTO_TCP {
                    return true;
                }
                if kind == CTA_TUPLE_ORIG {
                    (entry.original, has_tuples.0) = (tuple, true);
                } else {
                    (entry.reply, has_tuples.1) = (tuple, true);
                }
            }
            CTA_PROTOINFO => {
                let tcp = Attributes(value).nested(CTA_PROTOINFO_TCP);
                let state = tcp.and_then(|tcp| tcp.find(CTA_PROTOINFO_TCP_STATE)?.first().copied());
                entry.state = state.unwrap_or_default();
            }
            CTA_ZONE => entry.zone = port(value).unwrap_or_default(),
            _ => {}
        }
    }
    let is_complete = has_tuples == (true, true);
    if is_complete {
        each(entry);
    }
    is_complete
}

/// Protocol and ends of `CTA_TUPLE_ORIG` or `CTA_TUPLE_REPLY`.
fn tuple(bytes: &[u8]) -> Option<(u8, EntryTuple)> {
    let (mut tuple, mut protocol) = (EntryTuple::default(), None);
    for (kind, value) in Attributes(bytes) {
        match kind {
            // CTA_IP_V4_SRC, _DST, CTA_IP_V6_SRC, _DST.
            CTA_TUPLE_IP => {
                for (kind, value) in Attributes(value) {
                    match kind {
                        1 | 3 => tuple.saddr = address(value)?,
                        2 | 4 => tuple.daddr = address(value)?,
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_PROTO => {
                for (kind, value) in Attributes(value) {
                    match kind {
                        CTA_PROTO_NUM => protocol = value.first().copied(),
                        CTA_PROTO_SRC_PORT => tuple.sport = port(value)?,
                        CTA_PROTO_DST_PORT => tuple.dport = port(value)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((protocol?, tuple))
}

/// An IPv4 or IPv6 address in network byte order.
pub(super) fn address(bytes: &[u8]) -> Option<Addr> {
    match *bytes {
        [a, b, c, d] => Some(std::net::IpAddr::from([a, b, c, d]).into()),
        _ => bytes.try_into().ok().map(Addr),
    }
}

fn port(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// The sum of all CPUs' counters.
pub(super) fn counters() -> Result<BTreeMap<String, u64>, DumpError> {
    let mut counters = BTreeMap::<String, u64>::new();
    let request = netlink::request(CT_GET_STATS_CPU, &NFGENMSG);
    netlink::dump(&CTNETLINK, &request, |_, _, body| {
        for (kind, value) in Attributes(body.get(NFGENMSG.len()..).unwrap_or_default()) {
            let name = COUNTERS.iter().find(|&&(attribute, _)| attribute == kind).map(|&(_, name)| name);
            if let (Some(name), Some(value)) = (name, value.first_chunk()) {
                *counters.entry(name.to_owned()).or_default() += u64::from(u32::from_be_bytes(*value));
            }
        }
        true
    })?;
    Ok(counters)
}
