//! The guest's only file system: in, a kernel's modules, the program and the live tests; out, one cpio archive.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::kernels::{KernelFiles, MODULES};
use crate::command;

const BUSYBOX: &str = "/bin/busybox";
/// Programs of the host that live tests use; a test whose program is missing is skipped in the guest.
const HOST_PROGRAMS: [&str; 4] = ["/bin/bash", "/usr/bin/setpriv", "/usr/sbin/setcap", "/usr/sbin/bpftool"];
const INIT: &str = include_str!("init.sh");

/// The programs under test.
pub struct GuestPrograms {
    pub tcptrace: PathBuf,
    /// The test program of the live tests.
    pub live: PathBuf,
}

/// Writes the archive into `folder` and returns its path; `filters` select live tests.
pub fn build(
    folder: &Path,
    kernel: &KernelFiles,
    programs: &GuestPrograms,
    filters: &[String],
) -> Result<PathBuf> {
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for needed in ["bin", "etc", "lib", "proc", "sys", "dev", "tmp", "modules"] {
        fs::create_dir_all(root.join(needed))?;
    }
    copy(Path::new(BUSYBOX), &root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/sh"))?;
    let present = HOST_PROGRAMS.map(Path::new).into_iter().filter(|program| program.is_file());
    let tested = [(programs.tcptrace.as_path(), "tcptrace".as_ref()), (&programs.live, "live".as_ref())];
    for (program, name) in present.filter_map(|program| Some((program, program.file_name()?))).chain(tested) {
        let to = root.join("bin").join(name);
        // Line tables make up 90 % of a program.
        command::run(Command::new("strip").arg("-o").arg(&to).arg(program))?;
        for library in libraries(program)? {
            let to = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(to.parent().context("a library in no folder")?)?;
            copy(&library, &to)?;
        }
    }
    for (module, name) in kernel.modules.iter().zip(MODULES) {
        copy(module, &root.join("modules").join(format!("{name}.ko")))?;
    }
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    fs::write(root.join("filters"), filters.join(" "))?;
    let init = root.join("init");
    fs::write(&init, INIT.replace("@MODULES@", &MODULES.join(" ")))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    archive(&root, &folder.join("initramfs.cpio"))
}

/// The shared libraries of `program`, the loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let answer = command::output(Command::new("ldd").arg(program))?;
    Ok(answer.lines().filter_map(library).map(PathBuf::from).collect())
}

/// `libc.so.6 => /lib/libc.so.6 (0x...)`, or `/lib64/ld-linux.so.2 (0x...)`.
fn library(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
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
    fn libraries_are_the_paths_that_ldd_names() {
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffd)"), None);
        assert_eq!(
            library("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2"));
    }
}
