//! `tcptrace diff`: compares two recordings.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Result;
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    by::GroupArgs,
    exit::misuse,
    filter::FilterArgs,
    recordings::{HostOrder, Recordings},
    source, terminal,
    window::WindowArgs,
};
use crate::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    output_file,
    pipeline::{Engine, Window},
    session::AtEnd,
    view::diff::{
        Diff, Recorded,
        fail_on::FailOn,
        json,
        text::{self, DiffDetail, DiffLayout},
    },
};

/// Compare two recordings: rates, counts, quantiles per service and state
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The earlier recording: a file, or a folder of files; - is standard input
    before: PathBuf,
    /// The later recording, likewise
    after: PathBuf,
    #[command(flatten)]
    groups: GroupArgs,
    /// Exit with status 1 if this holds: `time_wait.entered_per_s > +20%`
    ///
    /// [KEY ]METRIC > LIMIT, or <. LIMIT is a value (100, 2s), a difference with its sign (+5) or a change with its sign (+20%);
    /// KEY is a key of --by, else all sockets are meant. Can be repeated.
    #[arg(long, value_name = "CONDITION")]
    fail_on: Vec<FailOn>,
    /// Show every group and number, also those that did not change
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Part of each recording
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Maximum number of groups in text output.
const MAX_GROUPS: usize = 40;

/// Runs the command.
pub fn run(args: &DiffArgs) -> Result<ExitCode> {
    if args.before == Path::new("-") && args.after == Path::new("-") {
        misuse("only one of the recordings can be standard input");
    }
    if output_file::is_same(&args.before, &args.after) {
        eprintln!("tcptrace: both recordings are the same file: there are no differences");
    }
    // A namespace of the same name may have another inode number in the other recording.
    let [filter_before, filter_after] =
        [&args.before, &args.after].map(|path| args.filters.filter(std::slice::from_ref(path)));
    let (filter_before, filter_after) = (filter_before?, filter_after?);
    let grouping = args.groups.grouping(Grouping::SERVICE);
    // Open both before reading: reading confines this thread, which then cannot open files.
    let [before, after] = [&args.before, &args.after]
        .map(|path| Recordings::open(std::slice::from_ref(path), AtEnd::Stop).map(Recordings::watched));
    let (before, after) = (before?, after?);
    let window = args.window.window(None);
    let before = read(before, window, filter_before, grouping)?;
    let after = read(after, window, filter_after, grouping)?;
    let diff = Diff::of(&before, &after);
    let checks: Result<Vec<_>, String> =
        args.fail_on.iter().map(|condition| condition.check(&diff)).collect();
    let checks = checks.unwrap_or_else(|message| misuse(&message)).concat();
    let mut output = Vec::new();
    if args.json {
        json::write(&mut output, &diff, &checks)?;
    } else {
        let detail = if args.all { DiffDetail::All } else { DiffDetail::Changes };
        text::write(
            &mut output,
            &diff,
            &DiffLayout { detail, zone: TimeZone::system(), max_groups: MAX_GROUPS },
        )?;
    }
    terminal::print(&output)?;
    let mut code = ExitCode::SUCCESS;
    for check in &checks {
        match check.has_failed {
            Some(false) => {}
            Some(true) => {
                eprintln!("tcptrace: failed: {check}");
                code = ExitCode::FAILURE;
            }
            None => eprintln!("tcptrace: not compared: {check}"),
        }
    }
    Ok(code)
}

/// Reads a recording to its end.
fn read(recordings: Recordings, window: Window, filter: Filter, grouping: Grouping) -> Result<Recorded> {
    let mut engine = Engine::new(filter, grouping, Scope::Whole, Arc::clone(recordings.name()));
    source::read_to_end(recordings, window, HostOrder::ByTime, &mut engine)?.report();
    let (all, groups) = engine.summary();
    Ok(Recorded { last: engine.snapshot(), all, groups })
}
