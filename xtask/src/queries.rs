//! The queries of docs/session-format.md: in, the page and a recording; out, whether each prints what the page says.
//! A block of `sql` runs in `DuckDB`, one of `python` as it is; the block of `text` after it is what it must print.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::command;
use crate::repo::Repo;
use crate::tally::{Tally, Verdict};

const PAGE: &str = "docs/session-format.md";
const RECORDING: &str = "tests/fixtures/session-v1.tcptrace";
/// From `PyPI`: the tools that the page tells to use.
const PACKAGES: [&str; 4] = ["pyarrow", "polars", "pandas", "duckdb"];

/// A query, and what it prints.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    language: String,
    code: String,
    wanted: String,
    line: usize,
}

/// Where the packages are installed.
fn venv(repo: &Repo) -> PathBuf {
    repo.target.join("venv")
}

/// Installs the packages, unless they are there.
pub fn install(repo: &Repo) -> Result<()> {
    let python = venv(repo).join("bin/python");
    if imports(&python) {
        return Ok(());
    }
    command::run(Command::new("python3").args(["-m", "venv"]).arg(venv(repo)))?;
    command::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))
}

fn imports(python: &Path) -> bool {
    let imports = format!("import {}", PACKAGES.join(", "));
    Command::new(python).args(["-c", &imports]).output().is_ok_and(|output| output.status.success())
}

/// Runs every query.
pub fn run(repo: &Repo, tally: &mut Tally) -> Result<()> {
    let queries = queries(&fs::read_to_string(repo.root.join(PAGE))?)?;
    let python = venv(repo).join("bin/python");
    if !imports(&python) {
        let reason = format!("no {} for Python: `cargo xtask setup --tests`", PACKAGES.join(", "));
        for query in &queries {
            tally.verdict(&query.name(), &Verdict::Skipped(reason.clone()));
        }
        return Ok(());
    }
    let folder = repo.target.join("queries");
    fs::create_dir_all(&folder)?;
    fs::copy(repo.root.join(RECORDING), folder.join("session-v1.tcptrace"))?;
    for (name, raw) in [("events.parquet", None), ("events.csv", None), ("records.parquet", Some("--raw"))] {
        let mut export = repo.cargo();
        export.args(["run", "--quiet", "--package", "tcptrace", "--", "export", RECORDING, "--force"]);
        command::run(export.args(raw).arg("-o").arg(folder.join(name)))?;
    }
    for query in &queries {
        let verdict = match query.run(&python, &folder) {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        tally.verdict(&query.name(), &verdict);
    }
    Ok(())
}

impl Query {
    fn name(&self) -> String {
        format!("{PAGE}:{} ({})", self.line, self.language)
    }

    fn run(&self, python: &Path, folder: &Path) -> Result<()> {
        let code = match self.language.as_str() {
            "python" => self.code.clone(),
            _ => format!("import duckdb\nfor row in duckdb.sql('''{}''').fetchall(): print(*row)", self.code),
        };
        let output = Command::new(python).arg("-c").arg(code).current_dir(folder).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let printed = String::from_utf8(output.stdout)?;
        ensure!(printed.trim() == self.wanted.trim(), "it prints\n{printed}instead of\n{}", self.wanted);
        Ok(())
    }
}

/// The queries in a page, in order.
fn queries(page: &str) -> Result<Vec<Query>> {
    let mut queries: Vec<Query> = Vec::new();
    let mut lines = page.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let block: String = lines
            .by_ref()
            .map(|(line, _)| line)
            .take_while(|line| *line != "```")
            .fold(String::new(), |block, line| block + line + "\n");
        match (language, queries.last_mut()) {
            ("sql" | "python", _) => queries.push(Query {
                language: language.to_owned(),
                code: block,
                wanted: String::new(),
                line: number,
            }),
            ("text", Some(query)) if query.wanted.is_empty() => query.wanted = block,
            _ => bail!("line {number}: a block of '{language}' that belongs to no query"),
        }
    }
    let silent = queries.iter().find(|query| query.wanted.is_empty());
    silent.map_or(Ok(()), |query| bail!("line {}: a query without its result", query.line))?;
    queries.first().context("no query in the page")?;
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_and_its_result_belong_together() {
        let page = "# T\n\n```sql\nSELECT 1;\n```\n\ntext\n\n```text\n1\n```\n\n```python\nprint(2)\n```\n\n```text\n2\n```\n";
        let found = queries(page).expect("two queries");
        let shown: Vec<_> =
            found.iter().map(|query| (query.line, query.code.trim(), query.wanted.trim())).collect();
        assert_eq!(shown, [(3, "SELECT 1;", "1"), (13, "print(2)", "2")]);
        assert!(queries("```sql\nSELECT 1;\n```\n").is_err());
        assert!(queries("nothing").is_err());
    }
}
