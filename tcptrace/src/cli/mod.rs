//! The commands: arguments and entry points.

pub mod by;
pub mod check;
mod config;
pub mod diff;
pub mod doctor;
pub mod events;
pub mod export;
pub mod filter;
pub mod hist;
mod listen;
mod live;
mod output;
pub mod ports;
mod progress;
pub mod record;
mod recording;
pub mod replay;
pub mod report;
pub mod serve;
mod socket_count;
mod source;
pub mod states;
mod terminal;
pub mod top;
pub mod window;

use std::{process::ExitCode, sync::LazyLock};

use clap::{Parser, Subcommand, error::ErrorKind};

use crate::{
    filter::{SyntaxError, UnknownNetns},
    kernel::{self, LoadError, preflight::CannotTrace},
    output_file::SameFile,
    privileges::{self, Work},
    view::top::ConfigError,
};

/// Measure how long TCP sockets stay in each state, TIME_WAIT included, and which services produce them
#[derive(Debug, Parser)]
#[command(name = "tcptrace", version, long_version = long_version(), max_term_width = 100)]
#[command(after_help = "Exit status: 0 done; 1 failed; 2 wrong usage; 3 this host or user can't trace.")]
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
    /// Runs the command and returns the exit code.
    pub fn run(self) -> ExitCode {
        privileges::keep_for(self.command.work());
        let done = match self.command {
            Command::Top(args) => top::run(&args),
            Command::Events(args) => events::run(&args),
            Command::Hist(args) => hist::run(&args),
            Command::Ports(args) => ports::run(&args),
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
        let recording = match self {
            Self::Top(args) => args.source.recording(),
            Self::Events(args) => args.source.recording(),
            Self::Hist(args) => args.source.recording(),
            Self::Ports(args) => args.source.recording(),
            Self::Doctor(args) => args.source.recording(),
            Self::States(args) => args.from.as_deref(),
            Self::Replay(_) | Self::Report(_) | Self::Export(_) | Self::Diff(_) => return Work::Files,
            Self::Record(_) | Self::Serve(_) | Self::Check(_) => None,
        };
        if recording.is_some() { Work::Files } else { Work::Command }
    }
}

/// Text of `--version`: the eBPF object and what loading it requires. `-V` prints one line.
fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{}\n\neBPF object: sha256 {}\n\
             Kernel:      Linux 5.12 or later with BTF (/sys/kernel/btf/vmlinux); `tcptrace check` checks this host\n\
             Privilege:   CAP_BPF and CAP_PERFMON to trace; none for states and for recordings",
            env!("CARGO_PKG_VERSION"),
            kernel::object_sha256(),
        )
    });
    &TEXT
}

/// Exit status for wrong usage, the same as clap's.
const WRONG_USAGE: u8 = 2;
/// Exit status: this host or user can't trace.
pub const CANNOT_TRACE: u8 = 3;

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

/// Whether this host or user can't trace.
fn cannot_trace(error: &anyhow::Error) -> bool {
    error.is::<CannotTrace>() || error.is::<LoadError>()
}

fn is_same_file(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<SameFile>)
    })
}

/// Exits with a usage error.
fn misuse(message: &str) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{message}\n")).exit()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Parses a duration: `250ms`, `30s`, `5m`, `2h`; a number alone is seconds, as for `timeout` and `sleep`.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a length of time: 250ms, 30s, 5m, 2h".into()),
    };
    let number: f64 = number.parse().map_err(|_| format!("'{number}' is not a number"))?;
    let length =
        std::time::Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())?;
    if length.is_zero() { Err("must be longer than 0".into()) } else { Ok(length) }
}

/// Parses a size: `64MiB`, `1GB`.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 6] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
    ];
    let expected = || "expected a number with a unit: 64MiB, 1GiB".to_owned();
    let (number, unit) = UNITS
        .iter()
        .find_map(|&(name, bytes)| text.strip_suffix(name).map(|number| (number, bytes)))
        .ok_or_else(expected)?;
    let number: u64 = number.parse().map_err(|_| expected())?;
    number.checked_mul(unit).filter(|&bytes| bytes > 0).ok_or_else(expected)
}

#[cfg(test)]
mod documents_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("2GB"), Ok(2_000_000_000));
        for bad in ["", "5", "MiB", "0MiB", "-1MiB", "1.5GiB", "99999999999999GiB", "5m"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", ".", "0", "5x", "s", "-1s", "0s", "1..2s", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
