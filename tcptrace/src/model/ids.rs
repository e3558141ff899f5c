//! Defines ids and time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in time or a duration, in nanoseconds. Points are `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nanos(pub u64);

impl Nanos {
    /// One millisecond.
    pub const MILLISECOND: Self = Self(1_000_000);
    /// One second.
    pub const SECOND: Self = Self(1_000_000_000);

    /// Converts milliseconds.
    #[must_use]
    pub const fn of_millis(milliseconds: u64) -> Self {
        Self(milliseconds.saturating_mul(Self::MILLISECOND.0))
    }

    /// The duration from `earlier` to here; 0 when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// The point in time `length` before this one; at least 0.
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

/// One socket from its first to its last state: the kernel's socket cookie, which a timewait socket inherits, or an id
/// that tcptrace assigns when no cookie is unique to this socket; see [`IdKind`].
///
/// The kernel counts cookies up from 1, and down from 2^64-1 for a cookie generated in an interrupt of another
/// generation (`gen_cookie_next()`). The ids of tcptrace are in between, from 2^51 to 2^53. Ids in place of cookies, where the
/// kernel has none for programs, are in the range of cookies: from 2^50, which no kernel reaches by counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketId(pub u64);

/// Origin of a [`SocketId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// The kernel's socket cookie.
    Cookie,
    /// A handshake: a request socket has no cookie until something requests one.
    Handshake,
    /// A timewait socket whose cookie another socket has, because one descriptor connected again.
    Rekeyed,
    /// Not an id: outside of every range.
    Invalid,
}

impl SocketId {
    /// Number of cookies in each direction that count as valid.
    const COOKIES: u64 = 1 << 51;
    const MADE_UP: u64 = 1 << 50;
    const REKEYED: u64 = 1 << 51;
    const HANDSHAKE: u64 = 1 << 52;
    const ASSIGNED_END: u64 = 1 << 53;

    /// Origin of the id.
    pub const fn kind(self) -> IdKind {
        match self.0 {
            0..Self::COOKIES => IdKind::Cookie,
            Self::REKEYED..Self::HANDSHAKE => IdKind::Rekeyed,
            Self::HANDSHAKE..Self::ASSIGNED_END => IdKind::Handshake,
            number if number > u64::MAX - Self::COOKIES => IdKind::Cookie,
            _ => IdKind::Invalid,
        }
    }

    /// Whether the kernel can have assigned this cookie; 0 means none.
    pub const fn is_cookie(number: u64) -> bool {
        matches!(Self(number).kind(), IdKind::Cookie)
    }

    /// The `n`-th id in place of a cookie.
    #[must_use]
    pub const fn made_up(n: u64) -> Self {
        Self(Self::MADE_UP | (n & (Self::MADE_UP - 1)))
    }

    /// The id of the `n`-th handshake.
    #[must_use]
    pub const fn handshake(n: u64) -> Self {
        Self(Self::HANDSHAKE | (n & (Self::HANDSHAKE - 1)))
    }

    /// The id of the `n`-th rekeyed timewait socket.
    #[must_use]
    pub const fn rekeyed(n: u64) -> Self {
        Self(Self::REKEYED | (n & (Self::REKEYED - 1)))
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_ranges_do_not_overlap() {
        for cookie in [0, 1, (1 << 51) - 1, u64::MAX, u64::MAX - (1 << 51) + 1] {
            assert_eq!(SocketId(cookie).kind(), IdKind::Cookie, "{cookie:#x}");
            assert!(SocketId::is_cookie(cookie));
        }
        for n in [0, 1, 1 << 50, u64::MAX] {
            assert_eq!(SocketId::rekeyed(n).kind(), IdKind::Rekeyed, "{n:#x}");
            assert_eq!(SocketId::handshake(n).kind(), IdKind::Handshake, "{n:#x}");
        }
        for n in [1, 1 << 49, u64::MAX] {
            assert_eq!(SocketId::made_up(n).kind(), IdKind::Cookie, "{n:#x}");
        }
        for number in [1 << 53, u64::MAX >> 1, u64::MAX - (1 << 51)] {
            assert_eq!(SocketId(number).kind(), IdKind::Invalid, "{number:#x}");
        }
    }
}
