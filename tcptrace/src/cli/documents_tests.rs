//! Every command that the documents show has arguments that exist, and every command has its man page's worth of help.

use std::{fs, path::Path};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use super::Cli;

/// Where commands are shown, beside docs/.
const PAGES: [&str; 8] = [
    "README.md",
    "README.zh-CN.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "contrib/systemd/tcptrace.service",
    "contrib/kubernetes/tcptrace.yaml",
    "contrib/prometheus/tcptrace.rules.yml",
];

/// The commands of one page: whole lines, and what stands between backticks.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_code = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        let pieces: Vec<&str> = if is_code {
            line.split(['|', ';', '&']).collect()
        } else {
            line.split('`').skip(1).step_by(2).chain(line.strip_prefix("ExecStart=")).collect()
        };
        found.extend(pieces.into_iter().filter_map(command));
    }
    found
}

/// The arguments of the program in `text`, if it is shown at all, without what belongs to the shell.
fn command(text: &str) -> Option<String> {
    let text = text.trim().trim_start_matches("$ ");
    let text = text.strip_prefix("sudo ").unwrap_or(text);
    let text = text.strip_prefix("ssh host ").unwrap_or(text);
    let text = text.strip_prefix("cargo run --release -- ").or_else(|| {
        let rest = text.strip_prefix("/usr/bin/").unwrap_or(text);
        rest.strip_prefix("tcptrace ")
    })?;
    let begins_with_command =
        text.starts_with('-') || Cli::command().get_subcommands().any(|sub| text.starts_with(sub.get_name()));
    begins_with_command.then(|| text.to_owned())
}

/// Words as a shell makes them, up to a comment or a redirection.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '#' | '>') => break,
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

/// A word that stands for a value becomes one.
fn meant(word: String) -> String {
    match word.as_str() {
        "N" => "1".into(),
        "TIME" => "5s".into(),
        "KEY" => "service".into(),
        _ => word,
    }
}

/// What is a pattern rather than a command: `[--once]`, `...`, `-o out.{parquet,csv}`.
fn is_pattern(text: &str) -> bool {
    ["[", "...", "{", "<"].iter().any(|mark| text.contains(mark))
}

#[test]
fn every_command_in_the_documents_parses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = fs::read_dir(root.join("docs")).expect("docs/").map(|entry| entry.expect("a page").path());
    let pages = docs.filter(|path| path.extension().is_some_and(|name| name == "md"));
    let mut checked = 0;
    let mut faults = Vec::new();
    for path in pages.chain(PAGES.map(|page| root.join(page)).into_iter().filter(|path| path.exists())) {
        let page = fs::read_to_string(&path).expect("a page");
        for text in commands(&page).into_iter().filter(|text| !is_pattern(text)) {
            let args = words(&text.replace("$TCPTRACE_ARGS", "")).into_iter().map(meant);
            if let Err(error) = Cli::try_parse_from(std::iter::once("tcptrace".to_owned()).chain(args)) {
                let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
                    // The name of a command alone, which is not a command line yet.
                    || (error.kind() == ErrorKind::MissingRequiredArgument && !text.contains(' '));
                if !is_help {
                    faults.push(format!("{}: tcptrace {text}\n{error}", path.display()));
                }
            }
            checked += 1;
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(checked > 60, "only {checked} commands found");
}

#[test]
fn the_daemon_sets_arguments_parse() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = fs::read_to_string(root.join("contrib/kubernetes/tcptrace.yaml")).expect("the manifest");
    let args = manifest.lines().find_map(|line| line.trim().strip_prefix("args: ")).expect("arguments");
    let args: Vec<String> = serde_json::from_str(args).expect("a list");
    let args = args.into_iter().map(|arg| arg.replace("$(NODE_IP)", "10.0.0.7"));
    Cli::try_parse_from(std::iter::once("tcptrace".to_owned()).chain(args)).expect("a command");
}

#[test]
fn the_definition_of_the_arguments_is_sound() {
    Cli::command().debug_assert();
    for command in Cli::command().get_subcommands() {
        assert!(command.get_about().is_some(), "{} says nothing", command.get_name());
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
    }
}

#[test]
fn what_belongs_to_the_shell_is_told_apart() {
    let page = "```\nsudo tcptrace top --once # now\nssh host tcptrace record -o - | tcptrace hist --from -\n```\n`tcptrace check`";
    assert_eq!(
        commands(page).iter().map(|text| words(text)).collect::<Vec<_>>(),
        [vec!["top", "--once"], vec!["record", "-o", "-"], vec!["hist", "--from", "-"], vec!["check"]]
    );
    assert_eq!(
        words("top --filter 'state time-wait and not comm nginx' > a"),
        ["top", "--filter", "state time-wait and not comm nginx"]
    );
}
