//! Recordings: contents against live output, and what remains readable after a kill or a full disk.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::clock::{WALL_OFFSET_NS, is_emulated, late, now_ns, soon, wait_for};
use crate::event::EventLine;
use crate::json_snapshots::decode;
use crate::kernel;
use crate::lab::{Lab, Skip};
use crate::pair::{ConnectedPair, IpFamily};
use crate::ports;
use crate::precision::Precision;
use crate::process::{KillOnDrop, StartChild as _};
use crate::{load, netns};
use tcptrace_common::state::TcpState::TimeWait;

/// How often a writer is killed, and how many write at a time.
fn kills() -> (usize, usize) {
    if is_emulated() { (4, 1) } else { (21, 3) }
}

/// The time that may be missing from a killed recording.
pub(super) const MOST_MISSING_NS: u64 = 1_000_000_000;

/// A folder, perhaps a mount, removed on drop.
pub struct TempFolder {
    /// Where it is.
    pub path: PathBuf,
    mounted: bool,
}

impl TempFolder {
    /// A new one.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tcptrace-recording-{}-{number}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self { path, mounted: false })
    }

    /// A disk of its own of this size.
    pub(super) fn of_size(size: &str) -> Result<Self> {
        let mut folder = Self::new()?;
        let options = format!("size={size}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&folder.path)
            .finish()?;
        if !mount.status.success() {
            return Err(
                Skip(format!("can't mount: {}", String::from_utf8_lossy(&mount.stderr).trim())).into()
            );
        }
        folder.mounted = true;
        Ok(folder)
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if self.mounted {
            Command::new("umount").arg(&self.path).finish().ok();
        }
        std::fs::remove_dir_all(&self.path).ok();
    }
}

/// A running `tcptrace record`, killed on drop.
pub struct RecorderProcess {
    child: KillOnDrop,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl RecorderProcess {
    /// Starts it and waits until it records.
    pub fn start(lab: &Lab, file: &Path, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(lab.binary()?);
        Self::start_as(&mut command, file, args)
    }

    /// The same as `command` starts it.
    pub(super) fn start_as(command: &mut Command, file: &Path, args: &[&str]) -> Result<Self> {
        let mut child = command
            .arg("record")
            .arg("-o")
            .arg(file)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .start()?;
        let lines = BufReader::new(child.stderr.take().context("its stderr")?).lines();
        let stderr = Arc::<Mutex<String>>::default();
        let shared = Arc::clone(&stderr);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Ok(mut text) = shared.lock() {
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        });
        let mut recorder = Self { child: KillOnDrop(child), stderr, reader: Some(reader) };
        let begun = wait_for("the recording to begin", 3 * soon(), || {
            ensure!(recorder.child.try_wait()?.is_none(), "it ended");
            let stderr = recorder.stderr();
            let has_begun = ["recording to", "keeping the last"].iter().any(|words| stderr.contains(words));
            Ok(has_begun.then_some(()))
        });
        begun.with_context(|| format!("stderr:\n    {}", recorder.stderr()))?;
        Ok(recorder)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its stderr so far.
    pub(super) fn stderr(&self) -> String {
        self.stderr.lock().map(|text| text.clone()).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits for its end: exit status and stderr.
    pub fn wait(mut self) -> Result<(Option<i32>, String)> {
        let status = wait_for("the recorder to end", 3 * soon(), || Ok(self.child.try_wait()?))?;
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
        Ok((status.code(), self.stderr()))
    }
}

/// Connections, one after the other, until it is dropped. No pauses: without traffic nothing is
/// recorded.
pub(super) struct SerialConnections {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl SerialConnections {
    pub(super) fn start() -> Result<Self> {
        netns::sysctl("ip_local_port_range", "1024 65535")?;
        let mut pair = load::LoopbackLoad::new(0)?;
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Some 80,000 records a second at the most: all of them are read again for each kill.
                (0..100).try_for_each(|_| pair.connect_and_close())?;
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for SerialConnections {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The parts of an event that are equal live and in a replay: ports, transition, end reason, and process.
type EventFacts = (u16, u16, String, Option<String>, Option<u32>);

/// The events with their exact dwells, sorted: live output and replay differ in order.
fn event_facts(events: impl IntoIterator<Item = EventLine>, netns: u32) -> Vec<(EventFacts, Option<u64>)> {
    let mut facts: Vec<(EventFacts, Option<u64>)> = events
        .into_iter()
        .filter(|event| event.netns == netns)
        .map(|event| {
            let step = format!("{:?}: {} -> {}", event.role, event.from.name(), event.to.name());
            let reason = event.end_reason.map(|reason| format!("{reason:?}"));
            let dwell_ns = event.dwell_ns.filter(|_| !event.inferred);
            ((event.sport, event.dport, step, reason, event.pid), dwell_ns)
        })
        .collect();
    facts.sort();
    facts
}

/// The lines that `args` print of `file`, and stderr.
fn read(lab: &Lab, file: &Path, args: &[&str]) -> Result<(Vec<String>, String)> {
    let path = file.to_str().context("a path")?;
    let output = lab.run(&[args, &["--from", path]].concat())?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{args:?} of the recording ended with {}: {stderr}", output.status);
    Ok((String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect(), stderr))
}

/// Recorded during a live trace: a replay gives the same events, and its counts are the kernel's.
pub fn same_as_live(lab: &Lab) -> Result<()> {
    netns::keep_time_wait()?;
    let folder = TempFolder::new()?;
    let file = folder.file("a.tcptrace");
    let recorder = RecorderProcess::start(lab, &file, &[])?;
    let tracer = lab.trace()?;
    for family in IpFamily::BOTH {
        for _ in 0..20 {
            let mut pair = ConnectedPair::open(family)?;
            pair.close_client_first()?;
        }
    }
    let ended = tracer.count(lab.netns(), 40, |event| event.to == TimeWait)?;
    if ended != 40 {
        let events = tracer.events(usize::MAX, |event| event.netns == lab.netns())?;
        let stderr = tracer.stop()?;
        bail!("{ended} of 40 went to TIME_WAIT: {stderr}\n{events:#?}");
    }
    // Where segments are not seen, both find TIME_WAIT by sweeps of FIN_WAIT2, each at a time of its own.
    let number = lab.netns().to_string();
    wait_for("40 TIME_WAIT in the recording", soon(), || {
        let (top, _) = read(lab, &file, &["top", "--once", "--json", "--netns", &number])?;
        let counts = states(top.first().context("a document")?)?;
        Ok((counts.get("TIME_WAIT") == Some(&40)).then_some(()))
    })?;
    recorder.signal(Signal::TERM)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0) && stderr.contains("a.tcptrace: "), "it ended with {status:?}: {stderr}");
    let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata()?);
    ensure!(mode & 0o777 == 0o600, "mode {mode:o}");

    let (lines, _) = read(lab, &file, &["events", "--json"])?;
    let replayed =
        lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<Vec<EventLine>, _>>()?;
    let replayed = event_facts(replayed, lab.netns());
    let live = event_facts(tracer.events(replayed.len(), |event| event.netns == lab.netns())?, lab.netns());
    tracer.stop()?;
    for (live, replayed) in live.iter().zip(&replayed) {
        ensure!(live.0 == replayed.0, "live {live:?}, in the recording {replayed:?}");
        // Each has its own programs, and the kernel runs one after the other.
        let apart = live.1.zip(replayed.1).map_or(0, |(live, replayed)| live.abs_diff(replayed));
        ensure!(u128::from(apart) < late().as_nanos(), "live {live:?}, in the recording {replayed:?}");
    }
    let (live, replayed) = (live.len(), replayed.len());
    // A listener's two steps, a client's five, a server's five.
    ensure!(live == replayed && live >= 40 * 12, "{live} events live, {replayed} in the recording");
    let (top, stderr) = read(lab, &file, &["top", "--once", "--json", "--netns", &number])?;
    let counts = states(top.first().context("a document")?)?;
    let kernel = kernel::count(TimeWait)?;
    ensure!(counts.get("TIME_WAIT") == Some(&kernel), "{counts:?} in the recording, {kernel} in the kernel");
    ensure!(!stderr.contains("missing"), "{stderr}");
    let (states_now, _) = read(lab, &file, &["states", "--json", "--netns", &number])?;
    // They leave out different states in which there is nothing.
    let mut counts_now = states(&states_now.concat())?;
    counts_now.retain(|state, _| counts.contains_key(state));
    ensure!(counts_now == counts, "{counts_now:?} by states, {counts:?} by top");
    let (ports, _) = read(lab, &file, &["ports", "--json", "--netns", &number])?;
    let ports = decode::<ports::PortsDocument>(ports.first().context("a document")?)?.destinations;
    let used: u64 = ports.iter().map(|row| row.used).sum();
    ensure!(used == 40 && ports.iter().all(|row| row.available.is_some()), "of 40 ports: {ports:?}");
    Ok(())
}

fn states(document: &str) -> Result<BTreeMap<String, usize>> {
    #[derive(Deserialize)]
    struct StatesDocument {
        states: Vec<StateCount>,
    }
    #[derive(Deserialize)]
    struct StateCount {
        state: String,
        count: usize,
    }
    let document: StatesDocument = serde_json::from_str(document)?;
    Ok(document.states.into_iter().map(|state| (state.state, state.count)).collect())
}

/// `kill -9` in the middle of heavy recording, at many moments: every file opens, at most a second is missing, and the
/// reader reports it.
pub fn killed(lab: &Lab) -> Result<()> {
    lab.binary()?;
    // The disk's latency is not the recorder's fault.
    let folder = TempFolder::of_size("1g")?;
    let _traffic = SerialConnections::start()?;
    let (kills, at_once) = kills();
    let (mut measured, mut rows) = (Vec::new(), 0);
    for round in 0..kills / at_once {
        let recorders: Vec<(PathBuf, RecorderProcess)> = (0..at_once)
            .map(|n| {
                let file = folder.file(&format!("{round}-{n}.tcptrace"));
                Ok((file.clone(), RecorderProcess::start(lab, &file, &[])?))
            })
            .collect::<Result<_>>()?;
        for (file, recorder) in recorders {
            // Past what came while the sockets of the beginning were written; then anywhere in the time that some batches
            // take: no two moments are the same.
            let lifetime = Duration::from_micros(300_000 + now_ns() % 700_000);
            let starved = Starved::watch(recorder.pid(), lifetime)?;
            // Not later than it dies: what comes between is this thread's own delay.
            let killed_ns = now_ns();
            recorder.signal(Signal::KILL)?;
            recorder.wait()?;
            let left = left(lab, &file).with_context(|| format!("{}", file.display()))?;
            let last_ns = left.last_ns - *WALL_OFFSET_NS;
            let missing_ns = killed_ns.saturating_sub(last_ns);
            let starved_ns = starved.since(last_ns);
            ensure!(
                missing_ns <= MOST_MISSING_NS + starved_ns,
                "{} ms are missing; it waited {} ms of them for a CPU",
                missing_ns / 1_000_000,
                starved_ns / 1_000_000
            );
            measured.push((missing_ns / 1_000_000, starved_ns / 1_000_000));
            rows += left.rows;
            std::fs::remove_file(&file)?;
        }
    }
    measured.sort_unstable();
    let (median, most) = (measured[measured.len() / 2].0, measured[measured.len() - 1]);
    println!(
        "   recording::killed: {} kills, {rows} rows left, missing: median {median} ms, most {} ms (of them {} ms \
         without a CPU)",
        measured.len(),
        most.0,
        most.1
    );
    Ok(())
}

/// Run queue delay of the threads that handle records, as the kernel counts it: time that other load takes is not
/// their fault.
pub(super) struct Starved {
    /// Time of the sample, and the total until then.
    samples: Vec<(u64, u64)>,
}

impl Starved {
    /// Names of the threads.
    const THREADS: [&str; 2] = ["pipeline", "recorder"];

    /// Samples for this long.
    pub(super) fn watch(pid: u32, length: Duration) -> Result<Self> {
        let end_ns = now_ns() + length.as_nanos() as u64;
        let mut samples = Vec::new();
        loop {
            samples.push((now_ns(), Self::query(pid)?));
            if now_ns() >= end_ns {
                return Ok(Self { samples });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn query(pid: u32) -> Result<u64> {
        let mut waited_ns = 0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // The thread may have ended since it was listed.
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            if Self::THREADS.contains(&name.trim_end()) {
                // Time on the CPU, run queue delay, number of time slices; zero on kernels that do not count.
                let counts = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
                waited_ns += counts.split(' ').nth(1).map_or(Ok(0), str::parse)?;
            }
        }
        Ok(waited_ns)
    }

    /// How long since `ts_ns`.
    pub(super) fn since(&self, ts_ns: u64) -> u64 {
        let at = self.samples.partition_point(|&(asked_ns, _)| asked_ns <= ts_ns);
        let before = self.samples.get(at.saturating_sub(1)).map_or(0, |&(_, waited_ns)| waited_ns);
        self.samples.last().map_or(0, |&(_, waited_ns)| waited_ns - before)
    }
}

/// The readable part of a cut recording.
struct RemainingRecords {
    rows: usize,
    /// The time of the last row, by the wall clock.
    last_ns: u64,
}

/// Reads a recording that was cut off; the reader must report that.
fn left(lab: &Lab, file: &Path) -> Result<RemainingRecords> {
    #[derive(Deserialize)]
    struct RecordLine {
        ts_ns: u64,
    }
    let table = file.with_extension("jsonl");
    let (from, to) = (file.to_str().context("a path")?, table.to_str().context("a path")?);
    let output = lab.run(&["export", from, "--raw", "-o", to])?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{stderr}");
    let rows = std::fs::read_to_string(&table)?;
    std::fs::remove_file(&table)?;
    let reported = ["was not closed", "in the middle of a batch"].iter().any(|words| stderr.contains(words));
    ensure!(reported && stderr.contains("last second"), "the reader does not report it: {stderr}");
    let Some(last) = rows.lines().last() else { bail!("nothing is in it: {stderr}") };
    let last: RecordLine = serde_json::from_str(last)?;
    Ok(RemainingRecords { rows: rows.lines().count(), last_ns: last.ts_ns })
}

/// A disk that is full ends the recording; what is in the file can be read.
pub fn full_disk(lab: &Lab) -> Result<()> {
    lab.binary()?;
    let folder = TempFolder::of_size("1500k")?;
    let file = folder.file("a.tcptrace");
    let recorder = RecorderProcess::start(lab, &file, &[])?;
    let _traffic = SerialConnections::start()?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(1), "it ended with {status:?}: {stderr}");
    ensure!(stderr.contains("No space left on device") && stderr.contains("can be read"), "{stderr}");
    let (top, stderr) = read(lab, &file, &["top", "--once", "--json"])?;
    states(top.first().context("a document")?)?;
    ensure!(stderr.contains("records in"), "{stderr}");
    Ok(())
}

/// Each file of a series is complete by itself: the last one has the sockets that the kernel has now.
pub fn series(lab: &Lab) -> Result<()> {
    let folder = TempFolder::new()?;
    let file = folder.file("a.tcptrace");
    let recorder = RecorderProcess::start(lab, &file, &["--rotate", "1s", "--keep", "2"])?;
    {
        let _traffic = SerialConnections::start()?;
        wait_for("a third file", 3 * soon(), || Ok(folder.file("a-0003.tcptrace").exists().then_some(())))?;
    }
    recorder.signal(Signal::INT)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0), "it ended with {status:?}: {stderr}");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder.path)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort_unstable();
    ensure!(files.len() == 2, "{files:?}");
    let number = lab.netns().to_string();
    let (top, _) = read(lab, &files[1], &["top", "--once", "--json", "--netns", &number])?;
    let counts = states(top.first().context("a document")?)?;
    let kernel = kernel::count(TimeWait)?;
    let of = |state| counts.get(state).copied().unwrap_or_default();
    let reported = match Precision::of(lab.binary()?)? {
        Precision::Segments => of("TIME_WAIT"),
        // Timewait sockets that left FIN_WAIT2 since the last sweep are still counted there.
        Precision::Timers => of("TIME_WAIT") + of("FIN_WAIT2"),
    };
    ensure!(reported == kernel, "{counts:?} in the last file, {kernel} TIME_WAIT in the kernel");
    // Both files as one, and the folder: the end is the same.
    let paths = [&files[0], &files[1], &folder.path].map(|path| path.to_str().unwrap_or_default());
    for from in [&["--from", paths[1], "--from", paths[0]][..], &["--from", paths[2]]] {
        let output = lab.run(&[&["top", "--once", "--json", "--netns", &number], from].concat())?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && !stderr.contains("not read"), "{from:?}: {stderr}");
        let both = states(std::str::from_utf8(&output.stdout)?.trim_end())?;
        ensure!(both == counts, "{both:?} in both files, {counts:?} in the last one");
    }
    Ok(())
}
