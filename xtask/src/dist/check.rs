//! `cargo xtask dist --check`: in, the files of a release; out, whether a second build makes the same bytes, every package can
//! be installed, run and removed, and the chart and the crates are ready to be published.

mod chart;
mod containers;
mod roots;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{HASHES, Release, VERSION, build};
use crate::arch::Arch;
use crate::repo::Repo;
use crate::{command, cross, packages, toolchain};

/// A recording that every program can read.
const RECORDING: &str = "tests/fixtures/session-v1.tcptrace";
/// Commands that read recordings.
const VIEWS: [&str; 11] = [
    "states --from FILE",
    "top --once --from FILE",
    "hist --from FILE",
    "ports --from FILE",
    "events --from FILE",
    "doctor --from FILE",
    "diff FILE FILE",
    "report FILE -o -",
    "export FILE -o - --format csv",
    "export FILE -o - --format jsonl",
    "export FILE -o - --format parquet",
];

/// Copies the sources to another folder, for the second build. To be called before the first one: the sources may change
/// meanwhile.
pub fn copy_sources(repo: &Repo) -> Result<Repo> {
    const COPY: &str = "git ls-files -z --cached --others --exclude-standard \
         | tar --null --files-from=- -c | tar -x -C \"$0\"";
    let root = repo.target.join("dist-again");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(&root)?;
    command::run(Command::new("sh").current_dir(&repo.root).args(["-c", COPY]).arg(&root))?;
    Ok(Repo { target: root.join("target"), root })
}

/// Runs all checks; `again` has a copy of the sources.
pub fn run(repo: &Repo, archs: &[Arch], generated: &Path, release: &Release, again: &Repo) -> Result<()> {
    packages::install_without_services(packages::DIST_CHECK)?;
    chart::check(repo)?;
    sbom(repo, release)?;
    if archs.contains(&Arch::native()) {
        containers::check(repo, release)?;
        roots::check(repo, release)?;
    }
    for &arch in archs {
        program(repo, arch)?;
        same_files(arch, release)?;
    }
    crates(repo)?;
    reproducible(again, archs, generated, release)
}

/// Builds from the copy of the sources, and compares the hashes.
fn reproducible(again: &Repo, archs: &[Arch], generated: &Path, release: &Release) -> Result<()> {
    for &arch in archs.iter().filter(|arch| **arch != Arch::native()) {
        cross::install(again, arch)?;
    }
    // The copy has no history to take the date from.
    let again = build(again, archs, generated, release.epoch)?;
    let [first, second] = [release, &again].map(|release| fs::read_to_string(release.folder.join(HASHES)));
    let (first, second) = (first?, second?);
    let differing: Vec<_> =
        first.lines().filter(|line| !second.lines().any(|other| other == *line)).collect();
    ensure!(differing.is_empty(), "a second build gave other bytes:\n{}", differing.join("\n"));
    println!("a second build in another folder: the same {} files", first.lines().count());
    Ok(())
}

/// The program runs, that of another architecture in an emulator of its processor, and every view reads a recording: a static
/// program is not the one that the other tests run.
fn program(repo: &Repo, arch: Arch) -> Result<()> {
    let binary = cross::binary(repo, arch, "dist");
    let run = |args: &str| -> Result<Vec<u8>> {
        let mut run =
            if arch == Arch::native() { Command::new("env") } else { Command::new(cross::emulator(arch)) };
        let output = run.current_dir(&repo.root).arg(&binary).args(args.split(' ')).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} tcptrace {args}: {}: {stderr}", arch.machine(), output.status);
        Ok(output.stdout)
    };
    let version = run("-V")?;
    ensure!(version == format!("tcptrace {VERSION}\n").as_bytes(), "{}", String::from_utf8_lossy(&version));
    for view in VIEWS {
        let printed = run(&view.replace("FILE", RECORDING))?;
        ensure!(!printed.is_empty(), "{} tcptrace {view} prints nothing", arch.machine());
    }
    println!("{}: {VERSION}, and {} views of a recording", arch.machine(), VIEWS.len());
    Ok(())
}

/// The packages of `arch` have the same files as those of this machine.
fn same_files(arch: Arch, release: &Release) -> Result<()> {
    let lists = |arch: Arch| -> Result<[String; 2]> {
        let deb = release.file(&format!("_{}.deb", arch.debian()))?;
        let rpm = release.file(&format!(".{}.rpm", arch.machine()))?;
        let deb = command::output(
            Command::new("sh").args(["-c", "dpkg-deb --fsys-tarfile \"$0\" | tar -t"]).arg(deb),
        )?;
        Ok([deb, command::output(Command::new("rpm").args(["-qlp", "--nosignature"]).arg(rpm))?])
    };
    if release.file(&format!("_{}.deb", Arch::native().debian())).is_ok() {
        ensure!(lists(arch)? == lists(Arch::native())?, "the packages of {} have other files", arch.debian());
    }
    Ok(())
}

/// Whether every crate can be published: packages them, and builds what is in the packages.
fn crates(repo: &Repo) -> Result<()> {
    // cargo reuses tcptrace-common of the last dry run, unpacked and compiled, because it has the same version.
    for registry in toolchain::registries()?.iter().filter(|registry| toolchain::is_local(registry)) {
        let unpacked = registry.join(format!("tcptrace-common-{VERSION}"));
        if unpacked.exists() {
            fs::remove_dir_all(unpacked)?;
        }
    }
    command::run(repo.cargo().args(["clean", "--quiet", "--package", "tcptrace-common"]))?;
    let mut publish = repo.cargo();
    publish.args(["publish", "--dry-run", "--workspace", "--locked", "--allow-dirty"]);
    command::run(&mut publish)
}

/// The document against the schema of its format, which the package has.
fn sbom(repo: &Repo, release: &Release) -> Result<()> {
    let mut python = python(repo, "cyclonedx", "cyclonedx-python-lib[json-validation]")?;
    python.arg(repo.root.join("xtask/src/dist/check/sbom.py"));
    command::run(python.arg(release.file(".cdx.json")?))
}

/// Python with a package from `PyPI` that has the module `module`.
fn python(repo: &Repo, module: &str, package: &str) -> Result<Command> {
    let venv = repo.target.join("dist-venv");
    let python = venv.join("bin/python");
    let is_present = || {
        let found = Command::new(&python).args(["-c", &format!("import {module}")]).output();
        found.is_ok_and(|output| output.status.success())
    };
    if !is_present() {
        command::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        command::run(Command::new(&python).args(["-m", "pip", "install", "--quiet", package]))?;
    }
    if !is_present() {
        bail!("{package} has no module {module}");
    }
    Ok(Command::new(python))
}

impl Release {
    /// The file whose name ends with `end`.
    fn file(&self, end: &str) -> Result<&Path> {
        let found = self.files.iter().find(|file| file.to_string_lossy().ends_with(end));
        Ok(found.with_context(|| format!("no file *{end} was built"))?)
    }
}
