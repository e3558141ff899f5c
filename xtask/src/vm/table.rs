//! Updates the kernel table in the README with one row per booted kernel.

use std::fs;

use anyhow::{Context, Result};

use super::kernels::KERNELS;
use crate::repo::Repo;

/// Header of the table.
pub const HEAD: &str = "\
| Kernel | States, handshakes, timewait timers | Segments to timewait sockets | Orphan FIN_WAIT2 -> TIME_WAIT | RST or data ends a timewait socket | Tests |
|---|---|---|---|---|---|";
const BEGIN: &str = "<!-- written by cargo xtask vm --table -->\n";
const END: &str = "<!-- end of the table -->\n";

/// Writes the rows into the README; keeps the rows of kernels that were not booted.
pub fn write(repo: &Repo, rows: &[String]) -> Result<()> {
    let path = repo.root.join("README.md");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, replaced(&text, rows)?).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(text: &str, rows: &[String]) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("README.md has no start of the kernel table")?;
    let (table, after) = rest.split_once(END).context("README.md has no end of the kernel table")?;
    let rows = KERNELS.iter().filter_map(|kernel| {
        let begin = format!("| {}.", kernel.version);
        let mut newest_first = rows.iter().map(String::as_str).chain(table.lines());
        newest_first.find(|row| row.starts_with(&begin))
    });
    let rows: String = rows.flat_map(|row| [row, "\n"]).collect();
    Ok(format!("{before}{BEGIN}{HEAD}\n{rows}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_new_row_replaces_the_row_of_the_same_kernel() {
        let text = format!("a\n{BEGIN}{HEAD}\n| 6.1.0-1 | old |\n| 7.2.1 | stays |\n{END}b\n");
        let rows = ["| 6.1.0-2 | new |".to_owned(), "| 6.12.5 | first |".to_owned()];
        let expected =
            format!("a\n{BEGIN}{HEAD}\n| 6.1.0-2 | new |\n| 6.12.5 | first |\n| 7.2.1 | stays |\n{END}b\n");
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
