//! The guest's only file system: in, a kernel's modules, the program and the live tests; out, one cpio archive.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::kernels::{KernelFiles, MODULES};
use crate::arch::Arch;
use crate::command;

const BUSYBOX: &str = "busybox";
/// Programs that live tests use; a test whose program is missing is skipped in the guest.
const PROGRAMS: [&str; 4] = ["bash", "setpriv", "setcap", "bpftool"];
/// Unpacked packages have programs in each of these.
const PROGRAM_FOLDERS: [&str; 4] = ["bin", "sbin", "usr/bin", "usr/sbin"];
/// Folders of shared libraries, each with one folder per architecture.
const LIBRARY_FOLDERS: [&str; 2] = ["lib", "usr/lib"];
const INIT: &str = include_str!("init.sh");

/// The programs of a guest.
pub struct GuestPrograms {
    pub arch: Arch,
    /// A Debian system of that architecture, which has busybox and the programs that live tests use.
    pub system: PathBuf,
    pub tcptrace: PathBuf,
    /// A program that makes connections, and its name in the guest.
    pub load: (&'static str, PathBuf),
}

/// Writes the archive into `folder` and returns its path. The guest runs `script` once tcptrace works.
pub fn build(folder: &Path, kernel: &KernelFiles, programs: &GuestPrograms, script: &str) -> Result<PathBuf> {
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for needed in ["bin", "etc", "lib", "proc", "sys", "dev", "tmp", "modules"] {
        fs::create_dir_all(root.join(needed))?;
    }
    // The loader of x86-64 is there.
    symlink("lib", root.join("lib64"))?;
    let system = System { root: &programs.system, arch: programs.arch };
    let busybox = system.program(BUSYBOX).context("the guest's system has no busybox")?;
    copy(&busybox, &root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/sh"))?;
    let present = PROGRAMS.into_iter().filter_map(|name| Some((name, system.program(name)?)));
    let tested = [("tcptrace", programs.tcptrace.clone()), programs.load.clone()];
    for (name, program) in present.chain(tested) {
        // Line tables make up 90 % of a program.
        let strip = format!("{}-strip", programs.arch.gnu());
        command::run(Command::new(strip).arg("-o").arg(root.join("bin").join(name)).arg(&program))?;
        system.copy_libraries(&program, &root.join("lib"))?;
    }
    for (module, name) in kernel.modules.iter().zip(MODULES) {
        copy(module, &root.join("modules").join(format!("{name}.ko")))?;
    }
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    fs::write(root.join("script"), script)?;
    let init = root.join("init");
    fs::write(&init, INIT.replace("@MODULES@", &MODULES.join(" ")))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    archive(&root, &folder.join("initramfs.cpio"))
}

/// A Debian system.
struct System<'a> {
    root: &'a Path,
    arch: Arch,
}

impl System<'_> {
    fn program(&self, name: &str) -> Option<PathBuf> {
        let mut files = PROGRAM_FOLDERS.iter().map(|folder| self.root.join(folder).join(name));
        files.find(|file| file.is_file())
    }

    fn library(&self, name: &str) -> Option<PathBuf> {
        let path = |folder| self.root.join(folder).join(self.arch.gnu()).join(name);
        LIBRARY_FOLDERS.into_iter().map(path).find(|file| file.is_file())
    }

    /// Copies the libraries that `program` needs, and those that they need; the loader is one of them.
    fn copy_libraries(&self, program: &Path, to: &Path) -> Result<()> {
        for name in needed(program)? {
            let copied = to.join(&name);
            if copied.exists() {
                continue;
            }
            let library = self.library(&name);
            let library = library.with_context(|| format!("{} needs {name}", program.display()))?;
            copy(&library, &copied)?;
            self.copy_libraries(&library, to)?;
        }
        Ok(())
    }
}

/// The names of the libraries that the file needs by itself. Not by ldd, which starts the program's loader.
fn needed(file: &Path) -> Result<Vec<String>> {
    let dynamic = command::output(Command::new("readelf").args(["--wide", "--dynamic"]).arg(file))?;
    Ok(dynamic.lines().filter_map(needed_name).map(str::to_owned).collect())
}

/// ` 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]`
fn needed_name(line: &str) -> Option<&str> {
    line.split_once("(NEEDED)")?.1.split_once('[')?.1.strip_suffix(']')
}

fn archive(root: &Path, to: &Path) -> Result<PathBuf> {
    let names = command::output(Command::new("find").args([".", "-mindepth", "1"]).current_dir(root))?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(to).with_context(|| format!("cannot write {}", to.display()))?)
        .spawn()
        .context("cannot start cpio: run `cargo xtask setup --vm`")?;
    std::io::Write::write_all(&mut cpio.stdin.take().context("cpio has no stdin")?, names.as_bytes())?;
    let status = cpio.wait()?;
    ensure!(status.success(), "cpio failed: {status}");
    Ok(to.to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_libraries_are_those_in_the_dynamic_section() {
        let line = " 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]";
        assert_eq!(needed_name(line), Some("libc.so.6"));
        let own_name = " 0x000000000000000e (SONAME)             Library soname: [libcap.so.2]";
        assert_eq!(needed_name(own_name), None);
    }
}
