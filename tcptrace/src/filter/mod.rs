//! Selects sockets by an expression such as `state time-wait and (rport 5432 or peer 10.0.0.0/8) and not comm
//! nginx`, and derives the part that the kernel side can test. docs/filters.md describes the language.
//!
//! A socket is shown while it is in a matching state. Its other properties are constant or nearly so;
//! [`Filter::states`] evaluates those once per socket, and leaves one bit per state.

mod ast;
mod cidr;
mod error;
mod eval;
mod kernel;
mod lexer;
mod names;
mod parser;
mod pattern;
mod quote;
mod ranges;
mod suggest;
#[cfg(test)]
mod tests;
mod word;

use std::collections::BTreeMap;
use std::fmt;

pub use self::{
    ast::{Expr, Family, NetnsRef, Test},
    cidr::Cidr,
    error::{SyntaxError, UnknownNetns},
    eval::Subject,
    parser::{parse, parse_values},
    pattern::Pattern,
    ranges::Ranges,
    word::Word,
};
pub use suggest::nearest;
use tcptrace_common::filter::KernelFilter;

use crate::model::{NetnsId, StateSet, TcpState, text::sanitise};

/// A filter ready for use: every network namespace in it is resolved to its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    expr: Option<Expr>,
}

impl Filter {
    /// The filter that passes everything.
    pub const EVERYTHING: Self = Self { expr: None };

    /// The filter for `expr`, or for everything if `None`. Names of namespaces are looked up in `netns`.
    pub fn new(expr: Option<Expr>, netns: &BTreeMap<String, NetnsId>) -> Result<Self, UnknownNetns> {
        let Some(mut expr) = expr else { return Ok(Self::EVERYTHING) };
        expr.for_each_netns(&mut |reference| {
            if let NetnsRef::Name(name) = reference {
                let found = netns.get(name.as_str()).ok_or_else(|| unknown_netns(name, netns))?;
                *reference = NetnsRef::Inum(found.0);
            }
            Ok(())
        })?;
        Ok(Self { expr: Some(expr) })
    }

    /// The filter that passes what both pass.
    #[must_use]
    pub fn and(&self, other: Self) -> Self {
        Self { expr: Expr::all_of(self.expr.iter().cloned().chain(other.expr).collect()) }
    }

    /// Whether it passes everything because it has no expression.
    pub const fn is_everything(&self) -> bool {
        self.expr.is_none()
    }

    /// The states in which `subject` matches; empty if it can't match in any.
    #[inline]
    pub fn states(&self, subject: &Subject<'_>) -> StateSet {
        self.expr.as_ref().map_or(StateSet::ALL, |expr| expr.states(subject))
    }

    /// Whether `subject` matches in `state`.
    #[inline]
    pub fn matches(&self, subject: &Subject<'_>, state: TcpState) -> bool {
        self.states(subject).contains(state)
    }

    /// Whether it tests the owner of sockets, which requires a search through `/proc`.
    pub fn tests_owners(&self) -> bool {
        self.expr.as_ref().is_some_and(|expr| {
            expr.any_test(&|test| {
                matches!(test, Test::Pid(_) | Test::Comm(_) | Test::Named(..) | Test::Owner(_))
            })
        })
    }

    /// The part that the kernel side can test: it passes every record of every socket that matches in any
    /// state, including the records before and after the match, and those of such a socket's listener.
    ///
    /// It passes more than that, as [`tcptrace_common::filter`] explains. The tracker must therefore forget
    /// sockets whose later records it drops ([`KernelFilter::passes`] on the socket's own ends): their end is
    /// never reported.
    pub fn kernel_part(&self) -> KernelFilter {
        self.expr.as_ref().map(Expr::kernel_part).unwrap_or_default()
    }
}

fn unknown_netns(name: &str, netns: &BTreeMap<String, NetnsId>) -> UnknownNetns {
    UnknownNetns {
        name: sanitise(name).into_owned(),
        known: netns.keys().map(|known| sanitise(known).into_owned()).collect(),
    }
}

/// The expression; empty for [`Filter::EVERYTHING`]. Names of namespaces are shown as numbers.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.as_ref().map_or(Ok(()), |expr| expr.fmt(f))
    }
}
