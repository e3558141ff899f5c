//! Debian packages: in, one of the lists below; out, a machine that has them.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command;

/// Debian's compiler: its standard library exists for other architectures.
pub const COMPILER: &[&str] = &["rustc-web", "cargo-web"];

/// Build and lint the eBPF object.
pub const EBPF: &[&str] = &[
    "rustc-web",               // its LLVM is the one that bpf-linker links
    "cargo-web",               // of the same release
    "libstd-rust-web-dev-bpf", // core, compiled for the BPF target
    "llvm-22-dev",             // libLLVM for bpf-linker, and llvm-strip
    "rust-web-clippy",         // for the eBPF crate
];

/// Takes the screenshot of a page.
pub const BROWSER: &[&str] = &["chromium"];

/// Make the incident of the dashboard's screenshot.
pub const DASHBOARD: &[&str] = &[
    "iproute2",   // ip: a network namespace
    "util-linux", // nsenter
    "prometheus", // scrapes `tcptrace serve`, and answers the dashboard's queries
];

/// Installs Grafana's components, where no npm is yet.
pub const NPM: &[&str] = &["nodejs", "npm"];

/// Live tests start or query these.
const LIVE: &[&str] = &[
    "iproute2",       // ip: network namespaces; ss: a second count of socket states
    "iptables",       // a gateway that translates addresses
    "procps",         // sysctl
    "util-linux",     // nsenter, unshare
    "tmux",           // a terminal for the live screen
    "apache2-utils",  // ab: short connections at a high rate
    "postgresql",     // pgbench -C: a connection per transaction
    "redis-server",   // a real server that answers at once
    "redis-tools",    // redis-benchmark -k 0: a connection per request
    "prometheus",     // scrapes the metrics; promtool
    "chromium",       // a browser for the page of a report
    "nginx",          // a real server that closes first
    "haproxy",        // a real proxy that binds to a source address
    "podman",         // a container
    "runc",           // crun refuses hosts with both versions of control groups
    "containerd",     // a pod, made through its CRI
    "python3-grpcio", // the kubelet's part of that
    "busybox-static", // the pod's image
    "golang-go",      // a program in Go; pprof
    "nodejs",         // a program in JavaScript
];

/// Build the Python of live tests: `cargo xtask setup --python`.
pub const PYTHON: &[&str] = &["gcc", "libc6-dev", "make", "xz-utils"];

/// Compiles the engine of `cargo xtask fuzz`: libFuzzer is C++.
pub const FUZZ: &[&str] = &["g++"];

/// The peers that `cargo xtask bench` measures, and its instruments.
pub const BENCH: &[&str] = &[
    "libbpf-tools", // tcpstates
    "bpftrace",     // counts states in maps
    "iproute2",     // ss
    "net-tools",    // netstat
    "bpftool",      // the time that programs take in the kernel
    "time",         // the peak memory of a command
];

/// Boot other kernels: `cargo xtask vm`.
pub const VM: &[&str] = &[
    "busybox-static", // the guest's shell and its tools
    "cpio",           // packs the guest's file system
    "binutils",       // strip: a smaller guest; readelf: the libraries of a program
    "xz-utils",       // kernel modules are compressed
    "lz4",            // older kernels are
    "zstd",           // newer kernels are
];

/// The emulators of `cargo xtask vm`: of whole machines, and of programs for the unit tests.
pub const EMULATORS_AMD64: &[&str] = &["qemu-system-x86"];
pub const EMULATORS_ARM64: &[&str] = &["qemu-system-arm", "qemu-user"];

/// A guest of another architecture gets these from there: programs that live tests use, and their libraries.
pub const FOREIGN_GUEST: &[&str] = &[
    "busybox-static",
    "bash",
    "util-linux",  // setpriv
    "libcap2-bin", // setcap
    "bpftool",
    "libc6",
    "libtinfo6",  // of bash
    "libcap-ng0", // of setpriv
    "libcap2",    // of setcap and bpftool
    "libelf1",    // of bpftool
    "zlib1g",     // of bpftool
];

/// Make and check the files of a release: `cargo xtask dist`.
pub const DIST: &[&str] = &[
    "binutils", // readelf: whether the program is static
    "rpm",      // rpmbuild, rpm
    "buildah",  // the container image
];

/// Check the files of a release: `cargo xtask dist --check`.
pub const DIST_CHECK: &[&str] = &[
    "debootstrap", // roots to install packages in
    "podman",      // runs the image
    "runc",        // crun refuses hosts with both versions of control groups
    "qemu-user",   // runs the program of another architecture
];

/// Runs apt-get where package scripts start no service: the mounts exist for this process only.
const WITHOUT_SERVICES: &str = "for starter in /usr/sbin/invoke-rc.d /usr/bin/deb-systemd-invoke; do \
     mount --bind /bin/true $starter; done; exec apt-get \"$@\"";

/// Installs those of `packages` that are missing; if none is, this needs neither root nor apt.
pub fn install(packages: &[&str]) -> Result<()> {
    install_by(packages, || Command::new("apt-get")).map(drop)
}

/// Installs the programs of the live tests.
pub fn install_live() -> Result<()> {
    install_without_services(LIVE)
}

/// Installs programs whose services start neither now nor at boot: tests run their own.
pub fn install_without_services(packages: &[&str]) -> Result<()> {
    let installed = install_by(packages, || {
        let mut apt_get = Command::new("unshare");
        apt_get.args(["--mount", "sh", "-c", WITHOUT_SERVICES, "apt-get"]);
        apt_get
    })?;
    for name in installed {
        // It fails for a package without a service of its name, and where there is no systemd.
        let _ = Command::new("systemctl").args(["--quiet", "disable", name]).stderr(Stdio::null()).status();
    }
    Ok(())
}

/// Installs by an apt-get with options of its own; returns which packages were missing.
pub fn install_by<'a>(packages: &[&'a str], apt_get: impl Fn() -> Command) -> Result<Vec<&'a str>> {
    let missing: Vec<_> = packages.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        eprintln!("present: {}", packages.join(" "));
        return Ok(missing);
    }
    let names = missing.join(" ");
    if !is_root() {
        bail!("installing packages needs root; run: sudo apt-get install --no-install-recommends {names}");
    }
    let apt_get = |args: &[&str]| {
        let mut command = apt_get();
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command.args(["--quiet", "--yes", "-o", "Dpkg::Use-Pty=0"]).args(args);
        command
    };
    // --no-remove: rustc-web conflicts with rustc, and the user's own compiler stays.
    let install = || {
        command::run(apt_get(&["install", "--no-install-recommends", "--no-remove"]).args(&missing))
            .with_context(|| format!("cannot install these, or this is not a Debian system: {names}"))
    };
    install().or_else(|_| {
        eprintln!("once more, with fresh package lists");
        command::run(&mut apt_get(&["update"]))?;
        install()
    })?;
    Ok(missing)
}

/// Whether this process may install packages and make network namespaces.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn is_installed(name: &str) -> bool {
    let status = command::output(Command::new("dpkg-query").args(["-Wf", "${db:Status-Status}", name]));
    // A word for each architecture that has it.
    status.is_ok_and(|status| status.starts_with("installed"))
}
