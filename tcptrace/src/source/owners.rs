//! Finds the processes that hold sockets: searches `/proc/PID/fd` for their inode numbers.
//!
//! Several processes may hold an inherited descriptor. The owner reported is the holder with the lowest pid,
//! which after a fork is the parent: the master of a prefork server, not one of its workers. It can be a worker
//! only if pids have wrapped around in between; a worker has the same name and cgroup. A service manager that
//! keeps the sockets it passes on (`systemd`, socket activation) is reported only if no other process holds the
//! socket.

use std::io;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::fd::OwnedFd;
use rustix::fs::RawDir;
use rustix::io::Errno;

use super::procfs::{self, number};

use crate::model::{record::Process, text, units::plural};

/// Name of the service manager, which also holds sockets that it passed on.
const SERVICE_MANAGER: &str = "systemd";

/// The process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process reported as its owner.
    pub process: Process,
    /// The first descriptor found by which `process` holds it.
    pub fd: u32,
}

/// Result of a search through `/proc`.
#[derive(Clone, Debug, Default)]
pub struct ProcOwners {
    /// By inode number of the socket. A missing socket is held by no process, by an unreadable process, or by a
    /// descriptor in transit through a Unix socket.
    pub by_inode: FxHashMap<u32, Holder>,
    /// Processes whose descriptors the caller is not allowed to read.
    pub unreadable_processes: u32,
    /// The first of them, for messages.
    pub first_unreadable: Option<(u32, String)>,
}

impl ProcOwners {
    /// How many sockets in `wanted` have no known owner, if some process was unreadable, and a description of
    /// the unreadable processes; `None` if every owner is known.
    pub fn missing(&self, wanted: &FxHashSet<u32>) -> Option<(usize, String)> {
        let missing = wanted.iter().filter(|inode| !self.by_inode.contains_key(*inode)).count();
        let (pid, comm) = self.first_unreadable.as_ref().filter(|_| missing > 0)?;
        let others = match self.unreadable_processes.saturating_sub(1) {
            0 => String::new(),
            n => format!(" and {}", plural(n.into(), "other process", "other processes")),
        };
        Some((missing, format!("{} (pid {pid}){others}", text::sanitise(comm))))
    }
}

/// Finds the holders of the sockets with the inode numbers in `wanted`. Fails if `/proc` can't be read.
#[allow(clippy::implicit_hasher, reason = "integer keys are hashed with Fx throughout")]
pub fn find(wanted: &FxHashSet<u32>) -> io::Result<ProcOwners> {
    let mut search =
        OwnerSearch { wanted, unsettled: wanted.len(), owners: ProcOwners::default(), root: cgroup_root() };
    let mut descriptors = vec![MaybeUninit::uninit(); 32 << 10];
    procfs::each_process(|proc, pid| {
        if search.unsettled == 0 {
            return ControlFlow::Break(());
        }
        // Any other error means that the process has ended.
        if let Err(Errno::ACCESS | Errno::PERM) = search.process(proc, pid, &mut descriptors) {
            search.owners.unreadable_processes += 1;
            search.owners.first_unreadable.get_or_insert_with(|| (pid, comm_of(pid)));
        }
        ControlFlow::Continue(())
    })?;
    Ok(search.owners)
}

/// Whether a thread has open descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Descriptors {
    None,
    Some,
}

struct OwnerSearch<'a> {
    wanted: &'a FxHashSet<u32>,
    /// Wanted sockets whose owner is not final.
    unsettled: usize,
    owners: ProcOwners,
    root: Option<&'static str>,
}

impl OwnerSearch<'_> {
    fn process(&mut self, proc: &OwnedFd, pid: u32, buffer: &mut [MaybeUninit<u8>]) -> Result<(), Errno> {
        let by_first = self.descriptors(proc, pid, pid, buffer);
        if by_first == Ok(Descriptors::Some) {
            return Ok(());
        }
        // The threads of a process share their descriptors, but a first thread that has exited shows none;
        // without privilege its folder is unreadable, too.
        for tid in procfs::other_threads(proc, pid) {
            match self.descriptors(proc, pid, tid, buffer) {
                // This thread has exited, too.
                Ok(Descriptors::None) | Err(Errno::NOENT | Errno::SRCH) => {}
                by_this => return by_this.map(drop),
            }
        }
        by_first.map(drop)
    }

    /// Searches the descriptors of one thread.
    fn descriptors(
        &mut self,
        proc: &OwnedFd,
        pid: u32,
        tid: u32,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Descriptors, Errno> {
        let dir = procfs::open(proc, format!("{}/fd", procfs::thread(pid, tid)))?;
        let mut process = None;
        let mut seen = Descriptors::None;
        let mut descriptors = RawDir::new(&dir, buffer);
        while let Some(descriptor) = descriptors.next() {
            let descriptor = descriptor?;
            if number(descriptor.file_name().to_bytes()).is_some() {
                seen = Descriptors::Some;
            }
            let mut target = [MaybeUninit::uninit(); 32];
            let target = match rustix::fs::readlinkat_raw(&dir, descriptor.file_name(), &mut target[..]) {
                Ok((target, _)) => target,
                // A privileged process may let others list its descriptors, but not read them.
                Err(errno @ (Errno::ACCESS | Errno::PERM)) => return Err(errno),
                // Closed meanwhile.
                Err(_) => continue,
            };
            if let Some(inode) = socket_inode(target).filter(|inode| self.wanted.contains(inode)) {
                let process = process.get_or_insert_with(|| describe(pid, tid, self.root));
                self.found(inode, process, number(descriptor.file_name().to_bytes()).unwrap_or_default());
            }
        }
        Ok(seen)
    }

    /// Records that `process` holds `inode` by `fd`. Pids must come in ascending order.
    fn found(&mut self, inode: u32, process: &Process, fd: u32) {
        let manages = |process: &Process| &*process.comm == SERVICE_MANAGER;
        let Some(holder) = self.owners.by_inode.get_mut(&inode) else {
            self.unsettled -= usize::from(!manages(process));
            self.owners.by_inode.insert(inode, Holder { process: process.clone(), fd });
            return;
        };
        if manages(&holder.process) && !manages(process) {
            holder.process = process.clone();
            holder.fd = fd;
            self.unsettled -= 1;
        }
    }
}

/// Describes a process by its thread `tid`. A process that has just ended has no name any more.
fn describe(pid: u32, tid: u32, cgroup_root: Option<&str>) -> Process {
    let cgroup = cgroup_root.and_then(|root| cgroup_id(pid, tid, root)).unwrap_or(0);
    Process::new(pid, comm_of(pid), cgroup)
}

fn comm_of(pid: u32) -> String {
    let comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    text::from_kernel(comm.strip_suffix(b"\n").unwrap_or(&comm))
}

/// The cgroup v2 id of a thread: the inode number of its folder. When a process moves, a first thread that has
/// exited stays in the old cgroup (`cgroup_migrate_add_task()`).
fn cgroup_id(pid: u32, tid: u32, root: &str) -> Option<u64> {
    let cgroups = std::fs::read(format!("/proc/{}/cgroup", procfs::thread(pid, tid))).ok()?;
    let path = cgroup_path(&cgroups)?;
    Path::new(root).join(path).metadata().ok().map(|meta| meta.ino())
}

/// The path below the cgroup v2 root in `/proc/PID/cgroup`: the line `0::/path`. Rejects a path that leads out
/// of the reader's cgroup namespace (`/../..`).
fn cgroup_path(cgroups: &[u8]) -> Option<&str> {
    let line = cgroups.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"0::/"))?;
    std::str::from_utf8(line).ok().filter(|path| !path.starts_with(".."))
}

/// The mount point of cgroup v2: alone, or beside version 1.
pub(super) fn cgroup_root() -> Option<&'static str> {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|root| rustix::fs::statfs(*root).is_ok_and(|fs| fs.f_type as u64 == CGROUP2_SUPER_MAGIC))
}

/// The number in `socket:[274077]`.
fn socket_inode(link: &[u8]) -> Option<u32> {
    number(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn process(pid: u32, comm: &str) -> Process {
        Process::new(pid, comm, 0)
    }

    fn holder_of(holders: &[Process]) -> (Holder, usize) {
        let wanted = FxHashSet::from_iter([7]);
        let mut search =
            OwnerSearch { wanted: &wanted, unsettled: 1, owners: ProcOwners::default(), root: None };
        for holder in holders {
            search.found(7, holder, holder.pid * 2);
        }
        (search.owners.by_inode[&7].clone(), search.unsettled)
    }

    #[test]
    fn the_first_of_several_holders_is_the_owner() {
        let (holder, unsettled) =
            holder_of(&[process(10, "nginx"), process(11, "nginx"), process(12, "nginx")]);
        assert_eq!((holder.process.pid, unsettled), (10, 0));
    }

    #[test]
    fn a_service_manager_yields_to_the_service() {
        let (holder, unsettled) =
            holder_of(&[process(1, "systemd"), process(900, "sshd"), process(901, "sshd")]);
        assert_eq!((holder.process.pid, holder.fd, unsettled), (900, 1800, 0));
        let (holder, unsettled) = holder_of(&[process(1, "systemd")]);
        assert_eq!((holder.process.pid, unsettled), (1, 1));
    }

    #[test]
    fn unreadable_processes_matter_only_if_an_owner_is_missing() {
        let wanted = FxHashSet::from_iter([7, 8]);
        let holder = Holder { process: process(10, "nginx"), fd: 3 };
        let mut owners =
            ProcOwners { by_inode: [(7, holder.clone())].into_iter().collect(), ..ProcOwners::default() };
        assert_eq!(owners.missing(&wanted), None, "no process was unreadable");
        owners.unreadable_processes = 1;
        owners.first_unreadable = Some((1, "in\x1bit".into()));
        assert_eq!(owners.missing(&wanted), Some((1, "in?it (pid 1)".into())));
        owners.unreadable_processes = 3;
        assert_eq!(owners.missing(&wanted), Some((1, "in?it (pid 1) and 2 other processes".into())));
        owners.by_inode.insert(8, holder);
        assert_eq!(owners.missing(&wanted), None, "every owner is known");
    }

    #[test]
    fn only_socket_links_are_parsed() {
        assert_eq!(socket_inode(b"socket:[274077]"), Some(274_077));
        assert_eq!(socket_inode(b"socket:[+5]"), None);
        assert_eq!(socket_inode(b"socket:[99999999999]"), None);
        assert_eq!(socket_inode(b"pipe:[274077]"), None);
    }

    #[test]
    fn the_cgroup_path_is_that_of_version_2() {
        assert_eq!(
            cgroup_path(b"9:name=systemd:/x\n0::/system.slice/sshd.service\n"),
            Some("system.slice/sshd.service")
        );
        assert_eq!(cgroup_path(b"0::/\n"), Some(""));
        assert_eq!(cgroup_path(b"0::/../other\n"), None);
        assert_eq!(cgroup_path(b"4:memory:/x\n"), None);
    }

    #[test]
    fn sockets_of_this_process_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
        let inode = |fd: &dyn std::os::fd::AsFd| rustix::fs::fstat(fd.as_fd()).expect("open").st_ino as u32;
        let wanted = FxHashSet::from_iter([inode(&listener), inode(&stream)]);
        let owners = find(&wanted).expect("/proc is mounted");
        let mut found: Vec<_> = owners.by_inode.keys().copied().collect();
        found.sort_unstable();
        let mut expected: Vec<_> = wanted.iter().copied().collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(owners.by_inode.values().all(|holder| holder.process.pid == std::process::id()));
        let descriptor = |fd: &dyn std::os::fd::AsFd| std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd());
        assert_eq!(owners.by_inode[&inode(&listener)].fd, descriptor(&listener).cast_unsigned());
        assert_eq!(owners.by_inode[&inode(&stream)].fd, descriptor(&stream).cast_unsigned());
    }
}
