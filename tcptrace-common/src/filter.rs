//! Defines the kernel-side filter: tests the two ends of a record against a [`KernelFilter`] before it is reported.
//!
//! The filter is a conjunction of clauses, each a disjunction of [`Term`]s, stored consecutively in a table of constant
//! length. When in doubt a record passes:
//!
//! - A local port of 0 passes every test of the local port. A `connect()` is reported before it has chosen a port;
//!   the record that carries the choice is tested as if it had none: see [`tested_sport`].
//! - A remote port of 0 and an unspecified address (`::`, `0.0.0.0`) pass every test of theirs. So a listener, which
//!   has no remote end, passes wherever a connection through it could.
//! - A network namespace of 0 could not be read and passes.

// Calls are expensive in eBPF, and the verifier analyses each one again.
#![allow(clippy::inline_always)]

use crate::{
    record::{Kind, RawRecord},
    state::TcpState,
};

/// Most terms of a filter.
pub const TERMS: usize = 16;

/// The tests of a [`Term`].
pub mod test {
    /// No test: the filter ends before this term.
    pub const NONE: u32 = 0;
    /// The local port is in `low..=high`.
    pub const LOCAL_PORT: u32 = 1;
    /// The remote port is in `low..=high`.
    pub const REMOTE_PORT: u32 = 2;
    /// The inode number of the network namespace is in `low..=high`.
    pub const NETNS: u32 = 3;
    /// The local address is in the network.
    pub const LOCAL_IN: u32 = 4;
    /// The local address is not in the network.
    pub const LOCAL_OUTSIDE: u32 = 5;
    /// The remote address is in the network.
    pub const REMOTE_IN: u32 = 6;
    /// The remote address is not in the network.
    pub const REMOTE_OUTSIDE: u32 = 7;
}

/// One test. 48 bytes, no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Term {
    /// The network's address as [`words`].
    pub network: [u64; 2],
    /// The network's mask as [`words`].
    pub mask: [u64; 2],
    /// Lowest number that passes.
    pub low: u32,
    /// Highest number that passes.
    pub high: u32,
    /// A number from [`mod@test`].
    pub test: u32,
    /// 1 if this is the last term of its clause, else 0.
    pub ends_clause: u32,
}

/// The kernel-side filter. All zeros lets everything pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct KernelFilter {
    /// The clauses, consecutively; unused terms are zero and come last.
    pub terms: [Term; TERMS],
}

/// The tested fields of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Local address as [`words`].
    pub saddr: [u64; 2],
    /// Remote address as [`words`].
    pub daddr: [u64; 2],
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Local port; 0 while none is chosen.
    pub sport: u16,
    /// Remote port.
    pub dport: u16,
}

/// The 16 bytes of an address as two words in memory order, each in this machine's byte order.
#[inline(always)]
pub const fn words(addr: &[u8; 16]) -> [u64; 2] {
    let bits = u128::from_be_bytes(*addr);
    [((bits >> 64) as u64).to_be(), (bits as u64).to_be()]
}

/// The local port to test: 0 where a socket leaves `SYN_SENT`. This record is the first to carry the port, and must
/// pass because the socket's beginning passed without it.
#[inline(always)]
pub const fn tested_sport(kind: u8, old: u8, sport: u16) -> u16 {
    if kind == Kind::Transition as u8 && old == TcpState::SynSent as u8 { 0 } else { sport }
}

impl Ends {
    /// The ends of `record` as the kernel side tests them.
    pub const fn of(record: &RawRecord) -> Self {
        Self {
            saddr: words(&record.saddr),
            daddr: words(&record.daddr),
            netns: record.netns,
            sport: tested_sport(record.kind, record.old, record.sport),
            dport: record.dport,
        }
    }
}

impl KernelFilter {
    /// Whether a record with these ends is reported.
    pub fn passes(&self, ends: &Ends) -> bool {
        passes(|index| self.terms[index], ends)
    }

    /// Whether everything passes.
    pub const fn is_everything(&self) -> bool {
        self.terms[0].test == test::NONE
    }
}

/// Whether a record with these ends passes the filter whose terms `term_at` reads, `0..TERMS`.
///
/// For the eBPF program, which must read each term by volatile reads of its `.rodata`; user space calls
/// [`KernelFilter::passes`].
///
/// The verifier follows both sides of a branch and tracks what each implies for the port or the address, which
/// multiplies with every term. So terms are computed without branches, and the only branch on record content is at the
/// end of a clause.
#[inline(always)]
pub fn passes(term_at: impl Fn(usize) -> Term, ends: &Ends) -> bool {
    let local = Address::new(ends.saddr);
    let remote = Address::new(ends.daddr);
    let mut fails = YES;
    let mut index = 0;
    while index < TERMS {
        let term = term_at(index);
        fails &= match term.test {
            test::NONE => return true,
            test::LOCAL_PORT => term.number_fails(ends.sport as u64),
            test::REMOTE_PORT => term.number_fails(ends.dport as u64),
            test::NETNS => term.number_fails(ends.netns as u64),
            test::LOCAL_IN => term.is_outside(&local) & local.is_known,
            test::LOCAL_OUTSIDE => !term.is_outside(&local) & local.is_known,
            test::REMOTE_IN => term.is_outside(&remote) & remote.is_known,
            test::REMOTE_OUTSIDE => !term.is_outside(&remote) & remote.is_known,
            _ => 0,
        };
        if term.ends_clause != 0 {
            if fails & YES != 0 {
                return false;
            }
            fails = YES;
        }
        index += 1;
    }
    true
}

/// The bit that means yes in a boolean word; the other bits have no meaning. It is the bit that a subtraction below
/// zero sets.
const YES: u64 = 1 << 63;

/// [`YES`] when `word` is not 0.
#[inline(always)]
const fn is_not_zero(word: u64) -> u64 {
    word | word.wrapping_neg()
}

struct Address {
    words: [u64; 2],
    /// [`YES`] when it is not `::` or `0.0.0.0`.
    is_known: u64,
}

impl Address {
    #[inline(always)]
    const fn new(words: [u64; 2]) -> Self {
        const MAPPED_ANY: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
        let [high, low] = words;
        Self { words, is_known: is_not_zero(high) | (is_not_zero(low) & is_not_zero(low ^ MAPPED_ANY)) }
    }
}

impl Term {
    /// [`YES`] when `number`, at most 32 bits wide, is neither 0 nor in `low..=high`.
    #[inline(always)]
    const fn number_fails(&self, number: u64) -> u64 {
        let below = number.wrapping_sub(self.low as u64);
        let above = (self.high as u64).wrapping_sub(number);
        let is_zero = number.wrapping_sub(1);
        (below | above) & !is_zero
    }

    /// [`YES`] when `address` is not in the network.
    #[inline(always)]
    const fn is_outside(&self, address: &Address) -> u64 {
        let [high, low] = address.words;
        is_not_zero(((high ^ self.network[0]) & self.mask[0]) | ((low ^ self.network[1]) & self.mask[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn port(test: u32, low: u32, high: u32, ends_clause: u32) -> Term {
        Term { network: [0; 2], mask: [0; 2], low, high, test, ends_clause }
    }

    fn filter<const N: usize>(terms: [Term; N]) -> KernelFilter {
        let mut filter = KernelFilter::default();
        filter.terms[..N].copy_from_slice(&terms);
        filter
    }

    const fn ends(sport: u16, dport: u16) -> Ends {
        Ends { saddr: [1, 2], daddr: [3, 4], netns: 7, sport, dport }
    }

    #[test]
    fn no_terms_let_everything_pass() {
        assert!(KernelFilter::default().passes(&ends(1, 2)));
    }

    #[test]
    fn terms_of_a_clause_are_alternatives_and_clauses_are_all_needed() {
        let filter = filter([
            port(test::LOCAL_PORT, 80, 80, 0),
            port(test::REMOTE_PORT, 5432, 5433, 1),
            port(test::NETNS, 7, 7, 1),
        ]);
        assert!(filter.passes(&ends(80, 1)));
        assert!(filter.passes(&ends(1, 5433)));
        assert!(!filter.passes(&ends(1, 5434)));
        assert!(!filter.passes(&Ends { netns: 8, ..ends(80, 1) }));
        assert!(filter.passes(&Ends { netns: 0, ..ends(80, 1) }), "unreadable");
    }

    #[test]
    fn what_is_not_known_passes() {
        let local = filter([port(test::LOCAL_PORT, 80, 80, 1)]);
        assert!(local.passes(&ends(0, 5432)));
        let remote = filter([port(test::REMOTE_PORT, 80, 80, 1)]);
        assert!(remote.passes(&ends(443, 0)));
    }

    #[test]
    fn a_full_table_is_read_to_its_end() {
        let mut full = filter([port(test::LOCAL_PORT, 80, 80, 0); TERMS]);
        full.terms[TERMS - 1] = port(test::LOCAL_PORT, 81, 81, 1);
        assert!(full.passes(&ends(81, 1)));
        assert!(!full.passes(&ends(82, 1)));
    }
}
