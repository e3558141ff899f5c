//! `cargo xtask bench`: in, this machine; out, tables of the overhead of tcptrace and of its peers.
//!
//! Every case has the same load. The cases alternate, each between two untraced runs that it is compared with: the result is
//! the ratio, never the rate.

mod case;
mod cost;
mod load;
mod rest;
mod spread;
mod tracer;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};

use crate::bench::case::{BASELINE, BenchCase, CASES, CaseProgram, EMPTY, STACK_CASES};
use crate::bench::cost::CaseCost;
use crate::bench::load::{Load, LoadKind};
use crate::bench::spread::Spread;
use crate::repo::Repo;
use crate::{command, packages};

#[derive(clap::Args)]
pub struct BenchArgs {
    /// Parts to measure; all by default
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<BenchPart>,
    /// Runs of every case
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of load in each run
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Threads that make the load
    #[arg(long, default_value_t = 2)]
    threads: u8,
    /// Connections per second at most: measures the cost of each while the machine is not saturated
    #[arg(long)]
    rate: Option<f64>,
    /// Only the cases whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum BenchPart {
    /// Connections over loopback, opened and closed as fast as possible
    Loopback,
    /// The same, with a new network namespace after 2,000
    Namespaces,
    /// Messages over 5,000 permanent connections
    Long,
    /// The same as loopback, with the user stacks of calls
    Stacks,
    /// Many idle sockets: time until the first output, and memory
    Rest,
}

/// In the order of measurement.
const PARTS: [(BenchPart, Option<LoadCases>); 5] = [
    (BenchPart::Loopback, Some((LoadKind::Loopback, &CASES))),
    (BenchPart::Namespaces, Some((LoadKind::Namespaces, &CASES))),
    (BenchPart::Long, Some((LoadKind::Long, &CASES))),
    (BenchPart::Stacks, Some((LoadKind::Loopback, &STACK_CASES))),
    (BenchPart::Rest, None),
];

/// A load, and what is measured under it.
type LoadCases = (LoadKind, &'static [&'static BenchCase]);

/// Paths of the programs, and the parameters of the load.
struct Bench {
    tcptrace: PathBuf,
    load: PathBuf,
    scratch: PathBuf,
    kind: LoadKind,
    threads: u8,
    rate: Option<f64>,
    seconds: f64,
}

impl Bench {
    fn recording(&self) -> PathBuf {
        self.scratch.join("bench.tcptrace")
    }
}

pub fn run(repo: &Repo, args: &BenchArgs) -> Result<ExitCode> {
    ensure!(packages::is_root(), "measuring needs root");
    packages::install(packages::BENCH)?;
    // Together they would be built with other features than the program alone, all of it once more.
    command::run(repo.cargo().args(["build", "--release", "--package", "tcptrace"]))?;
    command::run(repo.cargo().args(["build", "--release", "--package", "tests", "--bins"]))?;
    let scratch = repo.target.join("bench");
    std::fs::create_dir_all(&scratch)?;
    println!("{}", machine()?);
    for (part, cases) in PARTS {
        if !args.part.is_empty() && !args.part.contains(&part) {
            continue;
        }
        let bench = Bench {
            tcptrace: repo.release_binary(),
            load: repo.target.join("release/load"),
            scratch: scratch.clone(),
            kind: cases.map_or(LoadKind::Loopback, |(kind, _)| kind),
            threads: args.threads,
            rate: args.rate,
            seconds: args.seconds,
        };
        match cases {
            Some((_, cases)) => under_load(&bench, args, cases)?,
            None => rest::measure(&bench, args.rounds)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The machine and the date, for the head of a table.
fn machine() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let kernel = command::output(Command::new("uname").args(["-r", "-m"]))?;
    let day = command::output(Command::new("date").arg("+%F"))?;
    Ok(format!("{cores} cores, Linux {kernel}, {day}"))
}

/// The measurements of one case, a value per round.
struct CaseSeries {
    case: &'static BenchCase,
    kept: Vec<f64>,
    costs: Vec<CaseCost>,
}

fn under_load(bench: &Bench, args: &BenchArgs, cases: &[&'static BenchCase]) -> Result<()> {
    // All others are net of the empty program.
    let is_selected = |case: &BenchCase| {
        args.only.is_empty()
            || case.name == EMPTY.name
            || args.only.iter().any(|only| case.name.contains(only.as_str()))
    };
    let mut series: Vec<CaseSeries> = cases
        .iter()
        .copied()
        .filter(|case| is_selected(case))
        .map(|case| CaseSeries { case, kept: Vec::new(), costs: Vec::new() })
        .collect();
    let mut untraced = Vec::new();
    for round in 0..args.rounds as usize {
        let mut before = Load::run(bench, bench.seconds)?.rate();
        for turn in 0..series.len() {
            let index = (turn + round) % series.len();
            let CaseSeries { case, kept, costs } = &mut series[index];
            let cost = case.run(bench)?;
            let after = Load::run(bench, bench.seconds)?.rate();
            let untraced_rate = f64::midpoint(before, after);
            eprintln!(
                "round {}: {:<26} {:>8.0} of {untraced_rate:>8.0} {}/s",
                round + 1,
                case.name,
                cost.load.rate(),
                bench.kind.unit()
            );
            untraced.push(after);
            kept.push(cost.load.rate() / untraced_rate);
            costs.push(cost);
            before = after;
        }
    }
    print(bench, args, &series, &untraced);
    Ok(())
}

fn print(bench: &Bench, args: &BenchArgs, series: &[CaseSeries], untraced: &[f64]) {
    let empty =
        series.iter().filter(|series| series.case.name == EMPTY.name).flat_map(|series| &series.costs);
    let empty: Vec<f64> =
        empty.map(|cost| cost.in_kernel.ns as f64 / cost.in_kernel.runs.max(1) as f64).collect();
    let empty_ns = Spread::of(&empty).median().unwrap_or(0.0);
    println!(
        "\nUntraced: {} {}/s, {} threads. One run of an empty program, counting it included: {} ns.\n\
         Medians (smallest .. largest) of {} rounds.\n",
        Spread::of(untraced).rounded(),
        bench.kind.unit(),
        args.threads,
        Spread::of(&empty).rounded(),
        args.rounds
    );
    println!("{}", cost::head(bench.kind.unit()));
    let baseline = series.iter().find(|series| series.case.name == BASELINE);
    let baseline = baseline.and_then(|series| cost::added_time(&series.kept));
    for CaseSeries { case, kept, costs } in series {
        println!("{}", cost::row(case.name, kept, costs, baseline, empty_ns));
    }
    let (peers, own): (Vec<&CaseSeries>, Vec<&CaseSeries>) =
        series.iter().partition(|series| matches!(series.case.program, CaseProgram::Peer(_)));
    if peers.is_empty() {
        return;
    }
    println!(
        "\nRatio to each peer: {0}/s / eBPF time / CPU of the process, per one of the {0}.\n",
        bench.kind.unit()
    );
    let names: Vec<&str> = peers.iter().map(|peer| peer.case.name).collect();
    println!("| | {} |\n|---|{}", names.join(" | "), "---:|".repeat(names.len()));
    for own in own.iter().filter(|series| series.case.name != EMPTY.name) {
        let ratios: Vec<String> = peers.iter().map(|peer| ratios(own, peer, empty_ns)).collect();
        println!("| {} | {} |", own.case.name, ratios.join(" | "));
    }
}

/// Ratios of the medians of `own` to those of `peer`.
fn ratios(own: &CaseSeries, peer: &CaseSeries, empty_ns: f64) -> String {
    let ratio = |value: &dyn Fn(&CaseSeries) -> Vec<f64>| match (
        Spread::of(&value(own)).median(),
        Spread::of(&value(peer)).median(),
    ) {
        (Some(own), Some(peer)) if peer > 0.0 => format!("{:.2}", own / peer),
        _ => "-".into(),
    };
    [
        ratio(&|series| series.kept.clone()),
        ratio(&|series| series.costs.iter().map(|cost| cost.net_ebpf_ns(empty_ns)).collect()),
        ratio(&|series| series.costs.iter().map(CaseCost::cpu_ns).collect()),
    ]
    .join(" / ")
}
