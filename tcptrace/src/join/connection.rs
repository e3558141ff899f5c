//! A connection with both its ends, or the end that was found.

use super::end::ConnectionEnd;
use crate::lifecycle::{Closer, Role};

/// A connection: both ends, or one whose peer was not found.
#[derive(Clone, Debug)]
pub struct JoinedConnection {
    /// The end that connected.
    pub client: Option<ConnectionEnd>,
    /// The end that accepted.
    pub server: Option<ConnectionEnd>,
    /// How far it got.
    pub status: JoinStatus,
    /// Whether the other end was found under translated addresses.
    pub is_translated: bool,
    /// By how much the client's wall clock is ahead of the server's.
    pub clock_offset_ns: i64,
}

/// How far a connection got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinStatus {
    /// Both ends ended.
    Closed,
    /// Neither ended in the recording, or one just did.
    Open,
    /// One end ended, the other still waits.
    HalfOpen,
    /// The other end was not found.
    Unmatched(UnmatchedReason),
}

/// The likely reason why the other end was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnmatchedReason {
    /// The connection was never established: the other side has no socket for it.
    NotEstablished,
    /// Recording began there later.
    BeforeRecording,
    /// Recording ended there earlier.
    AfterRecording,
    /// No recorded host has the other address.
    PeerNotRecorded,
    /// A connection tracking table translates the address, and no record shows to which.
    Nat,
    /// The recorder of the other host lost records.
    Lost,
    /// There were too many ends at once.
    Evicted,
    /// None of these.
    Unexplained,
}

impl UnmatchedReason {
    /// Every reason, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::NotEstablished,
        Self::BeforeRecording,
        Self::AfterRecording,
        Self::PeerNotRecorded,
        Self::Nat,
        Self::Lost,
        Self::Evicted,
        Self::Unexplained,
    ];

    /// JSON name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotEstablished => "not_established",
            Self::BeforeRecording => "before_recording",
            Self::AfterRecording => "after_recording",
            Self::PeerNotRecorded => "peer_not_recorded",
            Self::Nat => "nat",
            Self::Lost => "lost",
            Self::Evicted => "evicted",
            Self::Unexplained => "unexplained",
        }
    }

    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotEstablished => "never established",
            Self::BeforeRecording => "before the peer's recording began",
            Self::AfterRecording => "after the peer's recording ended",
            Self::PeerNotRecorded => "peer not recorded",
            Self::Nat => "NAT without a record",
            Self::Lost => "records lost",
            Self::Evicted => "too many at once",
            Self::Unexplained => "unexplained",
        }
    }
}

/// Which side closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClosedFirst {
    /// The client sent the first FIN.
    Client,
    /// The server sent the first FIN.
    Server,
    /// Both sent theirs before they received the other's.
    Both,
    /// A RST ended it; no FIN was sent.
    Reset,
    /// It timed out; no FIN was sent.
    Timeout,
    /// Neither yet, or not known.
    Unknown,
}

impl ClosedFirst {
    /// Every value, in the order of tables.
    pub const ALL: [Self; 6] =
        [Self::Client, Self::Server, Self::Both, Self::Reset, Self::Timeout, Self::Unknown];

    /// JSON name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Both => "both",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
        }
    }
}

impl JoinStatus {
    /// JSON name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Unmatched(_) => "unmatched",
        }
    }
}

impl JoinedConnection {
    /// The connection of two ends, or of one.
    pub(super) fn of(one: ConnectionEnd, other: Option<ConnectionEnd>, status: JoinStatus) -> Self {
        let is_client = match (one.role, other.as_ref().map(|other| other.role)) {
            (Role::Outbound, _) | (_, Some(Role::Inbound)) => true,
            (Role::Inbound, _) | (_, Some(Role::Outbound)) => false,
            // A service has the lower port.
            _ => one.tuple.sport > one.tuple.dport,
        };
        let (client, server) = if is_client { (Some(one), other) } else { (other, Some(one)) };
        Self { client, server, status, is_translated: false, clock_offset_ns: 0 }
    }

    /// Which side closed first. It is exact where that side was recorded.
    pub fn closed_first(&self) -> ClosedFirst {
        let closer = |end: &Option<ConnectionEnd>| end.as_ref().map_or(Closer::None, |end| end.closer);
        let closers = [closer(&self.client), closer(&self.server)];
        let is = |wanted| closers.map(|closer| closer == wanted);
        match (is(Closer::Local), is(Closer::Remote)) {
            (local, _) if local == [true, true] || is(Closer::Both).contains(&true) => ClosedFirst::Both,
            // Or only the other side was recorded.
            ([true, _], _) | ([false, false], [false, true]) => ClosedFirst::Client,
            ([_, true], _) | ([false, false], [true, false]) => ClosedFirst::Server,
            _ if closers.iter().any(|closer| {
                matches!(closer, Closer::ResetSent | Closer::ResetReceived | Closer::Refused)
            }) =>
            {
                ClosedFirst::Reset
            }
            _ if is(Closer::TimedOut).contains(&true) => ClosedFirst::Timeout,
            _ => ClosedFirst::Unknown,
        }
    }

    /// Its ends, the client's first.
    pub fn ends(&self) -> impl Iterator<Item = &ConnectionEnd> {
        self.client.iter().chain(&self.server)
    }

    /// When it was established, or first seen, by the clock of the client if it was recorded.
    pub fn began_ns(&self) -> u64 {
        self.ends().next().map_or(0, |end| end.established_ns.unwrap_or(end.seen_ns))
    }

    /// From then until the last end ended, by the clock of each; `None` while one has not.
    pub fn lasted_ns(&self) -> Option<u64> {
        let length = |end: &ConnectionEnd| {
            Some(end.ended_ns?.saturating_sub(end.established_ns.unwrap_or(end.seen_ns)))
        };
        self.ends().map(length).try_fold(0, |longest, length| Some(longest.max(length?)))
    }
}
