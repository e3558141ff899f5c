//! `cargo xtask lint`: in, all sources and dependencies; out, the result of each lint and a closing line of counts.

use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::repo::Repo;
use crate::tally::{TestTally, TestVerdict};
use crate::toolchain::TARGET;
use crate::{command, imports, licences, toolchain};

/// A name, and a function that runs the lint.
type Lint = (&'static str, fn(&Repo) -> TestVerdict);

const LINTS: &[Lint] = &[
    ("rustfmt", |repo| run_command(&mut cargo(repo, &["fmt", "--all", "--check"]))),
    ("rustfmt, eBPF", |repo| {
        run_command(&mut cargo(repo, &["fmt", "--manifest-path", "tcptrace-ebpf/Cargo.toml", "--check"]))
    }),
    ("rustfmt, fuzz targets", |repo| {
        run_command(&mut cargo(repo, &["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
    }),
    ("clippy", |repo| {
        run_command(&mut cargo(
            repo,
            &["clippy", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"],
        ))
    }),
    ("clippy, eBPF", ebpf_clippy),
    ("clippy, fuzz targets", |repo| {
        let mut clippy =
            cargo(repo, &["clippy", "--manifest-path", "fuzz/Cargo.toml", "--", "-D", "warnings"]);
        // The crates that it shares with the workspace are checked already.
        run_command(clippy.env("CARGO_TARGET_DIR", &repo.target))
    }),
    ("rustdoc", |repo| {
        let mut doc = cargo(repo, &["doc", "--workspace", "--no-deps"]);
        run_command(doc.env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("imports", |repo| imports::check(repo).into()),
    ("licences and sources", |repo| licences::check(repo).into()),
    ("cargo deny: bans, known vulnerabilities", cargo_deny),
];

/// Runs all lints: one run reports every finding.
pub fn run(repo: &Repo) -> ExitCode {
    let mut tally = TestTally::default();
    for (name, lint) in LINTS {
        let verdict = lint(repo);
        verdict.print(name);
        tally.verdict(name, &verdict);
    }
    println!("\n{}lint: {}", tally.report(), tally.counts);
    if tally.counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_command(command: &mut Command) -> TestVerdict {
    command::run(command).into()
}

fn cargo(repo: &Repo, args: &[&str]) -> Command {
    let mut command = repo.cargo();
    command.args(args);
    command
}

/// Debian's clippy: the workspace's own has no core for the BPF target.
fn ebpf_clippy(repo: &Repo) -> TestVerdict {
    let mut command = match toolchain::cargo_clippy(repo) {
        Ok(command) => command,
        Err(reason) => return TestVerdict::skipped(&reason),
    };
    command.args(["--release", "--target", TARGET, "--target-dir"]).arg(repo.target.join("ebpf"));
    run_command(command.args(["--", "-D", "warnings"]))
}

/// Checks what no other lint covers. It takes minutes to install and fetches a database, so it runs where it is installed.
fn cargo_deny(repo: &Repo) -> TestVerdict {
    let deny = |args: &[&str]| cargo(repo, &[&["deny", "--all-features"], args].concat());
    let present = command::output(&mut deny(&["--version"]))
        .context("no cargo-deny here: `cargo install --locked cargo-deny`")
        .and_then(|_| command::output(&mut deny(&["fetch"])).context("cannot fetch its database"));
    match present {
        Ok(_) => run_command(&mut deny(&["check", "bans", "advisories"])),
        Err(reason) => TestVerdict::skipped(&reason),
    }
}
