//! Packages of another Debian release: in, its name; out, its packages, from the mirror that this machine's apt uses, in a
//! separate apt state. The machine's own apt state does not change.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::repo::Repo;

/// The keys that sign every release; every Debian system has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Names of releases that are not code names.
const RELEASE_ALIASES: [&str; 5] = ["oldstable", "stable", "testing", "sid", "unstable"];

/// The packages of some releases.
pub struct Archive {
    folder: PathBuf,
    /// Options of every apt command.
    options: Vec<String>,
}

impl Archive {
    /// Fetches the package lists of `suites`, names separated by spaces.
    pub fn open(repo: &Repo, suites: &str) -> Result<Self> {
        let folder = repo.vm().join("apt").join(suites.replace(' ', "+"));
        for needed in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(folder.join(needed))?;
        }
        let list = folder.join("debian.list");
        fs::write(&list, sources(&mirror()?, suites))?;
        let folder_of = |name| folder.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=/dev/null".into(),
            format!("Dir::State::lists={}", folder_of("lists")),
            format!("Dir::Cache={}", folder_of("cache")),
            // The user of apt's sandbox may have no access to these folders.
            "APT::Sandbox::User=root".into(),
        ];
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

    /// The package file of `name`.
    pub fn download(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join("packages");
        let present = || -> Result<Option<PathBuf>> {
            let files = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
            let is_named =
                |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with(&format!("{name}_"));
            Ok(files.iter().find(|file| is_named(file)).map(fs::DirEntry::path))
        };
        command::run(self.command("apt-get").current_dir(&folder).args(["download", name]))?;
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

fn sources(mirror: &str, suites: &str) -> String {
    let lines = suites.split(' ').map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"));
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
