//! Debian packages: in, one of the tables below; out, a machine that has them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command;

/// A Debian package and why we want it.
pub struct Package {
    pub name: &'static str,
    pub why: &'static str,
    /// The system service that comes with it. Tests run their own: it starts neither now nor at the next boot.
    pub service: Option<&'static str>,
}

const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why, service: None }
}

/// What building and linting the eBPF object needs.
pub const EBPF: &[Package] = &[
    package("rustc-web", "compiler whose LLVM is the one bpf-linker links"),
    package("cargo-web", "the cargo of the same release"),
    package("libstd-rust-web-dev-bpf", "core, compiled for the BPF target"),
    package("llvm-22-dev", "libLLVM for bpf-linker, and llvm-strip"),
    package("rust-web-clippy", "clippy for the eBPF crate"),
];

/// What the live tests start or ask.
pub const LIVE: &[Package] = &[
    package("iproute2", "ip: network namespaces; ss: a second opinion on socket states"),
    package("procps", "sysctl"),
    package("util-linux", "nsenter, unshare"),
    package("tmux", "a terminal for the live screen"),
    package("apache2-utils", "ab: short connections at a high rate"),
    Package {
        name: "postgresql",
        why: "pgbench -C: a connection per transaction",
        service: Some("postgresql"),
    },
    Package {
        name: "redis-server",
        why: "a real server that answers at once",
        service: Some("redis-server"),
    },
    package("redis-tools", "redis-benchmark -k 0: a connection per request"),
    Package { name: "prometheus", why: "scrapes the metrics; promtool", service: Some("prometheus") },
    package("chromium", "a browser for the page of a report"),
    Package { name: "nginx", why: "a real server that closes first", service: Some("nginx") },
];

/// What `cargo xtask fuzz` compiles its engine with.
pub const FUZZ: &[Package] = &[package("g++", "libFuzzer is C++")];

/// The peers that `cargo xtask bench` measures, and what it measures with.
pub const BENCH: &[Package] = &[
    package("libbpf-tools", "tcpstates"),
    package("bpftrace", "counting states in maps"),
    package("iproute2", "ss"),
    package("net-tools", "netstat"),
    package("bpftool", "the time that programs take in the kernel"),
    package("time", "the peak memory of a command"),
];

/// What boots other kernels: `cargo xtask vm`.
pub const VM: &[Package] = &[
    package("qemu-system-x86", "the emulator"),
    package("busybox-static", "the guest's shell and its tools"),
    package("cpio", "packs the guest's file system"),
    package("binutils", "strip: a smaller guest"),
    package("xz-utils", "kernel modules are compressed"),
    package("lz4", "older kernels are"),
    package("zstd", "newer kernels are"),
];

/// Installs what is missing of `packages`; when nothing is, it is quick and needs no root.
pub fn install(packages: &[Package]) -> Result<()> {
    install_by(packages, || Command::new("apt-get"))
}

/// The same, by an apt-get with options of its own.
pub fn install_by(packages: &[Package], apt_get: impl Fn() -> Command) -> Result<()> {
    let names = names(packages);
    let Some(present) = present(&names)? else {
        bail!(
            "this is not a Debian system (no dpkg-query): install the equivalent of these yourself:\n{}",
            explained(packages)
        );
    };
    let missing: Vec<_> = packages.iter().filter(|p| !present.iter().any(|name| name == p.name)).collect();
    if missing.is_empty() {
        eprintln!("present: {}", names.join(" "));
        return Ok(());
    }
    let missing_names: Vec<_> = missing.iter().map(|package| package.name).collect();
    if !is_root() {
        bail!(
            "installing packages needs root; run: sudo apt-get install --no-install-recommends {}",
            missing_names.join(" ")
        );
    }
    let _no_service_starts = ServiceBlock::put(Path::new("/usr/sbin/policy-rc.d"))?;
    if command::run(&mut apt_install(apt_get(), &missing_names)).is_err() {
        eprintln!("once more, with fresh package lists");
        command::run(quiet(apt_get()).arg("update"))?;
        command::run(&mut apt_install(apt_get(), &missing_names)).with_context(|| {
            format!("this system's Debian sources do not give {}", missing_names.join(" "))
        })?;
    }
    missing.iter().filter_map(|package| package.service).for_each(disable_at_boot);
    Ok(())
}

/// Whether this process may install packages and make network namespaces.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn names(packages: &[Package]) -> Vec<&'static str> {
    packages.iter().map(|package| package.name).collect()
}

fn explained(packages: &[Package]) -> String {
    packages.iter().map(|p| format!("  {:<24} {}", p.name, p.why)).collect::<Vec<_>>().join("\n")
}

/// Which of `names` are installed; `None` where dpkg is unknown.
fn present(names: &[&str]) -> Result<Option<Vec<String>>> {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(names)
        .stderr(Stdio::null())
        .output();
    match query {
        // The exit status only says that some are unknown.
        Ok(output) => Ok(Some(installed(&String::from_utf8_lossy(&output.stdout)))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot run dpkg-query"),
    }
}

fn installed(answer: &str) -> Vec<String> {
    answer.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_owned).collect()
}

fn quiet(mut command: Command) -> Command {
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).args([
        "--quiet",
        "--yes",
        "-o",
        "Dpkg::Use-Pty=0",
    ]);
    command
}

fn apt_install(apt_get: Command, names: &[&str]) -> Command {
    let mut command = quiet(apt_get);
    // --no-remove: rustc-web conflicts with rustc; the user's own compiler is not ours to take away.
    command.args(["install", "--no-install-recommends", "--no-remove"]).args(names);
    command
}

fn disable_at_boot(service: &str) {
    // Not every Debian has systemd; without it nothing was enabled.
    let _ = Command::new("systemctl").args(["--quiet", "disable", service]).stderr(Stdio::null()).status();
}

/// A policy-rc.d that forbids starting services, as long as this value lives. One that is there already stays.
struct ServiceBlock(Option<PathBuf>);

impl ServiceBlock {
    const MARK: &str = "written by cargo xtask";

    fn put(path: &Path) -> Result<Self> {
        if std::fs::read_to_string(path).is_ok_and(|present| !present.contains(Self::MARK)) {
            return Ok(Self(None));
        }
        // Left behind by a kill -9 it allows everything again: the process it asks for is gone.
        let pid = std::process::id();
        let script = format!(
            "#!/bin/sh\n# {}: no service starts while it installs test packages.\n\
             [ \"$(cat /proc/{pid}/comm 2>/dev/null)\" = xtask ] && exit 101\nexit 0\n",
            Self::MARK
        );
        let write = || {
            std::fs::write(path, script)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(Some(path.to_owned())))
    }
}

impl Drop for ServiceBlock {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_counts_as_present() {
        let answer = "procps installed\nnginx config-files\ntmux not-installed\niproute2 installed\n";
        assert_eq!(installed(answer), ["procps", "iproute2"]);
    }

    #[test]
    fn a_foreign_policy_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("tcptrace-xtask-policy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("policy-rc.d");

        drop(ServiceBlock::put(&path).unwrap());
        assert!(!path.exists(), "ours goes when the installation ends");

        std::fs::write(&path, "#!/bin/sh\nexit 101\n").unwrap();
        drop(ServiceBlock::put(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 101\n");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
