//! Netlink dumps: sends one request, and passes every message of the answer on. Decoding never panics on any bytes.

use std::io;

use bytemuck::{Pod, Zeroable};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::host::monotonic_now;
use crate::model::Nanos;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Lowest type that belongs to a protocol (`NLMSG_MIN_TYPE`).
const MIN_TYPE: u16 = 0x10;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Flags in an attribute's type (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const ATTRIBUTE_FLAGS: u16 = 0xc000;

const HEADER_LEN: usize = size_of::<Header>();

/// A constant suffices: every dump has its own netlink socket, which receives no answers to earlier requests.
pub(super) const SEQ: u32 = 1;

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

/// A kernel interface that answers with dumps.
#[derive(Debug)]
pub struct Interface {
    /// Its name in messages.
    pub name: &'static str,
    /// The netlink family; `None` for `NETLINK_ROUTE`.
    pub protocol: Option<Protocol>,
    /// The objects that it lists.
    pub lists: &'static str,
    /// What a kernel or a caller that gets no answer lacks.
    pub needs: &'static str,
}

/// Why a dump failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each has the interface, and the kernel's error as its source")]
pub enum DumpError {
    /// No netlink socket.
    #[error("no netlink socket for {}: {source}; a sandbox (seccomp, SELinux) may forbid it", .of.name)]
    Open { of: &'static Interface, source: io::Error },
    /// The request could not be sent.
    #[error("{} takes no request: {source}", .of.name)]
    Send { of: &'static Interface, source: io::Error },
    /// The answer could not be received.
    #[error("the answer of {} could not be received: {source}", .of.name)]
    Receive { of: &'static Interface, source: io::Error },
    /// The kernel replied with an error.
    #[error("the kernel lists no {}: {source}; it needs {}", .of.lists, .of.needs)]
    Refused { of: &'static Interface, source: io::Error },
    /// The answer has no end mark, or exceeds the kernel's own size limit.
    #[error("the answer of {} was cut short", .of.name)]
    CutShort { of: &'static Interface },
}

/// Completeness of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Messages that could not be decoded: objects are missing.
    pub undecoded: u64,
    /// The kernel reported that its tables changed during the dump: objects may be missing or duplicated.
    pub interrupted: bool,
}

impl Summary {
    /// Combines two dumps.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            undecoded: self.undecoded + other.undecoded,
            interrupted: self.interrupted || other.interrupted,
        }
    }
}

/// The request for a dump: a header of type `kind`, and `body`.
pub(super) fn request(kind: u16, body: &[u8]) -> Vec<u8> {
    let len = (HEADER_LEN + body.len()) as u32;
    let header = Header { len, kind, flags: NLM_F_REQUEST | NLM_F_DUMP, seq: SEQ, port_id: 0 };
    [bytemuck::bytes_of(&header), body].concat()
}

/// Sends `request` and passes the time, type and body of every message of the answer to `take`, which returns whether
/// it decoded the message. Covers the network namespace of the calling thread. Allocates nothing per message.
pub(super) fn dump(
    of: &'static Interface,
    request: &[u8],
    mut take: impl FnMut(Nanos, u16, &[u8]) -> bool,
) -> Result<Summary, DumpError> {
    /// `netlink_recvmsg()` sizes answers by the reader's buffer, up to 32 KiB.
    const BUFFER_LEN: usize = 64 << 10;

    let open = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        of.protocol,
    );
    let socket = open.map_err(|errno| DumpError::Open { of, source: errno.into() })?;
    rustix::io::retry_on_intr(|| rustix::net::send(&socket, request, SendFlags::empty()))
        .map_err(|errno| DumpError::Send { of, source: errno.into() })?;

    let mut buffer = vec![0; BUFFER_LEN];
    let mut summary = Summary::default();
    loop {
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut buffer[..], RecvFlags::TRUNC))
                .map_err(|errno| DumpError::Receive { of, source: errno.into() })?;
        let ts = monotonic_now();
        // With TRUNC the second number is the length before truncation to the buffer.
        let datagram = buffer
            .get(..received.1)
            .filter(|datagram| !datagram.is_empty())
            .ok_or(DumpError::CutShort { of })?;
        if read_datagram(of, datagram, &mut summary, |kind, body| take(ts, kind, body))? {
            return Ok(summary);
        }
    }
}

/// Reads one datagram; returns whether it ends the dump.
pub(super) fn read_datagram(
    of: &'static Interface,
    datagram: &[u8],
    summary: &mut Summary,
    mut take: impl FnMut(u16, &[u8]) -> bool,
) -> Result<bool, DumpError> {
    let mut messages = Messages::new(datagram, SEQ);
    let mut done = false;
    for message in messages.by_ref() {
        match message {
            Message::Answer(kind, body) => summary.undecoded += u64::from(!take(kind, body)),
            Message::Failed(errno) => {
                return Err(DumpError::Refused { of, source: io::Error::from_raw_os_error(errno) });
            }
            Message::Done => done = true,
            Message::Broken => return Err(DumpError::CutShort { of }),
            Message::Other => {}
        }
    }
    summary.interrupted |= messages.interrupted;
    Ok(done)
}

/// One message of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// An object of this type.
    Answer(u16, &'a [u8]),
    /// The dump is complete.
    Done,
    /// The kernel refused the request or aborted the dump with this errno (positive).
    Failed(i32),
    /// Irrelevant, or not an answer to this request.
    Other,
    /// The remaining bytes are no valid message; always the last item.
    Broken,
}

/// Iterates over the messages in one datagram, for the request `seq`.
pub(super) struct Messages<'a> {
    rest: &'a [u8],
    seq: u32,
    /// Whether a message has `NLM_F_DUMP_INTR`: the dump may have gaps.
    interrupted: bool,
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
            NLMSG_DONE => match errno(body) {
                // A dump that fails midway ends with its error in place of 0.
                Some(error @ ..0) => Message::Failed(error.saturating_neg()),
                _ => Message::Done,
            },
            NLMSG_ERROR => match errno(body) {
                Some(0) => Message::Other,
                Some(error) => Message::Failed(error.saturating_neg()),
                None => Message::Broken,
            },
            kind @ MIN_TYPE.. => Message::Answer(kind, body),
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

/// Iterates over attributes: type and value. Ends at the first one that is cut.
#[derive(Clone)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of type `wanted`.
    pub(super) fn find(mut self, wanted: u16) -> Option<&'a [u8]> {
        self.find_map(|(kind, value)| (kind == wanted).then_some(value))
    }

    /// The attributes nested in the first one of type `wanted`.
    pub(super) fn nested(self, wanted: u16) -> Option<Self> {
        self.find(wanted).map(Self)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const HEADER_LEN: usize = 4;
        let &[len0, len1, kind0, kind1] = self.0.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([len0, len1]));
        let value = self.0.get(HEADER_LEN..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([kind0, kind1]) & !ATTRIBUTE_FLAGS, value))
    }
}

/// An attribute as bytes, padded.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
#[path = "netlink_tests.rs"]
pub(super) mod tests;
