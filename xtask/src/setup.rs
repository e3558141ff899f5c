//! `cargo xtask setup`: in, a machine with the Rust toolchain; out, one that can build the eBPF object and run
//! the tests.

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::repo::Repo;
use crate::toolchain::{BPF_LINKER_VERSION, LLVM_PREFIX, bpf_linker_version};
use crate::{command, packages, python, queries, vm};

#[derive(clap::Args)]
pub struct SetupArgs {
    /// Also install the programs that the live tests use (ip, nginx, ab, ...)
    #[arg(long)]
    tests: bool,
    /// Also build a Python with frame pointers, for the live test of its stacks: 4 minutes
    #[arg(long)]
    python: bool,
    /// Also install the emulator that boots other kernels
    #[arg(long)]
    vm: bool,
    /// Architectures of these kernels
    #[arg(long, value_enum, default_values_t = [Arch::native()], requires = "vm")]
    arch: Vec<Arch>,
}

pub fn run(repo: &Repo, args: &SetupArgs) -> Result<()> {
    ebpf_tools(repo)?;
    if args.tests {
        live_test_packages()?;
        queries::install(repo).context("without these the queries of the documents are skipped")?;
    }
    if args.python {
        python::install(repo).context("without it the stacks of Python are not tested")?;
    }
    if args.vm {
        args.arch.iter().try_for_each(|arch| vm::install(repo, *arch))?;
    }
    Ok(())
}

/// The compiler, LLVM and bpf-linker of the pinned recipe.
pub fn ebpf_tools(repo: &Repo) -> Result<()> {
    packages::install(packages::EBPF).context(
        "the tools of the pinned eBPF build are missing; only changing tcptrace-ebpf needs them: \
         the object it builds is committed",
    )?;
    if bpf_linker_version(repo).is_ok_and(|version| version == BPF_LINKER_VERSION) {
        eprintln!("present: bpf-linker {BPF_LINKER_VERSION}");
        return Ok(());
    }
    let mut install = repo.cargo();
    install
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(repo.ebpf_tools())
        .env("LLVM_PREFIX", LLVM_PREFIX);
    command::run(&mut install)
}

/// The programs that live tests start or query.
pub fn live_test_packages() -> Result<()> {
    packages::install_live().context("without these some live tests are skipped")
}
