//! Encodes `NETLINK_SOCK_DIAG` requests and decodes the answers. Does no I/O, and never panics on any bytes.

use bytemuck::{Pod, Zeroable};

use crate::model::{Addr, Nanos, NetnsId, SeedSocket, SocketId, TcpState, Tuple, record::SeedObject};
use crate::source::netlink::{self, Attributes};

/// Message type of the first `inet_diag` interface; see [`request`].
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// `idiag_timer` of a timewait socket (`inet_twsk_diag_fill()`); full sockets never have this value.
const TIMER_TIMEWAIT: u8 = 3;
/// Attribute that `inet_diag_msg_attrs_fill()` adds to full sockets only.
const INET_DIAG_SHUTDOWN: u16 = 8;

const BODY_LEN: usize = size_of::<InetDiagMsg>();

/// `struct inet_diag_msg`, with its `inet_diag_sockid` inlined. Ports and addresses are in network byte order.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct InetDiagMsg {
    family: u8,
    state: u8,
    timer: u8,
    retrans: u8,
    sport: [u8; 2],
    dport: [u8; 2],
    saddr: [u8; 16],
    daddr: [u8; 16],
    ifindex: u32,
    cookie: [u32; 2],
    expires_ms: u32,
    rqueue: u32,
    wqueue: u32,
    uid: u32,
    inode: u32,
}

/// Address families that one dump walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Families {
    /// Both in one walk.
    Both,
    /// `AF_INET`.
    Inet,
    /// `AF_INET6`.
    Inet6,
}

/// The request for a dump of the TCP sockets in the states of `mask` (bit `1 << state`).
///
/// `SOCK_DIAG_BY_FAMILY` requires one family; the older `TCPDIAG_GETSOCK`, which the kernel converts to the
/// same dump (`inet_diag_dump_compat()`), covers both. One walk over the hash table is cheaper than two, and
/// two walks would see a request socket twice that becomes a socket of the other family in between.
pub(super) fn request(families: Families, mask: u32) -> Vec<u8> {
    match families {
        // `struct inet_diag_req`: family, source and destination length, extensions, socket id, states, dbs.
        Families::Both => {
            let mut body = [0; 60];
            body[52..56].copy_from_slice(&mask.to_ne_bytes());
            netlink::request(TCPDIAG_GETSOCK, &body)
        }
        // `struct inet_diag_req_v2`: family, protocol, extensions, pad, states, socket id.
        Families::Inet | Families::Inet6 => {
            let mut body = [0; 56];
            body[0] = if families == Families::Inet { AF_INET } else { AF_INET6 };
            body[1] = IPPROTO_TCP;
            body[4..8].copy_from_slice(&mask.to_ne_bytes());
            netlink::request(SOCK_DIAG_BY_FAMILY, &body)
        }
    }
}

/// Whether messages of type `kind` describe a socket.
pub(super) const fn is_socket(kind: u16) -> bool {
    matches!(kind, TCPDIAG_GETSOCK | SOCK_DIAG_BY_FAMILY)
}

/// A socket as the kernel describes it.
pub(super) struct DiagSocket<'a> {
    body: InetDiagMsg,
    attributes: Attributes<'a>,
}

impl std::fmt::Debug for DiagSocket<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("state", &self.body.state).finish_non_exhaustive()
    }
}

impl<'a> DiagSocket<'a> {
    /// `None` if the message is shorter than its type requires.
    pub(super) fn new(body: &'a [u8]) -> Option<Self> {
        let (fixed, attributes) = body.split_at_checked(BODY_LEN)?;
        Some(Self { body: bytemuck::pod_read_unaligned(fixed), attributes: Attributes(attributes) })
    }

    /// The state, for a timewait socket its substate; `None` for an unknown number.
    pub(super) const fn state(&self) -> Option<TcpState> {
        TcpState::from_kernel(self.body.state)
    }

    /// Whether no process holds it.
    pub(super) const fn is_orphan(&self) -> bool {
        self.body.inode == 0
    }

    /// Converts to the model's type; `None` for a state or family this version does not know.
    pub(super) fn socket(&self, ts: Nanos, netns: NetnsId) -> Option<SeedSocket> {
        let body = &self.body;
        let state = self.state()?;
        let tuple = Tuple {
            saddr: address(body.family, body.saddr)?,
            daddr: match address(body.family, body.daddr)? {
                any if any.is_any() => Addr::ANY,
                daddr => daddr,
            },
            sport: u16::from_be_bytes(body.sport),
            dport: u16::from_be_bytes(body.dport),
            ifindex: body.ifindex,
        };
        let [low, high] = body.cookie;
        Some(SeedSocket {
            ts,
            id: SocketId(u64::from(high) << 32 | u64::from(low)),
            netns,
            tuple,
            state,
            object: self.object(state),
            inode: body.inode,
            uid: body.uid,
            rqueue: body.rqueue,
            wqueue: body.wqueue,
        })
    }

    /// A full socket can also be in `SYN_RECV`: after a simultaneous open, or as a TCP fast open child that is
    /// not accepted yet, which has no inode either. Only the attribute distinguishes it from a request socket.
    fn object(&self, state: TcpState) -> SeedObject {
        if self.body.timer == TIMER_TIMEWAIT {
            SeedObject::Timewait { left: Nanos(u64::from(self.body.expires_ms) * Nanos::MILLISECOND.0) }
        } else if state == TcpState::SynRecv && self.attributes.clone().find(INET_DIAG_SHUTDOWN).is_none() {
            SeedObject::Request { timeouts: self.body.retrans }
        } else {
            SeedObject::Full
        }
    }
}

fn address(family: u8, bytes: [u8; 16]) -> Option<Addr> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Some(Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]))
        }
        AF_INET6 => Some(Addr(bytes)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
