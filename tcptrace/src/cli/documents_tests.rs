//! Every command that the documents show has arguments that exist, and every command has its man page's worth of help.

use std::{fs, path::Path};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use super::Cli;

/// The live tests run what is only parsed here.
#[path = "../../../tests/src/documents.rs"]
mod documents;

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

#[test]
fn every_command_in_the_documents_parses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = fs::read_dir(root.join("docs")).expect("docs/").map(|entry| entry.expect("a page").path());
    let pages = docs.filter(|path| path.extension().is_some_and(|name| name == "md"));
    let mut checked = 0;
    let mut faults = Vec::new();
    for path in pages.chain(PAGES.map(|page| root.join(page)).into_iter().filter(|path| path.exists())) {
        let page = fs::read_to_string(&path).expect("a page");
        for shown in documents::commands(&page) {
            for args in shown.runs() {
                let is_name = args.len() == 1;
                if let Err(error) = Cli::try_parse_from(std::iter::once("tcptrace".to_owned()).chain(args)) {
                    let is_meant = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
                        // The name of a command alone, which is not a command line yet.
                        || (error.kind() == ErrorKind::MissingRequiredArgument && is_name);
                    if !is_meant {
                        faults.push(format!("{}:{}: {}\n{error}", path.display(), shown.line, shown.text));
                    }
                }
                checked += 1;
            }
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
