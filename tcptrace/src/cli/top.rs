//! `tcptrace top`: live view of socket states per service.

use std::{io, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::tz::TimeZone;
use tokio::sync::watch;

use super::{
    by::GroupArgs,
    config,
    exit::{cannot_trace, misuse},
    filter::FilterArgs,
    live::{self, Stop},
    socket_count,
    source::{SnapshotMode, SnapshotSource, SourceArgs},
    terminal,
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot, detail::Query},
    filter::Filter,
    model::{Nanos, record::HostFacts, units::parse_duration},
    pipeline::{PipelinePlan, StackPlan},
    source::{PollKind, bound_ports, host},
    view::top::{self, ScreenConfig, ScreenSettings, json, plain},
};

/// Live view of socket states per service
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an argument")]
pub struct TopArgs {
    #[command(flatten)]
    groups: GroupArgs,
    /// Print one snapshot and exit
    ///
    /// After one interval, so that it has rates; of a recording, the last one.
    #[arg(long, conflicts_with = "batch")]
    once: bool,
    /// Print this many snapshots, one per interval, and exit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    /// Refresh interval [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    interval: Option<Duration>,
    /// Print JSON, one document per snapshot
    #[arg(long)]
    json: bool,
    /// Capture the code that opens and closes connections
    ///
    /// User stacks of the system calls, in the life of a socket.
    #[arg(long)]
    stacks: bool,
    /// Print the configuration of the screen and exit
    ///
    /// From its file, or the default.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// Maximum number of groups in one plain-text snapshot.
const MAX_GROUPS: usize = 40;
/// The same without the privilege to trace: the verdict and what is missing fit on a screen of 24 lines too.
const MAX_GROUPS_LISTED: usize = 4;

/// Runs the command.
pub fn run(args: &TopArgs) -> Result<ExitCode> {
    if args.print_config {
        print!("{}", config::read()?.print());
        return Ok(ExitCode::SUCCESS);
    }
    let filter = args.filters.filter(args.source.recordings())?;
    // Output for programs does not depend on the configuration.
    let config = if args.is_screen() { config::read()? } else { ScreenConfig::default() };
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let mut plan = args.plan(filter.clone(), &config);
        let grouping = plan.grouping;
        let screen = args.is_screen().then(|| {
            let (queries, receiver) = watch::channel(Query::new(plan.grouping));
            plan.queries = Some(receiver);
            (queries, ScreenSettings::new(&config, terminal::style(), TimeZone::system()))
        });
        let want = if screen.is_some() { SnapshotMode::Newest } else { SnapshotMode::Every };
        let recordings = args.source.open()?;
        if screen.is_some() && recordings.as_ref().is_some_and(|recordings| recordings.count() > 1) {
            misuse(
                "the screen shows one host: give --once, --batch N or --json for the recordings of several",
            );
        }
        let peer_names = args.source.live.peer_names()?;
        let mut started = match args.source.start_on(recordings, peer_names, plan, want, None) {
            Err(error) if screen.is_some() && args.source.is_live() && cannot_trace(&error) => {
                args.print_listing(&filter, grouping)?;
                return Err(error);
            }
            started => started?,
        };
        let show = async {
            if let Some((queries, settings)) = screen {
                let mut snapshots = started.running.snapshots.clone();
                // Do not open the screen for a file that is not a recording.
                if !args.source.is_live() && snapshots.wait_for(Option::is_some).await.is_err() {
                    return Ok(LastFrame::Enough);
                }
                top::run(snapshots, queries, settings).await.map(|()| LastFrame::Enough)
            } else {
                args.print(&mut started.snapshots).await
            }
        };
        let shown = tokio::select! {
            shown = show => shown,
            () = stop.signalled() => Ok(LastFrame::Enough),
        };
        let last = started.end()?;
        if shown? == LastFrame::LastMissing {
            args.render(&last, AfterFrame::Nothing)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// How much has been printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastFrame {
    Enough,
    /// The recording has ended; its last snapshot is still to be printed.
    LastMissing,
}

/// Whether another snapshot follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterFrame {
    Another,
    Nothing,
}

impl TopArgs {
    fn is_screen(&self) -> bool {
        !self.once && self.batch.is_none() && !self.json && terminal::can_place_cursor()
    }

    /// Plan for the pipeline. With `--once` on a recording the rates cover all of it.
    fn plan(&self, filter: Filter, config: &ScreenConfig) -> PipelinePlan {
        let whole = !self.source.is_live() && self.once;
        let interval = self.interval.or(config.interval()).unwrap_or(Duration::from_secs(1));
        let interval = if whole { u64::MAX } else { interval.as_nanos() as u64 };
        let grouping = self.groups.grouping(config.by().unwrap_or(Grouping::SERVICE));
        // Only the screen shows findings.
        let polls = if self.is_screen() { PollKind::Host } else { PollKind::States };
        let stacks = self.stacks.then(StackPlan::default);
        PipelinePlan {
            polls,
            stacks,
            ..PipelinePlan::new(filter, grouping, Scope::TimewaitSockets, Nanos(interval))
        }
    }

    /// Prints one `sock_diag` snapshot with its verdict, where tracing is impossible.
    fn print_listing(&self, filter: &Filter, grouping: Grouping) -> Result<()> {
        let (options, peer_names) = (self.source.live.name_options(), self.source.live.peer_names()?);
        let facts = HostFacts { bound: bound_ports::is_listed(), blind: true, ..host::facts() };
        let (snapshot, _) = socket_count::snapshot(filter, grouping, &facts, &options, peer_names)
            .context("can't search for network namespaces; is /proc mounted?")?;
        let width = terminal::width().unwrap_or(80);
        let layout = plain::PlainLayout {
            width: Some(width),
            max_groups: MAX_GROUPS_LISTED,
            zone: TimeZone::system(),
        };
        let mut output = Vec::new();
        plain::write_listing(&mut output, &snapshot, &layout)?;
        Ok(terminal::print(&output)?)
    }

    /// Prints the requested number of snapshots. Skips the first one of the source, which has no rates.
    async fn print(&self, snapshots: &mut SnapshotSource) -> io::Result<LastFrame> {
        let mut left = if self.once { Some(1) } else { self.batch };
        if snapshots.next().await.is_none() && self.source.is_live() {
            // The pipeline failed; `Started::end` returns the error.
            return Ok(LastFrame::Enough);
        }
        while left != Some(0) {
            let Some(snapshot) = snapshots.next().await else { return Ok(LastFrame::LastMissing) };
            self.render(&snapshot, if left == Some(1) { AfterFrame::Nothing } else { AfterFrame::Another })?;
            left = left.map(|left| left - 1);
        }
        Ok(LastFrame::Enough)
    }

    fn render(&self, snapshot: &Snapshot, next: AfterFrame) -> io::Result<()> {
        let mut output = Vec::new();
        if self.json {
            json::write(&mut output, snapshot)?;
        } else {
            let layout = plain::PlainLayout {
                width: terminal::width(),
                max_groups: MAX_GROUPS,
                zone: TimeZone::system(),
            };
            plain::write(&mut output, snapshot, &layout)?;
            if next == AfterFrame::Another {
                output.push(b'\n');
            }
        }
        terminal::print(&output)
    }
}
