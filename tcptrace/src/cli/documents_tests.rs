//! Checks that every command in the documents parses, every command has help, and the Kubernetes manifest matches the
//! documents.

use std::{fs, path::Path};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use yaml_rust2::{Yaml, YamlLoader};

use super::Cli;
use crate::aggregate::Grouping;

/// Shared with the live tests, which run the commands that are only parsed here.
#[path = "../../../tests/src/documents.rs"]
mod documents;

/// Files outside the documentation that contain commands.
const FILES: [&str; 3] = [
    "contrib/systemd/tcptrace.service",
    "contrib/kubernetes/tcptrace.yaml",
    "contrib/prometheus/tcptrace.rules.yml",
];

#[test]
fn every_command_in_the_documents_parses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = documents::pages(&root).expect("the pages");
    let mut checked = 0;
    let mut faults = Vec::new();
    for name in pages.into_iter().chain(FILES.map(str::to_owned)) {
        let page = fs::read_to_string(root.join(&name)).expect("a page");
        for shown in documents::commands(&page, "tcptrace") {
            for args in shown.runs() {
                let is_name = args.len() == 1;
                if let Err(error) = Cli::try_parse_from(std::iter::once("tcptrace".to_owned()).chain(args)) {
                    let is_accepted = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
                        // A bare command name in the text, without its required arguments.
                        || (error.kind() == ErrorKind::MissingRequiredArgument && is_name);
                    if !is_accepted {
                        faults.push(format!("{name}:{}: {}\n{error}", shown.line, shown.text));
                    }
                }
                checked += 1;
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(checked > 60, "only {checked} commands found");
}

/// The capabilities in the table of docs/privileges.md, except those for files.
const CAPABILITIES: [&str; 6] = ["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_ADMIN", "SYSLOG"];

#[test]
fn daemon_set_matches_the_documents() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = fs::read_to_string(root.join("contrib/kubernetes/tcptrace.yaml")).expect("the manifest");
    let documents = YamlLoader::load_from_str(&manifest).expect("YAML");
    let [set] = documents.as_slice() else { panic!("{} documents", documents.len()) };
    let strings = |list: &Yaml| -> Vec<String> {
        list.as_vec().expect("a list").iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
    };

    assert_eq!((set["apiVersion"].as_str(), set["kind"].as_str()), (Some("apps/v1"), Some("DaemonSet")));
    let template = &set["spec"]["template"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]);
    let pod = &template["spec"];
    assert_eq!((pod["hostNetwork"].as_bool(), pod["hostPID"].as_bool()), (Some(true), Some(true)));
    let [container] = pod["containers"].as_vec().expect("containers").as_slice() else {
        panic!("containers")
    };
    let capabilities = &container["securityContext"]["capabilities"];
    assert_eq!(strings(&capabilities["drop"]), ["ALL"]);
    assert_eq!(strings(&capabilities["add"]), CAPABILITIES);
    let privileges = fs::read_to_string(root.join("docs/privileges.md")).expect("the page");
    assert!(CAPABILITIES.iter().all(|name| privileges.contains(&format!("`CAP_{name}`"))));

    let args = strings(&container["args"]).into_iter().map(|arg| arg.replace("$(NODE_IP)", "10.0.0.7"));
    let args: Vec<String> = args.collect();
    Cli::try_parse_from(std::iter::once("tcptrace").chain(args.iter().map(String::as_str)))
        .expect("a command");
    let port = &container["ports"][0];
    assert!(
        args.iter()
            .any(|arg| arg.ends_with(&format!(":{}", port["containerPort"].as_i64().expect("a port"))))
    );
    let probe = &container["readinessProbe"]["httpGet"];
    assert_eq!((probe["path"].as_str(), &probe["port"]), (Some("/healthz"), &port["name"]));
    let (mounts, volumes) = (&container["volumeMounts"], &pod["volumes"]);
    for (n, path) in ["/sys/fs/cgroup", "/var/log/containers", "/var/log/pods"].into_iter().enumerate() {
        let (mount, volume) = (&mounts[n], &volumes[n]);
        assert_eq!((&mount["name"], mount["mountPath"].as_str()), (&volume["name"], Some(path)));
        assert_eq!(
            (volume["hostPath"]["path"].as_str(), mount["readOnly"].as_bool()),
            (Some(path), Some(true))
        );
    }
}

#[test]
fn documents_list_every_grouping_key() {
    let names = Grouping::names();
    for (page, list) in [("README.md", names.join(",")), ("README.zh-CN.md", names.join("、"))] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page));
        // The list may continue on the next line.
        let text: String = text.expect("a page").split_whitespace().collect();
        assert!(text.contains(&list), "{page}: {list}");
    }
    let formats = include_str!("../../../docs/json.md");
    let heads: Vec<&str> = formats.lines().filter(|line| line.starts_with("| `")).collect();
    for name in names {
        assert!(heads.iter().any(|line| line.contains(&format!("`{name}`"))), "docs/json.md: {name}");
    }
}

#[test]
fn every_command_and_argument_has_help() {
    Cli::command().debug_assert();
    for command in Cli::command().get_subcommands() {
        assert!(command.get_about().is_some(), "{} has no about text", command.get_name());
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
    }
}
