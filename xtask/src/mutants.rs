//! `cargo xtask mutants`: in, the folders below; out, the share of a sample of small changes to their code that the unit
//! tests catch, and the missed ones. Not a part of CI: it takes hours.

use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command;
use crate::repo::Repo;

#[derive(clap::Args)]
pub struct MutantsArgs {
    /// Try every so many of the changes
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Begin with this one of the first N
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u32,
    /// Files or folders below tcptrace/src, instead of those whose tests must catch 90 %
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
}

const VERSION: &str = "27.1.0";
/// Sources of numbers: the tracker, the counts, the readers and writers.
const PATHS: [&str; 4] = ["lifecycle", "aggregate", "kernel/rings", "session"];
/// Per cent of the changes that compile which the tests must catch.
const REQUIRED: usize = 90;
/// Tests of more than ten seconds each, which catch almost nothing that others miss.
const SLOW: [&str; 7] = [
    "a_truncated_file_reads_up_to_the_cut",
    "ten_biggest_of_200_000_peers_are_exact",
    "type_containing_itself_ends_the_search",
    "format_errors_are_distinct",
    "seeks_in_any_order_match_a_straight_replay",
    "every_width_renders",
    "peers_do_not_add_samples",
];

pub fn run(repo: &Repo, args: &MutantsArgs) -> Result<ExitCode> {
    ensure!(args.first < args.every, "--first {} is not one of the first {}", args.first, args.every);
    install(repo)?;
    let out = repo.target.join("mutants");
    let mut cargo = repo.cargo();
    cargo.env("PATH", with_tools(repo)?).env("CARGO_TARGET_DIR", out.join("target"));
    // Each change is built and tested once: line tables and many property cases do not pay off.
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "0").env("PROPTEST_CASES", "64");
    cargo.args([
        "mutants",
        "--package",
        "tcptrace",
        "--cap-lints=true",
        "--sharding",
        "round-robin",
        "--shard",
    ]);
    cargo.arg(format!("{}/{}", args.first, args.every)).arg("--output").arg(&out);
    let paths = if args.paths.is_empty() { PATHS.map(str::to_owned).to_vec() } else { args.paths.clone() };
    for path in paths {
        let path = path.trim_end_matches(".rs");
        cargo.args(["--file".to_owned(), format!("tcptrace/src/{path}{{.rs,/**}}")]);
    }
    cargo.args(["--", "--lib", "--"]);
    cargo.args(SLOW.iter().flat_map(|test| ["--skip", test]));
    // A missed change is an error of cargo-mutants; outcomes.json lists them.
    command::stream(&mut cargo, |_| ())?;
    let outcomes =
        fs::read_to_string(out.join("mutants.out/outcomes.json")).context("it wrote no outcomes")?;
    let score = Score::of(&serde_json::from_str(&outcomes)?)?;
    println!("\n{}", score.report());
    Ok(if score.is_enough() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn install(repo: &Repo) -> Result<()> {
    let version = repo.cargo().env("PATH", with_tools(repo)?).args(["mutants", "--version"]).output()?;
    if String::from_utf8_lossy(&version.stdout).contains(VERSION) {
        return Ok(());
    }
    let mut cargo = repo.cargo();
    cargo.args(["install", "cargo-mutants", "--version", VERSION, "--locked", "--force", "--root"]);
    command::run(cargo.arg(repo.target.join("mutants-tools")))
}

fn with_tools(repo: &Repo) -> Result<OsString> {
    command::path_with(repo.target.join("mutants-tools/bin"))
}

/// Caught and missed changes, of those that compile.
#[derive(Debug, Default)]
struct Score {
    caught: usize,
    missed: Vec<String>,
}

impl Score {
    fn of(outcomes: &Value) -> Result<Self> {
        let mut score = Self::default();
        for outcome in outcomes["outcomes"].as_array().context("no list of outcomes")? {
            let name = outcome["scenario"]["Mutant"]["name"].as_str();
            match (outcome["summary"].as_str(), name) {
                // A change that makes a test hang is caught.
                (Some("CaughtMutant" | "Timeout"), Some(_)) => score.caught += 1,
                (Some("MissedMutant"), Some(name)) => score.missed.push(name.to_owned()),
                // A change that does not compile, and the tests without a change.
                (Some("Unviable"), Some(_)) | (Some("Success"), None) => {}
                (summary, _) => anyhow::bail!("the tests fail, with or without a change: {summary:?}"),
            }
        }
        ensure!(score.viable() > 0, "no change compiles");
        Ok(score)
    }

    fn viable(&self) -> usize {
        self.caught + self.missed.len()
    }

    fn is_enough(&self) -> bool {
        self.caught * 100 >= REQUIRED * self.viable()
    }

    fn report(&self) -> String {
        let (caught, viable) = (self.caught, self.viable());
        let score = format!(
            "mutants: {caught} of {viable} caught, {} %; required: {REQUIRED} %",
            caught * 100 / viable
        );
        let mut lines: Vec<String> = self.missed.iter().map(|name| format!("missed: {name}")).collect();
        lines.push(score);
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn outcomes(caught: usize, missed: usize) -> Value {
        let mutant =
            |summary: &str| serde_json::json!({"scenario": {"Mutant": {"name": "a"}}, "summary": summary});
        let mut list =
            vec![serde_json::json!({"scenario": "Baseline", "summary": "Success"}), mutant("Unviable")];
        list.extend((0..caught).map(|n| mutant(if n == 0 { "Timeout" } else { "CaughtMutant" })));
        list.extend((0..missed).map(|_| mutant("MissedMutant")));
        serde_json::json!({ "outcomes": list })
    }

    #[test]
    fn the_score_counts_changes_that_compile() {
        let score = Score::of(&outcomes(9, 1)).unwrap();
        assert!(score.is_enough());
        assert_eq!(score.report(), "missed: a\nmutants: 9 of 10 caught, 90 %; required: 90 %");
        assert!(!Score::of(&outcomes(8, 1)).unwrap().is_enough());
        assert!(Score::of(&outcomes(0, 0)).is_err(), "nothing was tried");
    }

    #[test]
    fn tests_that_fail_without_a_change_are_an_error() {
        let failed = serde_json::json!({"outcomes": [{"scenario": "Baseline", "summary": "Failure"}]});
        assert!(Score::of(&failed).is_err());
    }

    #[test]
    fn the_slow_tests_and_the_paths_exist() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("tcptrace/src");
        for path in PATHS {
            assert!(source.join(path).is_dir() || source.join(format!("{path}.rs")).is_file(), "{path}");
        }
        for test in SLOW {
            let found =
                Command::new("grep").args(["-rqw", &format!("fn {test}")]).arg(&source).status().unwrap();
            assert!(found.success(), "{test}");
        }
    }
}
