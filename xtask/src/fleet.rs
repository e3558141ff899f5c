//! The queries of `docs/fleet.md`: in, recordings and the page; out, whether `DuckDB` or Spark returns the rows in the page, and
//! whether the program prints the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::queries::{self, PageQuery, venv};
use crate::repo::Repo;
use crate::tally::{TestTally, TestVerdict};
use crate::{command, packages};

const PAGE: &str = "docs/fleet.md";
const RECORDINGS: [&str; 3] =
    ["tests/fixtures/session-v1.tcptrace", "docs/samples/close-wait.tcptrace", "docs/samples/ports.tcptrace"];
/// Histograms round up by less than this part.
const ROUNDING: u64 = 512;
/// From `PyPI`.
const PYSPARK: &str = "pyspark";
/// What Spark runs on.
const JAVA: &[&str] = &["default-jre-headless"];

/// What runs the queries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum QueryEngine {
    /// In the process of Python.
    DuckDb,
    /// With a Java machine of its own.
    Spark,
}

impl QueryEngine {
    const fn module(self) -> &'static str {
        match self {
            Self::DuckDb => "duckdb",
            Self::Spark => "pyspark",
        }
    }

    /// The Python code that prints the rows of a query.
    fn print(self, sql: &str) -> String {
        let rows = match self {
            Self::DuckDb => format!("duckdb.sql('''{sql}''').fetchall()"),
            Self::Spark => format!("spark.sql('''{sql}''').collect()"),
        };
        format!("for row in {rows}: print(*row)\n")
    }
}

/// Installs Spark and Java: some 400 MB.
pub fn install_spark(repo: &Repo) -> Result<()> {
    packages::install(JAVA)?;
    let python = venv(repo).join("bin/python");
    if !python.exists() {
        command::run(Command::new("python3").args(["-m", "venv"]).arg(venv(repo)))?;
    }
    if has(&python, PYSPARK) {
        return Ok(());
    }
    command::run(Command::new(&python).args(["-m", "pip", "install", "--quiet", PYSPARK]))
}

fn has(python: &Path, module: &str) -> bool {
    let mut import = Command::new(python);
    import.args(["-c", &format!("import {module}")]);
    import.output().is_ok_and(|output| output.status.success())
}

/// Runs the page with `engine`.
pub fn run(repo: &Repo, engine: QueryEngine, tally: &mut TestTally) -> Result<()> {
    let text = fs::read_to_string(repo.root.join(PAGE))?;
    let page = queries::queries(PAGE, &text).context(PAGE)?;
    let opening = |query: &&PageQuery| query.language == "python" && query.code.contains(engine.module());
    let opening = page.iter().find(opening).context("the page opens no engine")?;
    let queries: Vec<&PageQuery> = page.iter().filter(|query| query.language == "sql").collect();
    let python = venv(repo).join("bin/python");
    if !has(&python, engine.module()) {
        let reason =
            format!("no {} for Python: `cargo xtask setup --tests`, or --only spark", engine.module());
        for query in &queries {
            tally.verdict(&name(engine, query), &TestVerdict::Skipped(reason.clone()));
        }
        return Ok(());
    }
    let folder = prepare(repo)?;
    // One process for all: an engine takes seconds to start.
    let mut code = opening.code.clone();
    for query in &queries {
        code += "print('---')\n";
        code += &engine.print(&query.code);
    }
    let output = command::output(Command::new(&python).arg("-c").arg(code).current_dir(&folder))?;
    let mut printed = output.split("---\n");
    let expected = std::iter::once(opening).chain(queries);
    for query in expected {
        let printed = printed.next().context("fewer results than queries")?;
        tally.verdict(&name(engine, query), &compare(query, printed).into());
    }
    if engine == QueryEngine::DuckDb {
        tally.verdict(&format!("{PAGE} (tcptrace)"), &own_rows(repo, &page).into());
    }
    Ok(())
}

fn name(engine: QueryEngine, query: &PageQuery) -> String {
    format!("{} ({})", query.name(), engine.module())
}

fn compare(query: &PageQuery, printed: &str) -> Result<()> {
    ensure!(printed.trim() == query.expected.trim(), "it prints\n{printed}instead of\n{}", query.expected);
    Ok(())
}

/// Builds the program and exports the recordings; returns the folder in which the queries run.
fn prepare(repo: &Repo) -> Result<PathBuf> {
    let folder = repo.target.join("fleet");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    command::run(repo.cargo().args(["build", "--release", "--package", "tcptrace"]))?;
    let mut export = Command::new(repo.release_binary());
    export.args(["export", "--partition"]).args(RECORDINGS).arg("-o").arg(folder.join("events"));
    command::output(export.current_dir(&repo.root))?;
    Ok(folder)
}

/// What the program prints about the recordings.
fn read(repo: &Repo, args: &[&str]) -> Result<String> {
    let mut program = Command::new(repo.release_binary());
    program.args(args).current_dir(&repo.root);
    for recording in RECORDINGS {
        program.args(["--from", recording]);
    }
    command::output(&mut program)
}

/// Compares the rows in the page with those of the program.
fn own_rows(repo: &Repo, page: &[PageQuery]) -> Result<()> {
    let expected = |column: &str| -> Result<Vec<Vec<&str>>> {
        let query = page.iter().find(|query| query.language == "sql" && query.code.contains(column));
        let query = query.with_context(|| format!("no query for {column}"))?;
        Ok(query.expected.lines().map(|line| line.split(' ').collect()).collect())
    };
    let top: Value = serde_json::from_str(&read(repo, &["top", "--once", "--json", "--by", "host,comm"])?)?;
    ensure!(producers(&top)? == expected("entered")?, "top: {:?}", producers(&top));
    let args = ["hist", "--json", "--by", "lport", "--role", "inbound", "--state", "ESTABLISHED"];
    let hist: Value = serde_json::from_str(&read(repo, &args)?)?;
    for row in expected("p99_ns")? {
        let row: Vec<u64> = row.iter().map(|cell| cell.parse()).collect::<Result<_, _>>()?;
        let found = quantiles(&hist, row[0])?;
        let agrees = |(found, exact): (&u64, &u64)| found.abs_diff(*exact) <= exact / ROUNDING;
        ensure!(
            row[1] == found[0] && found.iter().zip(&row[1..]).all(agrees),
            "hist: {found:?}, not {row:?}"
        );
    }
    let joined = closers(&read(repo, &["events", "--joined", "--json"])?)?;
    ensure!(joined == expected("closed_first")?, "events --joined: {joined:?}");
    Ok(())
}

/// Host, process and TIME_WAIT entered, of the groups that entered any.
fn producers(top: &Value) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for group in top["groups"].as_array().context("groups")? {
        let entered = group["time_wait"]["entered"].as_u64().context("entered")?;
        let (host, comm) = group["key"].as_str().and_then(|key| key.split_once(" / ")).context("a key")?;
        if entered > 0 {
            rows.push((std::cmp::Reverse(entered), host.to_owned(), comm.to_owned()));
        }
    }
    rows.sort_unstable();
    Ok(rows.into_iter().map(|(entered, host, comm)| vec![host, comm, entered.0.to_string()]).collect())
}

/// Count, p50 and p99 of the connections to a port.
fn quantiles(hist: &Value, port: u64) -> Result<[u64; 3]> {
    let port = port.to_string();
    let all = hist["histograms"].as_array().context("histograms")?;
    let of = all.iter().find(|of| of["key"] == *port && of["split"].is_null()).context("the port")?;
    let field = |name: &str| of[name].as_u64().with_context(|| name.to_owned());
    Ok([field("count")?, field("p50_ns")?, field("p99_ns")?])
}

/// Port, who closed first, and connections, of those with both ends.
fn closers(lines: &str) -> Result<Vec<Vec<String>>> {
    let mut counts: BTreeMap<(u64, String), u64> = BTreeMap::new();
    for line in lines.lines() {
        let connection: Value = serde_json::from_str(line)?;
        if let (Some(port), Some(_)) =
            (connection["server"]["port"].as_u64(), connection["client"].as_object())
        {
            let first = connection["closed_first"].as_str().context("closed_first")?;
            *counts.entry((port, first.to_owned())).or_default() += 1;
        }
    }
    Ok(counts
        .into_iter()
        .map(|((port, first), count)| vec![port.to_string(), first, count.to_string()])
        .collect())
}
