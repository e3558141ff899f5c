//! Debian's toolchain: in, the repository; out, its commands, and the pinned recipe of the eBPF object.
//!
//! Debian's rustc comes with a compiled core for the BPF target, so neither a nightly compiler nor `-Z build-std`
//! is needed, and the same sources give the same bytes wherever these versions are installed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::command;
use crate::repo::Repo;

pub const BPF_LINKER_VERSION: &str = "0.13.0";
pub const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
pub const TARGET: &str = "bpfel-unknown-none";

/// Flags for rustc, which change the object. The linker has no path because cargo hashes the flags into symbol names;
/// the linker makes .BTF from debug information.
pub const FLAGS: &[&str] =
    &["-C", "linker=bpf-linker", "-C", "target-cpu=v3", "-C", "debuginfo=2", "-C", "link-arg=--btf"];

// By their paths: a rustup that comes first in PATH has no core for the BPF target.
pub const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const CARGO_CLIPPY: &str = "/usr/bin/cargo-clippy";
const CORE_PACKAGE: &str = "libstd-rust-web-dev-bpf";

/// Versions of everything that turns sources into the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tools {
    pub rustc: String,
    pub cargo: String,
    /// The Debian package with the compiled core.
    pub libcore: String,
    pub bpf_linker: String,
    pub llvm_strip: String,
}

impl Tools {
    /// The versions on this machine; an error names the first missing tool.
    pub fn installed(repo: &Repo) -> Result<Self> {
        let libcore = output("dpkg-query", &["--show", "--showformat", "${Version}", CORE_PACKAGE]);
        Ok(Self {
            rustc: output(RUSTC, &["--version"])?,
            cargo: output(CARGO, &["--version"])?,
            libcore: format!("{CORE_PACKAGE} {}", libcore?),
            bpf_linker: bpf_linker_version(repo)?,
            llvm_strip: llvm_version(&output(llvm_strip(), &["--version"])?).to_owned(),
        })
    }

    /// The tools that differ, each as "rustc is A here, B in the provenance"; empty when all are the same.
    pub fn differences(&self, recorded: &Self) -> Vec<String> {
        let pairs = [
            ("rustc", &self.rustc, &recorded.rustc),
            ("cargo", &self.cargo, &recorded.cargo),
            ("libcore", &self.libcore, &recorded.libcore),
            ("bpf-linker", &self.bpf_linker, &recorded.bpf_linker),
            ("llvm-strip", &self.llvm_strip, &recorded.llvm_strip),
        ];
        let differing = pairs.into_iter().filter(|(_, here, there)| here != there);
        differing
            .map(|(tool, here, there)| format!("{tool} is {here} here, {there} in the provenance"))
            .collect()
    }
}

/// The version of the bpf-linker that `cargo xtask setup` installed.
pub fn bpf_linker_version(repo: &Repo) -> Result<String> {
    let answer = output(repo.ebpf_tools().join("bin/bpf-linker"), &["--version"])?;
    Ok(answer.strip_prefix("bpf-linker ").unwrap_or(&answer).to_owned())
}

/// `llvm-strip` of the LLVM that the linker links.
pub fn llvm_strip() -> PathBuf {
    Path::new(LLVM_PREFIX).join("bin/llvm-strip")
}

/// Debian's cargo in the eBPF crate.
pub fn cargo(repo: &Repo) -> Result<Command> {
    in_ebpf_crate(debian_cargo(), repo)
}

/// Debian's clippy in the eBPF crate; its first argument is `clippy`.
pub fn cargo_clippy(repo: &Repo) -> Result<Command> {
    output(CARGO_CLIPPY, &["--version"])?;
    Tools::installed(repo)?;
    let mut command = in_ebpf_crate(debian(CARGO_CLIPPY), repo)?;
    command.arg("clippy");
    Ok(command)
}

/// Debian's cargo, untouched by the settings of the cargo that runs xtask.
pub fn debian_cargo() -> Command {
    debian(CARGO)
}

fn debian(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| changes_the_build(name)) {
        command.env_remove(name);
    }
    command.env("CARGO", CARGO).env("RUSTC", RUSTC);
    command
}

fn in_ebpf_crate(mut command: Command, repo: &Repo) -> Result<Command> {
    command
        .current_dir(repo.ebpf_crate())
        .env("PATH", command::path_with(repo.ebpf_tools().join("bin"))?)
        // aya-ebpf uses an unstable feature.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(repo)?.join("\x1f"));
    Ok(command)
}

/// Variables of cargo, rustup and the loader, except for those that only set the source of crates.
fn changes_the_build(name: &OsStr) -> bool {
    const FETCHING: &[&str] = &["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    let name = name.to_string_lossy();
    let of_tools = ["CARGO", "RUST", "LD_LIBRARY_PATH"].iter().any(|start| name.starts_with(start));
    of_tools && !FETCHING.iter().any(|start| name.starts_with(start))
}

fn rustflags(repo: &Repo) -> Result<Vec<String>> {
    let flags = FLAGS.iter().map(|&flag| flag.to_owned());
    Ok(flags.chain(remap_flags(repo)?).collect())
}

/// The flags that keep paths of this machine out of what is built.
pub fn remap_flags(repo: &Repo) -> Result<Vec<String>> {
    let paths = remapped_paths(repo)?.into_iter();
    Ok(paths.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect())
}

/// Folders of this machine and their names in the object; of two that match rustc uses the later one.
pub fn remapped_paths(repo: &Repo) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut paths = vec![(home()?, "/home"), (cargo_home()?, "/cargo")];
    // Without the local ones: `cargo publish --dry-run` adds one, and other flags rebuild everything.
    let registries = registries()?.into_iter().filter(|registry| !is_local(registry));
    paths.extend(registries.map(|registry| (registry, "/registry")));
    paths.push((repo.root.clone(), "/tcptrace"));
    Ok(paths)
}

/// Folders of unpacked crates, one for each registry. Their names begin with that of the registry's host, which must not be in
/// the object.
pub fn registries() -> Result<Vec<PathBuf>> {
    let Ok(folders) = cargo_home()?.join("registry/src").read_dir() else {
        return Ok(Vec::new());
    };
    folders.map(|folder| Ok(folder?.path())).collect()
}

/// Whether this registry is a folder, which has no host, such as that of `cargo publish --dry-run`.
pub fn is_local(registry: &Path) -> bool {
    registry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('-'))
}

fn cargo_home() -> Result<PathBuf> {
    std::env::var_os("CARGO_HOME").map_or_else(|| Ok(home()?.join(".cargo")), |home| Ok(home.into()))
}

fn home() -> Result<PathBuf> {
    std::env::home_dir().context("no home folder: set HOME")
}

fn output(program: impl AsRef<OsStr>, args: &[&str]) -> Result<String> {
    command::output(Command::new(program).args(args))
        .context("a tool of the eBPF build is missing: run `cargo xtask setup`")
}

/// The version in the output of an LLVM tool, which is not in its first line.
fn llvm_version(answer: &str) -> &str {
    let found = answer.lines().find_map(|line| line.split_once("LLVM version "));
    found.map_or("unknown", |(_, version)| version.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_outer_cargo_do_not_change_the_build() {
        for name in [
            "CARGO_TARGET_DIR",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CARGO_PROFILE_RELEASE_LTO",
            "LD_LIBRARY_PATH",
        ] {
            assert!(changes_the_build(OsStr::new(name)), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_HTTP_CAINFO", "CARGO_REGISTRIES_CRATES_IO_PROTOCOL", "PATH", "HOME"]
        {
            assert!(!changes_the_build(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_registry_without_a_host_is_local() {
        assert!(is_local(Path::new("/cargo/registry/src/-6160e45b5b1aa7ac")));
        assert!(!is_local(Path::new("/cargo/registry/src/registry.example-1949cf8c6b5b557f")));
    }

    #[test]
    fn the_version_of_llvm_tools_is_in_any_line() {
        let answer =
            "llvm-strip, compatible with GNU strip\nDebian LLVM version 22.1.8\n  Optimized build.\n";
        assert_eq!(llvm_version(answer), "22.1.8");
        assert_eq!(llvm_version("GNU strip 2.40"), "unknown");
    }

    #[test]
    fn a_difference_names_the_tool_and_both_versions() {
        let here = Tools {
            rustc: "rustc 1.96.0".into(),
            cargo: "cargo 1.96.0".into(),
            libcore: "1.96.0-1".into(),
            bpf_linker: "0.13.0".into(),
            llvm_strip: "22.1.8".into(),
        };
        assert!(here.differences(&here).is_empty());
        let there = Tools { bpf_linker: "0.12.0".into(), ..here.clone() };
        assert_eq!(here.differences(&there), ["bpf-linker is 0.13.0 here, 0.12.0 in the provenance"]);
    }
}
