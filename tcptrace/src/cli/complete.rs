//! Shell completions, values included: `COMPLETE=bash tcptrace` prints what a shell sources, and the shell then asks the program.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use clap::Command;
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCompleter, CompletionCandidate},
};

use crate::{
    aggregate::Grouping,
    lifecycle::Role,
    model::{TcpState, workload::Workload},
    source::{netns, users::Users, workload_names::WorkloadNames},
};

/// Answers a shell that asks for completions and ends the process then. `definition` makes the command line's definition.
pub fn answer(definition: fn() -> Command) {
    CompleteEnv::with_factory(move || with_values(definition())).complete();
}

/// Lists the possible values of an argument.
type Values = fn() -> Vec<String>;

/// Arguments whose values can be listed, and the values.
const VALUES: [(&str, Values); 11] = [
    ("state", states),
    ("role", || Role::ALL.iter().map(|role| role.name().to_owned()).collect()),
    ("by", || Grouping::names().into_iter().map(str::to_owned).collect()),
    ("netns", || netns::named().unwrap_or_default().into_keys().collect()),
    ("comm", || processes(|process| fs::read_to_string(process.join("comm")).ok())),
    ("exe", || processes(|process| Some(fs::read_link(process.join("exe")).ok()?.to_str()?.to_owned()))),
    ("pid", || processes(|process| Some(process.file_name()?.to_str()?.to_owned()))),
    ("unit", || workloads(|workload| workload.unit.as_deref())),
    ("pod", || workloads(|workload| workload.pod_label.as_deref())),
    ("container", || workloads(|workload| workload.container.as_deref())),
    ("k8s_namespace", || workloads(|workload| workload.k8s_namespace.as_deref())),
];

/// Adds the values to the arguments of all commands.
fn with_values(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let values = VALUES.iter().find(|(id, _)| argument.get_id() == id);
        match values {
            Some(&(_, values)) => {
                argument.add(ArgValueCompleter::new(move |typed: &OsStr| list(typed, &values())))
            }
            None => argument,
        }
    });
    command.mut_subcommands(with_values)
}

/// The lists that `typed` may become: its last element completed.
fn list(typed: &OsStr, values: &[String]) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else { return Vec::new() };
    let (before, last) = typed.rfind(',').map_or(("", typed), |comma| typed.split_at(comma + 1));
    let fitting = values.iter().filter(|value| value.starts_with(last) && is_plain(value));
    fitting.map(|value| CompletionCandidate::new(format!("{before}{value}"))).collect()
}

/// Whether a value means the same in every shell. Names of processes and containers are not ours.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:@/+".contains(&byte))
}

fn states() -> Vec<String> {
    let names = TcpState::ALL.iter().map(|state| state.name().to_ascii_lowercase().replace('_', "-"));
    names.chain(["teardown".to_owned()]).collect()
}

/// What `read` finds in the folders of all processes, once each.
fn processes(read: impl Fn(&Path) -> Option<String>) -> Vec<String> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    let found = all.map(|entry| entry.path()).filter(is_process).filter_map(|process| read(&process));
    found.map(|value| value.trim_end().to_owned()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// One name of the workload of every process.
fn workloads(name: impl Fn(&Workload) -> Option<&str>) -> Vec<String> {
    let paths = processes(|process| {
        let cgroups = fs::read_to_string(process.join("cgroup")).ok()?;
        Some(cgroups.lines().last()?.splitn(3, ':').nth(2)?.to_owned())
    });
    let root = Path::new("/");
    let (mut names, mut users) = (WorkloadNames::below(root), Users::below(root));
    let of = |path: String| {
        let found = names.find(&path, &mut users).map(|found| found.workload);
        name(&found.unwrap_or_else(|| Workload::from_path(&path))).map(str::to_owned)
    };
    paths.into_iter().filter_map(of).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// The completions of the last of these words.
    fn completed(words: &[&str]) -> Vec<String> {
        let mut command = with_values(super::super::help::definition(super::super::Cli::command()));
        let words = ["tcptrace"].iter().chain(words).map(Into::into).collect::<Vec<_>>();
        let last = words.len() - 1;
        let found =
            clap_complete::engine::complete(&mut command, words, last, None).expect("words of the shell");
        found.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn commands_flags_and_values_are_completed() {
        assert_eq!(completed(&["doc"]), ["doctor"]);
        assert_eq!(completed(&["serve", "--lis"]), ["--listen"]);
        assert_eq!(completed(&["top", "--state", "time"]), ["time-wait"]);
        assert_eq!(
            completed(&["top", "--state", "time-wait,fin-wait"]),
            ["time-wait,fin-wait1", "time-wait,fin-wait2"]
        );
        assert_eq!(completed(&["events", "--role=in"]), ["--role=inbound"]);
        assert_eq!(completed(&["top", "--by", "k8s"]), ["k8s-namespace"]);
        let own = std::process::id().to_string();
        assert_eq!(completed(&["top", "--pid", &own]).first(), Some(&own));
    }

    #[test]
    fn names_that_a_shell_would_interpret_are_left_out() {
        let values = ["plain", "$(reboot)", "two words", "a;b", "\u{1b}[2J", ""].map(str::to_owned);
        let offered = list(OsStr::new(""), &values);
        assert_eq!(offered.iter().map(|offer| offer.get_value().to_owned()).collect::<Vec<_>>(), ["plain"]);
    }
}
