//! Updates the kernel table in the README with the results of booted kernels.

use std::fs;

use anyhow::{Context, Result};

use super::kernels::KERNELS;
use crate::arch::Arch;
use crate::repo::Repo;
use crate::tally::TestCounts;

/// Header of the table.
pub const HEAD: &str = "\
| Kernel | States, handshakes, timewait timers | Segments to timewait sockets | Orphan FIN_WAIT2 -> TIME_WAIT | RST or data ends a timewait socket | Tests on x86-64 | Tests on arm64 |
|---|---|---|---|---|---|---|";
const BEGIN: &str = "<!-- written by cargo xtask vm --table -->\n";
const END: &str = "<!-- end of the table -->\n";
/// A kernel that was not booted on this architecture.
const NOT_BOOTED: &str = "-";

/// Results of one kernel on one architecture.
pub struct KernelRow {
    /// Its release, without the flavour.
    pub release: String,
    /// What tcptrace shows there, in the order of the columns.
    pub shows: [&'static str; 4],
    pub arch: Arch,
    pub counts: TestCounts,
}

impl KernelRow {
    /// The line of the table; the result on the other architecture comes from `old`, the line of the same kernel.
    pub fn line(&self, old: Option<&str>) -> String {
        let mut results =
            match old.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>()) {
                Some(cells) if cells.len() == 1 + self.shows.len() + 2 => {
                    [cells[5].to_owned(), cells[6].to_owned()]
                }
                _ => [NOT_BOOTED.to_owned(), NOT_BOOTED.to_owned()],
            };
        results[self.arch as usize] = self.counts.to_string();
        format!("| {} | {} | {} |", self.release, self.shows.join(" | "), results.join(" | "))
    }
}

/// Writes the rows into the README; keeps the rows of kernels that were not booted.
pub fn write(repo: &Repo, rows: &[KernelRow]) -> Result<()> {
    let path = repo.root.join("README.md");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, replaced(&text, rows)?).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(text: &str, rows: &[KernelRow]) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("README.md has no start of the kernel table")?;
    let (table, after) = rest.split_once(END).context("README.md has no end of the kernel table")?;
    let lines = KERNELS.iter().filter_map(|kernel| {
        let begin = format!("{}.", kernel.version);
        let old = table.lines().find(|line| line.starts_with(&format!("| {begin}")));
        let new = rows.iter().find(|row| row.release.starts_with(&begin)).map(|row| row.line(old));
        new.or_else(|| old.map(str::to_owned))
    });
    let lines: String = lines.map(|line| line + "\n").collect();
    Ok(format!("{before}{BEGIN}{HEAD}\n{lines}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn row(release: &str, arch: Arch, passed: u64) -> KernelRow {
        let counts = TestCounts { passed, ..TestCounts::default() };
        KernelRow { release: release.into(), shows: ["yes", "no", "inferred", "unexplained"], arch, counts }
    }

    #[test]
    fn a_new_result_replaces_that_of_the_same_kernel_and_architecture() {
        let stays = "| 7.2.1 | yes | yes | exact | known | 7 passed | 8 passed |";
        let text = format!(
            "a\n{BEGIN}{HEAD}\n| 6.1.0-1 | yes | yes | exact | known | 1 passed | 2 passed |\n{stays}\n{END}b\n"
        );
        let rows = [row("6.1.0-2", Arch::Arm64, 3), row("6.12.5", Arch::Amd64, 4)];
        let expected = format!(
            "a\n{BEGIN}{HEAD}\n\
             | 6.1.0-2 | yes | no | inferred | unexplained | 1 passed | 3 passed, 0 failed, 0 skipped |\n\
             | 6.12.5 | yes | no | inferred | unexplained | 4 passed, 0 failed, 0 skipped | - |\n\
             {stays}\n{END}b\n"
        );
        assert_eq!(replaced(&text, &rows).unwrap(), expected);
        assert!(replaced("no table", &rows).is_err());
    }

    #[test]
    fn the_readme_has_a_table_of_this_shape_and_no_failures_in_it() {
        let readme =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("README.md")).unwrap();
        assert_eq!(replaced(&readme, &[]).unwrap(), readme, "as the command would write it");
        let (_, table) = readme.split_once(BEGIN).unwrap();
        let (table, _) = table.split_once(END).unwrap();
        for row in table.lines().skip(2) {
            assert_eq!(row.matches('|').count(), HEAD.lines().next().unwrap().matches('|').count(), "{row}");
            assert!(row.contains(" passed, 0 failed, ") && !row.contains("flaky"), "{row}");
        }
    }
}
