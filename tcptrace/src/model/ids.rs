//! Identities and time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in time or a length of time, in nanoseconds. Points are `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nanos(pub u64);

impl Nanos {
    /// One millisecond.
    pub const MILLISECOND: Self = Self(1_000_000);
    /// One second.
    pub const SECOND: Self = Self(1_000_000_000);

    /// So many milliseconds.
    #[must_use]
    pub const fn of_millis(milliseconds: u64) -> Self {
        Self(milliseconds.saturating_mul(Self::MILLISECOND.0))
    }

    /// The length of time from `earlier` to here; 0 when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// The point in time `length` before this one; 0 at the least.
    #[must_use]
    pub const fn minus(self, length: Self) -> Self {
        Self(self.0.saturating_sub(length.0))
    }

    /// The point in time `length` after this one.
    #[must_use]
    pub const fn plus(self, length: Self) -> Self {
        Self(self.0.saturating_add(length.0))
    }

    /// In seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

/// A network namespace: the inode number in `/proc/PID/ns/net`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId(pub u32);

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One socket from its first to its last state: the kernel's socket cookie, which a minisocket
/// inherits. A handshake that has no socket yet gets a number of its own, see
/// [`SocketId::handshake`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketId(pub u64);

impl SocketId {
    // Cookies count up from 1. All ids stay below 2^53, which JSON readers keep exactly.
    const HANDSHAKE: u64 = 1 << 52;
    const SET_ASIDE: u64 = 1 << 51;

    /// Whether the kernel can have given a socket this cookie: it counts up from 1, and does not come to 2^51.
    pub const fn is_cookie(number: u64) -> bool {
        number < Self::SET_ASIDE
    }

    /// The id of the `n`-th handshake seen: request sockets carry no cookie.
    #[must_use]
    pub const fn handshake(n: u64) -> Self {
        Self(Self::HANDSHAKE | n)
    }

    /// The id of the `n`-th minisocket whose cookie went on to another connection.
    #[must_use]
    pub const fn set_aside(n: u64) -> Self {
        Self(Self::SET_ASIDE | n)
    }

    /// `n` of [`SocketId::handshake`].
    pub const fn as_handshake(self) -> Option<u64> {
        if self.is_handshake() { Some(self.0 & !Self::HANDSHAKE) } else { None }
    }

    /// `n` of [`SocketId::set_aside`].
    pub const fn as_set_aside(self) -> Option<u64> {
        if self.0 & (Self::HANDSHAKE | Self::SET_ASIDE) == Self::SET_ASIDE {
            Some(self.0 & !Self::SET_ASIDE)
        } else {
            None
        }
    }

    /// Whether this is a handshake that has no socket yet.
    pub const fn is_handshake(self) -> bool {
        self.0 & Self::HANDSHAKE != 0
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
