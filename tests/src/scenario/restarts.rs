//! Long-running recorders: restarted, killed, hung up, and with a full disk. Written data is not lost, and nothing in memory
//! is dropped while they run.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::recording::{MOST_MISSING_NS, RecorderProcess, SerialConnections, Starved, TempFolder};
use crate::clock::{WALL_OFFSET_NS, is_emulated, now_ns, soon, wait_for};
use crate::lab::Lab;
use crate::process::{KillOnDrop, StartChild as _};

/// How often a recorder is killed.
const KILLS: u64 = 10;

/// The files of a folder, by name.
fn files(folder: &TempFolder) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder.path)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort_unstable();
    Ok(files)
}

/// The number in the name of a file of a series.
fn number(file: &Path) -> Result<u64> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).context("a name")?;
    Ok(stem.rsplit_once('-').context("a number in the name")?.1.parse()?)
}

#[derive(Deserialize)]
struct RecordRow {
    ts_ns: u64,
    kind: String,
}

/// The rows of a recording.
fn rows(lab: &Lab, file: &Path) -> Result<Vec<RecordRow>> {
    let from = file.to_str().context("a path")?;
    let output = lab.run(&["export", "--raw", "--format", "jsonl", "-o", "-", from])?;
    ensure!(output.status.success(), "{from}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The time from the first row of a hook to the last.
fn span_ns(lab: &Lab, file: &Path) -> Result<u64> {
    let rows = rows(lab, file)?;
    let of_hooks = || rows.iter().filter(|row| row.kind == "transition").map(|row| row.ts_ns);
    Ok(of_hooks().max().zip(of_hooks().min()).map_or(0, |(last, first)| last - first))
}

/// A series that is recorded twice in one folder: the newest complete files stay, and no name is used twice.
pub fn series(lab: &Lab) -> Result<()> {
    lab.binary()?;
    let folder = TempFolder::new()?;
    let _traffic = SerialConnections::start()?;
    let mut highest = 0;
    for run in 1..=2 {
        let args = ["--rotate", "1s", "--keep", "3", "--duration", "6s"];
        let (status, stderr) = RecorderProcess::start(lab, &folder.file("a.tcptrace"), &args)?.wait()?;
        ensure!(status == Some(0), "run {run} ended with {status:?}: {stderr}");
        let files = files(&folder)?;
        let numbers = files.iter().map(|file| number(file)).collect::<Result<Vec<_>>>()?;
        ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "run {run}: {files:?}");
        let last = *numbers.last().context("files")?;
        // A file a second: six or seven, and no others between them.
        ensure!(files.len() == 3 && (highest + 3..=highest + 8).contains(&last), "run {run}: {files:?}");
        highest = last;
        let spans = files.iter().map(|file| span_ns(lab, file)).collect::<Result<Vec<_>>>()?;
        // Where traffic is slow there is a moment without a row at either end.
        ensure!(spans[..2].iter().all(|&span| span > 500_000_000), "run {run}: {spans:?} ns");
        println!("   restarts::series: run {run}: numbers {numbers:?}, {spans:?} ns");
    }
    Ok(())
}

/// A recorder that is killed and started again, ten times: each continues after the previous one, whose files do not
/// change, and each misses at most a second.
pub fn killed(lab: &Lab) -> Result<()> {
    lab.binary()?;
    let folder = TempFolder::of_size("1g")?;
    let _traffic = SerialConnections::start()?;
    let kills = if is_emulated() { 3 } else { KILLS };
    let mut before: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let mut missing = Vec::new();
    for kill in 0..kills {
        let recorder = RecorderProcess::start(lab, &folder.file("a.tcptrace"), &["--rotate", "1s"])?;
        // Some die in their first file, some in their second or third.
        let starved = Starved::watch(recorder.pid(), Duration::from_millis(300 + 100 * kill))?;
        let killed_ns = now_ns();
        recorder.signal(Signal::KILL)?;
        recorder.wait()?;
        let files: Vec<PathBuf> = files(&folder)?
            .into_iter()
            .filter(|file| file.extension().is_some_and(|end| end == "tcptrace"))
            .collect();
        for (file, bytes) in &before {
            ensure!(std::fs::read(file)? == *bytes, "{} was changed", file.display());
        }
        ensure!(files.len() > before.len(), "nothing was recorded");
        let last_ns = last_ns(lab, &files)?.saturating_sub(*WALL_OFFSET_NS);
        let (missing_ns, starved_ns) = (killed_ns.saturating_sub(last_ns), starved.since(last_ns));
        ensure!(
            missing_ns <= MOST_MISSING_NS + starved_ns,
            "kill {kill}: {missing_ns} ns are missing; it waited {starved_ns} ns of them for a CPU"
        );
        missing.push(missing_ns / 1_000_000);
        for file in files {
            if !before.contains_key(&file) {
                before.insert(file.clone(), std::fs::read(&file)?);
            }
        }
    }
    let numbers = before.keys().map(|file| number(file)).collect::<Result<Vec<_>>>()?;
    ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    println!("   restarts::killed: {kills} kills, {} files, missing {missing:?} ms", numbers.len());
    Ok(())
}

/// The time of the last row in all of them, by the wall clock: a file that was only begun has none.
fn last_ns(lab: &Lab, files: &[PathBuf]) -> Result<u64> {
    for file in files.iter().rev() {
        let rows = rows(lab, file)?;
        if let Some(last) = rows.iter().map(|row| row.ts_ns).max() {
            return Ok(last);
        }
    }
    bail!("nothing is in any of {files:?}");
}

/// A flight recorder whose disk is full reports and keeps unwritten records, and writes them when there is room.
pub fn full_disk(lab: &Lab) -> Result<()> {
    lab.binary()?;
    let folder = TempFolder::of_size("24m")?;
    let recorder = RecorderProcess::start(lab, &folder.file("a.tcptrace"), &["--last", "60s"])?;
    {
        let _traffic = SerialConnections::start()?;
        std::thread::sleep(Duration::from_secs(2));
    }
    let ballast = folder.file("ballast");
    let fill = || -> Result<()> {
        // As much as fits.
        let written = std::fs::write(&ballast, vec![1; 32 << 20]);
        ensure!(written.is_err(), "the disk is not full");
        Ok(())
    };
    let wait_for_words = |what, words: &str| {
        wait_for(what, soon(), || Ok(recorder.stderr().contains(words).then_some(())))
            .with_context(|| recorder.stderr())
    };
    fill()?;
    recorder.signal(Signal::USR1)?;
    wait_for_words("the refusal", "not written: ")?;
    wait_for_words("what is left", "still in memory")?;
    ensure!(recorder.stderr().contains("No space left on device"), "{}", recorder.stderr());
    std::fs::remove_file(&ballast)?;
    recorder.signal(Signal::USR1)?;
    wait_for_words("the dump", "records of")?;
    let dump = files(&folder)?.pop().context("a file")?;
    let stderr = recorder.stderr();
    let reported = stderr.lines().find(|line| line.contains("records of")).context("a line")?;
    let records = reported.split(": ").nth(2).and_then(|rest| rest.split(' ').next()).context("a number")?;
    let records: usize = records.replace(',', "").parse().with_context(|| reported.to_owned())?;
    ensure!(records > 1_000 && reported.contains(&*dump.to_string_lossy()), "{reported}");
    let output = lab.run(&["top", "--once", "--json", "--from", dump.to_str().context("a path")?])?;
    let summary = String::from_utf8_lossy(&output.stderr).replace(',', "");
    ensure!(
        output.status.success() && summary.contains(&format!("{records} records in")),
        "{summary}; {reported}"
    );
    // At the end nothing can be kept: the loss is reported.
    fill()?;
    recorder.signal(Signal::TERM)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(1), "it ended with {status:?}: {stderr}");
    ensure!(
        stderr.contains("in memory were not written to a file") && !stderr.contains(": 0 records"),
        "{stderr}"
    );
    std::fs::remove_file(&ballast)?;
    ensure!(files(&folder)? == [dump], "{:?}", files(&folder)?);
    Ok(())
}

/// Under `nohup` a recorder outlives its terminal; without it a hangup ends it as any signal does.
pub fn hangup(lab: &Lab) -> Result<()> {
    let folder = TempFolder::new()?;
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(lab.binary()?);
    let ignoring = RecorderProcess::start_as(&mut command, &folder.file("a.tcptrace"), &["--rotate", "1s"])?;
    ignoring.signal(Signal::HUP)?;
    let name = folder.file("a-0003.tcptrace");
    wait_for("more files", 3 * soon(), || Ok(name.exists().then_some(())))
        .with_context(|| ignoring.stderr())?;
    ignoring.signal(Signal::TERM)?;
    let (status, stderr) = ignoring.wait()?;
    ensure!(status == Some(0), "it ended with {status:?}: {stderr}");
    let mut command = Command::new(lab.binary()?);
    // SAFETY: between fork and exec signal() alone is called, which is async-signal-safe.
    unsafe {
        // These tests may run under `nohup` themselves.
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
    let recorder = RecorderProcess::start_as(&mut command, &folder.file("b.tcptrace"), &[])?;
    recorder.signal(Signal::HUP)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0) && stderr.contains("b.tcptrace: "), "it ended with {status:?}: {stderr}");
    Ok(())
}

/// A view that reads a named pipe which nobody writes to ends on the first signal.
pub fn pipe_without_a_writer(lab: &Lab) -> Result<()> {
    let folder = TempFolder::new()?;
    let pipe = folder.file("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600))?;
    for command in ["events", "top", "hist", "ports", "doctor"] {
        let child = Command::new(lab.binary()?)
            .arg(command)
            .arg("--from")
            .arg(&pipe)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .start()?;
        let mut child = KillOnDrop(child);
        // From then on it ends itself: the signal is caught.
        wait_for("SIGTERM to be caught", soon(), || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
            let caught = u64::from_str_radix(mask.trim(), 16)?;
            Ok((caught >> (Signal::TERM.as_raw() - 1) & 1 == 1).then_some(()))
        })?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let status = wait_for("the end", soon(), || Ok(child.try_wait()?)).with_context(|| command)?;
        ensure!(status.success(), "{command} ended with {status}");
    }
    Ok(())
}
