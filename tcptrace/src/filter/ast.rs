//! The syntax tree of an expression, and its text. The text parses back into an equal tree.

use std::fmt;

use super::{
    cidr::Cidr,
    pattern::Pattern,
    quote::{is_operator, is_plain, write_escaped},
    ranges::Ranges,
};
use crate::model::{Closer, OwnerKind, Role, Set, TcpState, process::NameKind};

/// An expression. `And` and `Or` have at least two operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// One test.
    Test(Test),
    /// Matches if the operand does not.
    Not(Box<Expr>),
    /// Matches if every operand does.
    And(Vec<Expr>),
    /// Matches if any operand does.
    Or(Vec<Expr>),
}

/// One test: a word and its values; any of them may match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// `state`: in one of the states.
    State(Set<TcpState>),
    /// `port`: the local or the remote port.
    Port(Ranges),
    /// `lport`: the local port.
    Lport(Ranges),
    /// `rport`: the remote port.
    Rport(Ranges),
    /// `peer`: the remote address.
    Peer(Vec<Cidr>),
    /// `local`: the local address.
    Local(Vec<Cidr>),
    /// `pid`: the owner's process id.
    Pid(Vec<u32>),
    /// `comm`: the owner's name.
    Comm(Vec<Pattern>),
    /// `pod`, `container`, `k8s-namespace`, `unit`, `exe`, `uid`: a name of the owner.
    Named(NameKind, Vec<Pattern>),
    /// `netns`: the network namespace.
    Netns(Vec<NetnsRef>),
    /// `role`: which side opened it.
    Role(Set<Role>),
    /// `closer`: which side ended it.
    Closer(Set<Closer>),
    /// `owner`: how the owner is known.
    Owner(Set<OwnerKind>),
    /// `ipv4` or `ipv6`.
    Family(Family),
}

/// The IP version on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, also on an `AF_INET6` socket.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// A network namespace as the user specifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsRef {
    /// By inode number.
    Inum(u32),
    /// By its name in `ip netns`. Matches nothing until resolved.
    Name(String),
}

impl Expr {
    /// All of `operands`; `None` if there are none.
    pub fn all_of(operands: Vec<Self>) -> Option<Self> {
        match operands.len() {
            0 | 1 => operands.into_iter().next(),
            _ => Some(Self::And(operands)),
        }
    }

    /// Any of `operands`; `None` if there are none.
    pub fn any_of(operands: Vec<Self>) -> Option<Self> {
        match operands.len() {
            0 | 1 => operands.into_iter().next(),
            _ => Some(Self::Or(operands)),
        }
    }

    /// Whether it refers to a network namespace by name.
    pub fn names_netns(&self) -> bool {
        let is_name = |netns: &NetnsRef| matches!(netns, NetnsRef::Name(_));
        self.any_test(&|test| matches!(test, Test::Netns(refs) if refs.iter().any(is_name)))
    }

    /// Whether `wanted` holds for any of its tests.
    pub(super) fn any_test(&self, wanted: &impl Fn(&Test) -> bool) -> bool {
        match self {
            Self::Test(test) => wanted(test),
            Self::Not(operand) => operand.any_test(wanted),
            Self::And(operands) | Self::Or(operands) => {
                operands.iter().any(|operand| operand.any_test(wanted))
            }
        }
    }

    /// Visits every network namespace in it.
    pub(super) fn for_each_netns<E>(
        &mut self,
        visit: &mut impl FnMut(&mut NetnsRef) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Not(operand) => operand.for_each_netns(visit),
            Self::And(operands) | Self::Or(operands) => {
                operands.iter_mut().try_for_each(|operand| operand.for_each_netns(visit))
            }
            Self::Test(Test::Netns(refs)) => refs.iter_mut().try_for_each(visit),
            Self::Test(_) => Ok(()),
        }
    }

    fn fmt_operand(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test(_) | Self::Not(_) => write!(f, "{self}"),
            Self::And(_) | Self::Or(_) => write!(f, "({self})"),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operands, operator) = match self {
            Self::Test(test) => return test.fmt(f),
            Self::Not(operand) => {
                f.write_str("not ")?;
                return operand.fmt_operand(f);
            }
            Self::And(operands) => (operands, " and "),
            Self::Or(operands) => (operands, " or "),
        };
        for (i, operand) in operands.iter().enumerate() {
            f.write_str(if i > 0 { operator } else { "" })?;
            operand.fmt_operand(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(states) => write!(f, "state {states}"),
            Self::Port(ports) => write!(f, "port {ports}"),
            Self::Lport(ports) => write!(f, "lport {ports}"),
            Self::Rport(ports) => write!(f, "rport {ports}"),
            Self::Peer(networks) => write_list(f, "peer", networks),
            Self::Local(networks) => write_list(f, "local", networks),
            Self::Pid(pids) => write_list(f, "pid", pids),
            Self::Comm(names) => write_list(f, "comm", names),
            Self::Named(kind, names) => write_list(f, kind.name(), names),
            Self::Netns(refs) => write_list(f, "netns", refs),
            Self::Role(roles) => write!(f, "role {roles}"),
            Self::Closer(closers) => write!(f, "closer {closers}"),
            Self::Owner(kinds) => write!(f, "owner {kinds}"),
            Self::Family(Family::Ipv4) => f.write_str("ipv4"),
            Self::Family(Family::Ipv6) => f.write_str("ipv6"),
        }
    }
}

fn write_list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, word: &str, values: &[T]) -> fmt::Result {
    for (i, value) in values.iter().enumerate() {
        match i {
            0 => write!(f, "{word} {value}")?,
            _ => write!(f, ",{value}")?,
        }
    }
    Ok(())
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inum(inum) => inum.fmt(f),
            Self::Name(name) if is_plain(name) && !is_operator(name) && !is_number(name) => f.write_str(name),
            Self::Name(name) => {
                f.write_str("\"")?;
                write_escaped(f, name)?;
                f.write_str("\"")
            }
        }
    }
}

/// Whether a namespace in this notation is an inode number.
pub(super) fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}
