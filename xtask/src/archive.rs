//! Packages of another Debian release or architecture: in, their names; out, its packages, from the mirrors that this
//! machine's apt uses, in a separate apt state. The machine's own apt state does not change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::command;
use crate::repo::Repo;

/// The keys that sign every release; every Debian system has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Names of releases that are not code names.
const RELEASE_ALIASES: [&str; 5] = ["oldstable", "stable", "testing", "sid", "unstable"];

/// The packages of some releases for one architecture.
pub struct Archive {
    folder: PathBuf,
    /// Options of every apt command.
    options: Vec<String>,
}

impl Archive {
    /// Fetches the package lists of `suites`, names separated by spaces.
    pub fn of_suites(repo: &Repo, arch: Arch, suites: &str) -> Result<Self> {
        let folder = repo.vm().join("apt").join(format!("{}-{}", suites.replace(' ', "+"), arch.debian()));
        Self::of(folder, arch, "deb", suites)
    }

    fn of(folder: PathBuf, arch: Arch, kind: &str, suites: &str) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let list = folder.join("debian.list");
        fs::write(&list, sources(kind, &mirror()?, suites))?;
        let sources = vec![
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=/dev/null".into(),
        ];
        Self::open(folder, arch, sources)
    }

    /// Fetches the list of source packages of `suite`.
    pub fn of_sources(repo: &Repo, suite: &str) -> Result<Self> {
        Self::of(repo.vm().join("apt").join(format!("{suite}-sources")), Arch::native(), "deb-src", suite)
    }

    /// Fetches the package lists of this machine's own sources, for `arch`.
    pub fn of_this_release(repo: &Repo, arch: Arch) -> Result<Self> {
        Self::open(repo.vm().join("apt").join(arch.debian()), arch, Vec::new())
    }

    fn open(folder: PathBuf, arch: Arch, mut options: Vec<String>) -> Result<Self> {
        for needed in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(folder.join(needed))?;
        }
        let folder_of = |name| folder.join(name).display().to_string();
        options.extend([
            format!("Dir::State::lists={}", folder_of("lists")),
            format!("Dir::Cache={}", folder_of("cache")),
            format!("APT::Architecture={}", arch.debian()),
            format!("APT::Architectures={}", arch.debian()),
            // The user of apt's sandbox may have no access to these folders.
            "APT::Sandbox::User=root".into(),
        ]);
        let archive =
            Self { options: options.into_iter().flat_map(|option| ["-o".into(), option]).collect(), folder };
        command::run(archive.command("apt-get").arg("update"))?;
        Ok(archive)
    }

    /// The name of every package.
    pub fn package_names(&self) -> Result<Vec<String>> {
        let names = command::output(self.command("apt-cache").arg("pkgnames"))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Unpacks the packages `names` below `root`, without running their scripts. A name may have a version: `name=1.0`.
    pub fn unpack(&self, names: &[&str], root: &Path) -> Result<()> {
        fs::create_dir_all(root)?;
        for name in names {
            let package = self.download(name)?;
            command::run(Command::new("dpkg-deb").arg("-x").args([&package, root]))?;
        }
        Ok(())
    }

    /// The upstream part of the source package `name`.
    pub fn download_source(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join("packages");
        let args = ["source", "--download-only", name];
        command::run(self.command("apt-get").current_dir(&folder).args(args))?;
        let files = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
        let found = files.iter().map(fs::DirEntry::path).find(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(&format!("{name}_")) && file.ends_with(".orig.tar.xz")
        });
        found.with_context(|| format!("apt-get source left no archive of {name}"))
    }

    /// The package file of `wanted`, a name or `name=version`.
    fn download(&self, wanted: &str) -> Result<PathBuf> {
        let folder = self.folder.join("packages");
        let name = wanted.split('=').next().unwrap_or(wanted);
        let present = || -> Result<Option<PathBuf>> {
            let files = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
            let is_named =
                |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with(&format!("{name}_"));
            Ok(files.iter().find(|file| is_named(file)).map(fs::DirEntry::path))
        };
        command::run(self.command("apt-get").current_dir(&folder).args(["download", wanted]))?;
        present()?.with_context(|| format!("apt-get download left no file of {name}"))
    }

    /// An apt command about these releases.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        if program == "apt-get" {
            command.arg("--quiet=2");
        }
        command
    }
}

/// This Debian's code name.
pub fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let value = |name| release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let name = value("VERSION_CODENAME").filter(|_| value("ID").is_some_and(|id| id == "debian"));
    Ok(name.context("this is not a Debian release: its apt sources have no Debian kernels")?.to_owned())
}

/// The mirror of this machine's own release.
fn mirror() -> Result<String> {
    let codename = codename()?;
    let mut apt = Command::new("apt-get");
    // apt reads both formats of sources; without release information it needs no package lists.
    apt.args([
        "--no-release-info",
        "indextargets",
        "--format",
        "$(RELEASE) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let targets = command::output(&mut apt)?;
    let mirror = find_mirror(&targets, &codename);
    Ok(mirror.with_context(|| format!("no apt source of this machine is Debian {codename}'s"))?.to_owned())
}

/// In lines of `RELEASE URI`, the address of the release `codename`.
fn find_mirror<'a>(targets: &'a str, codename: &str) -> Option<&'a str> {
    let mut targets = targets.lines().filter_map(|line| line.split_once(' '));
    let is_own = |release: &str| release == codename || RELEASE_ALIASES.contains(&release);
    targets.find(|(release, _)| is_own(release)).map(|(_, uri)| uri)
}

/// Lines of `sources.list`; `kind` is `deb` or `deb-src`.
fn sources(kind: &str, mirror: &str, suites: &str) -> String {
    let lines =
        suites.split(' ').map(|suite| format!("{kind} [signed-by={KEYRING}] {mirror} {suite} main\n"));
    lines.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_release_itself() {
        let targets =
            "bookworm-security http://mirror.example/security/\nstable http://mirror.example/debian/\n";
        assert_eq!(find_mirror(targets, "bookworm"), Some("http://mirror.example/debian/"));
        assert_eq!(find_mirror("nodistro http://vendor.example/\n", "bookworm"), None);
    }
}
