//! A running tracer: starts it, measures its process and its BPF programs, stops it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command;

/// How the start of tracing is detected.
#[derive(Clone, Copy)]
pub enum ReadySignal {
    /// Text on stderr.
    Stderr(&'static str),
    /// Its first output.
    Stdout,
    /// A new BPF program in the kernel, for a tracer that buffers its output.
    Attached,
}

/// Time limit of its start, and of its end.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A process whose output goes to files.
pub struct MeasuredTracer {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// BPF programs that were loaded before.
    others: Vec<u64>,
}

/// CPU and memory of the process since it started.
#[derive(Clone, Copy, Debug)]
pub struct ProcessCost {
    /// In user space and in system calls.
    pub cpu_ns: u64,
    pub resident_peak_bytes: u64,
}

impl ProcessCost {
    pub const fn since(&self, before: &Self) -> Self {
        Self { cpu_ns: self.cpu_ns - before.cpu_ns, resident_peak_bytes: self.resident_peak_bytes }
    }
}

/// The kernel's counts of its BPF programs, with the time of counting.
#[derive(Clone, Copy, Debug)]
pub struct BpfRunTime {
    pub ns: u64,
    pub runs: u64,
}

impl BpfRunTime {
    pub const fn since(&self, before: &Self) -> Self {
        Self { ns: self.ns - before.ns, runs: self.runs - before.runs }
    }
}

impl MeasuredTracer {
    pub fn start(mut command: Command, ready: ReadySignal, folder: &Path) -> Result<Self> {
        let (stdout, stderr) = (folder.join("stdout"), folder.join("stderr"));
        let others = programs()?.iter().map(|program| program.id).collect();
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .spawn()
            .context("cannot start the tracer")?;
        let mut tracer = Self { child, stdout, stderr, others };
        let begun = Instant::now();
        loop {
            let is_ready = match ready {
                ReadySignal::Stderr(word) => fs::read_to_string(&tracer.stderr)?.contains(word),
                ReadySignal::Stdout => fs::metadata(&tracer.stdout)?.len() > 0,
                ReadySignal::Attached => !tracer.own_programs()?.is_empty(),
            };
            if is_ready {
                return Ok(tracer);
            }
            if let Some(status) = tracer.child.try_wait()? {
                bail!("the tracer ended, {status}: {}", fs::read_to_string(&tracer.stderr)?);
            }
            ensure!(begun.elapsed() < TIMEOUT, "the tracer is not ready after {TIMEOUT:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn spent(&self) -> Result<ProcessCost> {
        let pid = self.child.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let after_name = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
        // Fields 14 and 15; the name is the second.
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse()?;
        Ok(ProcessCost {
            // USER_HZ is 100 on every machine that tcptrace runs on.
            cpu_ns: ticks * 10_000_000,
            resident_peak_bytes: kib * 1024,
        })
    }

    pub fn in_kernel(&self) -> Result<BpfRunTime> {
        let own = self.own_programs()?;
        Ok(BpfRunTime {
            ns: own.iter().map(|program| program.run_time_ns).sum(),
            runs: own.iter().map(|program| program.run_cnt).sum(),
        })
    }

    fn own_programs(&self) -> Result<Vec<BpfProgram>> {
        Ok(programs()?.into_iter().filter(|program| !self.others.contains(&program.id)).collect())
    }

    /// Sends SIGINT and waits for its end.
    pub fn end(mut self) -> Result<TracerOutput> {
        let pid = self.child.id().to_string();
        command::output(Command::new("kill").args(["-INT", &pid]))?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(begun.elapsed() < TIMEOUT, "the tracer does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(TracerOutput { stdout: self.stdout.clone(), stderr: fs::read_to_string(&self.stderr)? })
    }
}

impl Drop for MeasuredTracer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The output of a tracer that ended.
pub struct TracerOutput {
    stdout: PathBuf,
    stderr: String,
}

impl TracerOutput {
    /// `tcptrace: 1,234 records in 2.95s; nothing lost`: state changes and more.
    pub fn summary_records(&self) -> Result<u64> {
        number_next_to(self.summary()?, "records", NumberPosition::Before)
    }

    /// `...; lost 1,204: ring full 1,200, healed 4`.
    pub fn summary_lost(&self) -> Result<u64> {
        let summary = self.summary()?;
        if summary.contains("; lost ") {
            number_next_to(summary, "lost", NumberPosition::After)
        } else {
            Ok(0)
        }
    }

    fn summary(&self) -> Result<&str> {
        let summary = self.stderr.lines().rev().find(|line| line.contains(" records in "));
        summary.with_context(|| format!("no summary: {}", self.stderr))
    }

    pub fn lines(&self) -> Result<u64> {
        Ok(BufReader::new(File::open(&self.stdout)?).split(b'\n').count() as u64)
    }

    /// The sum of bpftrace's `@[KEY]: COUNT`.
    pub fn counts(&self) -> Result<u64> {
        let output = fs::read_to_string(&self.stdout)?;
        let count = |line: &str| line.strip_prefix("@[")?.split_once("]: ")?.1.parse::<u64>().ok();
        Ok(output.lines().filter_map(count).sum())
    }
}

/// The position of a number relative to a word.
#[derive(Clone, Copy)]
enum NumberPosition {
    Before,
    After,
}

/// The number before or after `word` in `text`, with thousands separators.
fn number_next_to(text: &str, word: &str, beside: NumberPosition) -> Result<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let found = words.windows(2).find_map(|pair| match beside {
        NumberPosition::Before => (pair[1] == word).then_some(pair[0]),
        NumberPosition::After => (pair[0] == word).then_some(pair[1]),
    });
    let digits: String = found.unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("no number next to '{word}': {text}"))
}

struct BpfProgram {
    id: u64,
    run_time_ns: u64,
    run_cnt: u64,
}

/// Every eBPF program of the host.
fn programs() -> Result<Vec<BpfProgram>> {
    let shown: serde_json::Value =
        serde_json::from_str(&command::output(Command::new("bpftool").args(["--json", "prog", "show"]))?)?;
    let programs = shown.as_array().context("bpftool's answer")?;
    let counter = |program: &serde_json::Value, name| program[name].as_u64().unwrap_or(0);
    Ok(programs
        .iter()
        .filter_map(|program| {
            Some(BpfProgram {
                id: program["id"].as_u64()?,
                run_time_ns: counter(program, "run_time_ns"),
                run_cnt: counter(program, "run_cnt"),
            })
        })
        .collect())
}

/// While this exists, the kernel counts the time of BPF programs.
pub struct BpfStats {
    before: String,
}

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl BpfStats {
    pub fn on() -> Result<Self> {
        let before = fs::read_to_string(STATS)?;
        fs::write(STATS, "1").context(STATS)?;
        Ok(Self { before })
    }
}

impl Drop for BpfStats {
    fn drop(&mut self) {
        fs::write(STATS, &self.before).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_summary() {
        let ended = |stderr: &str| TracerOutput { stdout: PathBuf::new(), stderr: stderr.into() };
        let all = ended("tracing\ntcptrace: 1,234,567 records in 2.95s; nothing lost\n");
        assert_eq!((all.summary_records().unwrap(), all.summary_lost().unwrap()), (1_234_567, 0));
        let some = ended(
            "tcptrace: 12 records in 1s; lost 1,204: ring full 1,200, healed 4\ntcptrace: a: 11 records of 1s\n",
        );
        assert_eq!((some.summary_records().unwrap(), some.summary_lost().unwrap()), (12, 1_204));
        assert!(ended("killed\n").summary_records().is_err());
    }
}
