//! What the process may do: as little as its work needs, and less as the work goes on. docs/privileges.md has the table.
//!
//! Capabilities belong to threads, and a new thread gets its maker's. So each kind of thread gives up at its beginning
//! what it does not need; none can get anything back, nor can a program that it would start.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// To load the program and read kernel symbols.
const LOADING: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON).union(CapabilitySet::SYSLOG);
/// To look into other network namespaces and at other users' descriptors.
const LOOKING: CapabilitySet =
    CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_PTRACE).union(CapabilitySet::DAC_READ_SEARCH);
/// To read and write files wherever root is asked to.
const FILES: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);

/// What a thread does from now on, and may therefore do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Anything a command does, from its beginning.
    Command,
    /// What is left when the program is loaded.
    Loaded,
    /// Looking at other processes and namespaces.
    Looking,
    /// Reading or writing a file that the user named.
    Files,
    /// Nothing but what everybody may do.
    Nothing,
}

impl Work {
    const fn needs(self) -> CapabilitySet {
        match self {
            Self::Command => LOADING.union(LOOKING).union(FILES),
            Self::Loaded => LOOKING.union(FILES),
            Self::Looking => LOOKING,
            Self::Files => FILES,
            Self::Nothing => CapabilitySet::empty(),
        }
    }
}

/// Whether the calling thread may look at the descriptors and the namespaces of every process.
pub fn may_look_into_processes() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
}

/// Gives up for ever what the calling thread, and those it makes from now on, don't need for `work`.
pub fn keep_for(work: Work) {
    keep(work.needs());
}

/// As [`keep_for`] with [`Work::Nothing`], but for `CAP_BPF` where `try_without` fails without it: up to about 5.18 maps
/// that were opened can't be read without it where `kernel.unprivileged_bpf_disabled` is set.
pub fn keep_nothing_or_bpf(try_without: impl FnOnce() -> bool) {
    let before = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    let bpf = before.intersection(CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN));
    let of = |effective| CapabilitySets { effective, permitted: bpf, inheritable: CapabilitySet::empty() };
    tell(set_capabilities(None, of(CapabilitySet::empty())));
    if try_without() {
        keep(CapabilitySet::empty());
    } else {
        tell(set_capabilities(None, of(bpf)));
    }
}

/// No program that this process starts gets more than it has.
pub fn forbid_more() {
    tell(set_no_new_privs(true));
}

fn keep(wanted: CapabilitySet) {
    let lowered = capabilities(None).and_then(|sets| {
        let permitted = sets.permitted.intersection(wanted);
        let effective = sets.effective.intersection(wanted);
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })
    });
    tell(lowered);
}

/// Giving up is always allowed; where a sandbox forbids even to ask, nothing is lost but the precaution.
fn tell(done: Result<(), rustix::io::Errno>) {
    if let Err(errno) = done {
        log::debug!("privileges can't be given up: {}", io::Error::from(errno));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted() -> CapabilitySet {
        capabilities(None).expect("a thread may ask").permitted
    }

    #[test]
    fn a_thread_gives_up_what_it_does_not_need_and_its_maker_keeps_it() {
        let before = permitted();
        std::thread::spawn(move || {
            keep_for(Work::Looking);
            assert_eq!(permitted(), before.intersection(LOOKING));
            keep_for(Work::Command);
            assert_eq!(permitted(), before.intersection(LOOKING), "nothing comes back");
            keep_for(Work::Nothing);
            assert_eq!(permitted(), CapabilitySet::empty());
        })
        .join()
        .expect("no panic");
        assert_eq!(permitted(), before);
    }

    #[test]
    fn what_fails_without_bpf_keeps_bpf_alone() {
        let before = permitted();
        std::thread::spawn(move || {
            keep_nothing_or_bpf(|| false);
            assert_eq!(permitted(), before.intersection(CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN)));
            keep_nothing_or_bpf(|| true);
            assert_eq!(permitted(), CapabilitySet::empty());
        })
        .join()
        .expect("no panic");
    }
}
