//! `tcptrace check`: checks what works on this host and runs a live self-test.

use std::{
    io::{self, BufWriter, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;

use crate::{
    kernel::preflight::{CheckStatus, Preflight},
    selftest,
    source::host,
    view::check::{CheckReport, write_json, write_text},
};

/// Check what works on this host, with a self-test over loopback
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &CheckArgs) -> Result<ExitCode> {
    let Preflight { checks, types } = Preflight::run();
    let missing: Vec<&str> = checks
        .iter()
        .filter(|check| check.status == CheckStatus::Missing)
        .map(|check| check.name.as_str())
        .collect();
    let self_test = match types {
        Some(types) if missing.is_empty() => selftest::run(&types).map_err(|error| format!("{error:#}.")),
        _ => Err(format!("Not tried: {} is missing.", missing.join(", "))),
    };
    let report = CheckReport { host: host::facts(), checks, self_test };
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        write_json(&report, &Timestamp::now().to_string(), &mut out)?;
    } else {
        write_text(&report, &mut out)?;
    }
    out.flush()?;
    Ok(if report.works() { ExitCode::SUCCESS } else { ExitCode::from(super::exit::CANNOT_TRACE) })
}
