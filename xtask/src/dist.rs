//! `cargo xtask gen`: man pages and completions. `cargo xtask dist`: a Debian package with them, the unit, the alerts and
//! the dashboard, built by dpkg-deb alone; and a check of it in a separate root.

mod check;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::repo::Repo;

#[derive(clap::Args)]
pub struct DistArgs {
    /// Also install it in a fresh Debian root, run it there, and remove it (needs root and debootstrap)
    #[arg(long)]
    check: bool,
}

/// Debian's `tcptrace` is a different program with a higher version: apt would "upgrade" a package of that name to it.
const PACKAGE: &str = "tcptrace-bpf";

/// A file of the repository, and where the package has it.
const FILES: [(&str, &str); 8] = [
    ("contrib/systemd/tcptrace.service", "usr/lib/systemd/system/tcptrace.service"),
    ("contrib/prometheus/tcptrace.rules.yml", "usr/share/doc/tcptrace-bpf/prometheus/tcptrace.rules.yml"),
    ("contrib/prometheus/scrape.yml", "usr/share/doc/tcptrace-bpf/prometheus/scrape.yml"),
    ("contrib/grafana/tcptrace.json", "usr/share/doc/tcptrace-bpf/grafana/tcptrace.json"),
    ("README.md", "usr/share/doc/tcptrace-bpf/README.md"),
    ("CHANGELOG.md", "usr/share/doc/tcptrace-bpf/CHANGELOG.md"),
    ("LICENSE-MIT", "usr/share/doc/tcptrace-bpf/LICENSE-MIT"),
    ("LICENSE-APACHE", "usr/share/doc/tcptrace-bpf/LICENSE-APACHE"),
];

/// The file of completions for each shell, and its path in the package.
const COMPLETIONS: [(&str, &str); 3] = [
    ("tcptrace.bash", "usr/share/bash-completion/completions/tcptrace"),
    ("_tcptrace", "usr/share/zsh/vendor-completions/_tcptrace"),
    ("tcptrace.fish", "usr/share/fish/vendor_completions.d/tcptrace.fish"),
];

const COPYRIGHT: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: tcptrace

Files: *
Copyright: the tcptrace authors
License: MIT or Apache-2.0
 The texts are beside this file. The eBPF program inside is Dual MIT/GPL.
";

/// The unit is neither enabled nor started: the administrator chooses its address.
const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", "if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi\n"),
    (
        "prerm",
        "if [ -d /run/systemd/system ] && [ \"$1\" = remove ]; then systemctl --no-reload disable --now tcptrace.service; fi\n",
    ),
    ("postrm", "if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi\n"),
];

/// Writes man pages and completions below the target folder; returns the path.
pub fn generate(repo: &Repo) -> Result<PathBuf> {
    let folder = repo.target.join("gen");
    command::run(
        repo.cargo().args(["run", "--quiet", "--package", "tcptrace", "--example", "gen", "--"]).arg(&folder),
    )?;
    eprintln!("written: {}/man, {0}/completions", folder.display());
    Ok(folder)
}

pub fn run(repo: &Repo, args: &DistArgs) -> Result<()> {
    command::run(repo.cargo().args(["build", "--release", "--package", "tcptrace"]))?;
    let package = package(repo, &generate(repo)?)?;
    if args.check {
        check::run(repo, &package)?;
    }
    println!("{}", package.display());
    Ok(())
}

fn package(repo: &Repo, generated: &Path) -> Result<PathBuf> {
    let dist = repo.target.join("dist");
    let root = dist.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let put = |from: &Path, to: &str| put(from, &root.join(to), 0o644);
    self::put(&repo.release_binary(), &root.join("usr/bin/tcptrace"), 0o755)?;
    command::run(Command::new("strip").arg("--strip-unneeded").arg(root.join("usr/bin/tcptrace")))?;
    for (from, to) in FILES {
        put(&repo.root.join(from), to)?;
    }
    for (from, to) in COMPLETIONS {
        put(&generated.join("completions").join(from), to)?;
    }
    for page in fs::read_dir(generated.join("man"))? {
        let page = page?;
        let to = format!("usr/share/man/man1/{}", page.file_name().to_string_lossy());
        put(&page.path(), &to)?;
        command::run(Command::new("gzip").args(["-9nf"]).arg(root.join(to)))?;
    }
    fs::write(root.join("usr/share/doc/tcptrace-bpf/copyright"), COPYRIGHT)?;
    control(&root)?;
    let architecture = command::output(Command::new("dpkg").arg("--print-architecture"))?;
    let package = dist.join(format!("{PACKAGE}_{}_{architecture}.deb", env!("CARGO_PKG_VERSION")));
    command::run(Command::new("dpkg-deb").args(["--build", "--root-owner-group"]).arg(&root).arg(&package))?;
    Ok(package)
}

/// `Conflicts`, as both packages have `/usr/bin/tcptrace`; no `Replaces`, or dpkg would silently remove the other;
/// no `Provides`, as neither can substitute the other (Debian Policy 7.4 to 7.6).
fn control(root: &Path) -> Result<()> {
    let debian = root.join("DEBIAN");
    fs::create_dir_all(&debian)?;
    let architecture = command::output(Command::new("dpkg").arg("--print-architecture"))?;
    let libc = command::output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let libc = libc.strip_prefix("glibc ").context("this is not glibc")?;
    let control = format!(
        "Package: {PACKAGE}\nVersion: {}\nArchitecture: {architecture}\nMaintainer: the tcptrace authors <tcptrace@localhost>\n\
         Depends: libc6 (>= {libc}), libgcc-s1\nConflicts: tcptrace\nSection: net\nPriority: optional\n\
         Description: how long TCP sockets really stay in every state\n \
         TIME_WAIT and FIN_WAIT2 included, and which services, peers, ports and processes\n \
         produce them. By eBPF, on Linux 5.12 or later with BTF.\n",
        env!("CARGO_PKG_VERSION"),
    );
    fs::write(debian.join("control"), control)?;
    for (name, script) in SCRIPTS {
        let path = debian.join(name);
        fs::write(&path, format!("#!/bin/sh\nset -e\n{script}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("no folder")?)?;
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}
