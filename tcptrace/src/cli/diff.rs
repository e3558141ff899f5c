//! `tcptrace diff`: what changed from one recording to another.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, error::ErrorKind};
use jiff::tz::TimeZone;

use super::{
    by::GroupArgs,
    filter::FilterArgs,
    source::{self, shown},
    terminal,
};
use crate::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    pipeline::Engine,
    sandbox,
    session::Ending,
    view::diff::{
        Diff, Recorded, json,
        text::{self, Detail, Layout},
    },
};

/// Show what changed from one recording to another: rates, counts and quantiles per service and state
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The first recording; - is standard input
    before: PathBuf,
    /// The second
    after: PathBuf,
    #[command(flatten)]
    groups: GroupArgs,
    /// Show every group and number, those that did not change as well
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Groups listed as text.
const MAX_GROUPS: usize = 40;

/// Runs the command.
pub fn run(args: &DiffArgs) -> Result<ExitCode> {
    if args.before == Path::new("-") && args.after == Path::new("-") {
        let message = "only one of the recordings can be standard input\n";
        clap::Error::raw(ErrorKind::ArgumentConflict, message).exit();
    }
    // A namespace with the same name may have another number.
    let [of_before, of_after] = [&args.before, &args.after].map(|path| args.filters.filter(Some(path)));
    let (of_before, of_after) = (of_before?, of_after?);
    let grouping = args.groups.grouping(Grouping::SERVICE);
    sandbox::close(&[&args.before, &args.after]);
    let before = read(&args.before, of_before, grouping)?;
    let after = read(&args.after, of_after, grouping)?;
    let diff = Diff::of(&before, &after);
    let mut picture = Vec::new();
    if args.json {
        json::write(&mut picture, &diff)?;
    } else {
        let detail = if args.all { Detail::All } else { Detail::Changes };
        text::write(
            &mut picture,
            &diff,
            &Layout { detail, zone: TimeZone::system(), max_groups: MAX_GROUPS },
        )?;
    }
    terminal::print(&picture)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a recording to its end.
fn read(path: &Path, filter: Filter, grouping: Grouping) -> Result<Recorded> {
    let mut engine = Engine::new(filter, grouping, Scope::Whole, shown(path).into());
    let ending = source::read_to_end(path, &mut engine)?;
    if let Some(sentence) = ending.and_then(Ending::sentence) {
        eprintln!("tcptrace: {}: {sentence}", shown(path));
    }
    let (all, groups) = engine.summary();
    Ok(Recorded { last: engine.snapshot(), all, groups })
}
