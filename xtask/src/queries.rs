//! The queries of the documents: in, the pages and a recording; out, whether each prints the result in its page. A block of
//! `sql` runs in `DuckDB`, one of `python` as it is; the block of `text` after it is the expected output. A live test sends
//! the `promql` to a Prometheus that has samples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::command;
use crate::repo::Repo;
use crate::tally::{TestTally, TestVerdict};

const PAGES: [&str; 2] = ["docs/session-format.md", "docs/metrics.md"];
const RECORDING: &str = "tests/fixtures/session-v1.tcptrace";
/// From `PyPI`: the tools that the pages use.
const PACKAGES: [&str; 5] = ["pyarrow", "polars", "pandas", "duckdb", "hdrhistogram"];
/// The names of these packages in `import`.
const MODULES: [&str; 5] = ["pyarrow", "polars", "pandas", "duckdb", "hdrh"];
/// The queries read these files; the program writes them from the recording.
const FILES: [(&str, &[&str]); 5] = [
    ("events.parquet", &["export", RECORDING, "--force", "-o"]),
    ("events.csv", &["export", RECORDING, "--force", "-o"]),
    ("records.parquet", &["export", RECORDING, "--raw", "--force", "-o"]),
    ("web1.hlog", &["hist", "--from", RECORDING, "--role", "inbound", "--force", "--hlog"]),
    ("web2.hlog", &["hist", "--from", RECORDING, "--role", "outbound", "--force", "--hlog"]),
];

/// A query and its expected output.
#[derive(Debug, PartialEq, Eq)]
pub struct PageQuery {
    page: &'static str,
    pub language: String,
    pub code: String,
    pub expected: String,
    line: usize,
}

/// The virtual environment of the packages.
pub fn venv(repo: &Repo) -> PathBuf {
    repo.target.join("venv")
}

/// Installs the packages if they are missing.
pub fn install(repo: &Repo) -> Result<()> {
    let python = venv(repo).join("bin/python");
    if imports(&python) {
        return Ok(());
    }
    command::run(Command::new("python3").args(["-m", "venv"]).arg(venv(repo)))?;
    command::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))
}

fn imports(python: &Path) -> bool {
    let imports = format!("import {}", MODULES.join(", "));
    Command::new(python).args(["-c", &imports]).output().is_ok_and(|output| output.status.success())
}

/// Runs every query.
pub fn run(repo: &Repo, tally: &mut TestTally) -> Result<()> {
    let mut all = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(repo.root.join(page))?;
        all.append(&mut queries(page, &text).context(page)?);
    }
    let python = venv(repo).join("bin/python");
    if !imports(&python) {
        let reason = format!("no {} for Python: `cargo xtask setup --tests`", PACKAGES.join(", "));
        for query in &all {
            tally.verdict(&query.name(), &TestVerdict::Skipped(reason.clone()));
        }
        return Ok(());
    }
    let folder = repo.target.join("queries");
    fs::create_dir_all(&folder)?;
    fs::copy(repo.root.join(RECORDING), folder.join("session-v1.tcptrace"))?;
    // The program of the live tests, which come later.
    command::run(repo.cargo().args(["build", "--release", "--package", "tcptrace"]))?;
    for (name, args) in FILES {
        let mut written = Command::new(repo.release_binary());
        written.args(args).arg(folder.join(name)).current_dir(&repo.root);
        command::output(&mut written)?;
    }
    for query in &all {
        tally.verdict(&query.name(), &query.run(&python, &folder).into());
    }
    Ok(())
}

impl PageQuery {
    pub fn name(&self) -> String {
        format!("{}:{} ({})", self.page, self.line, self.language)
    }

    fn run(&self, python: &Path, folder: &Path) -> Result<()> {
        let code = match self.language.as_str() {
            "python" => self.code.clone(),
            _ => format!("import duckdb\nfor row in duckdb.sql('''{}''').fetchall(): print(*row)", self.code),
        };
        let output = Command::new(python).arg("-c").arg(code).current_dir(folder).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let printed = String::from_utf8(output.stdout)?;
        ensure!(printed.trim() == self.expected.trim(), "it prints\n{printed}instead of\n{}", self.expected);
        Ok(())
    }
}

/// The queries in a page that are run here, in order. A block without a language is none.
pub fn queries(page: &'static str, text: &str) -> Result<Vec<PageQuery>> {
    let mut queries: Vec<PageQuery> = Vec::new();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let block: String = lines
            .by_ref()
            .map(|(line, _)| line)
            .take_while(|line| *line != "```")
            .fold(String::new(), |block, line| block + line + "\n");
        match (language, queries.last_mut()) {
            ("" | "promql", _) => {}
            ("sql" | "python", _) => queries.push(PageQuery {
                page,
                language: language.to_owned(),
                code: block,
                expected: String::new(),
                line: number,
            }),
            ("text", Some(query)) if query.expected.is_empty() => query.expected = block,
            _ => bail!("line {number}: a block of '{language}' that belongs to no query"),
        }
    }
    let without_result = queries.iter().find(|query| query.expected.is_empty());
    without_result.map_or(Ok(()), |query| bail!("line {}: a query without its result", query.line))?;
    queries.first().context("no query in the page")?;
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_and_its_result_belong_together() {
        let page = "# T\n\n```\nls\n```\n\n```sql\nSELECT 1;\n```\n\ntext\n\n```text\n1\n```\n\n```python\nprint(2)\n```\n\n```text\n2\n```\n";
        let found = queries("T", page).expect("two queries");
        let shown: Vec<_> =
            found.iter().map(|query| (query.line, query.code.trim(), query.expected.trim())).collect();
        assert_eq!(shown, [(7, "SELECT 1;", "1"), (17, "print(2)", "2")]);
        assert!(queries("T", "```sql\nSELECT 1;\n```\n").is_err());
        assert!(queries("T", "nothing").is_err());
    }
}
