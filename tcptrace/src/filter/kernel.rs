//! Derives the part of an expression that the kernel side can test: a [`KernelFilter`] that passes every record
//! of every socket that the expression matches at any time of its life, and every record of the listener that
//! accepted it.
//!
//! The tree becomes clauses, each a disjunction of terms, all of which must hold. The kernel side does not know
//! state, process, closer and the roles of connections: a test of them passes everything, and so does an `or`
//! with one. Clauses that do not fit are omitted. Each of these steps can only widen the filter.

use tcptrace_common::filter::{KernelFilter, TERMS, Term, test, words};

use super::{
    ast::{Expr, Family, NetnsRef, Test},
    cidr::Cidr,
    ranges::Ranges,
};
use crate::model::{Addr, Role, Set};

/// Most port ranges in a clause; more are widened to this many.
const RANGES: usize = TERMS / 2;

/// Terms of which at least one must hold.
type Clause = Vec<Term>;

/// Clauses that must all hold; without any, everything passes.
#[derive(Default)]
struct Clauses(Vec<Clause>);

impl Expr {
    /// The part of the expression that the kernel side can test.
    pub(super) fn kernel_part(&self) -> KernelFilter {
        let mut filter = KernelFilter::default();
        let mut room = filter.terms.iter_mut();
        for mut clause in clauses(self, false).0 {
            if clause.len() > room.len() {
                continue;
            }
            if let Some(last) = clause.last_mut() {
                last.ends_clause = 1;
            }
            for (term, place) in clause.into_iter().zip(room.by_ref()) {
                *place = term;
            }
        }
        filter
    }
}

fn clauses(expr: &Expr, negated: bool) -> Clauses {
    match (expr, negated) {
        (Expr::Not(operand), _) => clauses(operand, !negated),
        (Expr::And(operands), false) | (Expr::Or(operands), true) => {
            operands.iter().fold(Clauses::default(), |all, operand| all.and(clauses(operand, negated)))
        }
        (Expr::Or(operands), false) | (Expr::And(operands), true) => operands
            .iter()
            .map(|operand| clauses(operand, negated))
            .reduce(|any, operand| any.or(&operand))
            .unwrap_or_default(),
        (Expr::Test(test), _) => Clauses::of_test(test, negated).bounded(),
    }
}

impl Clauses {
    fn of_test(tested: &Test, negated: bool) -> Self {
        match (tested, negated) {
            (Test::Lport(ports), _) => Self(vec![numbers(test::LOCAL_PORT, ports, 65535, negated)]),
            (Test::Rport(ports), _) => Self(vec![numbers(test::REMOTE_PORT, ports, 65535, negated)]),
            (Test::Port(ports), _) => {
                let local = numbers(test::LOCAL_PORT, ports, 65535, negated);
                let remote = numbers(test::REMOTE_PORT, ports, 65535, negated);
                if negated { Self(vec![local, remote]) } else { Self(vec![[local, remote].concat()]) }
            }
            (Test::Local(networks), false) => Self(vec![inside(test::LOCAL_IN, networks)]),
            (Test::Peer(networks), false) => Self(vec![inside(test::REMOTE_IN, networks)]),
            (Test::Local(networks), true) => Self(outside(test::LOCAL_OUTSIDE, networks)),
            (Test::Peer(networks), true) => Self(outside(test::REMOTE_OUTSIDE, networks)),
            (Test::Netns(refs), _) => Self::of_netns(refs, negated),
            (Test::Role(roles), _) => Self::of_roles(if negated { !*roles } else { *roles }),
            (Test::Family(Family::Ipv4), false) | (Test::Family(Family::Ipv6), true) => {
                let local = inside(test::LOCAL_IN, &[ipv4()]);
                let remote = inside(test::REMOTE_IN, &[ipv4()]);
                Self(vec![[local, remote].concat()])
            }
            (Test::Family(Family::Ipv6), false) | (Test::Family(Family::Ipv4), true) => {
                let local = outside(test::LOCAL_OUTSIDE, &[ipv4()]);
                let remote = outside(test::REMOTE_OUTSIDE, &[ipv4()]);
                Self([local, remote].concat())
            }
            (
                Test::State(_)
                | Test::Pid(_)
                | Test::Comm(_)
                | Test::Named(..)
                | Test::Closer(_)
                | Test::Owner(_),
                _,
            ) => Self::default(),
        }
    }

    fn of_netns(refs: &[NetnsRef], negated: bool) -> Self {
        let inums = refs.iter().filter_map(|netns| match netns {
            NetnsRef::Inum(inum) => Some((*inum, *inum)),
            NetnsRef::Name(_) => None,
        });
        Self(vec![numbers(test::NETNS, &Ranges::new(inums), u32::MAX, negated)])
    }

    /// A listener has no remote port. Records do not show other roles.
    fn of_roles(roles: Set<Role>) -> Self {
        let has_connections = !(roles & !Set::of(Role::Listener)).is_empty();
        if has_connections {
            return Self::default();
        }
        Self(vec![numbers(test::REMOTE_PORT, &Ranges::default(), 0, false)])
    }

    fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self.bounded()
    }

    /// Distributes: `(a and b) or (c and d)` is `(a or c) and (a or d) and (b or c) and (b or d)`.
    fn or(self, other: &Self) -> Self {
        let pairs = self.0.iter().flat_map(|a| other.0.iter().map(|b| [a.as_slice(), b].concat()));
        Self(pairs.collect()).bounded()
    }

    /// Limits the clauses to the number of terms, shortest first, because more of those fit.
    fn bounded(mut self) -> Self {
        for clause in &mut self.0 {
            clause.sort_unstable();
            clause.dedup();
        }
        self.0.retain(|clause| clause.len() <= TERMS);
        self.0.sort_by_key(Vec::len);
        let mut kept: Vec<Clause> = Vec::new();
        for clause in self.0 {
            if kept.len() < TERMS && !kept.contains(&clause) {
                kept.push(clause);
            }
        }
        Self(kept)
    }
}

/// One term per range. Without a range: a term that only unknown values pass.
fn numbers(tested: u32, ranges: &Ranges, highest: u32, negated: bool) -> Clause {
    let ranges = if negated { &ranges.complement(highest) } else { ranges };
    let term = |(low, high)| Term { low, high, test: tested, ..Term::default() };
    let terms: Clause = ranges.widened(RANGES).iter().map(term).collect();
    if terms.is_empty() { vec![term((1, 0))] } else { terms }
}

fn inside(tested: u32, networks: &[Cidr]) -> Clause {
    networks.iter().map(|network| network_term(tested, network)).collect()
}

/// One clause per network: an address must be outside all of them.
fn outside(tested: u32, networks: &[Cidr]) -> Vec<Clause> {
    let exact = networks.iter().filter(|network| network.is_exact_mask());
    exact.map(|network| vec![network_term(tested, network)]).collect()
}

fn network_term(tested: u32, network: &Cidr) -> Term {
    let (address, mask) = network.bytes();
    Term { network: words(&address), mask: words(&mask), test: tested, ..Term::default() }
}

/// Every IPv4 address.
fn ipv4() -> Cidr {
    Cidr::new(Addr::from(std::net::IpAddr::from([0, 0, 0, 0])), 0)
}
