//! Which sockets the user wants to see: text such as
//! `state time-wait and (rport 5432 or peer 10.0.0.0/8) and not comm nginx` in, yes or no per socket
//! out, and what of it the kernel side can test. docs/filters.md describes the language.
//!
//! A socket is shown while it is in a matching state. Everything else about it is constant or nearly
//! so; [`Filter::states`] does that part once per socket, and what is left is one bit per state.

mod ast;
mod choice;
mod cidr;
mod error;
mod eval;
mod kernel;
mod lexer;
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
    choice::{Choice, Set, StateSet},
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

use crate::model::{NetnsId, TcpState, text::sanitise};

/// A filter ready for use: every network namespace in it is known by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    expr: Option<Expr>,
}

impl Filter {
    /// The filter that lets everything pass.
    pub const EVERYTHING: Self = Self { expr: None };

    /// The filter for `expr`, everything for `None`. Namespaces given by name are looked up in
    /// `netns`.
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

    /// What both let pass.
    #[must_use]
    pub fn and(&self, other: Self) -> Self {
        Self { expr: Expr::all_of(self.expr.iter().cloned().chain(other.expr).collect()) }
    }

    /// Whether it lets everything pass because nothing was asked for.
    pub const fn is_everything(&self) -> bool {
        self.expr.is_none()
    }

    /// The states in which `subject` matches; none when it can't match in any.
    #[inline]
    pub fn states(&self, subject: &Subject<'_>) -> StateSet {
        self.expr.as_ref().map_or(StateSet::ALL, |expr| expr.states(subject))
    }

    /// Whether `subject` matches in `state`.
    #[inline]
    pub fn matches(&self, subject: &Subject<'_>, state: TcpState) -> bool {
        self.states(subject).contains(state)
    }

    /// Whether it asks who owns a socket: that takes a search through `/proc`.
    pub fn asks_for_owners(&self) -> bool {
        self.expr.as_ref().is_some_and(|expr| {
            expr.any_test(&|test| matches!(test, Test::Pid(_) | Test::Comm(_) | Test::Owner(_)))
        })
    }

    /// What the kernel side can test: it lets pass every record of every socket that matches in any
    /// state, of what came before it matched and after, and of the listeners of such sockets.
    ///
    /// It lets pass more than that: [`tcptrace_common::filter`] says what. So whoever follows
    /// sockets under it has to forget those whose records it would drop from now on
    /// ([`KernelFilter::passes`] on the socket's own ends): their end is never told.
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

/// The expression, empty for [`Filter::EVERYTHING`]. Names of namespaces have become numbers.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.as_ref().map_or(Ok(()), |expr| expr.fmt(f))
    }
}
