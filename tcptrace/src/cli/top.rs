//! `tcptrace top`: which services have how many sockets in which state, now.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use jiff::tz::TimeZone;
use tokio::sync::watch;

use super::{
    by::GroupArgs,
    config,
    filter::FilterArgs,
    live::{self, Stop},
    source::{Snapshots, SourceArgs, Want},
    terminal,
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    filter::Filter,
    inspect::Query,
    model::Nanos,
    pipeline::Plan,
    view::top::{self, Config, Settings, json, plain},
};

/// Show which services have how many sockets in which state: a live screen, or text
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    groups: GroupArgs,
    /// Print one picture and end: after one interval, so that it has rates; of a recording, the last one
    #[arg(long, conflicts_with = "batch")]
    once: bool,
    /// Print this many pictures, one per interval, and end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    /// Time between two pictures [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    interval: Option<Duration>,
    /// Print JSON, one document per picture
    #[arg(long)]
    json: bool,
    /// Print the configuration of the screen, as its file has it or as it is without one, and end
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// Groups shown in one picture of plain text.
const MAX_GROUPS: usize = 40;

/// Runs the command.
pub fn run(args: &TopArgs) -> Result<ExitCode> {
    if args.print_config {
        print!("{}", config::read()?.print());
        return Ok(ExitCode::SUCCESS);
    }
    let filter = args.filters.filter(args.source.recording())?;
    // What is printed for programs is not a matter of taste.
    let config = if args.wants_screen() { config::read()? } else { Config::default() };
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let mut plan = args.plan(filter, &config);
        let screen = args.wants_screen().then(|| {
            let (queries, asked) = watch::channel(Query::new(plan.grouping));
            plan.queries = Some(asked);
            (queries, Settings::new(&config, terminal::look(), TimeZone::system()))
        });
        let want = if screen.is_some() { Want::Newest } else { Want::Every };
        let mut started = args.source.start(plan, want)?;
        let show = async {
            if let Some((queries, settings)) = screen {
                let snapshots = started.running.snapshots.clone();
                top::run(snapshots, queries, settings).await.map(|()| Shown::Enough)
            } else {
                args.print(&mut started.snapshots).await
            }
        };
        let shown = tokio::select! {
            shown = show => shown,
            () = stop.signalled() => Ok(Shown::Enough),
        };
        let last = started.end()?;
        if shown? == Shown::AllButLast {
            args.picture(&last, Next::Nothing)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// What was shown so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Enough,
    /// A recording has ended: its end is still to be shown.
    AllButLast,
}

/// What comes after a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Another,
    Nothing,
}

impl TopArgs {
    fn wants_screen(&self) -> bool {
        !self.once && self.batch.is_none() && !self.json && io::stdout().is_terminal()
    }

    /// What the pipeline is to do. The rates in the one picture of a recording are over all of it.
    fn plan(&self, filter: Filter, config: &Config) -> Plan {
        let whole = !self.source.is_live() && self.once;
        let interval = self.interval.or(config.interval()).unwrap_or(Duration::from_secs(1));
        let interval = if whole { u64::MAX } else { interval.as_nanos() as u64 };
        Plan::new(
            filter,
            self.groups.grouping(config.by().unwrap_or(Grouping::SERVICE)),
            Scope::Minisockets,
            Nanos(interval),
        )
    }

    /// Prints pictures until there were enough. The first snapshot has no rates: the next one is
    /// the first to print.
    async fn print(&self, snapshots: &mut Snapshots) -> io::Result<Shown> {
        let mut left = if self.once { Some(1) } else { self.batch };
        if snapshots.next().await.is_none() && self.source.is_live() {
            // The pipeline ended with an error, which the end tells.
            return Ok(Shown::Enough);
        }
        while left != Some(0) {
            let Some(snapshot) = snapshots.next().await else { return Ok(Shown::AllButLast) };
            self.picture(&snapshot, if left == Some(1) { Next::Nothing } else { Next::Another })?;
            left = left.map(|left| left - 1);
        }
        Ok(Shown::Enough)
    }

    fn picture(&self, snapshot: &Snapshot, next: Next) -> io::Result<()> {
        let mut picture = Vec::new();
        if self.json {
            json::write(&mut picture, snapshot)?;
        } else {
            let layout =
                plain::Layout { width: terminal::width(), max_groups: MAX_GROUPS, zone: TimeZone::system() };
            plain::write(&mut picture, snapshot, &layout)?;
            if next == Next::Another {
                picture.push(b'\n');
            }
        }
        terminal::print(&picture)
    }
}
