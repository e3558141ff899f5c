//! A Python for live tests, with frame pointers and perf maps, which Debian's has not: in, Debian's source package; out, an
//! interpreter below `target/python`, which runs where it was built.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::Result;

use crate::archive::Archive;
use crate::repo::Repo;
use crate::{command, packages};

/// The first Debian release with Python 3.12 or later, and its source package.
const SUITE: &str = "trixie";
const SOURCE: &str = "python3.13";
/// As `docs/stacks.md` recommends; -O1 saves time: nobody uses the program.
const FLAGS: &str = "CFLAGS=-O1 -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer";

/// Builds it if it is missing: some minutes.
pub fn install(repo: &Repo) -> Result<()> {
    let folder = repo.target.join("python");
    if has_sockets(&folder) {
        eprintln!("present: {}", folder.display());
        return Ok(());
    }
    packages::install(packages::PYTHON)?;
    let source = Archive::of_sources(repo, SUITE)?.download_source(SOURCE)?;
    fs::create_dir_all(&folder)?;
    command::run(
        Command::new("tar").arg("-xf").arg(source).args(["--strip-components=1", "-C"]).arg(&folder),
    )?;
    let configure = ["--quiet", "--disable-test-modules", "--without-ensurepip", FLAGS];
    command::run(Command::new("./configure").args(configure).current_dir(&folder))?;
    let jobs = available_parallelism().map_or(1, usize::from).to_string();
    let make = ["--silent", "--jobs", &jobs, "python", "sharedmods"];
    command::run(Command::new("make").args(make).current_dir(&folder))
}

/// Whether the interpreter and its module for sockets are complete.
fn has_sockets(folder: &Path) -> bool {
    let done = Command::new(folder.join("python")).args(["-c", "import _socket"]).output();
    done.is_ok_and(|done| done.status.success())
}
