//! Encodes `NETLINK_SOCK_DIAG` requests and decodes the answers. Does no I/O, and never panics on any bytes.

use bytemuck::{Pod, Zeroable};

use crate::model::{Addr, Nanos, NetnsId, SeedSocket, SocketId, TcpState, Tuple, record::SeedObject};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
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

const HEADER_LEN: usize = size_of::<Header>();
const BODY_LEN: usize = size_of::<InetDiagMsg>();

/// `struct nlmsghdr`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    port_id: u32,
}

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
pub(super) fn request(families: Families, mask: u32, seq: u32) -> Vec<u8> {
    let (kind, body_len) = match families {
        Families::Both => (TCPDIAG_GETSOCK, 60),
        Families::Inet | Families::Inet6 => (SOCK_DIAG_BY_FAMILY, 56),
    };
    let len = HEADER_LEN + body_len;
    let header = Header { len: len as u32, kind, flags: NLM_F_REQUEST | NLM_F_DUMP, seq, port_id: 0 };
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(bytemuck::bytes_of(&header));
    match families {
        // `struct inet_diag_req`: family, source and destination length, extensions, socket id, states, dbs.
        Families::Both => {
            bytes.extend_from_slice(&[0; 52]);
            bytes.extend_from_slice(&mask.to_ne_bytes());
        }
        // `struct inet_diag_req_v2`: family, protocol, extensions, pad, states, socket id.
        Families::Inet | Families::Inet6 => {
            let family = if families == Families::Inet { AF_INET } else { AF_INET6 };
            bytes.extend_from_slice(&[family, IPPROTO_TCP, 0, 0]);
            bytes.extend_from_slice(&mask.to_ne_bytes());
        }
    }
    bytes.resize(len, 0);
    bytes
}

/// One message of an answer.
#[derive(Debug)]
pub(super) enum Message<'a> {
    /// A socket.
    Socket(DiagSocket<'a>),
    /// The dump is complete.
    Done,
    /// The kernel refused the request or aborted the dump with this errno (positive).
    Failed(i32),
    /// Irrelevant, or not an answer to this request.
    Other,
    /// A message shorter than its type requires.
    Malformed,
    /// The remaining bytes are no valid message; always the last item.
    Broken,
}

/// Iterates over the messages in one datagram, for the request `seq`.
pub(super) struct Messages<'a> {
    rest: &'a [u8],
    seq: u32,
    /// Whether a message has `NLM_F_DUMP_INTR`: the dump may have gaps.
    pub interrupted: bool,
}

impl<'a> Messages<'a> {
    pub(super) const fn new(datagram: &'a [u8], seq: u32) -> Self {
        Self { rest: datagram, seq, interrupted: false }
    }

    fn message(&mut self, header: Header, body: &'a [u8]) -> Message<'a> {
        if header.seq != self.seq {
            return Message::Other;
        }
        self.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
        match header.kind {
            TCPDIAG_GETSOCK | SOCK_DIAG_BY_FAMILY => {
                DiagSocket::new(body).map_or(Message::Malformed, Message::Socket)
            }
            NLMSG_DONE => match errno(body) {
                // A dump that fails midway ends with its error in place of 0.
                Some(error @ ..0) => Message::Failed(error.saturating_neg()),
                _ => Message::Done,
            },
            NLMSG_ERROR => match errno(body) {
                Some(0) => Message::Other,
                Some(error) => Message::Failed(error.saturating_neg()),
                None => Message::Malformed,
            },
            _ => Message::Other,
        }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let Some(header) = rest.get(..HEADER_LEN).map(bytemuck::pod_read_unaligned::<Header>) else {
            return Some(Message::Broken);
        };
        let len = header.len as usize;
        let Some(body) = rest.get(HEADER_LEN..len) else {
            return Some(Message::Broken);
        };
        self.rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(self.message(header, body))
    }
}

fn errno(body: &[u8]) -> Option<i32> {
    body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

/// A socket as the kernel describes it.
pub(super) struct DiagSocket<'a> {
    body: InetDiagMsg,
    attributes: &'a [u8],
}

impl std::fmt::Debug for DiagSocket<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("state", &self.body.state).finish_non_exhaustive()
    }
}

impl<'a> DiagSocket<'a> {
    fn new(body: &'a [u8]) -> Option<Self> {
        let (fixed, attributes) = body.split_at_checked(BODY_LEN)?;
        Some(Self { body: bytemuck::pod_read_unaligned(fixed), attributes })
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
        } else if state == TcpState::SynRecv && !has_attribute(self.attributes, INET_DIAG_SHUTDOWN) {
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

fn has_attribute(mut attributes: &[u8], wanted: u16) -> bool {
    while let Some(&[len0, len1, kind0, kind1]) = attributes.first_chunk() {
        if u16::from_ne_bytes([kind0, kind1]) == wanted {
            return true;
        }
        let len = usize::from(u16::from_ne_bytes([len0, len1])).max(4).next_multiple_of(4);
        attributes = attributes.get(len..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
