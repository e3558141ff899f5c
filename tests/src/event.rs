//! One line of `tcptrace events --format json`.

use std::fmt;
use std::net::IpAddr;

use crate::clock;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use tcptrace_common::state::TcpState;

/// Which end of the connection the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventRole {
    /// Accepted here.
    Inbound,
    /// Connected from here.
    Outbound,
    /// Waits for connections.
    Listener,
    /// Existed before the tracer.
    Unknown,
}

/// The source of the process of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventOwner {
    /// It made the transition itself, or an earlier one.
    Exact,
    /// It owns the listener.
    Listener,
    /// It was found through /proc.
    Proc,
    /// No process is known.
    Unknown,
}

/// The end reason of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventEndReason {
    /// The timer of the timewait socket expired.
    Expired,
    /// An outgoing connect reused the tuple.
    Reused,
    /// A new SYN reused the tuple.
    Reopened,
    /// A RST ended the timewait socket.
    Reset,
    /// `ss -K`.
    Killed,
    /// The namespace went away.
    Purged,
    /// Data came for an orphan.
    Aborted,
    /// A timewait socket ended for an unknown reason.
    Unexplained,
    /// Its end was missed, and a sweep no longer found it.
    Lost,
    /// The last FIN was acknowledged.
    Closed,
    /// A listener was closed.
    ListenerClosed,
    /// `connect(AF_UNSPEC)`: a RST went out.
    Disconnected,
    /// Closed before the connection was made.
    Abandoned,
    /// The SYN was answered by a RST.
    Refused,
    /// Retransmission gave up.
    Timeout,
    /// A RST came.
    ResetReceived,
    /// Closed with unread data: a RST went out.
    ResetSentUnread,
    /// Closed with `SO_LINGER` 0: a RST went out.
    ResetSentLinger,
    /// No local port was left.
    NoPort,
    /// `tcp_max_tw_buckets` was reached: no timewait socket.
    Overflow,
    /// The handshake was dropped.
    Dropped,
    /// An ICMP error ended the connection attempt.
    Unreachable,
    /// `TCP_LINGER2` below 0: a RST went out instead of a `FIN_WAIT2`.
    #[serde(rename = "reset_sent_linger2")]
    ResetSentLinger2,
    /// `tcp_max_orphans` or `tcp_mem`: a RST went out.
    ResetSentMemory,
    /// A RST went out for another reason of the kernel's.
    ResetSent,
    /// Closed in `TCP_REPAIR`: nothing was sent.
    Silent,
}

/// Which side ended the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventCloser {
    /// Not known, or not ended by either.
    #[default]
    None,
    /// This one sent the first FIN.
    Local,
    /// The peer did.
    Remote,
    /// The FINs crossed.
    Both,
    /// A RST came.
    ResetReceived,
    /// A RST went out.
    ResetSent,
    /// Retransmission gave up.
    TimedOut,
    /// The SYN was answered by a RST.
    Refused,
}

/// A transition of one socket.
#[derive(Clone, Debug, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "as in the contract")]
#[expect(missing_docs, reason = "the fields are the contract's")]
pub struct EventLine {
    /// `CLOCK_MONOTONIC` as long as nobody sets the clock: the tracer writes wall-clock time.
    #[serde(deserialize_with = "monotonic")]
    pub ts_ns: u64,
    pub id: u64,
    pub netns: u32,
    pub role: EventRole,
    pub saddr: IpAddr,
    pub sport: u16,
    pub daddr: IpAddr,
    pub dport: u16,
    #[serde(deserialize_with = "state")]
    pub from: TcpState,
    #[serde(deserialize_with = "state")]
    pub to: TcpState,
    pub dwell_ns: Option<u64>,
    pub seeded: bool,
    #[serde(default)]
    pub closer: EventCloser,
    pub end_reason: Option<EventEndReason>,
    #[serde(default)]
    pub reason_inferred: bool,
    pub pid: Option<u32>,
    pub comm: Option<String>,
    pub owner: EventOwner,
    pub orphan: Option<bool>,
    #[serde(default)]
    pub extended: bool,
    #[serde(default)]
    pub inferred: bool,
}

impl fmt::Display for EventLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} at {}", self.from.name(), self.to.name(), self.ts_ns)?;
        if let Some(dwell_ns) = self.dwell_ns {
            write!(f, " after {:.6} s", dwell_ns as f64 / 1e9)?;
        }
        if let Some(reason) = self.end_reason {
            write!(f, ", {reason:?}{}", if self.reason_inferred { " inferred" } else { "" })?;
        }
        if self.closer != EventCloser::None {
            write!(f, ", closer {:?}", self.closer)?;
        }
        write!(f, ", {:?} {:?}, {:?}", self.owner, self.pid, self.role)?;
        let marks = [
            ("seeded", self.seeded),
            ("extended", self.extended),
            ("inferred", self.inferred),
            ("orphan", self.orphan == Some(true)),
            ("held", self.orphan == Some(false)),
        ];
        marks.iter().filter(|(_, set)| *set).try_for_each(|(mark, _)| write!(f, ", {mark}"))
    }
}

fn monotonic<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let wall_ns = u64::deserialize(deserializer)?;
    Ok(wall_ns.wrapping_sub(*clock::WALL_OFFSET_NS))
}

fn state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TcpState, D::Error> {
    let name = String::deserialize(deserializer)?;
    let known = TcpState::ALL.into_iter().find(|state| state.name() == name);
    known.ok_or_else(|| D::Error::custom(format!("no TCP state {name:?}")))
}
