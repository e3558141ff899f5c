//! Bit sets of named values: states, roles, closers, kinds of owner.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{BitAnd, BitOr, Not};

use super::{Closer, OwnerKind, Role, TcpState};

/// A type with a few named values. Names are compared without regard to case, `-` and `_`.
pub trait Choice: Copy + 'static {
    /// A description for messages: `a state`.
    const DESCRIPTION: &'static str;
    /// Every value with its display name.
    const NAMES: &'static [(&'static str, Self)];
    /// Aliases, and names for groups of values.
    const GROUPS: &'static [(&'static str, &'static [Self])] = &[];

    /// Index of its bit: less than the number of names, which is at most 15.
    fn index(self) -> u32;
}

/// A set of states, roles, closers or kinds of owner.
pub struct Set<T> {
    bits: u16,
    of: PhantomData<T>,
}

/// A set of states.
pub type StateSet = Set<TcpState>;

impl<T: Choice> Set<T> {
    /// No value.
    pub const EMPTY: Self = Self { bits: 0, of: PhantomData };

    /// Every value.
    pub const ALL: Self = Self { bits: (1 << T::NAMES.len()) - 1, of: PhantomData };

    /// One value.
    #[inline]
    pub fn of(value: T) -> Self {
        Self { bits: 1 << value.index(), of: PhantomData }
    }

    /// Whether `value` is in it.
    #[inline]
    pub fn contains(self, value: T) -> bool {
        self.bits >> value.index() & 1 != 0
    }

    /// Whether it is empty.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// The values in it, in the order of their names' table.
    pub fn iter(self) -> impl Iterator<Item = T> {
        T::NAMES.iter().map(|&(_, value)| value).filter(move |&value| self.contains(value))
    }
}

impl<T> Clone for Set<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Set<T> {}

impl<T> PartialEq for Set<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}

impl<T> Eq for Set<T> {}

impl<T> BitAnd for Set<T> {
    type Output = Self;

    #[inline]
    fn bitand(self, other: Self) -> Self {
        Self { bits: self.bits & other.bits, of: PhantomData }
    }
}

impl<T> BitOr for Set<T> {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self { bits: self.bits | other.bits, of: PhantomData }
    }
}

impl<T: Choice> Not for Set<T> {
    type Output = Self;

    #[inline]
    fn not(self) -> Self {
        Self { bits: !self.bits & Self::ALL.bits, of: PhantomData }
    }
}

impl<T: Choice> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        values.into_iter().fold(Self::EMPTY, |set, value| set | Self::of(value))
    }
}

impl<T: Choice> fmt::Display for Set<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = T::NAMES.iter().filter(|&&(_, value)| self.contains(value));
        for (i, (name, _)) in names.enumerate() {
            write!(f, "{}{name}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl<T: Choice> fmt::Debug for Set<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl Choice for TcpState {
    const DESCRIPTION: &'static str = "a state";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("established", Self::Established),
        ("syn-sent", Self::SynSent),
        ("syn-recv", Self::SynRecv),
        ("fin-wait1", Self::FinWait1),
        ("fin-wait2", Self::FinWait2),
        ("time-wait", Self::TimeWait),
        ("close", Self::Close),
        ("close-wait", Self::CloseWait),
        ("last-ack", Self::LastAck),
        ("listen", Self::Listen),
        ("closing", Self::Closing),
    ];
    // `connected` and `synchronized` are from ss. Its `bucket` is omitted: it selects kernel objects, not
    // states.
    const GROUPS: &'static [(&'static str, &'static [Self])] = &[
        ("estab", &[Self::Established]),
        ("syn-received", &[Self::SynRecv]),
        ("closed", &[Self::Close]),
        ("listening", &[Self::Listen]),
        (
            "connected",
            &[
                Self::Established,
                Self::SynSent,
                Self::SynRecv,
                Self::FinWait1,
                Self::FinWait2,
                Self::TimeWait,
                Self::CloseWait,
                Self::LastAck,
                Self::Closing,
            ],
        ),
        (
            "synchronized",
            &[
                Self::Established,
                Self::SynRecv,
                Self::FinWait1,
                Self::FinWait2,
                Self::TimeWait,
                Self::CloseWait,
                Self::LastAck,
                Self::Closing,
            ],
        ),
        (
            "teardown",
            &[Self::FinWait1, Self::FinWait2, Self::TimeWait, Self::CloseWait, Self::LastAck, Self::Closing],
        ),
    ];

    #[inline]
    fn index(self) -> u32 {
        Self::index(self) as u32
    }
}

impl Choice for Role {
    const DESCRIPTION: &'static str = "a role";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("inbound", Self::Inbound),
        ("outbound", Self::Outbound),
        ("listener", Self::Listener),
        ("unknown", Self::Unknown),
    ];

    #[inline]
    fn index(self) -> u32 {
        self as u32
    }
}

impl Choice for Closer {
    const DESCRIPTION: &'static str = "a closer";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("local", Self::Local),
        ("remote", Self::Remote),
        ("both", Self::Both),
        ("reset-received", Self::ResetReceived),
        ("reset-sent", Self::ResetSent),
        ("timed-out", Self::TimedOut),
        ("refused", Self::Refused),
    ];
    const GROUPS: &'static [(&'static str, &'static [Self])] =
        &[("reset", &[Self::ResetReceived, Self::ResetSent]), ("timeout", &[Self::TimedOut])];

    #[inline]
    fn index(self) -> u32 {
        self as u32
    }
}

impl Choice for OwnerKind {
    const DESCRIPTION: &'static str = "how an owner is known";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("exact", Self::Exact),
        ("listener", Self::Listener),
        ("proc", Self::Proc),
        ("unknown", Self::Unknown),
    ];

    #[inline]
    fn index(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_bit_and_a_name() {
        assert_eq!(StateSet::ALL.iter().count(), TcpState::COUNT);
        assert_eq!(Set::<Closer>::ALL.iter().count(), Closer::ALL.len() + 1);
        assert_eq!(!StateSet::of(TcpState::Listen) & StateSet::of(TcpState::Listen), StateSet::EMPTY);
    }
}
