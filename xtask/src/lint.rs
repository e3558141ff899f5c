//! `cargo xtask lint`: in, all sources; out, the number of lints that found something, as an exit status.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::repo::Repo;
use crate::toolchain::TARGET;
use crate::{command, toolchain};

/// What a lint is called and the command that runs it; an error says why it can't run here.
type Lint = (&'static str, fn(&Repo) -> Result<Command>);

const LINTS: &[Lint] = &[
    ("rustfmt", |repo| Ok(cargo(repo, &["fmt", "--all", "--check"]))),
    ("rustfmt, eBPF", |repo| {
        Ok(cargo(repo, &["fmt", "--manifest-path", "tcptrace-ebpf/Cargo.toml", "--check"]))
    }),
    ("clippy", |repo| {
        Ok(cargo(repo, &["clippy", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"]))
    }),
    ("clippy, eBPF", ebpf_clippy),
    ("rustdoc", |repo| Ok(rustdoc(repo))),
    ("clippy, fuzz targets", |repo| {
        let mut clippy =
            cargo(repo, &["clippy", "--manifest-path", "fuzz/Cargo.toml", "--", "-D", "warnings"]);
        // What it has in common with the workspace is checked already.
        clippy.env("CARGO_TARGET_DIR", &repo.target);
        Ok(clippy)
    }),
    ("cargo deny: licences, sources", |repo| cargo_deny(repo, &["bans", "licenses", "sources"])),
    ("cargo deny: advisories", |repo| {
        let check = cargo_deny(repo, &["advisories"])?;
        // Its database is a git repository.
        command::output(cargo_deny_command(repo).args(["fetch", "db"]))
            .context("no database of advisories")?;
        Ok(check)
    }),
];

/// Runs them all, so that one round shows everything.
pub fn run(repo: &Repo) -> ExitCode {
    let mut failed = Vec::new();
    for (name, lint) in LINTS {
        match lint(repo) {
            Err(reason) => println!("SKIPPED {name}: {}", format!("{reason:#}").replace('\n', " ")),
            Ok(mut command) => match command::run(&mut command) {
                Ok(()) => println!("ok {name}"),
                Err(error) => {
                    println!("FAILED {name}: {error:#}");
                    failed.push(*name);
                }
            },
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("failed: {}", failed.join("; "));
    ExitCode::FAILURE
}

fn cargo(repo: &Repo, args: &[&str]) -> Command {
    let mut command = repo.cargo();
    command.args(args);
    command
}

/// Debian's clippy: the workspace's own has no core for the BPF target.
fn ebpf_clippy(repo: &Repo) -> Result<Command> {
    let mut command = toolchain::cargo_clippy(repo)?;
    command.args(["--release", "--target", TARGET, "--target-dir"]).arg(repo.target.join("ebpf"));
    command.args(["--", "-D", "warnings"]);
    Ok(command)
}

fn cargo_deny(repo: &Repo, what: &[&str]) -> Result<Command> {
    command::output(cargo_deny_command(repo).arg("--version"))
        .context("no cargo-deny here: `cargo install --locked cargo-deny`")?;
    let mut command = cargo_deny_command(repo);
    command.arg("check").args(what);
    Ok(command)
}

fn cargo_deny_command(repo: &Repo) -> Command {
    cargo(repo, &["deny", "--all-features"])
}

fn rustdoc(repo: &Repo) -> Command {
    let mut command = cargo(repo, &["doc", "--workspace", "--no-deps"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}
