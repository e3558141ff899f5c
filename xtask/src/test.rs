//! `cargo xtask test`: in, a checkout; out, the result of every test, the reason of every skip, and a closing line of counts.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;

use crate::arch::Arch;
use crate::fleet::{self, QueryEngine};
use crate::repo::Repo;
use crate::tally::{TestTally, TestVerdict};
use crate::vm;
use crate::{command, cross, ebpf, fuzz, packages, queries, setup};

#[derive(clap::Args)]
pub struct TestArgs {
    /// Install nothing: skip tests that need a missing package
    #[arg(long)]
    no_install: bool,
    /// Also boot other kernels in an emulator, some minutes each, and run the queries in Spark
    #[arg(long)]
    vm: bool,
    /// Architectures of the unit tests and of the emulated kernels
    #[arg(long, value_enum, default_values_t = [Arch::native()])]
    arch: Vec<Arch>,
    /// Run this part only
    #[arg(long, value_enum)]
    only: Option<TestPart>,
    /// Run the unit tests and live tests whose name contains one of these
    #[arg(last = true, value_name = "FILTER")]
    filters: Vec<String>,
}

impl TestArgs {
    fn wants(&self, part: TestPart) -> bool {
        let is_large = matches!(part, TestPart::Vm | TestPart::Spark);
        self.only.map_or(!is_large || self.vm, |only| only == part)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TestPart {
    /// Unit, snapshot and property tests of the workspace
    Unit,
    /// The committed eBPF object against its sources and a fresh build
    Ebpf,
    /// The queries in the documents, in the tools they are for
    Queries,
    /// The queries for fleets, in Spark; only on request, as it takes 400 MB of packages
    Spark,
    /// Every fuzz target over its corpus, then some seconds of new inputs
    Fuzz,
    /// The release binary on this kernel, with real sockets (needs root)
    Live,
    /// The release binary on other kernels, each booted in an emulator; only with --vm
    Vm,
}

impl TestPart {
    /// The fastest part first.
    const ALL: [Self; 7] =
        [Self::Unit, Self::Ebpf, Self::Queries, Self::Spark, Self::Fuzz, Self::Live, Self::Vm];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Ebpf => "ebpf",
            Self::Queries => "queries",
            Self::Spark => "spark",
            Self::Fuzz => "fuzz",
            Self::Live => "live",
            Self::Vm => "vm",
        }
    }

    fn install(self, repo: &Repo, archs: &[Arch]) -> Result<()> {
        match self {
            Self::Unit => foreign(archs).try_for_each(|arch| vm::install(repo, arch)),
            Self::Ebpf => setup::ebpf_tools(repo),
            Self::Queries => queries::install(repo),
            Self::Spark => fleet::install_spark(repo),
            Self::Fuzz => fuzz::install(),
            Self::Live => setup::live_test_packages(),
            Self::Vm => archs.iter().try_for_each(|arch| vm::install(repo, *arch)),
        }
    }

    fn run(self, repo: &Repo, archs: &[Arch], filters: &[String], tally: &mut TestTally) -> Result<()> {
        match self {
            Self::Unit => archs.iter().try_for_each(|arch| unit(repo, *arch, filters, tally)),
            Self::Ebpf => {
                for (name, verdict) in ebpf::check(repo) {
                    tally.verdict(name, &verdict);
                }
                Ok(())
            }
            Self::Queries => {
                queries::run(repo, tally).and_then(|()| fleet::run(repo, QueryEngine::DuckDb, tally))
            }
            Self::Spark => fleet::run(repo, QueryEngine::Spark, tally),
            Self::Fuzz => fuzz::test(repo, tally),
            Self::Live => live(repo, filters, tally),
            Self::Vm => archs.iter().try_for_each(|arch| vm::test_all(repo, *arch, filters, tally)),
        }
    }
}

pub fn run(repo: &Repo, args: &TestArgs) -> ExitCode {
    let mut tally = TestTally::default();
    let mut times = Vec::new();
    for part in TestPart::ALL.into_iter().filter(|part| args.wants(*part)) {
        let start = Instant::now();
        if !args.no_install
            && let Err(error) = part.install(repo, &args.arch)
        {
            // Not a test failure: tests that need it are skipped, each with its reason.
            eprintln!("{}: not everything could be installed: {error:#}", part.name());
        }
        if let Err(error) = part.run(repo, &args.arch, &args.filters, &mut tally) {
            tally.verdict(part.name(), &TestVerdict::Failed(format!("{error:#}")));
        }
        times.push(format!("{} {:.0} s", part.name(), start.elapsed().as_secs_f64()));
    }
    if args.only.is_none() && !args.vm {
        let reason = "minutes of emulation each: `cargo xtask test --vm` (CI does), or `cargo xtask vm`";
        tally.verdict("other kernels", &TestVerdict::Skipped(reason.into()));
        let reason = "400 MB of packages: `cargo xtask test --only spark`, or --vm (CI does)";
        tally.verdict("queries in Spark", &TestVerdict::Skipped(reason.into()));
    }
    if !args.filters.is_empty() && tally.is_empty() {
        let reason = "no test of these parts has it in its name".to_owned();
        tally.verdict(&format!("filter {}", args.filters.join(" ")), &TestVerdict::Failed(reason));
    }
    println!("\n{}{}\n{}", tally.report(), times.join(", "), tally.counts);
    if tally.counts.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn foreign(archs: &[Arch]) -> impl Iterator<Item = Arch> {
    archs.iter().copied().filter(|arch| *arch != Arch::native())
}

/// Tests of the library that user-mode emulation can't run: it passes on no `sock_diag`. The live tests do that in the guests.
const NEED_SOCK_DIAG: [&str; 3] = [
    "a_descriptor_is_reported_once_its_socket_has_waited",
    "vanished_entries_are_evicted",
    "one_walk_lists_the_same_as_one_walk_per_family",
];

fn unit(repo: &Repo, arch: Arch, filters: &[String], tally: &mut TestTally) -> Result<()> {
    if arch != Arch::native() {
        return foreign_unit(repo, arch, filters, tally);
    }
    for selection in [&["--workspace", "--exclude", "tests"][..], &["--package", "tests", "--lib"]] {
        let mut cargo = repo.cargo();
        cargo.args(["test", "--no-fail-fast"]).args(selection).arg("--").args(filters);
        cargo_test(&mut cargo, &selection.join(" "), tally)?;
    }
    Ok(())
}

/// The tests of the libraries: those that start the program need its architecture, which guests have.
fn foreign_unit(repo: &Repo, arch: Arch, filters: &[String], tally: &mut TestTally) -> Result<()> {
    let name = arch.debian();
    if let Err(error) = cross::can_run(repo, arch) {
        tally.verdict(&format!("{name}: unit tests"), &TestVerdict::skipped(&error));
        return Ok(());
    }
    let mut cargo = cross::cargo(repo, arch)?;
    cargo.envs(cross::QUICK_BUILD);
    cargo.args(["test", "--release", "--no-fail-fast", "--lib"]);
    cargo.args(["--package", "tcptrace", "--package", "tcptrace-common", "--"]).args(filters);
    for test in NEED_SOCK_DIAG {
        cargo.args(["--skip", test]);
    }
    let mut of_arch = TestTally::default();
    cargo_test(&mut cargo, "--lib", &mut of_arch)?;
    for test in NEED_SOCK_DIAG {
        of_arch.verdict(test, &TestVerdict::Skipped("user-mode emulation has no sock_diag".into()));
    }
    tally.merge(&format!("{name}: "), &of_arch);
    Ok(())
}

fn cargo_test(cargo: &mut Command, selection: &str, tally: &mut TestTally) -> Result<()> {
    let failed = tally.counts.failed;
    let status = command::stream(cargo, |line| tally.cargo_test_line(line))?;
    if !status.success() && tally.counts.failed == failed {
        let reason = format!("{status} without a failed test: see above");
        tally.verdict(&format!("cargo test {selection}"), &TestVerdict::Failed(reason));
    }
    Ok(())
}

fn live(repo: &Repo, filters: &[String], tally: &mut TestTally) -> Result<()> {
    if !packages::is_root() {
        let reason = "needs root, for network namespaces and BPF";
        tally.verdict("live tests", &TestVerdict::Skipped(reason.into()));
        return Ok(());
    }
    command::run(repo.cargo().args(["build", "--release", "--package", "tcptrace"]))?;
    let scenarios = command::output(live_tests(repo, &[]).arg("--list"))?;
    let has_match = |filter: &String| scenarios.lines().any(|name| name.contains(filter));
    if !filters.is_empty() && !filters.iter().any(has_match) {
        // Filters of unit tests; the caller fails if they match none.
        return Ok(());
    }
    let filters: Vec<String> = filters.iter().filter(|filter| has_match(filter)).cloned().collect();
    let status = command::stream(&mut live_tests(repo, &filters), |line| tally.live_line(line))?;
    if !tally.live_closed() {
        let reason = format!("{status} before they counted: see above");
        tally.verdict("live tests", &TestVerdict::Failed(reason));
    } else if !status.success() && tally.counts.is_success() {
        let reason = format!("{status} without a failed test: see above");
        tally.verdict("live tests", &TestVerdict::Failed(reason));
    }
    Ok(())
}

fn live_tests(repo: &Repo, filters: &[String]) -> Command {
    let mut cargo = repo.cargo();
    cargo.args(["test", "--package", "tests", "--test", "live", "--"]).args(filters);
    cargo.env("TCPTRACE_BIN", repo.release_binary());
    cargo
}
