//! `tcptrace stacks`: the code that opens, closes or forgets connections.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    filter::FilterArgs,
    live::{self, Stop},
    source::{SnapshotMode, SourceArgs},
    terminal,
};
use crate::{
    aggregate::{Grouping, Scope},
    model::{Nanos, units::parse_duration},
    pipeline::{PipelinePlan, StackPlan},
    view::stacks::{self, StackFormat, StackLayout, StackSubject},
};

/// Show the code that opens, accepts, closes first or forgets connections
///
/// Stacks of its system calls. Traces for 5s.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The first 100 connects, accepts and closes of a process in each second are captured, then one in 64; \
                        counts are estimates then. Programs without frame pointers show their innermost function only."
)]
pub struct StacksArgs {
    /// What to list
    #[arg(long, value_name = "WHAT", value_enum, default_value = "close")]
    on: StackSubject,
    /// With --on leak: only sockets that wait longer than this
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    older: Duration,
    /// Trace for this time; of a recording, read only this much
    ///
    /// Default 5s, with --on leak as much longer as --older.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Capture the stack of every call: exact counts, more CPU time
    #[arg(long, hide_short_help = true)]
    every_call: bool,
    /// List at most this many stacks
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// How to print them
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    format: StackFormat,
    /// Print JSON, one document
    #[arg(long, conflicts_with = "format", hide_short_help = true)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// Default time to trace.
const DURATION: Duration = Duration::from_secs(5);
/// A recording may be of any kernel, and made without stacks.
const NO_ACCEPT: &str = "this recording has no stacks of accept(): `tcptrace record --stacks` records them where the kernel allows \
                         programs at functions";
/// Interval of the snapshots, of which only the last is printed.
const UNSEEN: Nanos = Nanos::SECOND;

/// Runs the command.
pub fn run(args: &StacksArgs) -> Result<ExitCode> {
    let filter = args.filters.filter(args.source.recordings())?;
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let peer_names = args.source.live.peer_names()?;
        // Stacks are of one host.
        for recordings in args.source.open_each()? {
            let plan = PipelinePlan {
                stacks: Some(args.plan()),
                ..PipelinePlan::new(filter.clone(), Grouping::NONE, Scope::TimewaitSockets, UNSEEN)
            };
            let peer_names = Arc::clone(&peer_names);
            let mut started =
                args.source.start_on(recordings, peer_names, plan, SnapshotMode::Newest, args.duration)?;
            let (waited, is_stopped) = tokio::select! {
                waited = started.each(args.duration(), |_| Ok(())) => (waited, false),
                () = stop.signalled() => (Ok(()), true),
            };
            let last = started.end()?;
            waited?;
            if args.on == StackSubject::Accept && !last.host.accepts {
                bail!(NO_ACCEPT);
            }
            let mut output = Vec::new();
            stacks::write(&mut output, &last, &args.layout())?;
            terminal::print(&output)?;
            if is_stopped {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

impl StacksArgs {
    fn plan(&self) -> StackPlan {
        let default = StackPlan::default();
        let per_second = if self.every_call { u32::MAX } else { default.per_second };
        let needs_accept = self.on == StackSubject::Accept;
        StackPlan { per_second, older: Nanos(self.older.as_nanos() as u64), needs_accept }
    }

    fn duration(&self) -> Option<Duration> {
        let older = if self.on == StackSubject::Leak { self.older } else { Duration::ZERO };
        let default = self.source.is_live().then(|| DURATION + older);
        self.duration.or(default)
    }

    fn layout(&self) -> StackLayout {
        StackLayout {
            on: self.on,
            format: if self.json { StackFormat::Json } else { self.format },
            most: self.top,
            zone: TimeZone::system(),
        }
    }
}
