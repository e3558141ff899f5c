//! `cargo xtask gen`: man pages and completions. `cargo xtask dist`: all files of a release: in, the checkout; out, below
//! `target/dist`, an archive, a .deb, an .rpm and an image for each architecture, an SBOM, and the hashes of all of them.
//!
//! dpkg-deb, rpmbuild and buildah make them. Every date is that of the commit, so the same sources give the same bytes.

mod archive;
mod check;
mod deb;
mod dependencies;
mod image;
mod rpm;
mod sbom;
mod staging;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use self::staging::Staging;
use crate::arch::Arch;
use crate::provenance::sha256;
use crate::repo::Repo;
use crate::{command, cross, packages};

#[derive(clap::Args)]
pub struct DistArgs {
    /// Also build a second time and compare; install, run and remove every package; check the chart and the crates
    #[arg(long)]
    check: bool,
    /// Build for this architecture only
    #[arg(long, value_enum)]
    arch: Option<Arch>,
}

impl DistArgs {
    fn archs(&self) -> Vec<Arch> {
        self.arch.map_or_else(|| vec![Arch::Amd64, Arch::Arm64], |arch| vec![arch])
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The budget of the program, in bytes.
const MAX_BINARY_LEN: u64 = 12 << 20;
const HASHES: &str = "SHA256SUMS";

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
    packages::install(packages::DIST)?;
    let again = args.check.then(|| check::copy_sources(repo)).transpose()?;
    let generated = generate(repo)?;
    let release = build(repo, &args.archs(), &generated, commit_time(repo)?)?;
    if let Some(again) = again {
        check::run(repo, &args.archs(), &generated, &release, &again)?;
    }
    for file in &release.files {
        println!("{}", file.display());
    }
    Ok(())
}

/// The files of a release.
struct Release {
    /// Where they are.
    folder: PathBuf,
    files: Vec<PathBuf>,
    /// The date of everything in them, in seconds since 1970.
    epoch: u64,
}

/// Builds all files for `archs`, dated `epoch`, in seconds since 1970.
fn build(repo: &Repo, archs: &[Arch], generated: &Path, epoch: u64) -> Result<Release> {
    let folder = repo.target.join("dist");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let dependencies = dependencies::list(repo)?;
    let mut files = vec![folder.join(format!("tcptrace-{VERSION}.cdx.json"))];
    fs::write(&files[0], sbom::document(&dependencies, epoch)?)?;
    let licences = folder.join("THIRD-PARTY-LICENSES.txt");
    fs::write(&licences, dependencies::licence_texts(&dependencies)?)?;
    for &arch in archs {
        let binary = program(repo, arch)?;
        let staging = Staging { repo, arch, folder: &folder, binary, generated, licences: &licences, epoch };
        files.push(archive::build(&staging)?);
        files.push(deb::build(&staging)?);
        files.push(rpm::build(&staging)?);
        files.push(image::build(&staging)?);
    }
    let mut hashes = String::new();
    for file in &files {
        let name = file.file_name().context("no name")?.to_string_lossy();
        writeln!(hashes, "{}  {name}", sha256(&fs::read(file)?))?;
    }
    let sums = folder.join(HASHES);
    fs::write(&sums, hashes)?;
    files.push(sums);
    Ok(Release { folder, files, epoch })
}

/// Builds the program for `arch`: static and stripped. It reads no user database and resolves no name, so nothing of the C
/// library needs the host's.
fn program(repo: &Repo, arch: Arch) -> Result<PathBuf> {
    cross::install(repo, arch)?;
    let mut cargo = cross::cargo(repo, arch)?;
    cargo.args(["build", "--locked", "--profile", "dist", "--package", "tcptrace", "--bin", "tcptrace"]);
    command::run(&mut cargo)?;
    let binary = cross::binary(repo, arch, "dist");
    let headers =
        command::output(Command::new("readelf").args(["--wide", "--program-headers"]).arg(&binary))?;
    ensure!(!headers.contains(" INTERP "), "{} is linked dynamically", binary.display());
    let len = binary.metadata()?.len();
    ensure!(len <= MAX_BINARY_LEN, "{} has {len} bytes, more than {MAX_BINARY_LEN}", binary.display());
    Ok(binary)
}

/// Seconds since 1970, the date of everything in the packages.
fn commit_time(repo: &Repo) -> Result<u64> {
    let time = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(time) => time,
        Err(_) => {
            command::output(Command::new("git").current_dir(&repo.root).args(["log", "-1", "--format=%ct"]))
                .context("no git repository here: set SOURCE_DATE_EPOCH")?
        }
    };
    time.parse().with_context(|| format!("SOURCE_DATE_EPOCH is no number of seconds: {time:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_the_version_of_the_workspace() {
        let root = Repo::find().unwrap().root;
        for (file, line) in [
            (
                "Cargo.toml",
                format!("tcptrace-common = {{ path = \"tcptrace-common\", version = \"{VERSION}\" }}"),
            ),
            ("tcptrace-common/Cargo.toml", format!("version = \"{VERSION}\"")),
            ("tcptrace-ebpf/Cargo.toml", format!("version = \"{VERSION}\"")),
            ("contrib/helm/tcptrace/Chart.yaml", format!("version: {VERSION}")),
            ("contrib/helm/tcptrace/Chart.yaml", format!("appVersion: \"{VERSION}\"")),
            ("contrib/kubernetes/tcptrace.yaml", format!("image: tcptrace:{VERSION}")),
            ("CHANGELOG.md", format!("## {VERSION} ")),
        ] {
            let text = fs::read_to_string(root.join(file)).unwrap();
            assert!(text.lines().any(|found| found.trim().starts_with(&line)), "{file}: {line}");
        }
    }
}
