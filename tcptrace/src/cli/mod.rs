//! The commands: arguments and entry points.

pub mod by;
pub mod check;
mod complete;
mod config;
pub mod diff;
pub mod doctor;
pub mod events;
mod exit;
pub mod export;
pub mod filter;
pub mod help;
pub mod hist;
mod joined;
mod listen;
mod live;
mod names;
mod output;
mod partition;
mod partition_files;
pub mod ports;
mod progress;
pub mod record;
mod recording;
mod recordings;
pub mod replay;
pub mod report;
pub mod serve;
mod socket_count;
mod source;
pub mod stacks;
pub mod states;
mod terminal;
pub mod top;
mod triggers;
pub mod window;

use std::{process::ExitCode, sync::LazyLock};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use exit::{CANNOT_TRACE, cannot_trace};

use crate::{
    filter::{SyntaxError, UnknownNetns},
    kernel,
    output_file::SameFile,
    privileges::{self, Work},
    view::top::ConfigError,
};

/// Measure how long TCP sockets stay in each state, and which services produce them
#[derive(Debug, Parser)]
#[command(name = "tcptrace", version, long_version = long_version(), max_term_width = 100)]
#[command(
    help_template = "{about}\n\n{usage-heading} {usage}\n\n{subcommands}{after-help}",
    after_help = "\
Options of a command: tcptrace COMMAND --help. Filters: tcptrace help filters.
Exit status: 0 done; 1 failed; 2 wrong usage; 3 this host or user can't trace.
-V prints the version, --version also the hash of the eBPF object."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Top(top::TopArgs),
    Events(events::EventsArgs),
    Hist(hist::HistArgs),
    Ports(ports::PortsArgs),
    Stacks(stacks::StacksArgs),
    Record(record::RecordArgs),
    Replay(replay::ReplayArgs),
    Report(report::ReportArgs),
    Export(export::ExportArgs),
    Diff(diff::DiffArgs),
    States(states::StatesArgs),
    Doctor(doctor::DoctorArgs),
    Serve(serve::ServeArgs),
    Check(check::CheckArgs),
}

impl Cli {
    /// The command line; prints help, completions or an error, and exits.
    pub fn of_process() -> Self {
        complete::answer(|| help::definition(Self::command()));
        let matches = help::definition(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Runs the command and returns the exit code.
    pub fn run(self) -> ExitCode {
        privileges::keep_for(self.command.work());
        let done = match self.command {
            Command::Top(args) => top::run(&args),
            Command::Events(args) => events::run(&args),
            Command::Hist(args) => hist::run(&args),
            Command::Ports(args) => ports::run(&args),
            Command::Stacks(args) => stacks::run(&args),
            Command::Record(args) => record::run(&args),
            Command::Replay(args) => replay::run(&args),
            Command::Report(args) => report::run(&args),
            Command::Export(args) => export::run(&args),
            Command::Diff(args) => diff::run(&args),
            Command::States(args) => states::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Check(args) => check::run(&args),
        };
        done.unwrap_or_else(|error| exit_code(&error))
    }
}

impl Command {
    /// The privileges that the command needs: reading a recording needs only files.
    fn work(&self) -> Work {
        let recordings = match self {
            Self::Top(args) => args.source.recordings(),
            Self::Events(args) => args.source.recordings(),
            Self::Hist(args) => args.source.recordings(),
            Self::Ports(args) => args.source.recordings(),
            Self::Stacks(args) => args.source.recordings(),
            Self::Doctor(args) => args.source.recordings(),
            Self::States(args) => &args.from,
            Self::Replay(_) | Self::Report(_) | Self::Export(_) | Self::Diff(_) => return Work::Files,
            Self::Record(_) | Self::Serve(_) | Self::Check(_) => &[],
        };
        if recordings.is_empty() { Work::Command } else { Work::Files }
    }
}

/// Text of `--version`: the eBPF object and what loading it requires. `-V` prints one line.
fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{}\n\neBPF object: sha256 {}\n\
             Kernel:      Linux 5.10 or later with BTF (/sys/kernel/btf/vmlinux); `tcptrace check` checks this host\n\
             Privilege:   CAP_BPF and CAP_PERFMON to trace; none for states and for recordings",
            env!("CARGO_PKG_VERSION"),
            kernel::object_sha256(),
        )
    });
    &TEXT
}

/// Exit status for wrong usage, the same as clap's.
const WRONG_USAGE: u8 = 2;
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("tcptrace: {error:#}");
    if let Some(syntax) = error.downcast_ref::<SyntaxError>() {
        if let Some(pointer) = syntax.pointer() {
            eprintln!("{pointer}");
        }
        return ExitCode::from(WRONG_USAGE);
    }
    let is_usage = error.is::<UnknownNetns>()
        || error.is::<ConfigError>()
        || error.is::<doctor::UnknownSetting>()
        || is_same_file(error);
    if is_usage {
        return ExitCode::from(WRONG_USAGE);
    }
    if cannot_trace(error) { ExitCode::from(CANNOT_TRACE) } else { ExitCode::FAILURE }
}

fn is_same_file(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<SameFile>)
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod documents_tests;
