//! Builds for x86-64 and arm64 by Debian's compiler: in, the architecture; out, a cargo whose programs are statically linked
//! and run there. The same sources give the same bytes.
//!
//! Debian's compiler of this machine takes the standard library from Debian's package for the other architecture: neither
//! rustup nor a foreign architecture of dpkg is needed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::archive::Archive;
use crate::repo::Repo;
use crate::{command, packages, toolchain};

/// Installs compiler and linker for `arch`, and unpacks its standard library.
pub fn install(repo: &Repo, arch: Arch) -> Result<()> {
    packages::install(packages::COMPILER)?;
    if arch == Arch::native() {
        return Ok(());
    }
    let gcc = format!("gcc-{}", arch.gnu().replace('_', "-"));
    let libc = format!("libc6-dev-{}-cross", arch.debian());
    packages::install(&[&gcc, &libc])?;
    let version = compiler_version()?;
    let folder = std_folder(repo, arch, &version);
    let rustc = folder.join(RUSTC_SCRIPT);
    if rustc.exists() {
        return Ok(());
    }
    let package = format!("libstd-rust-web-dev={version}");
    let archive = Archive::of_this_release(repo, arch)?;
    archive.unpack(&[&package], &folder).context("the standard library must have the compiler's version")?;
    let host = Path::new("usr/lib/rustlib").join(Arch::native().rust_target());
    if !folder.join(&host).exists() {
        symlink(Path::new("/").join(&host), folder.join(&host))?;
    }
    let script =
        format!("#!/bin/sh\nexec {} --sysroot '{}/usr' \"$@\"\n", toolchain::RUSTC, folder.display());
    fs::write(&rustc, script)?;
    Ok(fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755))?)
}

/// Runs the compiler with the standard library of another architecture beside this machine's. Not a flag for rustc: cargo
/// hashes flags into symbol names, and the program would depend on the path.
const RUSTC_SCRIPT: &str = "rustc";

/// A cargo that builds for `arch`; its first argument is a subcommand.
pub fn cargo(repo: &Repo, arch: Arch) -> Result<Command> {
    let target = arch.rust_target();
    let variable = target.replace('-', "_");
    // With a target these flags do not reach what runs here, such as build scripts.
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    if arch == Arch::Amd64 {
        // Relocations in 3 KB instead of 200 KB; Debian 12's linker for arm64 has no such form.
        flags.push("-Clink-arg=-Wl,-z,pack-relative-relocs".to_owned());
    }
    flags.extend(toolchain::remap_flags(repo)?);
    let mut cargo = toolchain::debian_cargo();
    cargo
        .current_dir(&repo.root)
        .env("CARGO_BUILD_TARGET", target)
        // Of its own: another compiler builds the host's crates, too.
        .env("CARGO_TARGET_DIR", build_folder(repo, arch))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env(format!("CC_{variable}"), format!("{}-gcc", arch.gnu()))
        .env(format!("AR_{variable}"), format!("{}-ar", arch.gnu()))
        .env(format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()), format!("{}-gcc", arch.gnu()));
    if arch != Arch::native() {
        let rustc = std_folder(repo, arch, &compiler_version()?).join(RUSTC_SCRIPT);
        let name = arch.debian();
        ensure!(rustc.exists(), "no standard library for {name}: run `cargo xtask setup --vm --arch {name}`");
        cargo.env("RUSTC", rustc);
        // `cargo test` runs programs in user-mode emulation.
        cargo.env(format!("CARGO_TARGET_{}_RUNNER", variable.to_uppercase()), emulator(arch));
    }
    Ok(cargo)
}

/// A second release build, only for tests, takes half the time with these variables.
pub const QUICK_BUILD: [(&str, &str); 3] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
];

/// Fails if programs of `arch` cannot be built and run here.
pub fn can_run(repo: &Repo, arch: Arch) -> Result<()> {
    cargo(repo, arch)?;
    command::output(Command::new(emulator(arch)).arg("--version"))
        .map(drop)
        .context("no emulator here: run `cargo xtask setup --vm`")
}

/// The program that runs those of `arch` in user-mode emulation.
pub fn emulator(arch: Arch) -> String {
    format!("qemu-{}", arch.machine())
}

/// The program that [`cargo`] builds with this profile.
pub fn binary(repo: &Repo, arch: Arch, profile: &str) -> PathBuf {
    build_folder(repo, arch).join(arch.rust_target()).join(profile).join("tcptrace")
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
