//! `cargo xtask lint`: in, all sources and dependencies; out, which lints found something, which could not run, and a
//! closing line of counts.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::repo::Repo;
use crate::tally::{Tally, Verdict};
use crate::toolchain::TARGET;
use crate::{command, licences, toolchain};

/// What a lint is called and what it says.
type Lint = (&'static str, fn(&Repo) -> Verdict);

const LINTS: &[Lint] = &[
    ("rustfmt", |repo| ran(&mut cargo(repo, &["fmt", "--all", "--check"]))),
    ("rustfmt, eBPF", |repo| {
        ran(&mut cargo(repo, &["fmt", "--manifest-path", "tcptrace-ebpf/Cargo.toml", "--check"]))
    }),
    ("rustfmt, fuzz targets", |repo| {
        ran(&mut cargo(repo, &["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
    }),
    ("clippy", |repo| {
        ran(&mut cargo(
            repo,
            &["clippy", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"],
        ))
    }),
    ("clippy, eBPF", ebpf_clippy),
    ("clippy, fuzz targets", |repo| {
        let mut clippy =
            cargo(repo, &["clippy", "--manifest-path", "fuzz/Cargo.toml", "--", "-D", "warnings"]);
        // What it has in common with the workspace is checked already.
        ran(clippy.env("CARGO_TARGET_DIR", &repo.target))
    }),
    ("rustdoc", |repo| {
        let mut doc = cargo(repo, &["doc", "--workspace", "--no-deps"]);
        ran(doc.env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("licences and sources", |repo| told(licences::check(repo))),
    ("cargo deny", |repo| cargo_deny(repo, "--version", &["bans", "licenses", "sources"])),
    ("cargo deny, known vulnerabilities", |repo| cargo_deny(repo, "fetch", &["advisories"])),
];

/// Runs them all, so that one round shows everything.
pub fn run(repo: &Repo) -> ExitCode {
    let mut tally = Tally::default();
    for (name, lint) in LINTS {
        let verdict = lint(repo);
        match &verdict {
            Verdict::Passed => println!("ok {name}"),
            Verdict::Failed(reason) => println!("FAILED {name}: {reason}"),
            Verdict::Skipped(reason) => println!("skipped {name}: {reason}"),
        }
        tally.verdict(name, &verdict);
    }
    println!("\n{}lint: {}", tally.report(), tally.counts);
    if tally.counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn told(result: Result<()>) -> Verdict {
    result.map_or_else(|error| Verdict::Failed(format!("{error:#}")), |()| Verdict::Passed)
}

fn ran(command: &mut Command) -> Verdict {
    told(command::run(command))
}

/// Why it can't run here, on one line.
fn skipped(reason: &anyhow::Error) -> Verdict {
    Verdict::Skipped(format!("{reason:#}").replace('\n', " "))
}

fn cargo(repo: &Repo, args: &[&str]) -> Command {
    let mut command = repo.cargo();
    command.args(args);
    command
}

/// Debian's clippy: the workspace's own has no core for the BPF target.
fn ebpf_clippy(repo: &Repo) -> Verdict {
    let mut command = match toolchain::cargo_clippy(repo) {
        Ok(command) => command,
        Err(reason) => return skipped(&reason),
    };
    command.args(["--release", "--target", TARGET, "--target-dir"]).arg(repo.target.join("ebpf"));
    ran(command.args(["--", "-D", "warnings"]))
}

/// Some of what cargo-deny checks. It takes minutes to install, and for known vulnerabilities, which nothing else here
/// looks for, it fetches a database: it runs where somebody has it, and where `needed` succeeds.
fn cargo_deny(repo: &Repo, needed: &str, checks: &[&str]) -> Verdict {
    // What only the other workspaces need of the lists is no fault.
    const UNUSED: [&str; 4] = ["-A", "license-not-encountered", "-A", "license-exception-not-encountered"];
    let deny = |args: &[&str]| cargo(repo, &[&["deny", "--all-features"], args].concat());
    let present = command::output(&mut deny(&["--version"]))
        .context("no cargo-deny here: `cargo install --locked cargo-deny`")
        .and_then(|_| command::output(&mut deny(&[needed])).context("what it needs can't be had here"));
    match present {
        Ok(_) => ran(&mut deny(&[&["check"], &UNUSED[..], checks].concat())),
        Err(reason) => skipped(&reason),
    }
}
