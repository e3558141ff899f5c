//! The bytes of a `NETLINK_SOCK_DIAG` conversation: requests out of a state mask, sockets out of
//! answers. Nothing here does I/O, and no bytes make it panic.

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
/// `idiag_timer` of a minisocket (`inet_twsk_diag_fill()`); a full socket never has this value.
const TIMER_MINISOCKET: u8 = 3;
/// Attribute that `inet_diag_msg_attrs_fill()` gives to every full socket and to no other.
const INET_DIAG_SHUTDOWN: u16 = 8;

const HEADER_LEN: usize = size_of::<Header>();
const BODY_LEN: usize = size_of::<Body>();

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

/// `struct inet_diag_msg`, with its `inet_diag_sockid` spread out. Ports and addresses are in
/// network byte order.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Body {
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

/// Which sockets one dump walks over.
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
/// `SOCK_DIAG_BY_FAMILY` wants one family; the older `TCPDIAG_GETSOCK`, which the kernel turns into
/// the same dump (`inet_diag_dump_compat()`), means both. One walk over the hash table is cheaper
/// than two, and a request socket that becomes a socket of the other family between two walks
/// would be seen twice.
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
    Socket(Answer<'a>),
    /// The dump is complete.
    Done,
    /// The kernel refused or broke off, with this errno (positive).
    Failed(i32),
    /// Nothing that matters here, or not an answer to this request.
    Other,
    /// A message with too few bytes for what it claims to be.
    Malformed,
    /// No message fits the bytes that are left: the last item.
    Broken,
}

/// The messages of one datagram that answer request `seq`.
pub(super) struct Messages<'a> {
    rest: &'a [u8],
    seq: u32,
    /// Whether a message said that the dump may have holes (`NLM_F_DUMP_INTR`).
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
                Answer::new(body).map_or(Message::Malformed, Message::Socket)
            }
            NLMSG_DONE => match errno(body) {
                // A dump that fails on its way ends with its error in place of 0.
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

/// A socket as the kernel described it.
pub(super) struct Answer<'a> {
    body: Body,
    attributes: &'a [u8],
}

impl std::fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("state", &self.body.state).finish_non_exhaustive()
    }
}

impl<'a> Answer<'a> {
    fn new(body: &'a [u8]) -> Option<Self> {
        let (fixed, attributes) = body.split_at_checked(BODY_LEN)?;
        Some(Self { body: bytemuck::pod_read_unaligned(fixed), attributes })
    }

    /// The state, for a minisocket its substate; `None` for a number no TCP state has.
    pub(super) const fn state(&self) -> Option<TcpState> {
        TcpState::from_kernel(self.body.state)
    }

    /// Whether no process holds it.
    pub(super) const fn is_orphan(&self) -> bool {
        self.body.inode == 0
    }

    /// The socket in the words of the program; `None` for a state or family this version does not know.
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

    /// A full socket can be in `SYN_RECV` too: a simultaneous open, or a TCP fast open child that nobody has
    /// accepted yet, which has no inode either. Only the attribute tells it from a request socket.
    fn object(&self, state: TcpState) -> SeedObject {
        if self.body.timer == TIMER_MINISOCKET {
            SeedObject::Minisocket { left: Nanos(u64::from(self.body.expires_ms) * Nanos::MILLISECOND.0) }
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
