//! Build and test tasks: `cargo xtask COMMAND`, one file per command.

mod arch;
mod archive;
mod bench;
mod btf;
mod command;
mod cross;
mod dist;
mod ebpf;
mod fleet;
mod fuzz;
mod imports;
mod licences;
mod lint;
mod mutants;
mod packages;
mod provenance;
mod python;
mod queries;
mod repo;
mod samples;
mod screenshots;
mod setup;
mod tally;
mod test;
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::repo::Repo;

/// The commands that the documents show.
#[cfg(test)]
#[path = "../../tests/src/documents.rs"]
mod documents;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Build and test tasks of tcptrace")]
struct XtaskCli {
    #[command(subcommand)]
    task: XtaskTask,
}

#[derive(Subcommand)]
enum XtaskTask {
    /// Install what building the eBPF object and testing need
    Setup(setup::SetupArgs),
    /// Build the eBPF object that the program embeds, or check the committed one
    Ebpf(ebpf::EbpfArgs),
    /// Formatting, clippy, rustdoc, imports, licences; all warnings denied
    Lint,
    /// Every test: units and snapshots, the eBPF object, live tests
    Test(test::TestArgs),
    /// Fuzz everything that reads bytes
    Fuzz(fuzz::FuzzArgs),
    /// Mutation testing: the share of small changes to the code that the unit tests catch
    Mutants(mutants::MutantsArgs),
    /// Measure the overhead of tcptrace and its peers
    Bench(bench::BenchArgs),
    /// Cut the BTF of other kernels down to test data
    Btf,
    /// Man pages and shell completions, from the definition of the arguments
    Gen,
    /// All files of a release: archives, packages, images, SBOM
    Dist(dist::DistArgs),
    /// The queries of docs/fleet.md over recordings, in every engine and in tcptrace: same rows, and times
    Fleet(fleet::FleetArgs),
    /// Draw the screens of the documents again
    Screenshots(screenshots::ScreenshotsArgs),
    /// Record the sample incidents of the documents again
    Samples,
    /// The live tests on other kernels, each booted in an emulator
    Vm(vm::VmArgs),
}

fn main() -> ExitCode {
    run(XtaskCli::parse().task).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: XtaskTask) -> Result<ExitCode> {
    let repo = Repo::find()?;
    match task {
        XtaskTask::Setup(args) => setup::run(&repo, &args).map(|()| ExitCode::SUCCESS),
        XtaskTask::Ebpf(args) => ebpf::run(&repo, &args),
        XtaskTask::Lint => Ok(lint::run(&repo)),
        XtaskTask::Test(args) => Ok(test::run(&repo, &args)),
        XtaskTask::Fuzz(args) => fuzz::run(&repo, &args),
        XtaskTask::Mutants(args) => mutants::run(&repo, &args),
        XtaskTask::Bench(args) => bench::run(&repo, &args),
        XtaskTask::Fleet(args) => fleet::compare_engines(&repo, &args).map(|()| ExitCode::SUCCESS),
        XtaskTask::Btf => btf::run(&repo),
        XtaskTask::Gen => dist::generate(&repo).map(|_| ExitCode::SUCCESS),
        XtaskTask::Dist(args) => dist::run(&repo, &args).map(|()| ExitCode::SUCCESS),
        XtaskTask::Screenshots(args) => screenshots::run(&repo, &args).map(|()| ExitCode::SUCCESS),
        XtaskTask::Samples => samples::run(&repo).map(|()| ExitCode::SUCCESS),
        XtaskTask::Vm(args) => vm::run(&repo, &args),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_task_in_the_documents_parses() {
        XtaskCli::command().debug_assert();
        let root = Repo::find().unwrap().root;
        let mut checked = 0;
        for name in documents::pages(&root).unwrap() {
            let page = fs::read_to_string(root.join(&name)).unwrap();
            for shown in documents::commands(&page, "cargo xtask") {
                for args in shown.runs() {
                    let parsed = XtaskCli::try_parse_from(std::iter::once("xtask".to_owned()).chain(args));
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
