//! Another Debian release's packages: in, a release's name; out, its packages, by way of this machine's own apt source
//! with the name changed, in a private apt state. The machine's own state stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::repo::Repo;

const SOURCES: &str = "/etc/apt/sources.list.d";
const OLD_SOURCES: &str = "/etc/apt/sources.list";
/// Names of releases that are not code names.
const STANDING_NAMES: [&str; 5] = ["oldstable", "stable", "testing", "sid", "unstable"];

/// The packages of some releases.
pub struct Archive {
    folder: PathBuf,
    /// Options of every apt command.
    options: Vec<String>,
}

impl Archive {
    /// Fetches the package lists of `suites`, one name or several.
    pub fn open(repo: &Repo, suites: &str) -> Result<Self> {
        let folder = repo.vm().join("apt").join(suites.replace(' ', "+"));
        for needed in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(folder.join(needed))?;
        }
        let (source, extension) = own_source()?.for_suites(suites);
        let list = folder.join(format!("debian.{extension}"));
        fs::write(&list, source)?;
        let folder_of = |name| folder.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=/dev/null".into(),
            format!("Dir::State::lists={}", folder_of("lists")),
            format!("Dir::Cache={}", folder_of("cache")),
            // The folders are ours; apt's own user may not reach them.
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
            let ours =
                |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with(&format!("{name}_"));
            Ok(files.iter().find(|file| ours(file)).map(fs::DirEntry::path))
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

/// An apt source, in one of the two formats.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// A stanza of a `.sources` file.
    Stanza(String),
    /// A line of a `.list` file.
    Line(String),
}

fn own_source() -> Result<Source> {
    let codename = codename()?;
    let mut files = vec![PathBuf::from(OLD_SOURCES)];
    if let Ok(folder) = fs::read_dir(SOURCES) {
        files.extend(folder.filter_map(Result::ok).map(|entry| entry.path()));
    }
    let found = files.iter().find_map(|path| Source::find(&fs::read_to_string(path).ok()?, path, &codename));
    let Some(source) = found else { bail!("no apt source of this machine is Debian {codename}'s") };
    Ok(source)
}

impl Source {
    fn find(text: &str, path: &Path, codename: &str) -> Option<Self> {
        let names_the_suite = |text: &str| {
            text.split_whitespace().any(|word| word == codename || STANDING_NAMES.contains(&word))
        };
        match path.extension()?.to_str()? {
            "sources" => {
                let fits =
                    |stanza: &&str| stanza.lines().any(|line| is_suites(line) && names_the_suite(line));
                text.split("\n\n").find(fits).map(|stanza| Self::Stanza(stanza.to_owned()))
            }
            "list" => {
                let fits = |line: &&str| line.starts_with("deb ") && names_the_suite(line);
                text.lines().find(fits).map(|line| Self::Line(line.to_owned()))
            }
            _ => None,
        }
    }

    /// The same source for other releases, and the extension of the file it belongs in.
    fn for_suites(&self, suites: &str) -> (String, &'static str) {
        match self {
            Self::Stanza(stanza) => {
                let lines = stanza.lines().filter(|line| !line.trim_start().starts_with('#'));
                let changed = lines.map(|line| {
                    if is_suites(line) { format!("Suites: {suites}\n") } else { format!("{line}\n") }
                });
                (changed.collect(), "sources")
            }
            Self::Line(line) => {
                // `deb [options] URI SUITE COMPONENT...`
                let options_end = line.find(']').map_or(0, |at| at + 1);
                let (options, rest) = line.split_at(options_end);
                let mut words: Vec<_> = rest.split_whitespace().collect();
                let suite_at = if options.is_empty() { 2 } else { 1 };
                let lines = suites.split(' ').map(|suite| {
                    if let Some(word) = words.get_mut(suite_at) {
                        *word = suite;
                    }
                    format!("{options} {}\n", words.join(" ")).trim_start().to_owned()
                });
                (lines.collect(), "list")
            }
        }
    }
}

fn is_suites(line: &str) -> bool {
    line.starts_with("Suites:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_changes_its_suites_only() {
        let text = "Types: deb\n# comment\nURIs: http://mirror.example/security\nSuites: bookworm-security\n\n\
                    Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n";
        let source = Source::find(text, Path::new("debian.sources"), "bookworm").unwrap();
        let expected = "Types: deb\nURIs: http://mirror.example/debian\nSuites: sid\nComponents: main\n";
        assert_eq!(source.for_suites("sid"), (expected.into(), "sources"));
    }

    #[test]
    fn a_line_becomes_one_for_each_release() {
        let text = "# deb http://mirror.example/debian bookworm main\n\
                    deb [signed-by=/k arch=amd64] http://mirror.example/debian bookworm main contrib\n";
        let source = Source::find(text, Path::new("sources.list"), "bookworm").unwrap();
        let line = |suite| {
            format!("deb [signed-by=/k arch=amd64] http://mirror.example/debian {suite} main contrib\n")
        };
        assert_eq!(source.for_suites("sid trixie"), (line("sid") + &line("trixie"), "list"));
        let plain = Source::Line("deb http://mirror.example/debian stable main".into());
        assert_eq!(plain.for_suites("sid").0, "deb http://mirror.example/debian sid main\n");
    }
}
