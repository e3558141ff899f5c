//! `cargo xtask fuzz`: in, the targets of `fuzz/` and a time; out, the executions and findings of each.
//!
//! The engine is libFuzzer. Its coverage comes from an LLVM pass that the stable compiler has, so neither a nightly compiler
//! nor cargo-fuzz is needed. With a nightly, `cargo fuzz run TARGET` works too, with its sanitizers.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::repo::Repo;
use crate::tally::{TestTally, TestVerdict};
use crate::{command, packages};

#[derive(clap::Args)]
pub struct FuzzArgs {
    /// Seconds for each target
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    time: u64,
    /// Add inputs that reach new code to the committed corpora
    #[arg(long)]
    keep: bool,
    /// Targets; all by default
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// A target and the useful length of its inputs.
struct FuzzTarget {
    name: &'static str,
    max_len_bytes: usize,
}

const fn target(name: &'static str, max_len_bytes: usize) -> FuzzTarget {
    FuzzTarget { name, max_len_bytes }
}

const TARGETS: [FuzzTarget; 6] = [
    target("records", 4 << 10),
    target("tracker", 4 << 10),
    target("session", 64 << 10),
    target("filter", 256),
    target("sock_diag", 4 << 10),
    target("btf", 64 << 10),
];

/// Seconds for each target in `cargo xtask test`.
pub const SHORT_SECONDS: u64 = 5;
/// Memory of a target, and time of one input.
const LIMITS: [&str; 2] = ["-rss_limit_mb=1024", "-timeout=20"];
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// The flags of `-Zsanitizer` without the sanitizer.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";
/// The engine prints the number of executions after this.
const EXECUTED: &str = "stat::number_of_executed_units:";

pub fn run(repo: &Repo, args: &FuzzArgs) -> Result<ExitCode> {
    if let Some(unknown) = args.targets.iter().find(|name| TARGETS.iter().all(|t| t.name != **name)) {
        bail!("no target {unknown}; there are {}", TARGETS.map(|target| target.name).join(", "));
    }
    if let Err(error) = install() {
        eprintln!("not everything could be installed: {error:#}");
    }
    let mut tally = TestTally::default();
    let is_selected =
        |target: &&FuzzTarget| args.targets.is_empty() || args.targets.iter().any(|t| t == target.name);
    build(repo)?;
    for target in TARGETS.iter().filter(is_selected) {
        let verdict = fuzz(repo, target, args.time)?;
        tally.verdict(&format!("fuzz {}", target.name), &verdict);
        if args.keep {
            keep(repo, target)?;
        }
    }
    println!("\n{}fuzz: {}", tally.report(), tally.counts);
    Ok(if tally.counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Installs the compiler of the engine.
pub fn install() -> Result<()> {
    packages::install(packages::FUZZ)
}

/// Runs every target for a short time, as a part of `cargo xtask test`.
pub fn test(repo: &Repo, tally: &mut TestTally) -> Result<()> {
    if let Err(error) = command::output(Command::new("c++").arg("--version")) {
        for target in &TARGETS {
            let reason = format!("no C++ compiler for libFuzzer: {error:#}");
            tally.verdict(&format!("fuzz {}", target.name), &TestVerdict::Skipped(reason));
        }
        return Ok(());
    }
    build(repo)?;
    // The engine has one thread. Two targets at a time, as CI has two CPUs.
    for pair in TARGETS.chunks(2) {
        let verdicts = std::thread::scope(|scope| {
            let runs: Vec<_> =
                pair.iter().map(|target| scope.spawn(|| fuzz(repo, target, SHORT_SECONDS))).collect();
            runs.into_iter().map(|run| run.join().expect("a panic is a bug")).collect::<Result<Vec<_>>>()
        })?;
        for (target, verdict) in pair.iter().zip(verdicts) {
            tally.verdict(&format!("fuzz {}", target.name), &verdict);
        }
    }
    Ok(())
}

fn folder(repo: &Repo) -> PathBuf {
    repo.target.join("fuzz")
}

fn build(repo: &Repo) -> Result<()> {
    let mut cargo = repo.cargo();
    cargo
        .args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml"])
        // Named, so that build scripts and macros are compiled without coverage.
        .args(["--target", TRIPLE])
        .env("RUSTFLAGS", COVERAGE)
        .env("CARGO_TARGET_DIR", folder(repo));
    command::run(&mut cargo)
}

/// Runs one target, starting from its committed corpus.
fn fuzz(repo: &Repo, target: &FuzzTarget, seconds: u64) -> Result<TestVerdict> {
    let found = folder(repo).join("found").join(target.name);
    fs::create_dir_all(&found)?;
    let mut engine = engine(repo, target)?;
    engine
        .args([format!("-max_total_time={seconds}"), "-print_final_stats=1".into(), "-verbosity=0".into()])
        .arg(format!("-artifact_prefix={}/finding-", found.display()))
        .arg(grown(repo, target)?)
        .arg(committed(repo, target));
    // The engine logs to stderr.
    let output = engine.stdin(Stdio::null()).output().context("cannot start the fuzz target")?;
    let log = String::from_utf8_lossy(&output.stderr);
    let executed = executed(&log);
    println!("fuzz {}: {executed} executions in {seconds} s, {}", target.name, output.status);
    if output.status.success() {
        ensure!(executed > 0, "the engine did not report how often it ran {}:\n{log}", target.name);
        return Ok(TestVerdict::Passed);
    }
    Ok(TestVerdict::Failed(format!("{} after {executed} executions:\n{}", output.status, last_lines(&log))))
}

fn engine(repo: &Repo, target: &FuzzTarget) -> Result<Command> {
    let program = folder(repo).join(TRIPLE).join("release").join(target.name);
    ensure!(program.is_file(), "no {}", program.display());
    let mut command = Command::new(program);
    command.arg(format!("-max_len={}", target.max_len_bytes)).args(LIMITS);
    Ok(command)
}

/// The corpus in the repository.
fn committed(repo: &Repo, target: &FuzzTarget) -> PathBuf {
    repo.root.join("fuzz/corpus").join(target.name)
}

/// Inputs that this machine found to reach new code.
fn grown(repo: &Repo, target: &FuzzTarget) -> Result<PathBuf> {
    let path = folder(repo).join("corpus").join(target.name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// Adds inputs that reach new code to the committed corpus.
fn keep(repo: &Repo, target: &FuzzTarget) -> Result<()> {
    command::run(engine(repo, target)?.arg("-merge=1").arg(committed(repo, target)).arg(grown(repo, target)?))
}

fn executed(log: &str) -> u64 {
    log.lines().find_map(|line| line.strip_prefix(EXECUTED)?.trim().parse().ok()).unwrap_or(0)
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| !line.starts_with("stat::")).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn executions_are_the_count_of_the_engine() {
        assert_eq!(
            executed("INFO: seed\nstat::number_of_executed_units: 1234\nstat::new_units_added: 5\n"),
            1234
        );
        assert_eq!(executed("==12== ERROR: libFuzzer: deadly signal\n"), 0);
    }

    #[test]
    fn corpora_and_targets_are_the_same() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fuzz/corpus");
        let mut present: Vec<_> =
            fs::read_dir(corpora).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        present.sort();
        let mut targets = TARGETS.map(|target| target.name);
        targets.sort_unstable();
        assert_eq!(present, targets);
    }
}
