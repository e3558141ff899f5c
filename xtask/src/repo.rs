//! Paths of the checkout: in, the folder of xtask and `cargo metadata`; out, paths.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::command;

/// The checkout this xtask belongs to.
pub struct Repo {
    /// The folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target folder for the workspace; everything xtask builds goes below it.
    pub target: PathBuf,
}

impl Repo {
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
        let mut cargo = cargo_at(root);
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
        let metadata: serde_json::Value = serde_json::from_str(&command::output(&mut cargo)?)?;
        let target =
            metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
        Ok(Self { root: root.to_owned(), target: PathBuf::from(target) })
    }

    /// The cargo that runs this xtask, at the root of the workspace.
    pub fn cargo(&self) -> Command {
        cargo_at(&self.root)
    }

    /// The eBPF crate, a workspace of its own.
    pub fn ebpf_crate(&self) -> PathBuf {
        self.root.join("tcptrace-ebpf")
    }

    /// The committed eBPF object.
    pub fn objects(&self) -> PathBuf {
        self.root.join("tcptrace/ebpf")
    }

    /// The sources and tools of the committed eBPF object.
    pub fn provenance(&self) -> PathBuf {
        self.root.join("tcptrace/ebpf/provenance.toml")
    }

    /// `cargo install --root` of the tools that only the eBPF build needs.
    pub fn ebpf_tools(&self) -> PathBuf {
        self.target.join("ebpf-tools")
    }

    /// Kernels, package lists and guests of `cargo xtask vm`.
    pub fn vm(&self) -> PathBuf {
        self.target.join("vm")
    }

    /// Builds for another architecture, and the standard library for them.
    pub fn cross(&self, arch: Arch) -> PathBuf {
        self.target.join(arch.debian())
    }

    /// The program of a release build for this machine.
    pub fn release_binary(&self) -> PathBuf {
        self.target.join("release/tcptrace")
    }
}

fn cargo_at(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}
