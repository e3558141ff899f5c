//! Which process holds which socket: inode numbers go in, [`Process`]es come out, by way of
//! `/proc/PID/fd`.
//!
//! A descriptor that was inherited is held by several processes. The holder named is the one with
//! the lowest pid, which after a fork is the parent: the master of a prefork server, not one of
//! its workers. Only where pids have wrapped around in between can it be a worker, which still has
//! the same name and cgroup. A service manager that keeps the sockets it hands out (`systemd`,
//! socket activation) is named only when nobody else holds the socket.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::model::{record::Process, text};

/// Name of the service manager, which also holds what it handed to others.
const SERVICE_MANAGER: &str = "systemd";

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Until every wanted socket has a holder.
    UntilFound,
    /// Through every process: [`Holder::others`] is complete.
    All,
}

/// Who holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process named as its owner.
    pub process: Process,
    /// How many other processes were seen to hold it as well.
    pub others: u32,
    /// The first descriptor by which `process` was seen to hold it.
    pub fd: u32,
    /// The last one counted: a process may hold a socket by several descriptors.
    last_pid: u32,
}

/// What a search through `/proc` found.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// By inode number of the socket. What is missing here is held by no process, by one that
    /// could not be read, or by a descriptor on its way through a Unix socket.
    pub by_inode: FxHashMap<u32, Holder>,
    /// Processes whose descriptors the caller may not see.
    pub unreadable_processes: u32,
}

/// Finds who holds the sockets with the inode numbers in `wanted`. Fails where `/proc` can't be read.
#[allow(clippy::implicit_hasher, reason = "integer keys are hashed with Fx throughout")]
pub fn find(wanted: &FxHashSet<u32>, effort: Effort) -> io::Result<Owners> {
    let mut search =
        Search { wanted, unsettled: wanted.len(), owners: Owners::default(), root: cgroup_root() };
    let proc = open(CWD, c"/proc")?;
    let mut entries = [MaybeUninit::uninit(); 8 << 10];
    let mut entries = RawDir::new(&proc, &mut entries);
    let mut descriptors = vec![MaybeUninit::uninit(); 32 << 10];
    // The kernel lists processes by ascending pid: `proc_pid_readdir()`.
    while let Some(entry) = entries.next() {
        if search.unsettled == 0 && effort == Effort::UntilFound {
            break;
        }
        let entry = entry?;
        let Some(pid) = number(entry.file_name().to_bytes()) else { continue };
        // With any other error the process has ended.
        if let Err(Errno::ACCESS | Errno::PERM) = search.process(&proc, pid, &mut descriptors) {
            search.owners.unreadable_processes += 1;
        }
    }
    Ok(search.owners)
}

struct Search<'a> {
    wanted: &'a FxHashSet<u32>,
    /// Wanted sockets without a holder that is final.
    unsettled: usize,
    owners: Owners,
    root: Option<&'static str>,
}

impl Search<'_> {
    fn process(&mut self, proc: &OwnedFd, pid: u32, buffer: &mut [MaybeUninit<u8>]) -> Result<(), Errno> {
        let dir = open(proc, format!("{pid}/fd"))?;
        let mut process = None;
        let mut descriptors = RawDir::new(&dir, buffer);
        while let Some(descriptor) = descriptors.next() {
            let descriptor = descriptor?;
            let mut target = [MaybeUninit::uninit(); 32];
            let target = match rustix::fs::readlinkat_raw(&dir, descriptor.file_name(), &mut target[..]) {
                Ok((target, _)) => target,
                // A privileged process may let others list its descriptors, but not read them.
                Err(errno @ (Errno::ACCESS | Errno::PERM)) => return Err(errno),
                // Closed since.
                Err(_) => continue,
            };
            if let Some(inode) = socket_inode(target).filter(|inode| self.wanted.contains(inode)) {
                let process = process.get_or_insert_with(|| describe(pid, self.root));
                self.found(inode, process, number(descriptor.file_name().to_bytes()).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Notes that `process`, whose pid is higher than those before, holds `inode` by `fd`.
    fn found(&mut self, inode: u32, process: &Process, fd: u32) {
        let manages = |process: &Process| &*process.comm == SERVICE_MANAGER;
        let Some(holder) = self.owners.by_inode.get_mut(&inode) else {
            self.unsettled -= usize::from(!manages(process));
            self.owners
                .by_inode
                .insert(inode, Holder { process: process.clone(), others: 0, fd, last_pid: process.pid });
            return;
        };
        if holder.last_pid == process.pid {
            return;
        }
        holder.last_pid = process.pid;
        holder.others += 1;
        if manages(&holder.process) && !manages(process) {
            holder.process = process.clone();
            holder.fd = fd;
            self.unsettled -= 1;
        }
    }
}

/// What is known about a process. One that has just ended has no name any more.
fn describe(pid: u32, cgroup_root: Option<&str>) -> Process {
    let comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    Process {
        pid,
        comm: text::from_kernel(comm.strip_suffix(b"\n").unwrap_or(&comm)).into(),
        cgroup: cgroup_root.and_then(|root| cgroup_id(pid, root)).unwrap_or(0),
    }
}

/// The cgroup v2 id of a process: the inode number of its folder.
fn cgroup_id(pid: u32, root: &str) -> Option<u64> {
    let cgroups = std::fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    let path = cgroup_path(&cgroups)?;
    Path::new(root).join(path).metadata().ok().map(|meta| meta.ino())
}

/// The path below the cgroup v2 root in `/proc/PID/cgroup`: the line `0::/path`. A path that leads
/// out of the reader's cgroup namespace (`/../..`) can't be followed.
fn cgroup_path(cgroups: &[u8]) -> Option<&str> {
    let line = cgroups.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"0::/"))?;
    std::str::from_utf8(line).ok().filter(|path| !path.starts_with(".."))
}

/// Where cgroup v2 is mounted: alone, or beside version 1.
pub(super) fn cgroup_root() -> Option<&'static str> {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|root| rustix::fs::statfs(*root).is_ok_and(|fs| fs.f_type as u64 == CGROUP2_SUPER_MAGIC))
}

fn open(dir: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The number in `socket:[274077]`.
fn socket_inode(link: &[u8]) -> Option<u32> {
    number(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

fn number(digits: &[u8]) -> Option<u32> {
    // `u32::from_str` would take a sign.
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| all_digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn process(pid: u32, comm: &str) -> Process {
        Process { pid, comm: comm.into(), cgroup: 0 }
    }

    fn holder_of(holders: &[Process]) -> (Holder, usize) {
        let wanted = FxHashSet::from_iter([7]);
        let mut search = Search { wanted: &wanted, unsettled: 1, owners: Owners::default(), root: None };
        for holder in holders {
            search.found(7, holder, holder.pid * 2);
        }
        (search.owners.by_inode[&7].clone(), search.unsettled)
    }

    #[test]
    fn the_first_of_several_holders_is_the_owner() {
        let (holder, unsettled) =
            holder_of(&[process(10, "nginx"), process(11, "nginx"), process(12, "nginx")]);
        assert_eq!((holder.process.pid, holder.others, unsettled), (10, 2, 0));
    }

    #[test]
    fn a_service_manager_yields_to_the_service() {
        let (holder, unsettled) =
            holder_of(&[process(1, "systemd"), process(900, "sshd"), process(901, "sshd")]);
        assert_eq!((holder.process.pid, holder.fd, holder.others, unsettled), (900, 1800, 2, 0));
        let (holder, unsettled) = holder_of(&[process(1, "systemd")]);
        assert_eq!((holder.process.pid, holder.others, unsettled), (1, 0, 1));
    }

    #[test]
    fn two_descriptors_of_one_process_are_one_holder() {
        let (holder, _) =
            holder_of(&[process(10, "a"), process(10, "a"), process(11, "b"), process(11, "b")]);
        assert_eq!((holder.process.pid, holder.others), (10, 1));
    }

    #[test]
    fn only_sockets_are_sockets() {
        assert_eq!(socket_inode(b"socket:[274077]"), Some(274_077));
        assert_eq!(socket_inode(b"socket:[+5]"), None);
        assert_eq!(socket_inode(b"socket:[99999999999]"), None);
        assert_eq!(socket_inode(b"pipe:[274077]"), None);
    }

    #[test]
    fn the_cgroup_path_is_the_one_of_version_2() {
        assert_eq!(
            cgroup_path(b"9:name=systemd:/x\n0::/system.slice/sshd.service\n"),
            Some("system.slice/sshd.service")
        );
        assert_eq!(cgroup_path(b"0::/\n"), Some(""));
        assert_eq!(cgroup_path(b"0::/../other\n"), None);
        assert_eq!(cgroup_path(b"4:memory:/x\n"), None);
    }

    #[test]
    fn the_own_sockets_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
        let inode = |fd: &dyn std::os::fd::AsFd| rustix::fs::fstat(fd.as_fd()).expect("open").st_ino as u32;
        let wanted = FxHashSet::from_iter([inode(&listener), inode(&stream)]);
        for effort in [Effort::UntilFound, Effort::All] {
            let owners = find(&wanted, effort).expect("/proc is mounted");
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
}
