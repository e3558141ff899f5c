//! `cargo xtask vm`: in, versions of Debian kernels; out, the results of the release binary and of the live tests on each,
//! booted in an emulator, and a closing line of counts.
//!
//! Not with virtme-ng or vmtest: they share the host's files over 9p, which Debian's cloud kernels lack (`CONFIG_NET_9P`).

mod archive;
mod guest;
mod initramfs;
mod kernels;
mod report;
mod table;
pub mod vmlinux;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use self::archive::Archive;
use self::initramfs::GuestPrograms;
use self::kernels::DebianKernel;
pub use self::kernels::KERNELS;
use self::report::GuestReport;
use crate::repo::Repo;
use crate::tally::{TestTally, TestVerdict};
use crate::{command, packages};

#[derive(clap::Args)]
pub struct VmArgs {
    /// Kernels to boot; all by default
    #[arg(long, value_name = "VERSION", value_parser = kernel)]
    kernel: Vec<&'static DebianKernel>,
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

fn kernel(version: &str) -> Result<&'static DebianKernel, String> {
    let versions = KERNELS.map(|kernel| kernel.version).join(", ");
    DebianKernel::named(version).ok_or_else(|| format!("no such kernel; there are {versions}"))
}

pub fn run(repo: &Repo, args: &VmArgs) -> Result<ExitCode> {
    if let Err(error) = install(repo) {
        eprintln!("not everything could be installed: {error:#}");
    }
    let kernels = if args.kernel.is_empty() { all() } else { args.kernel.clone() };
    let mut tally = TestTally::default();
    let rows = test(repo, &kernels, &args.filters, args.verbose.into(), &mut tally)?;
    if args.table {
        println!("{}\n{}", table::HEAD, rows.join("\n"));
        if tally.counts.is_success() && args.filters.is_empty() {
            table::write(repo, &rows)?;
        } else {
            eprintln!("the README stays as it is: something failed, or not everything was run");
        }
    }
    println!("\n{}vm: {}", tally.report(), tally.counts);
    Ok(if tally.counts.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every kernel of the table.
pub fn all() -> Vec<&'static DebianKernel> {
    KERNELS.iter().collect()
}

/// The emulator and the programs of its guest.
pub fn install(repo: &Repo) -> Result<()> {
    packages::install(packages::VM).or_else(|error| {
        // All parts of qemu must come from the same release: backports if one is from there.
        let codename = archive::codename()?;
        let archive = Archive::open(repo, &format!("{codename} {codename}-backports")).context(error)?;
        packages::install_by(packages::VM, || {
            let mut apt = archive.command("apt-get");
            apt.args(["--target-release", &format!("{codename}-backports")]);
            apt
        })
        .map(drop)
    })
}

/// The part of a guest's console that is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Console {
    Results,
    Whole,
}

impl From<bool> for Console {
    fn from(verbose: bool) -> Self {
        if verbose { Self::Whole } else { Self::Results }
    }
}

/// Boots each of `kernels`; returns the rows of the table. Skips a kernel that cannot be fetched, with the reason.
pub fn test(
    repo: &Repo,
    kernels: &[&DebianKernel],
    filters: &[String],
    console: Console,
    tally: &mut TestTally,
) -> Result<Vec<String>> {
    if let Err(error) = guest::can_boot() {
        // One for each kernel: the count shows how many were not tried.
        for kernel in kernels {
            tally.verdict(&format!("vm {}", kernel.version), &TestVerdict::Skipped(format!("{error:#}")));
        }
        return Ok(Vec::new());
    }
    let programs = build(repo)?;
    let mut rows = Vec::new();
    for kernel in kernels {
        let name = format!("vm {}", kernel.version);
        let files = match kernel.fetch(repo) {
            Ok(files) => files,
            Err(error) => {
                tally.verdict(&name, &TestVerdict::skipped(&error));
                println!("{name}: SKIPPED: {error:#}");
                continue;
            }
        };
        let start = Instant::now();
        let folder = repo.vm().join(format!("guest-{}", kernel.version));
        let initramfs = initramfs::build(&folder, &files, &programs, filters)?;
        let mut report = GuestReport::default();
        let booted = guest::boot(&files.image, &initramfs, |line| {
            report.line(line);
            if console == Console::Whole || !line.starts_with("vm: ") {
                println!("{name}: {line}");
            }
        });
        let mut of_kernel = TestTally::default();
        if let Err(error) = booted {
            of_kernel.verdict("guest", &TestVerdict::Failed(format!("{error:#}")));
        }
        for (name, verdict) in report.verdicts(kernel) {
            of_kernel.verdict(name, &verdict);
        }
        if let Some(live) = report.live() {
            of_kernel.merge("", live);
        }
        let release = report.release.as_deref().unwrap_or("it did not boot");
        println!("{name}: {} ({release}, {:.0} s)", of_kernel.counts, start.elapsed().as_secs_f64());
        rows.push(report.row(kernel, of_kernel.counts));
        tally.merge(&format!("{name}: "), &of_kernel);
    }
    Ok(rows)
}

fn build(repo: &Repo) -> Result<GuestPrograms> {
    command::run(repo.cargo().args(["build", "--release", "--package", "tcptrace"]))?;
    let mut cargo = repo.cargo();
    cargo.args([
        "test",
        "--release",
        "--package",
        "tests",
        "--test",
        "live",
        "--no-run",
        "--message-format=json",
    ]);
    let messages = command::output(&mut cargo)?;
    let executable = |line: &str| -> Option<PathBuf> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "live").then(|| message["executable"].as_str().map(PathBuf::from))?
    };
    let Some(live) = messages.lines().find_map(executable) else { bail!("cargo names no live test program") };
    Ok(GuestPrograms { tcptrace: repo.release_binary(), live })
}
