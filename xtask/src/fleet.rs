//! The queries of `docs/fleet.md`: in, recordings and the page; out, whether `DuckDB` or Spark returns the rows in the page, and
//! whether the program prints the same. `cargo xtask fleet` runs them over any recordings: there the three are compared with
//! each other, and timed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

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
/// The limit of the query.
const MOST_PRODUCERS: usize = 10;
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

/// The queries of the page.
struct FleetPage {
    /// All of them.
    all: Vec<PageQuery>,
}

/// The rows of a query, and how long it took.
struct QueryRows {
    text: String,
    seconds: f64,
}

impl FleetPage {
    fn read(repo: &Repo) -> Result<Self> {
        let text = fs::read_to_string(repo.root.join(PAGE))?;
        Ok(Self { all: queries::queries(PAGE, &text).context(PAGE)? })
    }

    /// The query that opens the engine, then the others.
    fn of(&self, engine: QueryEngine) -> Result<Vec<&PageQuery>> {
        let opening = |query: &&PageQuery| query.language == "python" && query.code.contains(engine.module());
        let opening = self.all.iter().find(opening).context("the page opens no engine")?;
        Ok(std::iter::once(opening).chain(self.sql()).collect())
    }

    fn sql(&self) -> impl Iterator<Item = &PageQuery> {
        self.all.iter().filter(|query| query.language == "sql")
    }

    /// Runs the queries over the export in `folder`, in one process: an engine takes seconds to start.
    fn run(&self, repo: &Repo, engine: QueryEngine, folder: &Path) -> Result<Vec<QueryRows>> {
        let mut code = "import time\nstart = time.monotonic()\n".to_owned();
        if engine == QueryEngine::DuckDb {
            // The progress of a slow query goes to standard output.
            code += "import duckdb\nduckdb.sql('SET enable_progress_bar = false')\n";
        }
        for query in self.of(engine)? {
            code += &if query.language == "sql" { engine.print(&query.code) } else { query.code.clone() };
            code += "print('---', time.monotonic() - start)\nstart = time.monotonic()\n";
        }
        let mut python = Command::new(venv(repo).join("bin/python"));
        let output = command::output(python.arg("-c").arg(code).current_dir(folder))?;
        let (mut rows, mut text) = (Vec::new(), String::new());
        for line in output.lines() {
            if let Some(seconds) = line.strip_prefix("--- ") {
                rows.push(QueryRows { text: std::mem::take(&mut text), seconds: seconds.parse()? });
            } else {
                text += line;
                text.push('\n');
            }
        }
        Ok(rows)
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
    let page = FleetPage::read(repo)?;
    let python = venv(repo).join("bin/python");
    if !has(&python, engine.module()) {
        let reason =
            format!("no {} for Python: `cargo xtask setup --tests`, or --only spark", engine.module());
        for query in page.sql() {
            tally.verdict(&name(engine, query), &TestVerdict::Skipped(reason.clone()));
        }
        return Ok(());
    }
    let recordings = RECORDINGS.map(|recording| repo.root.join(recording));
    let folder = export(repo, &recordings)?;
    let rows = page.run(repo, engine, &folder)?;
    let queries = page.of(engine)?;
    ensure!(rows.len() == queries.len(), "fewer results than queries");
    for (query, rows) in queries.into_iter().zip(&rows) {
        tally.verdict(&name(engine, query), &compare(query, &rows.text).into());
    }
    if engine == QueryEngine::DuckDb {
        let own = own_rows(repo, &page, &recordings, |query| query.expected.clone());
        tally.verdict(&format!("{PAGE} (tcptrace)"), &own.map(drop).into());
    }
    Ok(())
}

/// Runs the queries over any recordings, in both engines and in the program: the rows must be the same.
#[derive(clap::Args)]
pub struct FleetArgs {
    /// Recordings
    #[arg(required = true)]
    recordings: Vec<PathBuf>,
}

pub fn compare_engines(repo: &Repo, args: &FleetArgs) -> Result<()> {
    queries::install(repo)?;
    install_spark(repo)?;
    let page = FleetPage::read(repo)?;
    let recordings: Vec<PathBuf> = args.recordings.iter().map(fs::canonicalize).collect::<Result<_, _>>()?;
    let start = Instant::now();
    let folder = export(repo, &recordings)?;
    println!("export --partition, with the build of the program: {:.1} s", start.elapsed().as_secs_f64());
    let duckdb = page.run(repo, QueryEngine::DuckDb, &folder)?;
    let spark = page.run(repo, QueryEngine::Spark, &folder)?;
    let rows = |query: &PageQuery| {
        let number = page.sql().position(|other| other.code == query.code).unwrap_or_default();
        duckdb[number + 1].text.clone()
    };
    let own = own_rows(repo, &page, &recordings, rows)?;
    println!("{} rows of events", duckdb[0].text.trim());
    println!("| | DuckDB, s | Spark, s | tcptrace, s | rows |\n|---|---:|---:|---:|---:|");
    for (number, query) in page.sql().enumerate() {
        let (duckdb, spark) = (&duckdb[number + 1], &spark[number + 1]);
        ensure!(
            duckdb.text == spark.text,
            "{}: DuckDB has\n{}Spark\n{}",
            query.name(),
            duckdb.text,
            spark.text
        );
        println!(
            "| {} | {:.1} | {:.1} | {:.1} | {} |",
            query.name(),
            duckdb.seconds,
            spark.seconds,
            own[number],
            duckdb.text.lines().count()
        );
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
fn export(repo: &Repo, recordings: &[PathBuf]) -> Result<PathBuf> {
    let folder = repo.target.join("fleet");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    command::run(repo.cargo().args(["build", "--release", "--package", "tcptrace"]))?;
    let mut export = Command::new(repo.release_binary());
    export.args(["export", "--partition"]).args(recordings).arg("-o").arg(folder.join("events"));
    command::output(&mut export)?;
    Ok(folder)
}

/// What the program prints about the recordings.
fn read(repo: &Repo, args: &[&str], recordings: &[PathBuf]) -> Result<String> {
    let mut program = Command::new(repo.release_binary());
    program.args(args);
    for recording in recordings {
        program.arg("--from").arg(recording);
    }
    command::output(&mut program)
}

/// Compares the rows that are expected of each query with those of the program; returns the seconds that each took.
fn own_rows(
    repo: &Repo,
    page: &FleetPage,
    recordings: &[PathBuf],
    rows: impl Fn(&PageQuery) -> String,
) -> Result<[f64; 3]> {
    let expected = |column: &str| -> Result<Vec<Vec<String>>> {
        let query = page.sql().find(|query| query.code.contains(column));
        let rows = rows(query.with_context(|| format!("no query for {column}"))?);
        Ok(rows.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect())
    };
    let timed = |args: &[&str]| {
        let start = Instant::now();
        read(repo, args, recordings).map(|text| (text, start.elapsed().as_secs_f64()))
    };
    let (top, top_seconds) = timed(&["top", "--once", "--json", "--by", "host,comm"])?;
    let mut producers = producers(&serde_json::from_str(&top)?)?;
    producers.truncate(MOST_PRODUCERS);
    ensure!(producers == expected("entered")?, "top: {producers:?}, not {:?}", expected("entered")?);
    let args = ["hist", "--json", "--by", "lport", "--role", "inbound", "--state", "ESTABLISHED"];
    let (hist, hist_seconds) = timed(&args)?;
    let hist: Value = serde_json::from_str(&hist)?;
    for row in expected("p99_ns")? {
        let row: Vec<u64> = row.iter().map(|cell| cell.parse()).collect::<Result<_, _>>()?;
        let found = quantiles(&hist, row[0])?;
        let agrees = |(found, exact): (&u64, &u64)| found.abs_diff(*exact) <= exact / ROUNDING;
        ensure!(
            row[1] == found[0] && found.iter().zip(&row[1..]).all(agrees),
            "hist: {found:?}, not {row:?}"
        );
    }
    let (joined, joined_seconds) = timed(&["events", "--joined", "--json"])?;
    let joined = closers(&joined)?;
    let expected = expected("closed_first")?;
    ensure!(joined == expected, "events --joined: {joined:?}, not {expected:?}");
    Ok([top_seconds, hist_seconds, joined_seconds])
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
