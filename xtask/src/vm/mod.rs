//! `cargo xtask vm`: in, an architecture and versions of Debian kernels; out, the results of the release binary and of the
//! live tests on each, booted in an emulator, and a closing line of counts.
//!
//! Not with virtme-ng or vmtest: they share the host's files over 9p, which Debian's cloud kernels lack (`CONFIG_NET_9P`).

mod guest;
mod initramfs;
mod kernels;
mod report;
mod table;
pub mod vmlinux;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use self::initramfs::GuestPrograms;
use self::kernels::DebianKernel;
pub use self::kernels::KERNELS;
use self::report::GuestReport;
use self::table::KernelRow;
use crate::arch::Arch;
use crate::archive::{self, Archive};
use crate::repo::Repo;
use crate::tally::{TestTally, TestVerdict};
use crate::{command, cross, packages};

#[derive(clap::Args)]
pub struct VmArgs {
    /// Architecture of the guests
    #[arg(long, value_enum, default_value_t = Arch::native())]
    arch: Arch,
    /// Kernels to boot; all by default
    #[arg(long, value_name = "VERSION", value_parser = kernel)]
    kernel: Vec<&'static DebianKernel>,
    /// Virtual CPUs of each guest
    #[arg(long, default_value_t = GUEST_CPUS, value_parser = clap::value_parser!(u8).range(1..=64))]
    cpus: u8,
    /// Write the rows of the README's table of kernels, once nothing fails
    #[arg(long)]
    table: bool,
    /// Show the whole console of the guests
    #[arg(long)]
    verbose: bool,
    /// Run the live tests whose name contains one of these
    #[arg(last = true, value_name = "FILTER")]
    filters: Vec<String>,
}

/// Virtual CPUs of a guest of `cargo xtask test`.
const GUEST_CPUS: u8 = 2;

fn kernel(version: &str) -> Result<&'static DebianKernel, String> {
    let versions = KERNELS.map(|kernel| kernel.version).join(", ");
    DebianKernel::named(version).ok_or_else(|| format!("no such kernel; there are {versions}"))
}

pub fn run(repo: &Repo, args: &VmArgs) -> Result<ExitCode> {
    if let Err(error) = install(repo, args.arch) {
        eprintln!("not everything could be installed: {error:#}");
    }
    let kernels = if args.kernel.is_empty() { KERNELS.iter().collect() } else { args.kernel.clone() };
    let mut tally = TestTally::default();
    let rows = test(repo, args.arch, args.cpus, &kernels, &args.filters, args.verbose.into(), &mut tally)?;
    if args.table {
        println!("{}", table::HEAD);
        for row in &rows {
            println!("{}", row.line(None));
        }
        if tally.counts.is_success() && args.filters.is_empty() {
            table::write(repo, &rows)?;
        } else {
            eprintln!("the README stays as it is: something failed, or not everything was run");
        }
    }
    println!("\n{}vm: {}", tally.report(), tally.counts);
    Ok(if tally.counts.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The kernels that `cargo xtask test` boots on this machine's architecture: 6.1 runs on the other one.
const NATIVE_KERNELS: [&str; 3] = ["5.10", "6.12", "7.2"];
/// Those on another architecture: an old one, and one with larger pages.
const FOREIGN_KERNELS: [&str; 2] = ["6.1", "7.2"];

/// The live tests that it runs there: those that depend on layouts, stacks, pages and timers.
const FOREIGN_TESTS: [&str; 10] = [
    "close::",
    "ending::",
    "abort::",
    "handshake::",
    "fallback::",
    "owner::",
    "seed::",
    "identity::one_cookie_many_sockets",
    "odd::counters",
    "flood::highest_rate",
];

/// An option of the live tests: leave out what passes or fails alike on every kernel.
const DEPENDS_ON_KERNEL: &str = "--kernel";

/// Boots the kernels on `arch` for `cargo xtask test`; counts as skipped what it leaves out and `cargo xtask vm` runs.
pub fn test_all(repo: &Repo, arch: Arch, filters: &[String], tally: &mut TestTally) -> Result<()> {
    let is_native = arch == Arch::native();
    let (versions, chosen) = if is_native {
        (&NATIVE_KERNELS[..], vec![DEPENDS_ON_KERNEL])
    } else {
        (&FOREIGN_KERNELS[..], FOREIGN_TESTS.to_vec())
    };
    let (kernels, left_out): (Vec<_>, Vec<_>) =
        KERNELS.iter().partition(|kernel| versions.contains(&kernel.version));
    let chosen: Vec<_> = chosen.into_iter().map(str::to_owned).collect();
    let chosen = if filters.is_empty() { &chosen } else { filters };
    test(repo, arch, GUEST_CPUS, &kernels, chosen, Console::Results, tally)?;
    if filters.is_empty() {
        let debian = arch.debian();
        for kernel in left_out {
            let reason = format!("for time: `cargo xtask vm --arch {debian}` boots it");
            tally.verdict(&format!("vm {debian} {}", kernel.version), &TestVerdict::Skipped(reason));
        }
        let name = format!("vm {debian}: the other live tests");
        let reason = if is_native {
            "they pass or fail alike on every kernel: the part `live` runs them; `cargo xtask vm` does too"
                .into()
        } else {
            format!("for time: `cargo xtask vm --arch {debian}` runs all")
        };
        tally.verdict(&name, &TestVerdict::Skipped(reason));
    }
    Ok(())
}

/// The emulators of `arch` and the programs of its guests.
pub fn install(repo: &Repo, arch: Arch) -> Result<()> {
    packages::install(packages::VM)?;
    install_emulators(repo, arch)?;
    if arch == Arch::native() {
        return Ok(());
    }
    cross::install(repo, arch)?;
    let system = system(repo, arch);
    if system.is_dir() {
        return Ok(());
    }
    let unpacked = system.with_extension("new");
    Archive::of_this_release(repo, arch)?.unpack(packages::FOREIGN_GUEST, &unpacked)?;
    Ok(fs::rename(unpacked, system)?)
}

fn install_emulators(repo: &Repo, arch: Arch) -> Result<()> {
    let emulators = match arch {
        Arch::Amd64 => packages::EMULATORS_AMD64,
        Arch::Arm64 => packages::EMULATORS_ARM64,
    };
    packages::install(emulators).or_else(|error| {
        // All parts of qemu must come from the same release: backports if one is from there.
        let codename = archive::codename()?;
        let suites = format!("{codename} {codename}-backports");
        let archive = Archive::of_suites(repo, Arch::native(), &suites).context(error)?;
        packages::install_by(emulators, || {
            let mut apt = archive.command("apt-get");
            apt.args(["--target-release", &format!("{codename}-backports")]);
            apt
        })
        .map(drop)
    })
}

/// The Debian system whose programs the guests of `arch` get.
fn system(repo: &Repo, arch: Arch) -> PathBuf {
    if arch == Arch::native() { "/".into() } else { repo.vm().join(format!("system-{}", arch.debian())) }
}

/// The part of a guest's console that is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Console {
    Results,
    Whole,
}

impl From<bool> for Console {
    fn from(verbose: bool) -> Self {
        if verbose { Self::Whole } else { Self::Results }
    }
}

/// Boots each of `kernels` on `arch`; returns the rows of the table. Skips a kernel that cannot be fetched, with the reason.
fn test(
    repo: &Repo,
    arch: Arch,
    cpus: u8,
    kernels: &[&DebianKernel],
    filters: &[String],
    console: Console,
    tally: &mut TestTally,
) -> Result<Vec<KernelRow>> {
    let guest_name = |kernel: &DebianKernel| format!("vm {} {}", arch.debian(), kernel.version);
    let can_build = || if arch == Arch::native() { Ok(()) } else { cross::cargo(repo, arch).map(drop) };
    if let Err(error) = guest::can_boot(arch).and_then(|()| can_build()) {
        // One for each kernel: the count shows how many were not tried.
        for kernel in kernels {
            tally.verdict(&guest_name(kernel), &TestVerdict::Skipped(format!("{error:#}")));
        }
        return Ok(Vec::new());
    }
    let programs = build(repo, arch)?;
    let mut rows = Vec::new();
    for kernel in kernels {
        let name = guest_name(kernel);
        let files = match kernel.fetch(repo, arch) {
            Ok(files) => files,
            Err(error) => {
                tally.verdict(&name, &TestVerdict::skipped(&error));
                println!("{name}: SKIPPED: {error:#}");
                continue;
            }
        };
        let start = Instant::now();
        let folder = repo.vm().join(format!("guest-{}-{}", kernel.version, arch.debian()));
        let script = format!("live {}\n", filters.join(" "));
        let initramfs = initramfs::build(&folder, &files, &programs, &script)?;
        let mut report = GuestReport::default();
        let booted = guest::boot(arch, cpus, &files.image, &initramfs, |line| {
            report.line(line);
            if console == Console::Whole || !line.starts_with("vm: ") {
                println!("{name}: {line}");
            }
        });
        let mut of_kernel = TestTally::default();
        if let Err(error) = booted {
            of_kernel.verdict("guest", &TestVerdict::Failed(format!("{error:#}")));
        }
        for (name, verdict) in report.verdicts() {
            of_kernel.verdict(name, &verdict);
        }
        if let Some(live) = report.live() {
            of_kernel.merge("", live);
        }
        let release = report.release.as_deref().unwrap_or("it did not boot");
        println!("{name}: {} ({release}, {:.0} s)", of_kernel.counts, start.elapsed().as_secs_f64());
        rows.push(report.row(kernel, arch, of_kernel.counts));
        tally.merge(&format!("{name}: "), &of_kernel);
    }
    Ok(rows)
}

/// Boots the kernel called `version` on this machine's architecture with `load`; returns the lines that `script` prints there.
pub fn run_script(
    repo: &Repo,
    version: &str,
    load: (&'static str, PathBuf),
    script: &str,
) -> Result<Vec<String>> {
    let arch = Arch::native();
    install(repo, arch)?;
    let kernel = DebianKernel::named(version).context("no such kernel")?;
    let programs = GuestPrograms { arch, system: system(repo, arch), tcptrace: repo.release_binary(), load };
    let folder = repo.vm().join(format!("guest-{version}-script"));
    let files = kernel.fetch(repo, arch)?;
    let initramfs = initramfs::build(&folder, &files, &programs, script)?;
    let mut lines = Vec::new();
    guest::boot(arch, GUEST_CPUS, &files.image, &initramfs, |line| lines.push(line.to_owned()))?;
    Ok(lines)
}

fn build(repo: &Repo, arch: Arch) -> Result<GuestPrograms> {
    let is_native = arch == Arch::native();
    let cargo = || {
        if is_native {
            return Ok(repo.cargo());
        }
        let mut cargo = cross::cargo(repo, arch)?;
        cargo.envs(cross::QUICK_BUILD);
        anyhow::Ok(cargo)
    };
    command::run(cargo()?.args(["build", "--release", "--package", "tcptrace"]))?;
    let mut tests = cargo()?;
    tests.args(["test", "--release", "--package", "tests", "--test", "live", "--no-run"]);
    let messages = command::output(tests.arg("--message-format=json"))?;
    let executable = |line: &str| -> Option<PathBuf> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "live").then(|| message["executable"].as_str().map(PathBuf::from))?
    };
    let Some(live) = messages.lines().find_map(executable) else { bail!("cargo names no live test program") };
    let tcptrace = if is_native { repo.release_binary() } else { cross::binary(repo, arch, "release") };
    Ok(GuestPrograms { arch, system: system(repo, arch), tcptrace, load: ("live", live) })
}
