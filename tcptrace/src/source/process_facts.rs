//! Reads program, user and parents of a process from `/proc`.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use super::{users::Users, workload_names::WorkloadNames};
use crate::model::{
    cgroup,
    process::{ParentProcess, ProcessFacts},
    text,
};

/// Most parents listed.
const MAX_PARENTS: usize = 8;
/// Bytes of a command line that are read: its first words.
const MAX_COMMAND_BYTES: usize = 4 << 10;
/// Inode number of the initial pid namespace (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Programs whose name says nothing: the first word after them is the program.
const INTERPRETERS: [&str; 14] = [
    "python", "java", "node", "nodejs", "ruby", "perl", "php", "php-fpm", "bash", "sh", "dash", "lua",
    "dotnet", "deno",
];
/// Their options that take the next word as a value.
const WITH_VALUE: [&str; 9] =
    ["-cp", "-classpath", "--class-path", "-p", "--module-path", "-r", "-W", "-X", "-I"];
/// Their options whose value is code, no name.
const CODE: [&str; 5] = ["-c", "-e", "-E", "--eval", "-"];

/// Whether the pids of hooks, which are those of the initial pid namespace, are those of `/proc`.
pub fn sees_all_pids() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL_PID_NAMESPACE)
}

/// How names are read.
#[derive(Clone, Debug)]
pub struct NameOptions {
    /// Where the file system of the host is mounted.
    pub host_root: PathBuf,
    /// Whether the command lines of interpreters are read.
    pub commands: bool,
}

impl Default for NameOptions {
    fn default() -> Self {
        Self { host_root: "/".into(), commands: false }
    }
}

/// Reads facts about processes.
pub struct FactsReader {
    reads_commands: bool,
    pub(super) users: Users,
    /// Parents read in this round.
    parents: FxHashMap<u32, Option<(ParentProcess, u32)>>,
}

/// Fields of `/proc/PID/status`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    name: String,
    parent: u32,
    uid: Option<u32>,
}

impl FactsReader {
    /// A reader as the user wants it.
    pub fn new(options: &NameOptions) -> Self {
        Self {
            reads_commands: options.commands,
            users: Users::below(&options.host_root),
            parents: FxHashMap::default(),
        }
    }

    /// Begins a round: parents are read again.
    pub fn begin(&mut self) {
        self.parents.clear();
    }

    /// The facts about a process; `None` if it has ended.
    pub fn read(&mut self, pid: u32, workloads: &mut WorkloadNames) -> Option<ProcessFacts> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let status = status(&folder)?;
        let user = status.uid.and_then(|uid| self.users.name(uid).map(text::bounded));
        let facts = ProcessFacts {
            exe: exe(&folder),
            uid: status.uid,
            user,
            name: Some(text::bounded(&status.name)),
            command: if self.reads_commands { command(&folder) } else { None },
            parents: self.parents(status.parent),
            workload: self.version_1_workload(&folder, workloads),
            user_label: None,
        };
        Some(facts.labelled())
    }

    fn parents(&mut self, first: u32) -> Vec<ParentProcess> {
        let mut chain = Vec::new();
        let mut pid = first;
        while pid != 0 && chain.len() < MAX_PARENTS {
            let parent = self.parents.entry(pid).or_insert_with(|| {
                let status = status(Path::new(&format!("/proc/{pid}")))?;
                Some((ParentProcess { pid, comm: text::bounded(&status.name) }, status.parent))
            });
            let Some((parent, next)) = parent else { break };
            chain.push(parent.clone());
            pid = *next;
        }
        chain
    }

    /// The container of a process that only a hierarchy of cgroup v1 has.
    fn version_1_workload(
        &mut self,
        folder: &Path,
        workloads: &mut WorkloadNames,
    ) -> Option<Arc<crate::model::workload::Workload>> {
        let cgroups = std::fs::read_to_string(folder.join("cgroup")).ok()?;
        let path = only_in_version_1(&cgroups)?;
        workloads.find(path, &mut self.users).map(|found| Arc::new(found.workload))
    }
}

/// The path of the cgroup of a process: that with its container, else that of version 2.
pub(super) fn cgroup_path(pid: u32) -> Option<String> {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let version_2 = || cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    only_in_version_1(&cgroups).or_else(version_2).map(str::to_owned)
}

/// The first path of cgroup v1 with a container, unless the path of version 2 has one.
fn only_in_version_1(cgroups: &str) -> Option<&str> {
    let is_container = |path: &&str| cgroup::parse(path).container.is_some();
    let paths = || cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let version_2 = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    if version_2.is_some_and(|path| is_container(&path)) { None } else { paths().find(is_container) }
}

fn exe(folder: &Path) -> Option<Arc<str>> {
    let path = std::fs::read_link(folder.join("exe")).ok()?;
    let path = String::from_utf8_lossy(path.as_os_str().as_bytes());
    // An update has replaced the file (`d_path()`).
    Some(text::bounded(path.strip_suffix(" (deleted)").unwrap_or(&path)))
}

fn status(folder: &Path) -> Option<Status> {
    let status = std::fs::read(folder.join("status")).ok()?;
    Some(parse_status(&String::from_utf8_lossy(&status)))
}

fn parse_status(text: &str) -> Status {
    let mut status = Status::default();
    for line in text.lines() {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match field {
            "Name" => status.name = value.into(),
            "PPid" => status.parent = value.parse().unwrap_or(0),
            // Real, effective, saved, file system.
            "Uid" => {
                status.uid = value.split_ascii_whitespace().nth(1).and_then(|uid| uid.parse().ok());
                break;
            }
            _ => {}
        }
    }
    status
}

fn command(folder: &Path) -> Option<Arc<str>> {
    use std::io::Read as _;
    let file = std::fs::File::open(folder.join("cmdline")).ok()?;
    let mut words = Vec::new();
    file.take(MAX_COMMAND_BYTES as u64).read_to_end(&mut words).ok()?;
    let words = String::from_utf8_lossy(&words);
    let words: Vec<&str> = words.split('\0').filter(|word| !word.is_empty()).collect();
    first_word(&words).map(|name| text::bounded(&name))
}

/// `python3 /srv/app/worker.py` of an interpreter's words; `None` of any other program. Nothing else of the words is
/// kept: they may hold secrets.
fn first_word(words: &[&str]) -> Option<String> {
    let (program, mut rest) = words.split_first()?;
    let program = program.rsplit('/').next().unwrap_or(program);
    let plain = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !INTERPRETERS.contains(&plain) && !INTERPRETERS.contains(&program) {
        return None;
    }
    while let Some((word, after)) = rest.split_first() {
        if CODE.contains(word) {
            return None;
        }
        // `-m module` and `-jar file` have the name as their value.
        if !word.starts_with('-') {
            return Some(format!("{program} {word}"));
        }
        rest = if WITH_VALUE.contains(word) { after.get(1..).unwrap_or_default() } else { after };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_word_after_an_interpreter_is_kept() {
        for (line, expected) in [
            ("/usr/bin/python3 -u /srv/app/worker.py --token=secret", Some("python3 /srv/app/worker.py")),
            ("python3.11 -m gunicorn app", Some("python3.11 gunicorn")),
            (
                "java -Xmx1g -Dpassword=secret -cp a.jar:b.jar org.example.Main secret",
                Some("java org.example.Main"),
            ),
            ("/opt/jdk/bin/java -jar /srv/kafka.jar", Some("java /srv/kafka.jar")),
            ("node --inspect server.js", Some("node server.js")),
            ("python3 -c import(secret)", None),
            ("perl -e secret", None),
            ("bash", None),
            ("psql postgres://user:secret@host", None),
            ("", None),
        ] {
            let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
            assert_eq!(first_word(&words).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn a_status_has_name_parent_and_effective_user() {
        let text =
            "Name:\tphp-fpm: pool\nUmask:\t0022\nPPid:\t812\nTracerPid:\t0\nUid:\t0\t33\t33\t33\nGid:\t0\n";
        assert_eq!(parse_status(text), Status { name: "php-fpm: pool".into(), parent: 812, uid: Some(33) });
        assert_eq!(parse_status("nothing\nUid:\n"), Status::default());
    }

    #[test]
    fn a_container_of_version_1_is_found_if_version_2_has_none() {
        let id = "a".repeat(64);
        let version_1 = format!("4:memory:/docker/{id}\n1:name=systemd:/docker/{id}\n");
        assert_eq!(only_in_version_1(&format!("{version_1}0::/\n")), Some(&*format!("/docker/{id}")));
        assert_eq!(only_in_version_1(&format!("{version_1}0::/docker/{id}\n")), None);
        assert_eq!(only_in_version_1("4:memory:/x\n0::/system.slice/nginx.service\n"), None);
    }

    #[test]
    fn this_process_is_described() {
        let options = NameOptions::default();
        let mut reader = FactsReader::new(&options);
        let mut workloads = WorkloadNames::below(Path::new("/nonexistent"));
        let facts = reader.read(std::process::id(), &mut workloads).expect("it runs");
        let exe = std::env::current_exe().expect("its path");
        assert_eq!(facts.exe.as_deref(), exe.to_str());
        assert_eq!(facts.uid, Some(rustix::process::geteuid().as_raw()));
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
        assert_eq!(facts.parents.first().map(|parent| parent.pid), parent);
        assert_eq!(facts.command, None);
        assert_eq!(reader.read(u32::MAX, &mut workloads), None);
    }
}
