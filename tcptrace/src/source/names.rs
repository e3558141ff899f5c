//! Names for numbers that turn up while tracing: cgroups and network namespaces. Records are looked
//! at, numbers never seen before are looked up on a thread of their own, and the names come back as
//! records. The reader of the ring never waits for it.

use std::{
    io,
    os::unix::fs::DirEntryExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel},
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{host, netns, owners};
use crate::{
    model::{NetnsId, Observation, Record},
    privileges::{self, Work},
};

/// Numbers asked for and not yet looked up, at the most; one that finds no room is asked for again
/// when it is seen again.
const WAITING: usize = 1024;
/// Numbers remembered, so that none is asked for twice.
const KNOWN: usize = 1 << 16;
/// A look through all cgroups costs the more the more there are: not oftener than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Folders looked at in one go through the cgroups, and how deep.
const MAX_FOLDERS: usize = 200_000;
const MAX_DEPTH: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Number {
    Cgroup(u64),
    Netns(NetnsId),
}

/// Asks for names and hands them out.
pub struct Names {
    known: FxHashSet<Number>,
    last_cgroup: u64,
    last_netns: u32,
    ask: SyncSender<Number>,
    answers: Receiver<Record>,
}

impl Names {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (ask, asked) = sync_channel(WAITING);
        let (tell, answers) = channel();
        std::thread::Builder::new().name("names".into()).spawn(move || {
            privileges::keep_for(Work::Looking);
            look_up(&asked, &tell);
        })?;
        Ok(Self { known: FxHashSet::default(), last_cgroup: 0, last_netns: 0, ask, answers })
    }

    /// Looks for new numbers in what a hook reported.
    pub fn look_at(&mut self, seen: &Observation) {
        if seen.raw.netns != self.last_netns {
            self.last_netns = seen.raw.netns;
            self.want(Number::Netns(NetnsId(seen.raw.netns)));
        }
        if let Some(task) = &seen.task {
            self.look_at_cgroup(task.cgroup);
        }
    }

    /// The same for any record.
    pub fn look_at_record(&mut self, record: &Record) {
        match record {
            Record::Kernel(seen) => self.look_at(seen),
            Record::Owner { process, .. } => self.look_at_cgroup(process.cgroup),
            Record::NetnsName { netns, .. } => {
                self.known.insert(Number::Netns(*netns));
            }
            _ => {}
        }
    }

    /// Names found since the last call.
    pub fn found(&self) -> impl Iterator<Item = Record> {
        self.answers.try_iter()
    }

    fn look_at_cgroup(&mut self, cgroup: u64) {
        if cgroup != self.last_cgroup {
            self.last_cgroup = cgroup;
            self.want(Number::Cgroup(cgroup));
        }
    }

    fn want(&mut self, number: Number) {
        if matches!(number, Number::Cgroup(0) | Number::Netns(NetnsId(0))) || self.known.contains(&number) {
            return;
        }
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        match self.ask.try_send(number) {
            Ok(()) => {
                self.known.insert(number);
            }
            // With the thread gone there are no names.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

/// Answers until nobody asks any more. What has no name, or is gone already, gets no answer.
fn look_up(asked: &Receiver<Number>, tell: &Sender<Record>) {
    let mut looked_at: Option<Instant> = None;
    let mut wanted = FxHashSet::default();
    loop {
        let wait = looked_at.map_or(Duration::ZERO, |at| LOOK_EVERY.saturating_sub(at.elapsed()));
        if wanted.is_empty() {
            let Ok(number) = asked.recv() else { return };
            wanted.insert(number);
        } else if !wait.is_zero() {
            match asked.recv_timeout(wait) {
                Ok(number) => drop(wanted.insert(number)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        wanted.extend(asked.try_iter());
        if looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            continue;
        }
        looked_at = Some(Instant::now());
        let found = look_for(&wanted);
        wanted.clear();
        for record in found {
            if tell.send(record).is_err() {
                return;
            }
        }
    }
}

/// The paths of these cgroups, as records. What is gone, or not below a mounted cgroup v2, has none.
#[allow(clippy::implicit_hasher, reason = "integer keys are hashed with Fx throughout")]
pub fn of_cgroups(wanted: FxHashSet<u64>) -> Vec<Record> {
    let Some(root) = owners::cgroup_root() else { return Vec::new() };
    let ts = host::monotonic_now();
    let record = |(cgroup, path): (u64, PathBuf)| {
        let path = path.to_string_lossy().into_owned().into();
        Record::CgroupPath { ts, cgroup, path }
    };
    paths(Path::new(root), wanted).into_iter().map(record).collect()
}

fn look_for(wanted: &FxHashSet<Number>) -> Vec<Record> {
    let mut records = Vec::new();
    let cgroups: FxHashSet<u64> = wanted
        .iter()
        .filter_map(|number| if let Number::Cgroup(id) = number { Some(*id) } else { None })
        .collect();
    if !cgroups.is_empty() {
        records.extend(of_cgroups(cgroups));
    }
    if wanted.iter().any(|number| matches!(number, Number::Netns(_))) {
        for (name, netns) in netns::named().unwrap_or_default() {
            if wanted.contains(&Number::Netns(netns)) {
                records.push(Record::NetnsName { ts: host::monotonic_now(), netns, name: name.into() });
            }
        }
    }
    records
}

/// The paths below `root` of the cgroups with these ids: the inode numbers of their folders. Breadth
/// first, so that a bound cuts off the deepest.
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
            // One that has gone meanwhile has no folders.
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
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn folders_are_found_by_their_inode_numbers() {
        let root = std::env::temp_dir().join(format!("tcptrace-names-{}", std::process::id()));
        let deep = root.join("system.slice/nginx.service");
        std::fs::create_dir_all(&deep).expect("a folder");
        std::fs::write(root.join("cgroup.procs"), "").expect("a file");
        let inode = |path: &Path| path.metadata().expect("it is there").ino();
        let wanted = [inode(&deep), inode(&root), u64::MAX];
        let found = paths(&root, wanted.into_iter().collect());
        std::fs::remove_dir_all(&root).expect("our own folder");
        let expected = [(wanted[0], "/system.slice/nginx.service".into()), (wanted[1], "/".into())];
        assert_eq!(found, expected.into_iter().collect());
    }

    #[test]
    fn nothing_is_asked_for_twice() {
        let (ask, asked) = sync_channel(2);
        let (_tell, answers) = channel();
        let mut names = Names { known: FxHashSet::default(), last_cgroup: 0, last_netns: 0, ask, answers };
        for cgroup in [5, 6, 5, 0, 7, 7] {
            names.look_at_cgroup(cgroup);
        }
        // 7 found no room and is asked for when it is seen again after another.
        let received: Vec<_> = asked.try_iter().collect();
        assert_eq!(received, [Number::Cgroup(5), Number::Cgroup(6)]);
        names.look_at_cgroup(6);
        names.look_at_cgroup(7);
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), [Number::Cgroup(7)]);
        assert_eq!(names.found().count(), 0);
    }
}
