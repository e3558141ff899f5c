//! A tracer at work: started, watched from outside, ended.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command;

/// How it shows that it traces.
#[derive(Clone, Copy)]
pub enum Ready {
    /// A word on stderr.
    Stderr(&'static str),
    /// Its first output.
    Stdout,
    /// A program of its own in the kernel: it keeps its output back.
    Attached,
}

/// How long it may take until it traces.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process whose output goes to files.
pub struct Tracer {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Programs in the kernel that were there before.
    others: Vec<u64>,
}

/// CPU and memory of the process since it started.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// In user space and in system calls.
    pub cpu_ns: u64,
    pub resident_peak_bytes: u64,
}

impl Spent {
    pub const fn since(&self, before: &Self) -> Self {
        Self { cpu_ns: self.cpu_ns - before.cpu_ns, resident_peak_bytes: self.resident_peak_bytes }
    }
}

/// Its programs in the kernel, by the kernel's own count, counting included.
#[derive(Clone, Copy, Debug)]
pub struct InKernel {
    pub ns: u64,
    pub runs: u64,
}

impl InKernel {
    pub const fn since(&self, before: &Self) -> Self {
        Self { ns: self.ns - before.ns, runs: self.runs - before.runs }
    }
}

impl Tracer {
    pub fn start(mut command: Command, ready: Ready, folder: &Path) -> Result<Self> {
        let (stdout, stderr) = (folder.join("stdout"), folder.join("stderr"));
        let others = programs()?.iter().map(|program| program.id).collect();
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .spawn()
            .context("cannot start it")?;
        let mut tracer = Self { child, stdout, stderr, others };
        let begun = Instant::now();
        loop {
            let is_ready = match ready {
                Ready::Stderr(word) => fs::read_to_string(&tracer.stderr)?.contains(word),
                Ready::Stdout => fs::metadata(&tracer.stdout)?.len() > 0,
                Ready::Attached => !tracer.own_programs()?.is_empty(),
            };
            if is_ready {
                return Ok(tracer);
            }
            if let Some(status) = tracer.child.try_wait()? {
                bail!("it ended, {status}: {}", fs::read_to_string(&tracer.stderr)?);
            }
            ensure!(begun.elapsed() < PATIENCE, "it does not trace after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn spent(&self) -> Result<Spent> {
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
        Ok(Spent {
            // USER_HZ is 100 on every machine that tcptrace runs on.
            cpu_ns: ticks * 10_000_000,
            resident_peak_bytes: kib * 1024,
        })
    }

    pub fn in_kernel(&self) -> Result<InKernel> {
        let own = self.own_programs()?;
        Ok(InKernel {
            ns: own.iter().map(|program| program.run_time_ns).sum(),
            runs: own.iter().map(|program| program.run_cnt).sum(),
        })
    }

    fn own_programs(&self) -> Result<Vec<Program>> {
        Ok(programs()?.into_iter().filter(|program| !self.others.contains(&program.id)).collect())
    }

    /// Asks it to end, and waits.
    pub fn end(mut self) -> Result<Ended> {
        let pid = self.child.id().to_string();
        command::output(Command::new("kill").args(["-INT", &pid]))?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Ended { stdout: self.stdout.clone(), stderr: fs::read_to_string(&self.stderr)? })
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What it left.
pub struct Ended {
    stdout: PathBuf,
    stderr: String,
}

impl Ended {
    /// `tcptrace: 1,234 records in 2.95s; nothing lost`: state changes and more.
    pub fn summary_records(&self) -> Result<u64> {
        number_beside(self.summary()?, "records", Beside::Before)
    }

    /// `...; lost 1,204: ring full 1,200, healed 4`.
    pub fn summary_lost(&self) -> Result<u64> {
        let summary = self.summary()?;
        if summary.contains("; lost ") { number_beside(summary, "lost", Beside::Behind) } else { Ok(0) }
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

/// Where a number stands.
#[derive(Clone, Copy)]
enum Beside {
    Before,
    Behind,
}

/// The number before or behind `word` in `text`, its thousands apart.
fn number_beside(text: &str, word: &str, beside: Beside) -> Result<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let found = words.windows(2).find_map(|pair| match beside {
        Beside::Before => (pair[1] == word).then_some(pair[0]),
        Beside::Behind => (pair[0] == word).then_some(pair[1]),
    });
    let digits: String = found.unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("no number beside '{word}': {text}"))
}

struct Program {
    id: u64,
    run_time_ns: u64,
    run_cnt: u64,
}

/// Every eBPF program of the host.
fn programs() -> Result<Vec<Program>> {
    let shown: serde_json::Value =
        serde_json::from_str(&command::output(Command::new("bpftool").args(["--json", "prog", "show"]))?)?;
    let programs = shown.as_array().context("bpftool's answer")?;
    let counter = |program: &serde_json::Value, name| program[name].as_u64().unwrap_or(0);
    Ok(programs
        .iter()
        .filter_map(|program| {
            Some(Program {
                id: program["id"].as_u64()?,
                run_time_ns: counter(program, "run_time_ns"),
                run_cnt: counter(program, "run_cnt"),
            })
        })
        .collect())
}

/// The kernel counts the time of programs while this lives.
pub struct Stats {
    before: String,
}

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Stats {
    pub fn on() -> Result<Self> {
        let before = fs::read_to_string(STATS)?;
        fs::write(STATS, "1").context(STATS)?;
        Ok(Self { before })
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        fs::write(STATS, &self.before).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_summary() {
        let ended = |stderr: &str| Ended { stdout: PathBuf::new(), stderr: stderr.into() };
        let all = ended("tracing\ntcptrace: 1,234,567 records in 2.95s; nothing lost\n");
        assert_eq!((all.summary_records().unwrap(), all.summary_lost().unwrap()), (1_234_567, 0));
        let some = ended(
            "tcptrace: 12 records in 1s; lost 1,204: ring full 1,200, healed 4\ntcptrace: a: 11 records of 1s\n",
        );
        assert_eq!((some.summary_records().unwrap(), some.summary_lost().unwrap()), (12, 1_204));
        assert!(ended("killed\n").summary_records().is_err());
    }
}
