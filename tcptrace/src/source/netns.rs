//! The network namespaces of this host: finds each one once and runs something inside it.
//!
//! Looked at are the caller's own namespace, every bind mount of one (`ip netns`, Docker, CNI) and
//! the namespace of every process. Not found are namespaces that live only in an open descriptor,
//! in a socket, or in a thread other than the first of its process: to find those, every descriptor
//! of every process would have to be read, which costs more than all that is done inside.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::host::own_netns;
use crate::model::{NetnsId, text};

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
    /// Which one.
    pub netns: Netns,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// What came of a round through the namespaces.
#[derive(Debug)]
pub struct Round<T> {
    /// Every namespace that was visited, the caller's own first, with what the visit gave.
    pub visited: Vec<(Netns, T)>,
    /// Namespaces that exist and could not be entered.
    pub refused: Vec<EnterError>,
    /// Processes whose namespace the caller may not learn: there may be more namespaces.
    pub unreadable_processes: u32,
}

/// Runs `visit` once in each network namespace that `select` wants, one after the other, on a
/// thread made for it; the caller's thread stays where it is. The caller's own namespace is not
/// entered but found, so it needs no privilege. A namespace that vanishes meanwhile is left out.
///
/// Fails when no thread can be made or `/proc` can't be read.
pub fn in_each<T: Send>(
    select: impl Fn(&Netns) -> bool + Send,
    visit: impl FnMut(&Netns) -> T + Send,
) -> io::Result<Round<T>> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, move || Traveller::new(select, visit)?.travel())?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The namespaces that have a name in `ip netns`, by that name, sanitised. Fails where `/proc` is not mounted.
pub fn named() -> io::Result<BTreeMap<String, NetnsId>> {
    let mounts = mounts(&std::fs::read("/proc/thread-self/mountinfo")?);
    Ok(mounts.into_iter().filter_map(|mount| Some((mount.name?.to_string(), mount.id))).collect())
}

/// Goes from namespace to namespace; the thread it runs on ends up in the last one.
struct Traveller<T, S, V> {
    select: S,
    visit: V,
    names: FxHashMap<NetnsId, Arc<str>>,
    seen: FxHashSet<NetnsId>,
    round: Round<T>,
}

impl<T, S: Fn(&Netns) -> bool, V: FnMut(&Netns) -> T> Traveller<T, S, V> {
    fn new(select: S, visit: V) -> io::Result<Self> {
        let mut this = Self {
            select,
            visit,
            names: FxHashMap::default(),
            seen: FxHashSet::default(),
            round: Round { visited: Vec::new(), refused: Vec::new(), unreadable_processes: 0 },
        };
        let own = own_netns()?;
        let mounts = mounts(&std::fs::read("/proc/thread-self/mountinfo")?);
        for mount in &mounts {
            if let Some(name) = &mount.name {
                this.names.entry(mount.id).or_insert_with(|| name.clone());
            }
        }
        this.stay(own);
        for mount in &mounts {
            this.go(mount.id, CWD, mount.path.as_os_str());
        }
        Ok(this)
    }

    fn travel(mut self) -> io::Result<Round<T>> {
        let proc = open(CWD, OsStr::new("/proc"), OFlags::DIRECTORY)?;
        let mut entries = [MaybeUninit::uninit(); 8 << 10];
        let mut entries = RawDir::new(&proc, &mut entries);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let pid = entry.file_name().to_bytes();
            if !pid.iter().all(u8::is_ascii_digit) {
                continue;
            }
            let link = [pid, b"/ns/net"].concat();
            let link = OsStr::from_bytes(&link);
            let mut target = [MaybeUninit::uninit(); 32];
            match rustix::fs::readlinkat_raw(&proc, link, &mut target[..]) {
                Ok((target, _)) => {
                    if let Some(id) = inum(target) {
                        self.go(id, &proc, link);
                    }
                }
                Err(Errno::ACCESS | Errno::PERM) => self.round.unreadable_processes += 1,
                // The process has ended.
                Err(_) => {}
            }
        }
        Ok(self.round)
    }

    fn netns(&self, id: NetnsId) -> Netns {
        Netns { id, name: self.names.get(&id).cloned() }
    }

    /// Visits the namespace this thread is in.
    fn stay(&mut self, id: NetnsId) {
        let netns = self.netns(id);
        if self.seen.insert(id) && (self.select)(&netns) {
            let result = (self.visit)(&netns);
            self.round.visited.push((netns, result));
        }
    }

    /// Enters and visits the namespace `id` that `path` leads to, unless it was looked at before.
    fn go(&mut self, id: NetnsId, dir: impl AsFd, path: &OsStr) {
        let netns = self.netns(id);
        if self.seen.contains(&id) || !(self.select)(&netns) {
            return;
        }
        match enter(id, dir, path) {
            Ok(()) => self.stay(id),
            // Gone, or another namespace by now: another path may still lead to this one.
            Err(Errno::NOENT | Errno::SRCH | Errno::STALE) => {}
            Err(errno) => {
                self.seen.insert(id);
                self.round.refused.push(EnterError { netns, source: errno.into() });
            }
        }
    }
}

fn open(dir: impl AsFd, path: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, path, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn enter(id: NetnsId, dir: impl AsFd, path: &OsStr) -> Result<(), Errno> {
    let link = open(dir, path, OFlags::empty())?;
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

/// A network namespace that is mounted somewhere.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: NetnsId,
    path: PathBuf,
    /// Where it is mounted the way `ip netns` does it.
    name: Option<Arc<str>>,
}

/// The network namespaces among the mounts that `/proc/PID/mountinfo` lists. Such a mount has the
/// namespace (`net:[4026532234]`) for its root.
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

/// Undoes `seq_path()`'s `\ooo` for space, tab, newline and backslash.
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
    fn only_network_namespaces_are_network_namespaces() {
        assert_eq!(inum(b"net:[4026531833]"), Some(NetnsId(4_026_531_833)));
        assert_eq!(inum(b"net:[99999999999]"), None);
        assert_eq!(inum(b"mnt:[4026531833]"), None);
    }

    #[test]
    fn the_own_namespace_comes_first_and_needs_no_privilege() {
        let own = own_netns().expect("/proc is mounted");
        let round =
            in_each(|netns| netns.id == own, |_| own_netns().expect("/proc is mounted")).expect("a thread");
        let ids: Vec<_> = round.visited.iter().map(|(netns, inside)| (netns.id, *inside)).collect();
        assert_eq!(ids, [(own, own)]);
        assert!(round.refused.is_empty());
    }
}
