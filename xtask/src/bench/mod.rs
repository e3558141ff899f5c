//! `cargo xtask bench`: in, this machine; out, what tracing costs, for tcptrace and for its peers, as tables.
//!
//! Every case sees the same load. The cases take turns, and every one stands between two runs without a tracer, with
//! which it is compared: what is read is the ratio, never the rate.

mod case;
mod cost;
mod load;
mod rest;
mod spread;
mod tracer;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};

use crate::bench::case::{CASES, Case, EMPTY, Program};
use crate::bench::cost::Cost;
use crate::bench::load::{Kind, Load};
use crate::bench::spread::Spread;
use crate::repo::Repo;
use crate::{command, packages};

#[derive(clap::Args)]
pub struct Args {
    /// What is measured; everything without it
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// How often every case runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each run makes its load, in seconds
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Threads that make the load
    #[arg(long, default_value_t = 2)]
    threads: u8,
    /// Connections a second, at most: what each costs then, as not all of the machine is taken
    #[arg(long)]
    rate: Option<f64>,
    /// Only the cases whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Connections over loopback as fast as they can be made and closed
    Loopback,
    /// The same, in ever new network namespaces
    Namespaces,
    /// 5,000 connections that stay, and messages over them
    Long,
    /// Many sockets at rest: the first picture, and memory
    Rest,
}

/// In the order in which they are measured.
const PARTS: [(Part, Option<Kind>); 4] = [
    (Part::Loopback, Some(Kind::Loopback)),
    (Part::Namespaces, Some(Kind::Namespaces)),
    (Part::Long, Some(Kind::Long)),
    (Part::Rest, None),
];

/// Where the programs are, and what they are put under.
struct Bench {
    tcptrace: PathBuf,
    load: PathBuf,
    scratch: PathBuf,
    kind: Kind,
    threads: u8,
    rate: Option<f64>,
    seconds: f64,
}

impl Bench {
    fn recording(&self) -> PathBuf {
        self.scratch.join("bench.tcptrace")
    }
}

pub fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    ensure!(packages::is_root(), "measuring needs root");
    packages::install(packages::BENCH)?;
    command::run(repo.cargo().args(["build", "--release", "-p", "tcptrace", "-p", "tests", "--bins"]))?;
    let scratch = repo.target.join("bench");
    std::fs::create_dir_all(&scratch)?;
    println!("{}", machine()?);
    for (part, kind) in PARTS {
        if !args.part.is_empty() && !args.part.contains(&part) {
            continue;
        }
        let bench = Bench {
            tcptrace: repo.release_binary(),
            load: repo.target.join("release/load"),
            scratch: scratch.clone(),
            kind: kind.unwrap_or(Kind::Loopback),
            threads: args.threads,
            rate: args.rate,
            seconds: args.seconds,
        };
        match kind {
            Some(_) => under_load(&bench, args)?,
            None => rest::measure(&bench, args.rounds)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The machine and the day, for the head of a table.
fn machine() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let kernel = command::output(Command::new("uname").args(["-r", "-m"]))?;
    let day = command::output(Command::new("date").arg("+%F"))?;
    Ok(format!("{cores} cores, Linux {kernel}, {day}"))
}

/// Everything measured of one case, a value per round.
struct Series {
    case: &'static Case,
    kept: Vec<f64>,
    costs: Vec<Cost>,
}

fn under_load(bench: &Bench, args: &Args) -> Result<()> {
    // What else is measured is net of the empty program.
    let wanted = |case: &Case| {
        args.only.is_empty()
            || case.name == EMPTY.name
            || args.only.iter().any(|only| case.name.contains(only.as_str()))
    };
    let mut series: Vec<Series> = CASES
        .into_iter()
        .filter(|case| wanted(case))
        .map(|case| Series { case, kept: Vec::new(), costs: Vec::new() })
        .collect();
    let mut untraced = Vec::new();
    for round in 0..args.rounds as usize {
        let mut before = Load::run(bench, bench.seconds)?.rate();
        for turn in 0..series.len() {
            let index = (turn + round) % series.len();
            let Series { case, kept, costs } = &mut series[index];
            let cost = case.run(bench)?;
            let after = Load::run(bench, bench.seconds)?.rate();
            let beside = f64::midpoint(before, after);
            eprintln!(
                "round {}: {:<26} {:>8.0} of {beside:>8.0} {}/s",
                round + 1,
                case.name,
                cost.load.rate(),
                bench.kind.what()
            );
            untraced.push(after);
            kept.push(cost.load.rate() / beside);
            costs.push(cost);
            before = after;
        }
    }
    print(bench, args, &series, &untraced);
    Ok(())
}

fn print(bench: &Bench, args: &Args, series: &[Series], untraced: &[f64]) {
    let empty =
        series.iter().filter(|series| series.case.name == EMPTY.name).flat_map(|series| &series.costs);
    let empty: Vec<f64> =
        empty.map(|cost| cost.in_kernel.ns as f64 / cost.in_kernel.runs.max(1) as f64).collect();
    let empty_ns = Spread::of(&empty).median().unwrap_or(0.0);
    println!(
        "\nUntraced: {} {}/s, {} threads. One run of an empty program, counting it included: {} ns.\n\
         Medians (smallest .. largest) of {} rounds.\n",
        Spread::of(untraced).whole(),
        bench.kind.what(),
        args.threads,
        Spread::of(&empty).whole(),
        args.rounds
    );
    println!("{}", cost::head(bench.kind.what()));
    for Series { case, kept, costs } in series {
        println!("{}", cost::row(case.name, kept, costs, empty_ns));
    }
    let (peers, own): (Vec<&Series>, Vec<&Series>) =
        series.iter().partition(|series| matches!(series.case.program, Program::Peer(_)));
    if peers.is_empty() {
        return;
    }
    println!(
        "\nOf each peer's: {0}/s / eBPF time / CPU of the process for one of the {0}.\n",
        bench.kind.what()
    );
    let names: Vec<&str> = peers.iter().map(|peer| peer.case.name).collect();
    println!("| | {} |\n|---|{}", names.join(" | "), "---:|".repeat(names.len()));
    for own in own.iter().filter(|series| series.case.name != EMPTY.name) {
        let ratios: Vec<String> = peers.iter().map(|peer| ratios(own, peer, empty_ns)).collect();
        println!("| {} | {} |", own.case.name, ratios.join(" | "));
    }
}

/// What `own` costs for each of what `peer` costs, medians.
fn ratios(own: &Series, peer: &Series, empty_ns: f64) -> String {
    let ratio = |value: &dyn Fn(&Series) -> Vec<f64>| match (
        Spread::of(&value(own)).median(),
        Spread::of(&value(peer)).median(),
    ) {
        (Some(own), Some(peer)) if peer > 0.0 => format!("{:.2}", own / peer),
        _ => "-".into(),
    };
    [
        ratio(&|series| series.kept.clone()),
        ratio(&|series| series.costs.iter().map(|cost| cost.net_ebpf_ns(empty_ns)).collect()),
        ratio(&|series| series.costs.iter().map(Cost::cpu_ns).collect()),
    ]
    .join(" / ")
}
