//! `cargo xtask fuzz`: in, the targets of `fuzz/` and a time; out, how often each was run, and what was found.
//!
//! The engine is libFuzzer. Its coverage comes from an LLVM pass, which the stable compiler runs when it is asked to: neither
//! a nightly compiler nor cargo-fuzz is needed. With a nightly, `cargo fuzz run TARGET` works too, with its sanitizers.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::repo::Repo;
use crate::tally::{Tally, Verdict};
use crate::{command, packages};

#[derive(clap::Args)]
pub struct Args {
    /// Seconds for each target
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    time: u64,
    /// Add to the committed corpora what reaches code that nothing in them reaches
    #[arg(long)]
    keep: bool,
    /// Targets; all by default
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// One target, and the longest input that makes sense for it.
struct Target {
    name: &'static str,
    longest_bytes: usize,
}

const fn target(name: &'static str, longest_bytes: usize) -> Target {
    Target { name, longest_bytes }
}

const TARGETS: [Target; 6] = [
    target("records", 4 << 10),
    target("tracker", 4 << 10),
    target("session", 64 << 10),
    target("filter", 256),
    target("sock_diag", 4 << 10),
    target("btf", 64 << 10),
];

/// Seconds for each target where fuzzing is one part of all tests.
pub const SHORT_SECONDS: u64 = 5;
/// What a target may allocate in all, and how long one input may take.
const LIMITS: [&str; 2] = ["-rss_limit_mb=1024", "-timeout=20"];
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What `-Zsanitizer` would set, less the sanitizer.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";
/// How the line begins in which the engine says how often it ran a target.
const EXECUTED: &str = "stat::number_of_executed_units:";

pub fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    if let Some(unknown) = args.targets.iter().find(|name| TARGETS.iter().all(|t| t.name != **name)) {
        bail!("no target {unknown}; there are {}", TARGETS.map(|target| target.name).join(", "));
    }
    if let Err(error) = install() {
        eprintln!("not everything could be installed: {error:#}");
    }
    let mut tally = Tally::default();
    let wanted = |target: &&Target| args.targets.is_empty() || args.targets.iter().any(|t| t == target.name);
    build(repo)?;
    for target in TARGETS.iter().filter(wanted) {
        let verdict = fuzz(repo, target, args.time)?;
        tally.verdict(&format!("fuzz {}", target.name), &verdict);
        if args.keep {
            keep(repo, target)?;
        }
    }
    println!("\n{}fuzz: {}", tally.report(), tally.counts);
    Ok(if tally.counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The compiler of the engine.
pub fn install() -> Result<()> {
    packages::install(packages::FUZZ)
}

/// Every target for a short time, as a part of all tests.
pub fn test(repo: &Repo, tally: &mut Tally) -> Result<()> {
    if let Err(error) = command::output(Command::new("c++").arg("--version")) {
        for target in &TARGETS {
            let reason = format!("no C++ compiler for libFuzzer: {error:#}");
            tally.verdict(&format!("fuzz {}", target.name), &Verdict::Skipped(reason));
        }
        return Ok(());
    }
    build(repo)?;
    for target in &TARGETS {
        tally.verdict(&format!("fuzz {}", target.name), &fuzz(repo, target, SHORT_SECONDS)?);
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
        // Named, so that build scripts and macros are compiled as ever.
        .args(["--target", TRIPLE])
        .env("RUSTFLAGS", COVERAGE)
        .env("CARGO_TARGET_DIR", folder(repo));
    command::run(&mut cargo)
}

/// Runs one target over its committed corpus and on from there.
fn fuzz(repo: &Repo, target: &Target, seconds: u64) -> Result<Verdict> {
    let found = folder(repo).join("found").join(target.name);
    fs::create_dir_all(&found)?;
    let mut engine = engine(repo, target)?;
    engine
        .args([format!("-max_total_time={seconds}"), "-print_final_stats=1".into(), "-verbosity=0".into()])
        .arg(format!("-artifact_prefix={}/finding-", found.display()))
        .arg(grown(repo, target)?)
        .arg(committed(repo, target));
    // The engine speaks on stderr.
    let output = engine.stdin(Stdio::null()).output().context("cannot start the fuzz target")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let executed = executed(&said);
    println!("fuzz {}: {executed} executions in {seconds} s, {}", target.name, output.status);
    if output.status.success() {
        ensure!(executed > 0, "the engine did not say how often it ran {}:\n{said}", target.name);
        return Ok(Verdict::Passed);
    }
    Ok(Verdict::Failed(format!("{} after {executed} executions:\n{}", output.status, last_lines(&said))))
}

fn engine(repo: &Repo, target: &Target) -> Result<Command> {
    let program = folder(repo).join(TRIPLE).join("release").join(target.name);
    ensure!(program.is_file(), "no {}", program.display());
    let mut command = Command::new(program);
    command.arg(format!("-max_len={}", target.longest_bytes)).args(LIMITS);
    Ok(command)
}

/// The corpus in the repository.
fn committed(repo: &Repo, target: &Target) -> PathBuf {
    repo.root.join("fuzz/corpus").join(target.name)
}

/// What this machine has found to be worth keeping so far.
fn grown(repo: &Repo, target: &Target) -> Result<PathBuf> {
    let path = folder(repo).join("corpus").join(target.name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// Adds to the committed corpus what reaches more of the code.
fn keep(repo: &Repo, target: &Target) -> Result<()> {
    command::run(engine(repo, target)?.arg("-merge=1").arg(committed(repo, target)).arg(grown(repo, target)?))
}

fn executed(said: &str) -> u64 {
    said.lines().find_map(|line| line.strip_prefix(EXECUTED)?.trim().parse().ok()).unwrap_or(0)
}

fn last_lines(said: &str) -> String {
    let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("stat::")).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn executions_are_what_the_engine_counted() {
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
