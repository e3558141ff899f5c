//! Build and test tasks: `cargo xtask COMMAND`. One file per command; this one only chooses.

mod bench;
mod btf;
mod command;
mod dist;
mod ebpf;
mod fuzz;
mod licences;
mod lint;
mod packages;
mod provenance;
mod queries;
mod repo;
mod setup;
mod tally;
mod test;
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::repo::Repo;

/// The commands that the pages show.
#[cfg(test)]
#[path = "../../tests/src/documents.rs"]
mod documents;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Build and test tasks of tcptrace")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building the eBPF object and testing need
    Setup(setup::Args),
    /// Build the eBPF object that the program embeds, or check the committed one
    Ebpf(ebpf::Args),
    /// Formatting, clippy, rustdoc, licences; all warnings denied
    Lint,
    /// Every test: units and snapshots, the eBPF object, live tests
    Test(test::Args),
    /// Give made-up input to everything that reads bytes, and see what breaks
    Fuzz(fuzz::Args),
    /// What tracing costs, for tcptrace and its peers, in one table
    Bench(bench::Args),
    /// Cut the BTF of other kernels down to test data
    Btf,
    /// Man pages and shell completions, from the definition of the arguments
    Gen,
    /// A Debian package
    Dist(dist::Args),
    /// The live tests on other kernels, each booted in an emulator
    Vm(vm::Args),
}

fn main() -> ExitCode {
    run(Cli::parse().task).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> Result<ExitCode> {
    let repo = Repo::find()?;
    match task {
        Task::Setup(args) => setup::run(&repo, &args).map(|()| ExitCode::SUCCESS),
        Task::Ebpf(args) => ebpf::run(&repo, &args),
        Task::Lint => Ok(lint::run(&repo)),
        Task::Test(args) => Ok(test::run(&repo, &args)),
        Task::Fuzz(args) => fuzz::run(&repo, &args),
        Task::Bench(args) => bench::run(&repo, &args),
        Task::Btf => btf::run(&repo),
        Task::Gen => dist::generate(&repo).map(|_| ExitCode::SUCCESS),
        Task::Dist(args) => dist::run(&repo, &args).map(|()| ExitCode::SUCCESS),
        Task::Vm(args) => vm::run(&repo, &args),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_task_in_the_documents_parses() {
        Cli::command().debug_assert();
        let root = Repo::find().unwrap().root;
        let mut checked = 0;
        for name in documents::pages(&root).unwrap() {
            let page = fs::read_to_string(root.join(&name)).unwrap();
            for shown in documents::commands(&page, "cargo xtask") {
                for args in shown.runs() {
                    let parsed = Cli::try_parse_from(std::iter::once("xtask".to_owned()).chain(args));
                    if let Err(error) = parsed {
                        panic!("{name}:{}: {}\n{error}", shown.line, shown.text);
                    }
                    checked += 1;
                }
            }
        }
        assert!(checked > 15, "only {checked} tasks found");
    }
}
