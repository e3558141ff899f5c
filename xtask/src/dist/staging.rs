//! The installed files of a package: in, the built program and generated files; out, a folder that is laid out like `/`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::command;
use crate::repo::Repo;

/// Debian's and Fedora's `tcptrace` is a different program with a higher version: apt would "upgrade" a package of that
/// name to it.
pub const PACKAGE: &str = "tcptrace-bpf";
const DOC: &str = "usr/share/doc/tcptrace-bpf";

/// Files of the repository, and the folder of the package that has them.
const FILES: [(&str, &str); 10] = [
    ("contrib/systemd/tcptrace.service", "usr/lib/systemd/system"),
    ("contrib/systemd/tcptrace-recorder.service", "usr/lib/systemd/system"),
    ("contrib/prometheus/tcptrace.rules.yml", "usr/share/doc/tcptrace-bpf/prometheus"),
    ("contrib/prometheus/scrape.yml", "usr/share/doc/tcptrace-bpf/prometheus"),
    ("contrib/grafana/tcptrace.json", "usr/share/doc/tcptrace-bpf/grafana"),
    ("README.md", DOC),
    ("CHANGELOG.md", DOC),
    ("LICENSE-MIT", DOC),
    ("LICENSE-APACHE", DOC),
    ("tcptrace-ebpf/LICENSE-GPL2", DOC),
];

/// The inputs of every package of one architecture.
pub struct Staging<'a> {
    pub repo: &'a Repo,
    pub arch: Arch,
    /// Where the packages go.
    pub folder: &'a Path,
    pub binary: PathBuf,
    /// Man pages and completions.
    pub generated: &'a Path,
    pub licences: &'a Path,
    /// The date of every file.
    pub epoch: u64,
}

impl Staging<'_> {
    /// An empty folder for the files of one package.
    pub fn empty(&self, name: &str) -> Result<PathBuf> {
        let root = self.folder.join("staging").join(self.arch.debian()).join(name);
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(&root)?;
        Ok(root)
    }

    /// The installed files; each distribution has its own folder for completions of zsh.
    pub fn installed(&self, name: &str, zsh: &str) -> Result<PathBuf> {
        let root = self.empty(name)?;
        put(&self.binary, &root.join("usr/bin/tcptrace"), 0o755)?;
        for (from, folder) in FILES {
            let from = self.repo.root.join(from);
            put(&from, &root.join(folder).join(from.file_name().context("no name")?), 0o644)?;
        }
        put(self.licences, &root.join(DOC).join("THIRD-PARTY-LICENSES.txt"), 0o644)?;
        let completions = self.generated.join("completions");
        let zsh = format!("{zsh}/_tcptrace");
        for (from, to) in [
            ("bash", "usr/share/bash-completion/completions/tcptrace"),
            ("zsh", &zsh),
            ("fish", "usr/share/fish/vendor_completions.d/tcptrace.fish"),
        ] {
            put(&completions.join(from), &root.join(to), 0o644)?;
        }
        let man = root.join("usr/share/man/man1");
        for page in fs::read_dir(self.generated.join("man"))? {
            let page = page?;
            put(&page.path(), &man.join(page.file_name()), 0o644)?;
        }
        command::run(Command::new("gzip").arg("-9nr").arg(man))?;
        Ok(root)
    }

    /// Sets the date of everything below `root`, and modes that do not depend on the umask.
    pub fn normalise(&self, root: &Path) -> Result<()> {
        command::run(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(root))?;
        let date = format!("--date=@{}", self.epoch);
        command::run(Command::new("find").arg(root).args([
            "-exec",
            "touch",
            "--no-dereference",
            &date,
            "{}",
            "+",
        ]))
    }

    /// A tar of the entries of `root`, the same bytes on every machine.
    pub fn tar(&self, root: &Path, to: &Path, entries: &[&str]) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--format=ustar", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.arg(format!("--mtime=@{}", self.epoch)).arg("--mode=go=rX,u+rw,a-s").arg("-C").arg(root);
        command::run(tar.arg("-cf").arg(to).args(entries))
    }
}

/// Copies a file, with its folders.
pub fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("no folder")?)?;
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}
