//! `cargo xtask test`: in, a checkout; out, every test run, what was skipped and why, and a closing line of counts.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;

use crate::repo::Repo;
use crate::tally::{Tally, Verdict};
use crate::vm::{self, Console};
use crate::{command, ebpf, fuzz, packages, queries, setup};

#[derive(clap::Args)]
pub struct Args {
    /// Take the machine as it is: what needs a missing package is skipped
    #[arg(long)]
    no_install: bool,
    /// Also boot other kernels in an emulator: some minutes each
    #[arg(long)]
    vm: bool,
    /// Run this part only
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Run the tests whose name contains one of these; given to the unit tests and to the live tests
    #[arg(last = true, value_name = "FILTER")]
    filters: Vec<String>,
}

impl Args {
    fn wants(&self, part: Part) -> bool {
        self.only.map_or(part != Part::Vm || self.vm, |only| only == part)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Unit, snapshot and property tests of the workspace
    Unit,
    /// The committed eBPF object against its sources and a fresh build
    Ebpf,
    /// The queries in the documents, in the tools they are for
    Queries,
    /// Every fuzz target over its corpus, and some seconds on from there
    Fuzz,
    /// The release binary on this kernel, with real sockets (needs root)
    Live,
    /// The release binary on other kernels, each booted in an emulator; only when asked for
    Vm,
}

impl Part {
    /// What fails soonest comes first.
    const ALL: [Self; 6] = [Self::Unit, Self::Ebpf, Self::Queries, Self::Fuzz, Self::Live, Self::Vm];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Ebpf => "ebpf",
            Self::Queries => "queries",
            Self::Fuzz => "fuzz",
            Self::Live => "live",
            Self::Vm => "vm",
        }
    }

    fn install(self, repo: &Repo) -> Result<()> {
        match self {
            Self::Unit => Ok(()),
            Self::Ebpf => setup::ebpf_tools(repo),
            Self::Queries => queries::install(repo),
            Self::Fuzz => fuzz::install(),
            Self::Live => setup::live_test_packages(),
            Self::Vm => vm::install(repo),
        }
    }

    fn run(self, repo: &Repo, filters: &[String], tally: &mut Tally) -> Result<()> {
        match self {
            Self::Unit => unit(repo, filters, tally),
            Self::Ebpf => {
                for (name, verdict) in ebpf::check(repo) {
                    tally.verdict(name, &verdict);
                }
                Ok(())
            }
            Self::Queries => queries::run(repo, tally),
            Self::Fuzz => fuzz::test(repo, tally),
            Self::Live => live(repo, filters, tally),
            Self::Vm => vm::test(repo, &vm::all(), filters, Console::Results, tally).map(drop),
        }
    }
}

pub fn run(repo: &Repo, args: &Args) -> ExitCode {
    let mut tally = Tally::default();
    let mut times = Vec::new();
    for part in Part::ALL.into_iter().filter(|part| args.wants(*part)) {
        let start = Instant::now();
        if !args.no_install
            && let Err(error) = part.install(repo)
        {
            // Not a failure of what is tested: what can't run without it is skipped, each with its reason.
            eprintln!("{}: not everything could be installed: {error:#}", part.name());
        }
        if let Err(error) = part.run(repo, &args.filters, &mut tally) {
            tally.verdict(part.name(), &Verdict::Failed(format!("{error:#}")));
        }
        times.push(format!("{} {:.0} s", part.name(), start.elapsed().as_secs_f64()));
    }
    if args.only.is_none() && !args.vm {
        let reason = "minutes of emulation each: `cargo xtask test --vm` (CI does), or `cargo xtask vm`";
        tally.verdict("other kernels", &Verdict::Skipped(reason.into()));
    }
    println!("\n{}{}\n{}", tally.report(), times.join(", "), tally.counts);
    if tally.counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn unit(repo: &Repo, filters: &[String], tally: &mut Tally) -> Result<()> {
    // The live tests are a test program of the crate `tests`; the rest of that crate has units as any other.
    for selection in [["--workspace", "--exclude", "tests"].as_slice(), &["--package", "tests", "--lib"]] {
        let mut cargo = repo.cargo();
        cargo.args(["test", "--no-fail-fast"]).args(selection).arg("--").args(filters);
        let failed_before = tally.counts.failed;
        let status = command::stream(&mut cargo, |line| tally.cargo_test_line(line))?;
        if !status.success() && tally.counts.failed == failed_before {
            let reason = format!("{status} without a failed test: see above");
            tally.verdict(&format!("cargo test {}", selection.join(" ")), &Verdict::Failed(reason));
        }
    }
    Ok(())
}

fn live(repo: &Repo, filters: &[String], tally: &mut Tally) -> Result<()> {
    if !packages::is_root() {
        let reason = "needs root, for network namespaces and BPF";
        tally.verdict("live tests", &Verdict::Skipped(reason.into()));
        return Ok(());
    }
    command::run(repo.cargo().args(["build", "--release", "--package", "tcptrace"]))?;
    let status = command::stream(&mut live_tests(repo, filters), |line| tally.live_line(line))?;
    if !tally.live_closed() {
        let reason = format!("{status} before they counted: see above");
        tally.verdict("live tests", &Verdict::Failed(reason));
    } else if !status.success() && tally.counts.failed == 0 {
        let reason = format!("{status} without a failed test: see above");
        tally.verdict("live tests", &Verdict::Failed(reason));
    }
    Ok(())
}

fn live_tests(repo: &Repo, filters: &[String]) -> Command {
    let mut cargo = repo.cargo();
    cargo.args(["test", "--package", "tests", "--test", "live", "--"]).args(filters);
    cargo.env("TCPTRACE_BIN", repo.release_binary());
    cargo
}
