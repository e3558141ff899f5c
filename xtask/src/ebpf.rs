//! `cargo xtask ebpf`: in, the eBPF crate; out, the objects that the program embeds with their provenance, or a
//! verdict on the committed ones.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::provenance::{Provenance, sha256, source_sha256};
use crate::repo::Repo;
use crate::tally::TestVerdict;
use crate::toolchain::{self, TARGET, Tools};

#[derive(clap::Args)]
pub struct EbpfArgs {
    /// Change nothing: compare the committed objects with their provenance, their sources and a fresh build
    #[arg(long)]
    check: bool,
}

pub fn run(repo: &Repo, args: &EbpfArgs) -> Result<ExitCode> {
    if !args.check {
        return update(repo).map(|()| ExitCode::SUCCESS);
    }
    let verdicts = check(repo);
    let failed = verdicts.iter().any(|(_, verdict)| matches!(verdict, TestVerdict::Failed(_)));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

type EbpfCheck = fn(&Repo) -> Result<TestVerdict>;

/// The objects: name, and features of the eBPF crate.
const OBJECTS: [(&str, &str); 2] = [("tcptrace.bpf.o", ""), ("tcptrace-ringbuf.bpf.o", "ringbuf")];

const CHECKS: [(&str, EbpfCheck); 3] = [
    ("sources of the eBPF objects", check_sources),
    ("bytes of the eBPF objects", check_objects),
    ("byte comparison", check_rebuild),
];

/// Runs and prints each check of the committed objects.
pub fn check(repo: &Repo) -> Vec<(&'static str, TestVerdict)> {
    let verdicts = CHECKS.map(|(name, check)| {
        let verdict = check(repo).unwrap_or_else(|error| Err(error).into());
        verdict.print(name);
        (name, verdict)
    });
    verdicts.into()
}

fn update(repo: &Repo) -> Result<()> {
    let tools = Tools::installed(repo)?;
    let objects = build(repo, &repo.target.join("ebpf"), LockFile::MayChange)?;
    let provenance = Provenance {
        // After the build: it may have written the lock file.
        source_sha256: source_sha256(repo)?,
        objects: objects.iter().map(|(name, bytes)| (name.to_string(), sha256(bytes))).collect(),
        tools,
    };
    fs::create_dir_all(repo.objects())?;
    for (name, object) in objects {
        let path = repo.objects().join(name);
        fs::write(&path, &object).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: {} bytes, sha256 {}", path.display(), object.len(), sha256(&object));
    }
    provenance.write(&repo.provenance())
}

fn check_sources(repo: &Repo) -> Result<TestVerdict> {
    Ok(if sources_match(repo)? {
        TestVerdict::Passed
    } else {
        TestVerdict::Failed("they have changed since it was built: run `cargo xtask ebpf`".into())
    })
}

fn check_objects(repo: &Repo) -> Result<TestVerdict> {
    let recorded = Provenance::read(&repo.provenance())?.objects;
    for (name, _) in OBJECTS {
        let found = sha256(&committed(repo, name)?);
        let recorded = recorded.get(name).map_or("nothing", String::as_str);
        if found != recorded {
            return Ok(TestVerdict::Failed(format!(
                "the sha256 of {name} is {found}, the provenance says {recorded}: run `cargo xtask ebpf`"
            )));
        }
    }
    Ok(TestVerdict::Passed)
}

/// Only the recorded versions of all tools give the same bytes: with other versions the comparison is skipped.
fn check_rebuild(repo: &Repo) -> Result<TestVerdict> {
    let provenance = Provenance::read(&repo.provenance())?;
    if !sources_match(repo)? {
        return Ok(TestVerdict::Skipped("the sources have changed since it was built".into()));
    }
    let tools = match Tools::installed(repo) {
        Ok(tools) => tools,
        Err(error) => return Ok(TestVerdict::skipped(&error)),
    };
    let differences = tools.differences(&provenance.tools);
    if !differences.is_empty() {
        return Ok(TestVerdict::Skipped(differences.join("; ")));
    }
    let folder = repo.target.join("ebpf-check");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    for (name, rebuilt) in build(repo, &folder, LockFile::MustHold)? {
        if rebuilt != committed(repo, name)? {
            return Ok(TestVerdict::Failed(format!(
                "built again from the same sources with the same tools {name} is another object: see {}",
                folder.display()
            )));
        }
    }
    Ok(TestVerdict::Passed)
}

fn sources_match(repo: &Repo) -> Result<bool> {
    Ok(source_sha256(repo)? == Provenance::read(&repo.provenance())?.source_sha256)
}

fn committed(repo: &Repo, name: &str) -> Result<Vec<u8>> {
    let path = repo.objects().join(name);
    fs::read(&path).with_context(|| format!("cannot read {}: run `cargo xtask ebpf`", path.display()))
}

/// Whether a build may change the lock file of the eBPF crate.
#[derive(Clone, Copy)]
enum LockFile {
    MayChange,
    MustHold,
}

/// The objects as they are committed, by name: linked, with BTF, without DWARF.
fn build(repo: &Repo, target: &Path, lock: LockFile) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let locked: &[&str] = match lock {
        LockFile::MayChange => &[],
        LockFile::MustHold => &["--locked"],
    };
    // Before the build, whose flags name the folders that the registry's crates were unpacked to.
    command::run(toolchain::cargo(repo)?.arg("fetch").args(locked))?;
    OBJECTS
        .iter()
        .map(|&(name, features)| Ok((name, build_one(repo, target, name, features, locked)?)))
        .collect()
}

fn build_one(repo: &Repo, target: &Path, name: &str, features: &str, locked: &[&str]) -> Result<Vec<u8>> {
    command::run(
        toolchain::cargo(repo)?
            .args(["build", "--release", "--target", TARGET, "--features", features, "--target-dir"])
            .arg(target)
            .args(locked),
    )?;
    let linked = target.join(TARGET).join("release/tcptrace");
    let stripped = target.join(name);
    command::run(Command::new(toolchain::llvm_strip()).args(["-g", "-o"]).arg(&stripped).arg(&linked))?;
    let object = fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
    for (path, _) in toolchain::remapped_paths(repo)? {
        let name = path.to_string_lossy();
        ensure!(
            !contains(&object, name.as_bytes()),
            "the object names {name}, a folder of this machine only"
        );
    }
    Ok(object)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_anywhere_in_the_object() {
        assert!(contains(b"\x7fELF /home/me/src", b"/home/me"));
        assert!(!contains(b"\x7fELF /home/you/src", b"/home/me"));
    }
}
