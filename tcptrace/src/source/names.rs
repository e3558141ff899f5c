//! Resolves names of cgroups, processes and network namespaces while tracing. A worker thread reads them, so that the
//! ring reader never waits.
//!
//! It looks a cgroup's path up when its id is first seen, and again after a while if there was none; then the names of
//! its pod and container, again and again for a minute, because their files come after the first socket. It reads the
//! program of a process when its pid is first seen with a name. It reads the names of addresses again and again
//! (`address_names.rs`). Names of network namespaces are mounts: it reads them again when the mounts have changed, and reports new and changed
//! names. An ended namespace keeps its name until a nameless namespace reuses its number, which shows when that
//! one creates sockets.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, Read as _, Seek as _},
    os::unix::fs::DirEntryExt as _,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, Instant},
};

use hashbrown::HashSet;
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::AsFd as _,
};
use tcptrace_common::record::Kind;

use super::{
    address_names::AddressNames,
    host, netns, owners,
    poller::{PollBackoff, Poller, PollerEnded, PollerThread},
    process_facts::{self, FactsReader, NameOptions},
    users::Users,
    workload_names::WorkloadNames,
};
use crate::{
    model::{
        HookRecord, MAX_UNUSED_NAMES, Nanos, NetnsId, Record, TcpState, process::comm_key, record::Process,
        text,
    },
    privileges::CpuTimer,
};

/// Most ids remembered of each kind. Consumers keep as many names, so an id is forgotten here before they evict
/// its name, and is requested again when it is seen again.
const KNOWN: usize = MAX_UNUSED_NAMES;
/// Shortest interval between walks over all cgroups, whose cost grows with their number. The mounts are polled
/// at the same interval.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// After this time a cgroup without a path is requested again when it is seen.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Most folders examined in one walk over the cgroups, and the depth limit.
const MAX_FOLDERS: usize = 200_000;
const MAX_DEPTH: usize = 32;

/// Containers without a name that are looked up again, and how often: after 1, 2, 4, ... seconds.
const MAX_UNNAMED: usize = 1 << 10;
const MOST_LOOKUPS: u32 = 6;
/// Processes that wait to be read, and those read at once.
const MAX_WAITING: usize = 1 << 12;
const PROCESSES_AT_ONCE: usize = 64;
/// Reading processes takes at most 5 % of one CPU.
const PROCESS_PAUSE: PollBackoff = PollBackoff { least: Duration::from_millis(2), share: 20 };

/// Reading addresses takes at most 5 % of one CPU.
const ADDRESS_PAUSE: PollBackoff = PollBackoff { least: Duration::from_secs(2), share: 20 };

/// A request to the worker thread.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NameRequest {
    /// The path and the workload of a cgroup.
    Cgroup(u64),
    /// The program of a process, seen under this name.
    Process(u32, Arc<str>),
}

/// A result from the worker thread.
#[derive(Debug)]
enum ResolvedName {
    /// A name.
    Name(Record),
    /// The cgroup has no path: it has ended, or is not below the mounted root.
    NoPath(u64),
    /// The network namespace has lost its name.
    NoName(NetnsId),
}

/// Pid and kernel name.
type ProcessKey = (u32, [u8; 16]);

/// Requests names and returns them.
pub struct NameResolver {
    /// Cgroups already requested.
    known: FxHashSet<u64>,
    last_cgroup: u64,
    /// Processes already requested. Hashed with a random seed: a process chooses its name.
    known_processes: HashSet<ProcessKey>,
    last_process: ProcessKey,
    /// Whether `/proc` shows the processes of hooks.
    sees_all_pids: bool,
    /// Cgroups without a path, with the time of that result, oldest first.
    without_path: VecDeque<(Instant, u64)>,
    /// Namespaces that still have a reported name, although the mount is gone.
    stale_netns: FxHashSet<u32>,
    found: Vec<Record>,
    thread: PollerThread<NamePoller>,
}

impl NameResolver {
    /// Starts the thread.
    pub fn start(options: &NameOptions) -> io::Result<Self> {
        let now = Instant::now();
        let mounts = Mounts::open();
        let thread = PollerThread::start(|findings| NamePoller {
            findings,
            mounts,
            wanted: FxHashSet::default(),
            workloads: WorkloadNames::below(&options.host_root),
            unnamed: Vec::new(),
            processes: VecDeque::new(),
            facts: FactsReader::new(options),
            addresses: AddressNames::below(&options.host_root),
            next_addresses: now,
            next_mounts: now,
            next_cgroups: now,
            next_processes: now,
        })?;
        Ok(Self::new(thread))
    }

    fn new(thread: PollerThread<NamePoller>) -> Self {
        Self {
            known: FxHashSet::default(),
            last_cgroup: 0,
            known_processes: HashSet::default(),
            last_process: (0, [0; 16]),
            sees_all_pids: process_facts::sees_all_pids(),
            without_path: VecDeque::new(),
            stale_netns: FxHashSet::default(),
            found: Vec::new(),
            thread,
        }
    }

    /// Requests the names of new ids in a hook's record.
    pub fn observe_hook(&mut self, seen: &HookRecord) {
        if !self.stale_netns.is_empty() && begins(seen) && self.stale_netns.remove(&seen.raw.netns) {
            let (ts, netns) = (Nanos(seen.raw.ts_ns), NetnsId(seen.raw.netns));
            self.found.push(Record::NetnsName { ts, netns, name: "".into() });
        }
        if let Some(task) = &seen.task {
            self.request_cgroup(task.cgroup);
            if self.sees_all_pids {
                self.request_process((task.tgid, task.comm));
            }
        }
    }

    /// Requests the names of new ids in any record.
    pub fn observe_record(&mut self, record: &Record) {
        match record {
            Record::Kernel(seen) => self.observe_hook(seen),
            Record::Owner { process, .. } => {
                self.request_cgroup(process.cgroup);
                self.request_process((process.pid, comm_key(&process.comm)));
            }
            _ => {}
        }
    }

    /// Names found since the last call.
    pub fn found(&mut self) -> Vec<Record> {
        self.receive_results(Instant::now());
        std::mem::take(&mut self.found)
    }

    fn receive_results(&mut self, now: Instant) {
        for finding in self.thread.findings.try_iter() {
            match finding {
                ResolvedName::Name(record) => {
                    if let Record::NetnsName { netns, .. } = &record {
                        self.stale_netns.remove(&netns.0);
                    }
                    self.found.push(record);
                }
                ResolvedName::NoPath(cgroup) => self.without_path.push_back((now, cgroup)),
                ResolvedName::NoName(netns) => {
                    if self.stale_netns.len() < KNOWN {
                        self.stale_netns.insert(netns.0);
                    }
                }
            }
        }
        while let Some(&(since, cgroup)) = self.without_path.front()
            && now.duration_since(since) >= RETRY_AFTER
        {
            self.without_path.pop_front();
            self.known.remove(&cgroup);
            if self.last_cgroup == cgroup {
                self.last_cgroup = 0;
            }
        }
    }

    fn request_cgroup(&mut self, cgroup: u64) {
        if cgroup == self.last_cgroup {
            return;
        }
        self.last_cgroup = cgroup;
        if cgroup == 0 || self.known.contains(&cgroup) {
            return;
        }
        if self.known.len() >= KNOWN {
            self.known.clear();
            self.without_path.clear();
        }
        // One without room is requested again when it is seen again.
        if self.thread.request(NameRequest::Cgroup(cgroup)) {
            self.known.insert(cgroup);
        }
    }

    fn request_process(&mut self, process: ProcessKey) {
        if process == self.last_process {
            return;
        }
        self.last_process = process;
        let (pid, comm) = process;
        if pid == 0 || self.known_processes.contains(&process) {
            return;
        }
        if self.known_processes.len() >= KNOWN {
            self.known_processes.clear();
        }
        if self.thread.request(NameRequest::Process(pid, text::from_kernel(&comm).into())) {
            self.known_processes.insert(process);
        }
    }
}

/// Whether a namespace creates a socket; an ended one only loses sockets.
fn begins(seen: &HookRecord) -> bool {
    seen.raw.kind == Kind::Transition as u8 && seen.raw.old == TcpState::Close as u8
}

/// Looks names up.
struct NamePoller {
    findings: SyncSender<ResolvedName>,
    mounts: Mounts,
    /// Cgroups to look up.
    wanted: FxHashSet<u64>,
    workloads: WorkloadNames,
    /// Containers whose name was in no file yet.
    unnamed: Vec<Unnamed>,
    /// Processes to read.
    processes: VecDeque<(u32, Arc<str>)>,
    facts: FactsReader,
    addresses: AddressNames,
    next_addresses: Instant,
    next_mounts: Instant,
    next_cgroups: Instant,
    next_processes: Instant,
}

/// A container without a name.
struct Unnamed {
    cgroup: u64,
    path: Arc<str>,
    lookups: u32,
    next: Instant,
}

impl Poller for NamePoller {
    const NAME: &'static str = "names";
    const REQUESTS: usize = 1024;
    const FINDINGS: usize = 256;
    type Request = NameRequest;
    type Finding = ResolvedName;

    fn due(&self) -> Option<Instant> {
        let cgroups = (!self.wanted.is_empty()).then_some(self.next_cgroups);
        let processes = (!self.processes.is_empty()).then_some(self.next_processes);
        [cgroups, processes].into_iter().flatten().chain([self.next_mounts, self.next_addresses]).min()
    }

    fn request(&mut self, request: NameRequest) {
        match request {
            NameRequest::Cgroup(cgroup) => drop(self.wanted.insert(cgroup)),
            NameRequest::Process(pid, comm) => {
                // The oldest has probably ended.
                if self.processes.len() >= MAX_WAITING {
                    self.processes.pop_front();
                }
                self.processes.push_back((pid, comm));
            }
        }
    }

    fn poll(&mut self) -> Result<(), PollerEnded> {
        let mut findings = Vec::new();
        let now = Instant::now();
        if now >= self.next_processes {
            let began = CpuTimer::start();
            findings.extend(self.read_processes().into_iter().map(ResolvedName::Name));
            self.next_processes = Instant::now() + PROCESS_PAUSE.after(began.elapsed());
        }
        if now >= self.next_mounts {
            findings.extend(self.mounts.changes());
            findings.extend(self.look_up_again(now).into_iter().map(ResolvedName::Name));
            self.next_mounts = now + POLL_INTERVAL;
        }
        if !self.wanted.is_empty() && now >= self.next_cgroups {
            findings.extend(self.resolve_cgroups());
            self.next_cgroups = Instant::now() + POLL_INTERVAL;
        }
        if now >= self.next_addresses {
            let began = CpuTimer::start();
            let changes = self.addresses.changes(&mut self.workloads, &mut self.facts.users);
            findings.extend(changes.into_iter().map(ResolvedName::Name));
            self.next_addresses = Instant::now() + ADDRESS_PAUSE.after(began.elapsed());
        }
        for finding in findings {
            self.findings.send(finding)?;
        }
        Ok(())
    }
}

impl NamePoller {
    fn read_processes(&mut self) -> Vec<Record> {
        self.facts.begin();
        let count = self.processes.len().min(PROCESSES_AT_ONCE);
        let read = |(pid, comm)| facts_record(&mut self.facts, &mut self.workloads, pid, comm);
        self.processes.drain(..count).filter_map(read).collect()
    }

    fn resolve_cgroups(&mut self) -> Vec<ResolvedName> {
        let mut wanted = std::mem::take(&mut self.wanted);
        let mut findings = Vec::new();
        for record in cgroup_path_records(wanted.clone()) {
            let named = if let Record::CgroupPath { cgroup, path, .. } = &record {
                wanted.remove(cgroup);
                self.name_workload(*cgroup, path, 0)
            } else {
                None
            };
            findings.extend([Some(record), named].into_iter().flatten().map(ResolvedName::Name));
        }
        findings.extend(wanted.into_iter().map(ResolvedName::NoPath));
        findings
    }

    /// Looks the names of a workload up; if no file has all of them, remembers to do so again.
    fn name_workload(&mut self, cgroup: u64, path: &Arc<str>, lookups: u32) -> Option<Record> {
        let found = self.workloads.find(path, &mut self.facts.users)?;
        // A name of LXC is in the path.
        let is_complete = found.is_complete || found.workload.runtime.as_deref() == Some("lxc");
        if !is_complete && lookups < MOST_LOOKUPS && self.unnamed.len() < MAX_UNNAMED {
            let next = Instant::now() + POLL_INTERVAL * (1 << lookups);
            self.unnamed.push(Unnamed { cgroup, path: Arc::clone(path), lookups: lookups + 1, next });
        }
        let workload = found.is_named.then_some(found.workload)?;
        Some(Record::Workload { ts: host::monotonic_now(), cgroup, workload: workload.into() })
    }

    fn look_up_again(&mut self, now: Instant) -> Vec<Record> {
        let due: Vec<Unnamed> = self.unnamed.extract_if(.., |unnamed| unnamed.next <= now).collect();
        let find = |unnamed: Unnamed| self.name_workload(unnamed.cgroup, &unnamed.path, unnamed.lookups);
        due.into_iter().filter_map(find).collect()
    }
}

fn facts_record(
    reader: &mut FactsReader,
    workloads: &mut WorkloadNames,
    pid: u32,
    comm: Arc<str>,
) -> Option<Record> {
    let facts = reader.read(pid, workloads)?;
    Some(Record::ProcessFacts { ts: host::monotonic_now(), pid, comm, facts: facts.into() })
}

/// The names of addresses, read once.
pub fn address_records(options: &NameOptions) -> Vec<Record> {
    let mut workloads = WorkloadNames::below(&options.host_root);
    AddressNames::below(&options.host_root).changes(&mut workloads, &mut Users::below(&options.host_root))
}

/// All names of `owners`, read once.
pub fn owner_records(owners: &[Arc<Process>], options: &NameOptions) -> Vec<Record> {
    let mut workloads = WorkloadNames::below(&options.host_root);
    let mut reader = FactsReader::new(options);
    let mut records = Vec::new();
    for process in owners {
        records.extend(facts_record(&mut reader, &mut workloads, process.pid, Arc::clone(&process.comm)));
    }
    let cgroups = owners.iter().map(|process| process.cgroup).filter(|&cgroup| cgroup != 0).collect();
    for record in cgroup_path_records(cgroups) {
        if let Record::CgroupPath { ts, cgroup, path } = &record
            && let Some(found) = workloads.find(path, &mut reader.users)
        {
            records.push(Record::Workload { ts: *ts, cgroup: *cgroup, workload: found.workload.into() });
        }
        records.push(record);
    }
    records
}

/// The names of network namespaces, from the mounts that this process sees.
#[derive(Debug)]
struct Mounts {
    /// `mountinfo`, which polls as an error after a change (`mounts_poll()`); `None` without `/proc`.
    file: Option<File>,
    is_read: bool,
    known: BTreeMap<NetnsId, Arc<str>>,
}

impl Mounts {
    fn open() -> Self {
        Self { file: File::open("/proc/thread-self/mountinfo").ok(), is_read: false, known: BTreeMap::new() }
    }

    /// Returns the changes since the last poll.
    fn changes(&mut self) -> Vec<ResolvedName> {
        let Some(file) = &mut self.file else { return Vec::new() };
        if self.is_read && !has_changed(file) {
            return Vec::new();
        }
        self.is_read = true;
        let mut mountinfo = Vec::new();
        match file.rewind().and_then(|()| file.read_to_end(&mut mountinfo)) {
            Ok(_) => self.compare(netns::names(&mountinfo)),
            Err(_) => Vec::new(),
        }
    }

    fn compare(&mut self, named: BTreeMap<NetnsId, Arc<str>>) -> Vec<ResolvedName> {
        let ts = host::monotonic_now();
        let is_new = |(netns, name): &(&NetnsId, &Arc<str>)| self.known.get(netns) != Some(name);
        let new = named.iter().filter(is_new).map(|(&netns, name)| {
            ResolvedName::Name(Record::NetnsName { ts, netns, name: Arc::clone(name) })
        });
        let gone =
            self.known.keys().filter(|netns| !named.contains_key(netns)).copied().map(ResolvedName::NoName);
        let findings = new.chain(gone).collect();
        self.known = named;
        findings
    }
}

fn has_changed(mountinfo: &File) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(mountinfo.as_fd(), PollFlags::PRI)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// The paths of these cgroups, as records; without those that have ended or are not below a mounted cgroup v2.
fn cgroup_path_records(wanted: FxHashSet<u64>) -> Vec<Record> {
    let Some(root) = owners::cgroup_root() else { return Vec::new() };
    let ts = host::monotonic_now();
    let record = |(cgroup, path): (u64, PathBuf)| {
        let path = path.to_string_lossy().into_owned().into();
        Record::CgroupPath { ts, cgroup, path }
    };
    paths(Path::new(root), wanted).into_iter().map(record).collect()
}

/// The paths below `root` of the cgroups with these ids (inode numbers of their folders). Breadth first, so
/// that the limit cuts off the deepest.
fn paths(root: &Path, mut wanted: FxHashSet<u64>) -> FxHashMap<u64, PathBuf> {
    let mut found = FxHashMap::default();
    if let Ok(stat) = rustix::fs::stat(root)
        && wanted.remove(&stat.st_ino)
    {
        found.insert(stat.st_ino, "/".into());
    }
    let mut level = vec![PathBuf::from("/")];
    let mut folders = 0;
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for path in &level {
            if wanted.is_empty() || folders > MAX_FOLDERS {
                return found;
            }
            // A cgroup that has ended meanwhile has no subfolders.
            let below = path.strip_prefix("/").map_or_else(|_| root.into(), |below| root.join(below));
            let Ok(entries) = std::fs::read_dir(below) else { continue };
            for entry in entries.filter_map(Result::ok) {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                folders += 1;
                let path = path.join(entry.file_name());
                if wanted.remove(&entry.ino()) {
                    found.insert(entry.ino(), path.clone());
                }
                next.push(path);
            }
        }
        level = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::MetadataExt as _,
        sync::mpsc::{Receiver, sync_channel},
    };

    use super::*;

    #[test]
    fn folders_are_found_by_their_inode_numbers() {
        let root = std::env::temp_dir().join(format!("tcptrace-names-{}", std::process::id()));
        let deep = root.join("system.slice/nginx.service");
        std::fs::create_dir_all(&deep).expect("a folder");
        std::fs::write(root.join("cgroup.procs"), "").expect("a file");
        let inode = |path: &Path| path.metadata().expect("the folder exists").ino();
        let wanted = [inode(&deep), inode(&root), u64::MAX];
        let found = paths(&root, wanted.into_iter().collect());
        std::fs::remove_dir_all(&root).expect("the test's own folder");
        let expected = [(wanted[0], "/system.slice/nginx.service".into()), (wanted[1], "/".into())];
        assert_eq!(found, expected.into_iter().collect());
    }

    /// A resolver that sends requests to the returned receiver, and reads results from the returned sender.
    fn names(room: usize) -> (NameResolver, Receiver<NameRequest>, SyncSender<ResolvedName>) {
        let (requests, requested) = sync_channel(room);
        let (sender, findings) = sync_channel(room);
        (NameResolver::new(PollerThread { requests, findings }), requested, sender)
    }

    /// A socket in the namespace `netns` leaves the state `old`.
    fn transition(netns: u32, old: TcpState) -> HookRecord {
        let raw = tcptrace_common::record::RawRecord {
            netns,
            kind: Kind::Transition as u8,
            old: old as u8,
            ..bytemuck::Zeroable::zeroed()
        };
        HookRecord { raw, task: None }
    }

    fn netns_names(records: &[Record]) -> Vec<(u32, &str)> {
        records
            .iter()
            .map(|record| match record {
                Record::NetnsName { netns, name, .. } => (netns.0, &**name),
                other => panic!("{other:?} is no name"),
            })
            .collect()
    }

    #[test]
    fn no_cgroup_is_requested_twice() {
        let (mut names, requested, _sender) = names(2);
        for cgroup in [5, 6, 5, 0, 7, 7] {
            names.request_cgroup(cgroup);
        }
        // 7 had no room; it is requested when it is seen again after another cgroup.
        let received: Vec<_> = requested.try_iter().collect();
        assert_eq!(received, [5, 6].map(NameRequest::Cgroup));
        names.request_cgroup(6);
        names.request_cgroup(7);
        assert_eq!(requested.try_iter().collect::<Vec<_>>(), [NameRequest::Cgroup(7)]);
        assert_eq!(names.found().len(), 0);
    }

    #[test]
    fn no_process_is_requested_twice_under_one_name() {
        let (mut names, requested, _sender) = names(9);
        for (pid, comm) in [(7, "sh"), (8, "sh"), (7, "sh"), (7, "curl"), (0, "swapper"), (7, "curl")] {
            names.request_process((pid, comm_key(comm)));
        }
        let expected = [(7, "sh"), (8, "sh"), (7, "curl")];
        let expected = expected.map(|(pid, comm)| NameRequest::Process(pid, comm.into()));
        assert_eq!(requested.try_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_cgroup_without_a_path_is_retried_later() {
        let (mut names, requested, sender) = names(9);
        let began = Instant::now();
        names.request_cgroup(5);
        sender.send(ResolvedName::NoPath(5)).expect("a resolver");
        for (seconds, expected) in [(0, 1), (9, 0), (21, 1), (22, 0)] {
            names.receive_results(began + Duration::from_secs(seconds));
            names.request_cgroup(5);
            assert_eq!(requested.try_iter().count(), expected, "{seconds}");
        }
    }

    #[test]
    fn namespaces_gain_change_and_lose_names() {
        let mut mounts = Mounts { file: None, is_read: false, known: BTreeMap::new() };
        let (mut names, _requested, sender) = names(9);
        let mut poll = |names: &mut NameResolver, named: &[(u32, &str)]| {
            let known = named.iter().map(|&(id, name)| (NetnsId(id), name.into())).collect();
            mounts.compare(known).into_iter().for_each(|finding| sender.send(finding).expect("a resolver"));
            names.found()
        };
        assert_eq!(netns_names(&poll(&mut names, &[])), []);
        names.observe_hook(&transition(7, TcpState::Close));
        assert_eq!(netns_names(&poll(&mut names, &[(7, "blue"), (8, "green")])), [(7, "blue"), (8, "green")]);
        assert_eq!(netns_names(&poll(&mut names, &[(7, "blue"), (8, "red")])), [(8, "red")]);
        // The namespace ends: its remaining records keep the name.
        assert_eq!(netns_names(&poll(&mut names, &[(8, "red")])), []);
        names.observe_hook(&transition(7, TcpState::TimeWait));
        assert_eq!(netns_names(&names.found()), []);
        // Its number is reused by a namespace that gets its name later.
        names.observe_hook(&transition(7, TcpState::Close));
        names.observe_hook(&transition(7, TcpState::Close));
        assert_eq!(netns_names(&names.found()), [(7, "")]);
        assert_eq!(netns_names(&poll(&mut names, &[(7, "new")])), [(7, "new")]);
        // A namespace that has its name at once is never reported without one.
        poll(&mut names, &[]);
        assert_eq!(netns_names(&poll(&mut names, &[(7, "next")])), [(7, "next")]);
        names.observe_hook(&transition(7, TcpState::Close));
        assert_eq!(netns_names(&names.found()), []);
    }
}
