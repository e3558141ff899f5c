//! Extracts the command lines from a document.

use std::{fs, io, path::Path};

/// A command line of a page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShownCommand {
    /// The text for a shell.
    pub text: String,
    /// Its line number, from 1.
    pub line: usize,
    program: &'static str,
}

impl ShownCommand {
    /// The arguments of each run of the program in it: `tcptrace record -o - | tcptrace hist --from -` has two.
    pub fn runs(&self) -> Vec<Vec<String>> {
        self.text.split(['|', ';', '&']).filter_map(|piece| arguments(piece, self.program)).collect()
    }
}

/// Pages beside docs/.
const PAGES: [&str; 6] =
    ["README.md", "README.zh-CN.md", "ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"];
/// Other ways to call tcptrace.
const SPELLINGS: [&str; 3] = ["cargo run --release -- ", "target/release/tcptrace ", "/usr/bin/tcptrace "];
/// Placeholders in pages, and a value for each.
const VALUES: [(&str, &str); 4] = [("N", "1"), ("TIME", "5s"), ("KEY", "service"), ("NAME", "tcp_tw_reuse")];
/// Marks of patterns, which are not commands: `[--once]`, `...`, `-o out.{parquet,csv}`.
const PATTERNS: [&str; 4] = ["[", "...", "{", "<"];

/// Every page for people, by its path below `root`.
pub fn pages(root: &Path) -> io::Result<Vec<String>> {
    let mut pages = Vec::new();
    for page in fs::read_dir(root.join("docs"))? {
        pages.push(format!("docs/{}", page?.file_name().to_string_lossy()));
    }
    pages.retain(|page| Path::new(page).extension().is_some_and(|end| end == "md"));
    pages.sort();
    Ok(PAGES.map(str::to_owned).into_iter().chain(pages).collect())
}

/// Command lines that run `program`: lines of code, text between backticks, and `ExecStart` of a unit.
pub fn commands(page: &str, program: &'static str) -> Vec<ShownCommand> {
    let mut found = Vec::new();
    let mut is_code = false;
    for (text, line) in page.lines().zip(1..) {
        if text.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        let pieces: Vec<&str> = if is_code {
            vec![text]
        } else {
            text.split('`').skip(1).step_by(2).chain(text.strip_prefix("ExecStart=")).collect()
        };
        found.extend(pieces.into_iter().map(|piece| ShownCommand { text: as_run(piece), line, program }));
    }
    found.retain(|shown| !PATTERNS.iter().any(|mark| shown.text.contains(mark)) && !shown.runs().is_empty());
    found
}

/// The blocks of code in this language.
pub fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut lines = page.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(named) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if named == language {
            found.push(block.join("\n"));
        }
    }
    found
}

/// Without comment and prompt, tcptrace by its name, placeholders replaced by values.
fn as_run(text: &str) -> String {
    let text = text.split(" #").next().unwrap_or_default().trim().trim_start_matches("$ ");
    let named = SPELLINGS.iter().fold(text.to_owned(), |text, spelling| text.replace(spelling, "tcptrace "));
    let text = named.replace(" $TCPTRACE_ARGS", "");
    text.split(' ').map(value_of).collect::<Vec<_>>().join(" ")
}

/// A word, or the value of a placeholder.
fn value_of(word: &str) -> &str {
    VALUES.iter().find(|(name, _)| *name == word).map_or(word, |(_, value)| value)
}

/// The arguments of one run of the program, if this is one: `tcptrace 0.2.0` is a line of its output.
fn arguments(piece: &str, program: &str) -> Option<Vec<String>> {
    let piece = piece.trim();
    let piece =
        ["sudo ", "ssh host "].iter().fold(piece, |rest, before| rest.strip_prefix(before).unwrap_or(rest));
    let words = words(piece.strip_prefix(program)?.strip_prefix(' ')?);
    let is_command = |word: &String| word.bytes().all(|byte| byte == b'-' || byte.is_ascii_lowercase());
    words.first().is_some_and(is_command).then_some(words)
}

/// Words as a shell makes them, up to a redirection.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '>') => break,
            (None, ' ') => words.push(String::new()),
            (_, c) => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_syntax_is_not_part_of_the_arguments() {
        let page = "```\nsudo tcptrace top --once # now\nssh host tcptrace record -o - | tcptrace hist --from -\n\
                    tcptrace 0.2.0  vm\n```\nsee `tcptrace check`, `tcptrace top --batch N`, `tcptrace top [--once]`, `cargo xtask vm`\n";
        let found = commands(page, "tcptrace");
        let shown: Vec<_> = found.iter().map(|shown| (shown.line, shown.text.as_str())).collect();
        let piped = "ssh host tcptrace record -o - | tcptrace hist --from -";
        let expected = [
            (2, "sudo tcptrace top --once"),
            (3, piped),
            (6, "tcptrace check"),
            (6, "tcptrace top --batch 1"),
        ];
        assert_eq!(shown, expected);
        assert_eq!(found[1].runs(), [vec!["record", "-o", "-"], vec!["hist", "--from", "-"]]);
        let quoted = commands("`tcptrace top --filter 'not comm a b' > c`", "tcptrace");
        assert_eq!(quoted[0].runs(), [vec!["top", "--filter", "not comm a b"]]);
        let of_xtask = commands(page, "cargo xtask");
        assert_eq!(of_xtask.iter().map(ShownCommand::runs).collect::<Vec<_>>(), [vec![vec!["vm"]]]);
    }

    #[test]
    fn blocks_are_found_by_their_language() {
        let page = "```\nls\n```\n\n```sql\na\nb\n```\n```text\nsql\n```\n```sql\nc\n```\n";
        assert_eq!(blocks(page, "sql"), ["a\nb", "c"]);
    }
}
