//! Drops the capabilities that the current work does not need. docs/privileges.md has the table.
//!
//! Capabilities belong to threads, and a new thread inherits them. So every thread is started by [`spawn`] or
//! [`run_on_thread`], which drop the capabilities that its work does not need before it runs (clippy.toml
//! refuses other ways). Neither a thread nor a program that it might start can regain them.

use std::{
    cell::Cell,
    io, panic,
    thread::{self, Builder, JoinHandle},
    time::Duration,
};

use rustix::{
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
    time::{ClockId, clock_gettime},
};

/// For reading kernel symbols.
const SYMBOLS: CapabilitySet = CapabilitySet::SYSLOG;
/// For loading the program; before 5.11 `CAP_SYS_RESOURCE` raises the limit of locked memory for it.
const LOADING: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::PERFMON).union(CapabilitySet::SYS_RESOURCE).union(SYMBOLS);
/// For reading the counters of a loaded program; `CAP_SYS_ADMIN` suffices if `CAP_BPF` was not granted.
const COUNTING: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN);
/// For entering other network namespaces and reading other users' descriptors.
const INSPECTING: CapabilitySet =
    CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_PTRACE).union(CapabilitySet::DAC_READ_SEARCH);
/// For listing the connection tracking entries of a network namespace.
const CONNTRACK: CapabilitySet = INSPECTING.union(CapabilitySet::NET_ADMIN);
/// For reading and writing files of other users, as root can.
const FILES: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);

/// The work of a thread, which determines its capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Everything that a command does, from its start.
    Command,
    /// Reading kernel symbols.
    Symbols,
    /// Starting the threads of a trace after the program is loaded.
    Loaded,
    /// Reading rings and counters of the loaded program, until it is known whether that requires a capability:
    /// see [`keep_nothing_or_bpf`].
    Counting,
    /// Reading other processes and namespaces.
    InspectHost,
    /// The same, and listing connection tracking entries.
    ListConntrack,
    /// Reading or writing a file that the user named.
    Files,
    /// Work without privileges.
    Nothing,
}

impl Work {
    const fn needs(self) -> CapabilitySet {
        match self {
            Self::Command => LOADING.union(CONNTRACK).union(FILES),
            Self::Symbols => SYMBOLS,
            Self::Loaded => COUNTING.union(CONNTRACK).union(FILES),
            Self::Counting => COUNTING,
            Self::InspectHost => INSPECTING,
            Self::ListConntrack => CONNTRACK,
            Self::Files => FILES,
            Self::Nothing => CapabilitySet::empty(),
        }
    }
}

/// Whether the calling thread may read the descriptors and namespaces of every process.
pub fn may_inspect_processes() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
}

/// Permanently drops the capabilities that the calling thread, and threads it starts later, don't need for
/// `work`.
pub fn keep_for(work: Work) {
    keep(work.needs());
}

/// Like [`keep_for`] with [`Work::Nothing`], but keeps `CAP_BPF` if `try_without` fails without it: before
/// about 5.18, reading opened maps requires it while `kernel.unprivileged_bpf_disabled` is set.
pub fn keep_nothing_or_bpf(try_without: impl FnOnce() -> bool) {
    let before = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    let bpf = counting(before);
    let of = |effective| CapabilitySets { effective, permitted: bpf, inheritable: CapabilitySet::empty() };
    log_failure(set_capabilities(None, of(CapabilitySet::empty())));
    if try_without() {
        keep(CapabilitySet::empty());
    } else {
        log_failure(set_capabilities(None, of(bpf)));
    }
}

/// The subset of `permitted` for reading counters: `CAP_BPF`, without `CAP_SYS_ADMIN` if it suffices.
const fn counting(permitted: CapabilitySet) -> CapabilitySet {
    let bpf = permitted.intersection(CapabilitySet::BPF);
    if bpf.is_empty() { permitted.intersection(COUNTING) } else { bpf }
}

/// Starts a thread with only the capabilities that `work` needs.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: Work,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let run = move || {
        keep_for(work);
        run()
    };
    #[allow(clippy::disallowed_methods, reason = "the place where threads are started")]
    Builder::new().name(name.into()).spawn(run)
}

/// Like [`spawn`], and waits for the result.
pub fn run_on_thread<T: Send>(name: &str, work: Work, run: impl FnOnce() -> T + Send) -> io::Result<T> {
    let run = move || {
        keep_for(work);
        (run(), cpu_time())
    };
    let (result, spent) = thread::scope(|scope| {
        #[allow(clippy::disallowed_methods, reason = "the place where threads are started")]
        let thread = Builder::new().name(name.into()).spawn_scoped(scope, run)?;
        io::Result::Ok(thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    })?;
    SPENT_ELSEWHERE.set(SPENT_ELSEWHERE.get() + spent);
    Ok(result)
}

thread_local! {
    /// CPU time of the threads that this one has waited for.
    static SPENT_ELSEWHERE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Measures the CPU time of this thread, and of what it runs with [`run_on_thread`].
#[derive(Debug)]
pub struct CpuTimer(Duration);

impl CpuTimer {
    /// Starts now.
    pub fn start() -> Self {
        Self(cpu_time())
    }

    /// CPU time since the start.
    pub fn elapsed(&self) -> Duration {
        cpu_time().saturating_sub(self.0)
    }
}

fn cpu_time() -> Duration {
    let own = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    own + SPENT_ELSEWHERE.get()
}

/// Prevents programs that this process starts from gaining privileges.
pub fn set_no_new_privileges() {
    log_failure(set_no_new_privs(true));
}

fn keep(wanted: CapabilitySet) {
    let lowered = capabilities(None).and_then(|sets| {
        let permitted = sets.permitted.intersection(wanted);
        let effective = sets.effective.intersection(wanted);
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })
    });
    log_failure(lowered);
}

/// Logs a failure. Dropping capabilities is always allowed; in a sandbox that forbids the call only a
/// precaution is lost.
fn log_failure(done: Result<(), rustix::io::Errno>) {
    if let Err(errno) = done {
        log::debug!("privileges can't be dropped: {}", io::Error::from(errno));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted() -> CapabilitySet {
        capabilities(None).expect("a thread may read its capabilities").permitted
    }

    #[test]
    fn a_thread_drops_capabilities_that_its_parent_keeps() {
        let before = permitted();
        let thread = spawn("test", Work::InspectHost, move || {
            assert_eq!(permitted(), before.intersection(INSPECTING));
            keep_for(Work::Command);
            assert_eq!(permitted(), before.intersection(INSPECTING), "no capability is regained");
            keep_for(Work::Nothing);
            assert_eq!(permitted(), CapabilitySet::empty());
        });
        thread.expect("a thread").join().expect("no panic");
        assert_eq!(permitted(), before);
    }

    #[test]
    fn a_failure_without_bpf_keeps_only_bpf() {
        let all = CapabilitySet::all();
        assert_eq!(counting(all), CapabilitySet::BPF);
        assert_eq!(counting(all.difference(CapabilitySet::BPF)), CapabilitySet::SYS_ADMIN);
        assert_eq!(counting(FILES), CapabilitySet::empty());
        let before = permitted();
        let thread = spawn("test", Work::Loaded, move || {
            keep_nothing_or_bpf(|| false);
            assert_eq!(permitted(), counting(before));
            keep_nothing_or_bpf(|| true);
            assert_eq!(permitted(), CapabilitySet::empty());
        });
        thread.expect("a thread").join().expect("no panic");
    }
}
