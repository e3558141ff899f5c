//! Builds for another architecture: in, the architecture; out, a cargo whose programs are statically linked and run there.
//!
//! Debian's compiler of this machine takes the standard library from Debian's package for the other architecture: neither
//! rustup nor a foreign architecture of dpkg is needed.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::archive::Archive;
use crate::repo::Repo;
use crate::{command, packages, toolchain};

/// Installs compiler and linker for `arch`, and unpacks its standard library.
pub fn install(repo: &Repo, arch: Arch) -> Result<()> {
    packages::install(packages::COMPILER)?;
    let gcc = format!("gcc-{}", arch.gnu().replace('_', "-"));
    let libc = format!("libc6-dev-{}-cross", arch.debian());
    packages::install(&[&gcc, &libc])?;
    let version = compiler_version()?;
    let folder = std_folder(repo, arch, &version);
    if folder.is_dir() {
        return Ok(());
    }
    let package = format!("libstd-rust-web-dev={version}");
    let archive = Archive::of_this_release(repo, arch)?;
    archive.unpack(&[&package], &folder).context("the standard library must have the compiler's version")
}

/// A cargo that builds for `arch`; its first argument is a subcommand.
pub fn cargo(repo: &Repo, arch: Arch) -> Result<Command> {
    let std = std_folder(repo, arch, &compiler_version()?);
    let name = arch.debian();
    ensure!(std.is_dir(), "no standard library for {name}: run `cargo xtask setup --vm --arch {name}`");
    let target = arch.rust_target();
    let variable = target.replace('-', "_");
    let of_cargo = format!("CARGO_TARGET_{}", variable.to_uppercase());
    let mut cargo = toolchain::debian_cargo();
    cargo
        .current_dir(&repo.root)
        .env("CARGO_BUILD_TARGET", target)
        // Of its own: another compiler builds the host's crates, too.
        .env("CARGO_TARGET_DIR", build_folder(repo, arch))
        .env(format!("CC_{variable}"), format!("{}-gcc", arch.gnu()))
        .env(format!("AR_{variable}"), format!("{}-ar", arch.gnu()))
        .env(format!("{of_cargo}_LINKER"), format!("{}-gcc", arch.gnu()))
        .env(
            format!("{of_cargo}_RUSTFLAGS"),
            format!("--sysroot {}/usr -C target-feature=+crt-static", std.display()),
        )
        // `cargo test` runs programs in user-mode emulation.
        .env(format!("{of_cargo}_RUNNER"), emulator(arch));
    Ok(cargo)
}

/// Fails if programs of `arch` cannot be built and run here.
pub fn can_run(repo: &Repo, arch: Arch) -> Result<()> {
    cargo(repo, arch)?;
    command::output(Command::new(emulator(arch)).arg("--version"))
        .map(drop)
        .context("no emulator here: run `cargo xtask setup --vm`")
}

fn emulator(arch: Arch) -> String {
    format!("qemu-{}", arch.machine())
}

/// The program that [`cargo`] builds with `--release`.
pub fn release_binary(repo: &Repo, arch: Arch) -> PathBuf {
    build_folder(repo, arch).join(arch.rust_target()).join("release/tcptrace")
}

fn build_folder(repo: &Repo, arch: Arch) -> PathBuf {
    repo.cross(arch).join("build")
}

fn std_folder(repo: &Repo, arch: Arch, version: &str) -> PathBuf {
    repo.cross(arch).join(format!("std-{version}"))
}

fn compiler_version() -> Result<String> {
    command::output(Command::new("dpkg-query").args(["--show", "--showformat", "${Version}", "rustc-web"]))
}
