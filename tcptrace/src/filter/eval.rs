//! Evaluates an expression for a socket: in which states does it match?

use super::ast::{Expr, Family, NetnsRef, Test};
use crate::model::{Closer, NetnsId, OwnerKind, Role, StateSet, Tuple, record::Process};

/// The properties of a socket that an expression tests, except its state.
///
/// Unknown properties do not match: without a process, `pid 1` is false and `not pid 1` is true.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Addresses and ports of both ends.
    pub tuple: Tuple,
    /// Its network namespace.
    pub netns: NetnsId,
    /// Which side opened it.
    pub role: Role,
    /// Which side ended it, if known yet.
    pub closer: Closer,
    /// How the owner is known.
    pub owner: OwnerKind,
    /// The owner, if known.
    pub process: Option<&'a Process>,
}

impl Expr {
    /// The states in which `subject` matches. Every test except `state` gives all states or none; the operators
    /// combine sets.
    pub(super) fn states(&self, subject: &Subject<'_>) -> StateSet {
        match self {
            Self::Test(Test::State(states)) => *states,
            Self::Test(test) if test.holds(subject) => StateSet::ALL,
            Self::Test(_) => StateSet::EMPTY,
            Self::Not(operand) => !operand.states(subject),
            Self::And(operands) => {
                let mut states = StateSet::ALL;
                for operand in operands {
                    states = states & operand.states(subject);
                    if states.is_empty() {
                        break;
                    }
                }
                states
            }
            Self::Or(operands) => {
                let mut states = StateSet::EMPTY;
                for operand in operands {
                    states = states | operand.states(subject);
                    if states == StateSet::ALL {
                        break;
                    }
                }
                states
            }
        }
    }
}

impl Test {
    /// Whether the test holds in at least one state.
    fn holds(&self, subject: &Subject<'_>) -> bool {
        let tuple = &subject.tuple;
        let process = subject.process;
        match self {
            Self::State(states) => !states.is_empty(),
            Self::Port(ports) => ports.contains(tuple.sport.into()) || ports.contains(tuple.dport.into()),
            Self::Lport(ports) => ports.contains(tuple.sport.into()),
            Self::Rport(ports) => ports.contains(tuple.dport.into()),
            Self::Peer(networks) => networks.iter().any(|network| network.contains(tuple.daddr)),
            Self::Local(networks) => networks.iter().any(|network| network.contains(tuple.saddr)),
            Self::Pid(pids) => process.is_some_and(|process| pids.contains(&process.pid)),
            Self::Comm(names) => {
                process.is_some_and(|process| names.iter().any(|name| name.matches(&process.comm)))
            }
            Self::Named(kind, names) => process.is_some_and(|process| {
                kind.any(process, |name| names.iter().any(|pattern| pattern.matches(name)))
            }),
            Self::Netns(refs) => refs.contains(&NetnsRef::Inum(subject.netns.0)),
            Self::Role(roles) => roles.contains(subject.role),
            Self::Closer(closers) => closers.contains(subject.closer),
            Self::Owner(kinds) => kinds.contains(subject.owner),
            Self::Family(Family::Ipv4) => tuple.is_ipv4(),
            Self::Family(Family::Ipv6) => !tuple.is_ipv4(),
        }
    }
}
