//! `cargo xtask ebpf`: in, the eBPF crate; out, the object that the program embeds with its provenance, or a
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
    /// Change nothing: compare the committed object with its provenance, its sources and a fresh build
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

const CHECKS: [(&str, EbpfCheck); 3] = [
    ("sources of the eBPF object", check_sources),
    ("bytes of the eBPF object", check_object),
    ("byte comparison", check_rebuild),
];

/// Runs and prints each check of the committed object.
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
    let object = build(repo, &repo.target.join("ebpf"), LockFile::MayChange)?;
    let provenance = Provenance {
        // After the build: it may have written the lock file.
        source_sha256: source_sha256(repo)?,
        object_sha256: sha256(&object),
        object_bytes: object.len(),
        tools,
    };
    let path = repo.object();
    fs::create_dir_all(path.parent().context("the object has no folder")?)?;
    fs::write(&path, &object).with_context(|| format!("cannot write {}", path.display()))?;
    provenance.write(&repo.provenance())?;
    println!("{}: {} bytes, sha256 {}", path.display(), provenance.object_bytes, provenance.object_sha256);
    Ok(())
}

fn check_sources(repo: &Repo) -> Result<TestVerdict> {
    Ok(if sources_match(repo)? {
        TestVerdict::Passed
    } else {
        TestVerdict::Failed("they have changed since it was built: run `cargo xtask ebpf`".into())
    })
}

fn check_object(repo: &Repo) -> Result<TestVerdict> {
    let recorded = Provenance::read(&repo.provenance())?.object_sha256;
    let found = sha256(&committed(repo)?);
    Ok(if found == recorded {
        TestVerdict::Passed
    } else {
        TestVerdict::Failed(format!(
            "its sha256 is {found}, the provenance says {recorded}: run `cargo xtask ebpf`"
        ))
    })
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
    let rebuilt = build(repo, &folder, LockFile::MustHold)?;
    Ok(if rebuilt == committed(repo)? {
        TestVerdict::Passed
    } else {
        TestVerdict::Failed(format!(
            "built again from the same sources with the same tools it is another object: see {}",
            folder.display()
        ))
    })
}

fn sources_match(repo: &Repo) -> Result<bool> {
    Ok(source_sha256(repo)? == Provenance::read(&repo.provenance())?.source_sha256)
}

fn committed(repo: &Repo) -> Result<Vec<u8>> {
    let path = repo.object();
    fs::read(&path).with_context(|| format!("cannot read {}: run `cargo xtask ebpf`", path.display()))
}

/// Whether a build may change the lock file of the eBPF crate.
#[derive(Clone, Copy)]
enum LockFile {
    MayChange,
    MustHold,
}

/// The object as it is committed: linked, with BTF, without DWARF.
fn build(repo: &Repo, target: &Path, lock: LockFile) -> Result<Vec<u8>> {
    let locked: &[&str] = match lock {
        LockFile::MayChange => &[],
        LockFile::MustHold => &["--locked"],
    };
    // Before the build, whose flags name the folders that the registry's crates were unpacked to.
    command::run(toolchain::cargo(repo)?.arg("fetch").args(locked))?;
    command::run(
        toolchain::cargo(repo)?
            .args(["build", "--release", "--target", TARGET, "--target-dir"])
            .arg(target)
            .args(locked),
    )?;
    let linked = target.join(TARGET).join("release/tcptrace");
    let stripped = target.join("tcptrace.bpf.o");
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
