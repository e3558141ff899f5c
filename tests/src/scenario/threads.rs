//! The capabilities of every thread of every command: the sets in `/proc` against a table by thread name.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::clock::{soon, wait_for};
use crate::kernel;
use crate::lab::{Lab, Skip};
use crate::process::{KillOnDrop, StartChild as _};
use crate::scenario::recording::TempFolder;
use crate::terminal::TestTerminal;
use crate::tracer::TracerFormat;

const fn bit(number: u64) -> u64 {
    1 << number
}

const BPF: u64 = bit(39);
/// `CAP_SYS_ADMIN`, `CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH`: to inspect namespaces and processes.
const INSPECTING: u64 = bit(21) | bit(19) | bit(2);
/// Also `CAP_NET_ADMIN`, to list connection tracking entries.
const CONNTRACK: u64 = INSPECTING | bit(12);
/// `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`: to write files.
const FILES: u64 = bit(1) | bit(2);

/// The capabilities of a thread once its command runs. The first is the main thread.
const MAY_HOLD: [(&str, u64); 18] = [
    ("tcptrace", 0),
    ("pipeline", 0),
    ("signals", 0),
    ("output", 0),
    ("screen", 0),
    ("replay", 0),
    ("export", 0),
    ("report", 0),
    ("tokio-rt-worker", 0),
    ("seed", INSPECTING),
    ("sweep", INSPECTING),
    ("names", INSPECTING),
    ("settings", INSPECTING),
    ("conntrack", CONNTRACK),
    ("bound_ports", INSPECTING),
    ("stacks", INSPECTING),
    ("recorder", FILES),
    ("hlog", FILES),
];
/// Threads that visit namespaces live for a moment, and are the threads' that start them.
const VISITOR: (&str, u64) = ("netns", CONNTRACK);

/// A recording of 41 connections with every kind of row.
const RECORDING: &[u8] = include_bytes!("../../fixtures/session-v1.tcptrace");
/// The mark at its end, without which a reader waits for more.
const END_BYTES: usize = 8;

/// One thread.
#[derive(Clone, Debug)]
struct Thread {
    name: String,
    /// All sets together: permitted, effective, inheritable and ambient.
    holds: u64,
    /// A program that it starts may have more.
    may_get_more: bool,
}

/// The threads of a process; one that ends meanwhile is left out.
fn threads(pid: u32) -> Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("it has ended")? {
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let name = field("Name:").context("a name")?.to_owned();
        let may_get_more = field("NoNewPrivs:") != Some("1");
        let mut holds = 0;
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            holds |= u64::from_str_radix(field(set).context("capabilities")?, 16)?;
        }
        threads.push(Thread { name, holds, may_get_more });
    }
    Ok(threads)
}

/// Descriptions of threads with too many capabilities. `main` is the set that the first thread may have.
fn faults(threads: &[Thread], main: u64) -> Vec<String> {
    let pipeline = if reads_counters_without_bpf() { 0 } else { BPF };
    let allowed = |name: &str| match name {
        "tcptrace" => Some(main),
        "pipeline" => Some(pipeline),
        name => MAY_HOLD.iter().chain([&VISITOR]).find(|(known, _)| *known == name).map(|(_, mask)| *mask),
    };
    let fault = |thread: &Thread| match allowed(&thread.name) {
        None => Some(format!("{} is not in the table and holds {:x}", thread.name, thread.holds)),
        Some(mask) if thread.holds & !mask != 0 => {
            Some(format!("{} holds {:x}, may hold {mask:x}", thread.name, thread.holds))
        }
        Some(_) if thread.may_get_more => Some(format!("{} may get new privileges", thread.name)),
        Some(_) => None,
    };
    threads.iter().filter_map(fault).collect()
}

/// Whether this kernel lets a thread read open maps without `CAP_BPF` under any settings (5.19).
fn reads_counters_without_bpf() -> bool {
    kernel::version() >= (5, 19)
}

/// Waits until the process has these threads, and none of its threads more than it may.
fn check(pid: u32, what: &str, wanted: &[&str], main: u64) -> Result<Vec<Thread>> {
    let mut last = String::new();
    let settled =
        wait_for(&format!("{what} to have its threads, each with what it may hold"), soon(), || {
            let threads = threads(pid)?;
            let missing: Vec<_> =
                wanted.iter().filter(|name| !threads.iter().any(|thread| thread.name == **name)).collect();
            let faults = faults(&threads, main);
            if missing.is_empty() && faults.is_empty() {
                return Ok(Some(threads));
            }
            last = format!("missing: {missing:?}; {}", faults.join("; "));
            Ok(None)
        });
    settled.with_context(|| last)
}

fn start(lab: &Lab, args: &[&str]) -> Result<KillOnDrop> {
    let mut command = Command::new(lab.binary()?);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(KillOnDrop(command.start()?))
}

/// Skips if there is no capability to drop.
fn needs_root() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap_or_default().trim();
    let permitted = u64::from_str_radix(permitted, 16)?;
    if permitted & (INSPECTING | FILES | BPF) != INSPECTING | FILES | BPF {
        bail!(Skip("this user has no capabilities that could be given up".into()));
    }
    Ok(())
}

/// Every command that traces. Threads that inspect processes keep those capabilities, all others none.
pub fn of_live_commands(lab: &Lab) -> Result<()> {
    needs_root()?;
    // Skips if tracing does not work here.
    let number = lab.netns().to_string();
    lab.trace_with(&["events", "--format", "json", "--netns", &number], TracerFormat::Json)?.finish()?;
    let folder = TempFolder::new()?;
    let path = |name: &str| folder.file(name).to_string_lossy().into_owned();
    let (log, recording) = (path("a.hlog"), path("a.tcptrace"));
    let can_inspect = ["tcptrace", "pipeline", "signals", "sweep", "names", "settings"];
    let commands: [(&[&str], &[&str], u64); 9] = [
        (&["top", "--json", "--batch", "1000000"], &["seed"], 0),
        (&["events"], &["output"], 0),
        (&["hist", "--json"], &[], 0),
        (&["hist", "--hlog", &log], &["hlog"], 0),
        (&["ports", "--duration", "1h"], &["conntrack"], 0),
        (&["stacks", "--duration", "1h"], &["stacks"], 0),
        (&["doctor", "--for", "1h"], &["seed", "conntrack"], 0),
        (&["record", "-o", &recording], &["seed", "conntrack", "recorder"], 0),
        (&["serve", "--listen", "127.0.0.1:0"], &[], 0),
    ];
    for (args, more, main) in commands {
        let process = start(lab, args)?;
        // The seed's thread ends if nothing is watched.
        let more = more.iter().filter(|name| **name != "seed" || matches!(args[0], "doctor" | "record"));
        let wanted: Vec<_> = can_inspect.iter().chain(more).copied().collect();
        let threads = check(process.0.id(), &args.join(" "), &wanted, main)?;
        let can_inspect = threads.iter().any(|thread| thread.holds & INSPECTING == INSPECTING);
        ensure!(can_inspect, "{args:?}: nothing can look any more: {threads:?}");
    }
    let mut terminal = TestTerminal::start(lab.binary()?, &["top"], (120, 40))?;
    let pid = descendant(terminal.pid(), "tcptrace")?;
    check(pid, "the screen", &["screen", "pipeline"], 0)?;
    terminal.screen()?;
    drop(terminal);
    ends(pid)
}

/// Every command that reads recordings: only threads without capabilities read them.
pub fn of_readers(lab: &Lab) -> Result<()> {
    needs_root()?;
    let folder = TempFolder::new()?;
    let path = |name: &str| folder.file(name).to_string_lossy().into_owned();
    let (whole, table, raw, page) = (path("whole"), path("a.csv"), path("b.csv"), path("a.html"));
    let log = path("a.hlog");
    fs::write(&whole, RECORDING)?;
    let fifo = path("fifo");
    let commands: [(&[&str], &[&str], u64); 15] = [
        (&["top", "--json", "--from", &fifo], &["pipeline"], 0),
        (&["events", "--from", &fifo], &["pipeline"], 0),
        (&["hist", "--from", &fifo], &["pipeline"], 0),
        (&["hist", "--from", &fifo, "--hlog", &log], &["pipeline", "hlog"], 0),
        (&["ports", "--from", &fifo], &["pipeline"], 0),
        (&["doctor", "--from", &fifo], &["pipeline"], 0),
        (&["states", "--from", &fifo], &["tcptrace"], 0),
        (&["diff", &fifo, &whole], &["tcptrace"], 0),
        (&["diff", &whole, &fifo], &["tcptrace"], 0),
        (&["export", &fifo, "-o", &table], &["export"], FILES),
        (&["export", &fifo, "--raw", "-o", &raw], &["export"], FILES),
        (&["report", &fifo, "-o", &page], &["report"], FILES),
        (&["report", &fifo, "--json"], &["report"], FILES),
        // Read ahead, for the name.
        (&["events", "--from", &fifo, "--netns", "recfix"], &["names"], FILES),
        (&["states", "--from", &fifo, "--netns", "recfix"], &["names"], FILES),
    ];
    for (args, wanted, main) in commands {
        let mut pipe = Fifo::new(&folder.file("fifo"))?;
        let process = start(lab, args)?;
        let pid = process.0.id();
        // `names` inspects nothing here.
        let is_bare = |threads: &[Thread]| !threads.iter().any(|t| t.name == "names" && t.holds != 0);
        // Before the header, and with all but the end.
        let threads = check(pid, &format!("{args:?} without a header"), wanted, main)?;
        ensure!(is_bare(&threads), "{args:?}: {threads:?}");
        pipe.write(&RECORDING[..RECORDING.len() - END_BYTES])?;
        let threads = check(pid, &format!("{args:?} with records"), wanted, main)?;
        ensure!(is_bare(&threads), "{args:?}: {threads:?}");
    }
    let mut terminal = TestTerminal::start(lab.binary()?, &["replay", &whole], (120, 40))?;
    let pid = descendant(terminal.pid(), "tcptrace")?;
    check(pid, "replay", &["screen", "replay"], 0)?;
    terminal.screen()?;
    drop(terminal);
    ends(pid)
}

/// Waits until the process has ended, after its terminal closed.
fn ends(pid: u32) -> Result<()> {
    wait_for("the screen to end with its terminal", soon(), || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_over = stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'));
        Ok(is_over.then_some(()))
    })
}

/// A FIFO with a writer, removed on drop.
struct Fifo {
    path: PathBuf,
    writer: File,
}

impl Fifo {
    fn new(path: &Path) -> Result<Self> {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).context("a FIFO")?;
        // For both: it does not wait for a reader, and what is written stays until one comes.
        let writer = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { path: path.to_owned(), writer })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        ensure!(bytes.len() < 64 << 10, "more than a pipe holds");
        Ok(self.writer.write_all(bytes)?)
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

/// The process called `name` that `ancestor` or one of its children has started.
fn descendant(ancestor: u32, name: &str) -> Result<u32> {
    wait_for(&format!("{name} to start"), soon(), || {
        let mut children: Vec<(u32, u32, String)> = Vec::new();
        for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let Some((head, rest)) = stat.rsplit_once(')') else { continue };
            let parent = rest.split_whitespace().nth(1).and_then(|parent| parent.parse().ok());
            let comm = head.split_once('(').map_or("", |(_, comm)| comm);
            children.extend(parent.map(|parent| (pid, parent, comm.to_owned())));
        }
        let mut family = vec![ancestor];
        while let Some(of) = family.pop() {
            for (pid, _, comm) in children.iter().filter(|(_, parent, _)| *parent == of) {
                if comm == name {
                    return Ok(Some(*pid));
                }
                family.push(*pid);
            }
        }
        Ok(None)
    })
}
