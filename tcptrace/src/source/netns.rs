//! Finds the network namespaces of this host, and runs a function once inside each.
//!
//! Covers the caller's own namespace, every bind mount of a namespace (`ip netns`, Docker, CNI) and the
//! namespace of every process, read from its first thread that has not exited. Misses namespaces that exist
//! only through an open descriptor, a socket, or a later thread of a process: finding those would require
//! reading every descriptor of every process, which costs more than all the work inside.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::FxHashSet;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{host::own_netns, procfs};
use crate::model::{NetnsId, text};
use crate::privileges::{self, Work};

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    /// Its inode number.
    pub id: NetnsId,
    /// Its name in `ip netns`, sanitised.
    pub name: Option<Arc<str>>,
}

/// Why a namespace could not be visited.
#[derive(Debug, thiserror::Error)]
#[error("can't enter network namespace {}: {source}; that takes CAP_SYS_ADMIN", .netns.id)]
pub struct EnterError {
    /// The namespace.
    pub netns: Netns,
    /// The kernel's error.
    #[source]
    pub source: io::Error,
}

/// Result of a round through the namespaces.
#[derive(Debug)]
pub struct Round<T> {
    /// Visited namespaces, the caller's own first, with the results of `visit`.
    pub visited: Vec<(Netns, T)>,
    /// Existing namespaces that could not be entered.
    pub refused: Vec<EnterError>,
    /// Processes whose namespace the caller is not allowed to read: more namespaces may exist.
    pub unreadable_processes: u32,
}

/// Runs `visit` once in each network namespace that `select` accepts, one after the other, on a new thread; the
/// caller's thread stays in its namespace. The caller's own namespace is not entered, so it needs no privilege.
/// A namespace that vanishes meanwhile is skipped.
///
/// Fails if no thread can be created or `/proc` can't be read.
pub fn visit_each<T: Send>(
    select: impl Fn(&Netns) -> bool + Send,
    visit: impl FnMut(&Netns) -> T + Send,
) -> io::Result<Round<T>> {
    visit_each_for(Work::InspectHost, select, visit)
}

/// As [`visit_each`], with the capabilities that `work` needs.
pub(super) fn visit_each_for<T: Send>(
    work: Work,
    select: impl Fn(&Netns) -> bool + Send,
    visit: impl FnMut(&Netns) -> T + Send,
) -> io::Result<Round<T>> {
    let walk = move || NamespaceWalk::new(select, visit)?.travel();
    privileges::run_on_thread("netns", work, walk)?
}

/// The namespaces that have a name in `ip netns`, by sanitised name. Fails if `/proc` is not mounted.
pub fn named() -> io::Result<BTreeMap<String, NetnsId>> {
    let mounts = mounts(&std::fs::read("/proc/thread-self/mountinfo")?);
    Ok(mounts.into_iter().filter_map(|mount| Some((mount.name?.to_string(), mount.id))).collect())
}

/// The names in `mountinfo`, by namespace. Of several names the first one mounted wins, as in [`visit_each`].
pub(super) fn names(mountinfo: &[u8]) -> BTreeMap<NetnsId, Arc<str>> {
    let mut names = BTreeMap::new();
    for mount in mounts(mountinfo) {
        if let Some(name) = mount.name {
            names.entry(mount.id).or_insert(name);
        }
    }
    names
}

/// Some processes of each network namespace but that of PID 1, by ascending pid.
pub(super) fn members() -> io::Result<BTreeMap<NetnsId, Vec<u32>>> {
    /// Most per namespace.
    const MAX_MEMBERS: usize = 16;
    let mut members: BTreeMap<NetnsId, Vec<u32>> = BTreeMap::new();
    let mut host = None;
    procfs::each_process(|proc, pid| {
        let id = linked(proc, &format!("{pid}/ns/net")).ok().flatten();
        if pid == 1 {
            host = id;
        } else if let Some(id) = id {
            let pids = members.entry(id).or_default();
            if pids.len() < MAX_MEMBERS {
                pids.push(pid);
            }
        }
        ControlFlow::Continue(())
    })?;
    let host = host.map_or_else(own_netns, Ok)?;
    members.remove(&host);
    Ok(members)
}

/// The namespace that a link in the open `/proc` refers to.
fn linked(proc: &OwnedFd, link: &str) -> Result<Option<NetnsId>, Errno> {
    let mut target = [MaybeUninit::uninit(); 32];
    let (target, _) = rustix::fs::readlinkat_raw(proc, link, &mut target[..])?;
    Ok(inum(target))
}

/// Enters one namespace after the other; its thread stays in the last one.
struct NamespaceWalk<T, S, V> {
    select: S,
    visit: V,
    names: BTreeMap<NetnsId, Arc<str>>,
    seen: FxHashSet<NetnsId>,
    round: Round<T>,
}

impl<T, S: Fn(&Netns) -> bool, V: FnMut(&Netns) -> T> NamespaceWalk<T, S, V> {
    fn new(select: S, visit: V) -> io::Result<Self> {
        let mut this = Self {
            select,
            visit,
            names: BTreeMap::new(),
            seen: FxHashSet::default(),
            round: Round { visited: Vec::new(), refused: Vec::new(), unreadable_processes: 0 },
        };
        let own = own_netns()?;
        let mountinfo = std::fs::read("/proc/thread-self/mountinfo")?;
        this.names = names(&mountinfo);
        let mounts = mounts(&mountinfo);
        this.stay(own);
        for mount in &mounts {
            this.go(mount.id, CWD, mount.path.as_os_str());
        }
        Ok(this)
    }

    fn travel(mut self) -> io::Result<Round<T>> {
        procfs::each_process(|proc, pid| {
            self.process(proc, pid);
            ControlFlow::Continue(())
        })?;
        Ok(self.round)
    }

    /// Visits the namespace of a process: that of its first thread, or of the first one that has not exited.
    fn process(&mut self, proc: &OwnedFd, pid: u32) {
        let mut by = self.thread(proc, &procfs::thread(pid, pid));
        if matches!(by, Err(Errno::NOENT | Errno::SRCH)) {
            let others = procfs::other_threads(proc, pid);
            let mut each = others.into_iter().map(|tid| self.thread(proc, &procfs::thread(pid, tid)));
            by = each.find(|by| !matches!(by, Err(Errno::NOENT | Errno::SRCH))).unwrap_or(by);
        }
        if let Err(Errno::ACCESS | Errno::PERM) = by {
            self.round.unreadable_processes += 1;
        }
    }

    fn thread(&mut self, proc: &OwnedFd, folder: &str) -> Result<(), Errno> {
        let link = format!("{folder}/ns/net");
        if let Some(id) = linked(proc, &link)? {
            self.go(id, proc, OsStr::new(&link));
        }
        Ok(())
    }

    fn netns(&self, id: NetnsId) -> Netns {
        Netns { id, name: self.names.get(&id).cloned() }
    }

    /// Visits the thread's current namespace.
    fn stay(&mut self, id: NetnsId) {
        let netns = self.netns(id);
        if self.seen.insert(id) && (self.select)(&netns) {
            let result = (self.visit)(&netns);
            self.round.visited.push((netns, result));
        }
    }

    /// Enters and visits the namespace `id` at `path`, unless it was visited before.
    fn go(&mut self, id: NetnsId, dir: impl AsFd, path: &OsStr) {
        let netns = self.netns(id);
        if self.seen.contains(&id) || !(self.select)(&netns) {
            return;
        }
        match enter(id, dir, path) {
            Ok(()) => self.stay(id),
            // Vanished, or replaced by another namespace: another path may still lead to this one.
            Err(Errno::NOENT | Errno::SRCH | Errno::STALE) => {}
            Err(errno) => {
                self.seen.insert(id);
                self.round.refused.push(EnterError { netns, source: errno.into() });
            }
        }
    }
}

fn enter(id: NetnsId, dir: impl AsFd, path: &OsStr) -> Result<(), Errno> {
    let link = rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::fs::fstat(&link)?.st_ino != u64::from(id.0) {
        return Err(Errno::STALE);
    }
    move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))
}

/// The number in `net:[4026531833]`.
fn inum(link: &[u8]) -> Option<NetnsId> {
    let digits = link.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(NetnsId)
}

/// A network namespace with a mount point.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: NetnsId,
    path: PathBuf,
    /// Name of the mount point in the folder of `ip netns`.
    name: Option<Arc<str>>,
}

/// The network namespaces in a `/proc/PID/mountinfo`. The root of such a mount is the namespace
/// (`net:[4026532234]`).
fn mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b' ').skip(3);
        let id = inum(fields.next()?)?;
        let path = PathBuf::from(unescape(fields.next()?));
        let named = path
            .parent()
            .is_some_and(|dir| dir == Path::new("/run/netns") || dir == Path::new("/var/run/netns"));
        let name = path.file_name().filter(|_| named).map(|name| text::from_kernel(name.as_bytes()).into());
        Some(Mount { id, path, name })
    };
    mountinfo.split(|&byte| byte == b'\n').filter_map(mount).collect()
}

/// Decodes the `\ooo` escapes of `seq_path()` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        plain.push(byte);
        if byte == b'\\'
            && let Some((octal, tail)) = tail.split_first_chunk::<3>()
        {
            let code = std::str::from_utf8(octal).ok().and_then(|octal| u8::from_str_radix(octal, 8).ok());
            if let Some(code) = code {
                plain.pop();
                plain.push(code);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_namespaces_are_found_and_named() {
        let mountinfo = b"\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
80 24 0:4 net:[4026532201] /run/netns/blue rw shared:9 - nsfs nsfs rw
81 24 0:4 net:[4026532305] /run/docker/netns/1-ab rw - nsfs nsfs rw
82 24 0:4 mnt:[4026532400] /run/snapd/ns/lxd.mnt rw - nsfs nsfs rw
83 24 0:4 net:[4026532410] /run/netns/a\\040b\\x rw - nsfs nsfs rw
84 24";
        let mount = |id, path: &str, name: Option<&str>| Mount {
            id: NetnsId(id),
            path: path.into(),
            name: name.map(Into::into),
        };
        let expected = [
            mount(4_026_532_201, "/run/netns/blue", Some("blue")),
            mount(4_026_532_305, "/run/docker/netns/1-ab", None),
            mount(4_026_532_410, "/run/netns/a b\\x", Some("a b\\x")),
        ];
        assert_eq!(mounts(mountinfo), expected);
    }

    #[test]
    fn only_network_namespace_links_are_parsed() {
        assert_eq!(inum(b"net:[4026531833]"), Some(NetnsId(4_026_531_833)));
        assert_eq!(inum(b"net:[99999999999]"), None);
        assert_eq!(inum(b"mnt:[4026531833]"), None);
    }

    #[test]
    fn the_callers_namespace_comes_first_without_privilege() {
        let own = own_netns().expect("/proc is mounted");
        let round = visit_each(|netns| netns.id == own, |_| own_netns().expect("/proc is mounted"))
            .expect("a thread");
        let ids: Vec<_> = round.visited.iter().map(|(netns, inside)| (netns.id, *inside)).collect();
        assert_eq!(ids, [(own, own)]);
        assert!(round.refused.is_empty());
    }
}
