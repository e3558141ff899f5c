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

use self::message::{DiagSocket, Families};
use super::netlink::{self, Interface};
use crate::model::{Nanos, NetnsId, SeedSocket, StateCounts, TcpState};

pub use super::netlink::{DumpError, Summary};

static SOCK_DIAG: Interface = Interface {
    name: "sock_diag",
    protocol: Some(rustix::net::netlink::SOCK_DIAG),
    lists: "TCP sockets",
    needs: "the tcp_diag module (CONFIG_INET_DIAG)",
};

/// A set of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateMask(u32);

impl StateMask {
    /// Every state.
    pub const ALL: Self = Self::of(&TcpState::ALL);

    /// Sockets that hold a port by `bind()`, and neither listen nor connect: `TCPF_BOUND_INACTIVE`, which kernels before
    /// 6.8 do not know and answer with no socket.
    pub const BOUND: Self = Self(1 << 13);

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
        Err(DumpError::Refused { .. }) if !begun => {
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
    let request = message::request(families, states.0);
    netlink::dump(&SOCK_DIAG, &request, |ts, kind, body| decode(kind, body, |answer| take(ts, answer)))
}

/// Passes the socket in a message to `take`; returns whether it could be decoded. Other messages are skipped.
fn decode(kind: u16, body: &[u8], take: impl FnOnce(&DiagSocket<'_>) -> bool) -> bool {
    !message::is_socket(kind) || DiagSocket::new(body).is_some_and(|answer| take(&answer))
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
    netlink::read_datagram(&SOCK_DIAG, datagram, &mut summary, |kind, body| {
        decode(kind, body, |answer| answer.socket(ts, netns).map(&mut each).is_some())
    })?;
    Ok(summary)
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
