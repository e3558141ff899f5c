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
pub enum Role {
    /// Accepted here.
    Inbound,
    /// Connected from here.
    Outbound,
    /// Waits for connections.
    Listener,
    /// Existed before the tracer.
    Unknown,
}

/// How the process behind a socket is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// It made the transition itself, or an earlier one.
    Exact,
    /// It owns the listener.
    Listener,
    /// It was found through /proc.
    Proc,
    /// It isn't.
    Unknown,
}

/// Why a socket or a minisocket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The minisocket's time was over.
    Expired,
    /// An outgoing connect took the tuple over.
    Reused,
    /// A new SYN took the tuple over.
    Reopened,
    /// A RST hit the minisocket.
    Reset,
    /// `ss -K`.
    Killed,
    /// The namespace went away.
    Purged,
    /// Data came for an orphan.
    Aborted,
    /// A minisocket ended and nothing seen explains how.
    Unexplained,
    /// Its end was missed, and a sweep found it gone.
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
    /// `tcp_max_tw_buckets` left no room for a minisocket.
    Overflow,
    /// The handshake was thrown away.
    Dropped,
}

/// A transition of one socket.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the fields are the contract's")]
pub struct Event {
    /// `CLOCK_MONOTONIC`: the tracer writes wall-clock time, made from it with a constant offset.
    #[serde(deserialize_with = "monotonic")]
    pub ts_ns: u64,
    pub id: u64,
    pub netns: u32,
    pub role: Role,
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
    pub end_reason: Option<EndReason>,
    pub pid: Option<u32>,
    pub comm: Option<String>,
    pub owner: Owner,
    pub orphan: Option<bool>,
    #[serde(default)]
    pub extended: bool,
    #[serde(default)]
    pub inferred: bool,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} at {}", self.from.name(), self.to.name(), self.ts_ns)?;
        if let Some(dwell_ns) = self.dwell_ns {
            write!(f, " after {:.6} s", dwell_ns as f64 / 1e9)?;
        }
        if let Some(reason) = self.end_reason {
            write!(f, ", {reason:?}")?;
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
