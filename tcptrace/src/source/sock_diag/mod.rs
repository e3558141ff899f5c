//! Lists or counts the existing TCP sockets through `NETLINK_SOCK_DIAG`, by a set of states. Needs no
//! privilege.
//!
//! A dump covers the network namespace of the calling thread. It is not a snapshot: the kernel walks its hash
//! tables while sockets come and go, listeners first (`inet_diag_dump_icsk()`).
//! - A socket keeps its place in the table for its life, and a timewait socket replaces its socket under the lock
//!   of the bucket. So every socket that exists during the entire walk is reported, in a state that it had at some
//!   moment of the walk.
//! - Exception: answers are cut at about 32 KiB, if need be in the middle of a bucket, and continue by position. A
//!   socket that enters this bucket meanwhile can shift another, which is reported twice; one that leaves can hide
//!   another. Both are rare and repaired by the next dump or transition. Duplicates have the same cookie.
//! - The kernel keeps no generation number for these tables, so `NLM_F_DUMP_INTR` never reports such a cut. If a
//!   kernel starts to, [`Summary::interrupted`] is set.
//!
//! A socket in CLOSE is in no table and not listed, except for an instant during its removal.

mod message;

use std::io;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use self::message::{DiagSocket, Families, Message, Messages};
use super::host::monotonic_now;
use crate::model::{Nanos, NetnsId, SeedSocket, StateCounts, TcpState};

/// Why the sockets could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// No netlink socket.
    #[error("no netlink socket for sock_diag: {0}; a sandbox (seccomp, SELinux) may forbid it")]
    Open(#[source] io::Error),
    /// The request could not be sent.
    #[error("sock_diag takes no request: {0}")]
    Send(#[source] io::Error),
    /// The answer could not be received.
    #[error("sock_diag's answer could not be received: {0}")]
    Receive(#[source] io::Error),
    /// The kernel replied with an error.
    #[error("the kernel lists no TCP sockets: {0}; it needs the tcp_diag module (CONFIG_INET_DIAG)")]
    Refused(#[source] io::Error),
    /// The answer has no end mark, or exceeds the kernel's own size limit.
    #[error("sock_diag's answer was cut short")]
    CutShort,
}

/// A set of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateMask(u32);

impl StateMask {
    /// Every state.
    pub const ALL: Self = Self::of(&TcpState::ALL);

    /// Only `states`. `SYN_RECV` includes request sockets.
    pub const fn of(states: &[TcpState]) -> Self {
        let mut mask = 0;
        let mut i = 0;
        while i < states.len() {
            mask |= 1 << states[i] as u32;
            i += 1;
        }
        Self(mask)
    }
}

/// Completeness of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Messages that could not be decoded: sockets are missing.
    pub undecoded: u64,
    /// The kernel reported that its tables changed during the dump: sockets may be missing or duplicated.
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

/// Calls `each` for every TCP socket in one of `states` in the calling thread's network namespace, which must
/// be `netns`. Allocates nothing per socket.
pub fn for_each(
    states: StateMask,
    netns: NetnsId,
    mut each: impl FnMut(SeedSocket),
) -> Result<Summary, DumpError> {
    dump(states, |ts, answer| answer.socket(ts, netns).map(&mut each).is_some())
}

/// Counts the TCP sockets in the network namespace of the calling thread.
pub fn count_by_state() -> Result<(StateCounts, Summary), DumpError> {
    let mut counts = StateCounts::default();
    let summary = dump(StateMask::ALL, |_, answer| {
        match answer.state() {
            Some(TcpState::FinWait2) if answer.is_orphan() => counts.add_orphan_fin_wait2(),
            Some(state) => counts.add(state),
            None => return false,
        }
        true
    })?;
    Ok((counts, summary))
}

/// A constant suffices: every dump has its own netlink socket, which receives no answers to earlier requests.
const SEQ: u32 = 1;

/// Passes every socket and the receive time of its message to `take`, which returns whether it decoded the
/// socket.
fn dump(
    states: StateMask,
    mut take: impl FnMut(Nanos, &DiagSocket<'_>) -> bool,
) -> Result<Summary, DumpError> {
    let mut begun = false;
    let both = dump_families(Families::Both, states, &mut |ts, answer| {
        begun = true;
        take(ts, answer)
    });
    match both {
        // Refused entirely: this kernel lacks the older interface.
        Err(DumpError::Refused(_)) if !begun => {
            let inet = dump_families(Families::Inet, states, &mut take)?;
            let inet6 = dump_families(Families::Inet6, states, &mut take)?;
            Ok(inet.and(inet6))
        }
        done => done,
    }
}

fn dump_families(
    families: Families,
    states: StateMask,
    take: &mut impl FnMut(Nanos, &DiagSocket<'_>) -> bool,
) -> Result<Summary, DumpError> {
    /// `netlink_recvmsg()` sizes answers by the reader's buffer, up to 32 KiB.
    const BUFFER_LEN: usize = 64 << 10;

    let socket = open().map_err(|errno| DumpError::Open(errno.into()))?;
    let request = message::request(families, states.0, SEQ);
    rustix::io::retry_on_intr(|| rustix::net::send(&socket, &request, SendFlags::empty()))
        .map_err(|errno| DumpError::Send(errno.into()))?;

    let mut buffer = vec![0; BUFFER_LEN];
    let mut summary = Summary::default();
    loop {
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut buffer[..], RecvFlags::TRUNC))
                .map_err(|errno| DumpError::Receive(errno.into()))?;
        let ts = monotonic_now();
        // With TRUNC the second number is the length before truncation to the buffer.
        let datagram =
            buffer.get(..received.1).filter(|datagram| !datagram.is_empty()).ok_or(DumpError::CutShort)?;
        let mut take = |answer: &DiagSocket<'_>| take(ts, answer);
        let done = read_messages(datagram, SEQ, &mut summary, &mut take)?;
        if done {
            return Ok(summary);
        }
    }
}

/// Reads one datagram; returns whether it ends the dump.
fn read_messages(
    datagram: &[u8],
    seq: u32,
    summary: &mut Summary,
    take: &mut impl FnMut(&DiagSocket<'_>) -> bool,
) -> Result<bool, DumpError> {
    let mut messages = Messages::new(datagram, seq);
    let mut done = false;
    for message in messages.by_ref() {
        match message {
            Message::Socket(answer) => summary.undecoded += u64::from(!take(&answer)),
            Message::Malformed => summary.undecoded += 1,
            Message::Failed(errno) => {
                return Err(DumpError::Refused(io::Error::from_raw_os_error(errno)));
            }
            Message::Done => done = true,
            Message::Broken => return Err(DumpError::CutShort),
            Message::Other => {}
        }
    }
    summary.interrupted |= messages.interrupted;
    Ok(done)
}

/// Calls `each` for every socket in one datagram of an answer, received at `ts` in `netns`: decoding without
/// I/O, for the fuzz target.
#[doc(hidden)]
pub fn read_datagram(
    datagram: &[u8],
    ts: Nanos,
    netns: NetnsId,
    mut each: impl FnMut(SeedSocket),
) -> Result<Summary, DumpError> {
    let mut summary = Summary::default();
    read_messages(datagram, SEQ, &mut summary, &mut |answer| {
        answer.socket(ts, netns).map(&mut each).is_some()
    })?;
    Ok(summary)
}

fn open() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listeners(families: Families) -> Vec<u16> {
        let mut ports = Vec::new();
        let summary = dump_families(families, StateMask::of(&[TcpState::Listen]), &mut |ts, answer| {
            let socket = answer.socket(ts, NetnsId(1)).expect("a valid state and family");
            assert_eq!(socket.state, TcpState::Listen);
            ports.push(socket.tuple.sport);
            true
        });
        assert_eq!(summary.expect("sock_diag answers"), Summary::default());
        ports
    }

    #[test]
    fn one_walk_lists_the_same_as_one_walk_per_family() {
        let port_of = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        let inet = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut expected = vec![(port_of(&inet), Families::Inet)];
        // A host may have no IPv6.
        let inet6 = TcpListener::bind("[::1]:0").ok();
        expected.extend(inet6.iter().map(|listener| (port_of(listener), Families::Inet6)));

        for (port, family) in expected {
            let times = |families| listeners(families).iter().filter(|&&listed| listed == port).count();
            assert_eq!((times(Families::Both), times(family)), (1, 1), "{family:?}");
        }
    }
}
