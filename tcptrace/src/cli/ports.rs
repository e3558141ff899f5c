//! `tcptrace ports`: local ports per destination, and when there will be none left.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    census,
    filter::FilterArgs,
    live::{self, Stop},
    source::{SourceArgs, Want},
    terminal::{self, Place},
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    filter::Filter,
    model::Nanos,
    pipeline::Plan,
    source::host,
    view::ports::{json, text},
};

/// Show local ports per destination: how many are used, how fast, and who runs out when. Traces for 5s
/// to measure the rates
#[derive(Args, Clone, Debug)]
#[command(after_help = "Without the privilege to trace it takes one look: levels and budgets, no rates.")]
pub struct PortsArgs {
    /// Measure for this time; without --interval 5s, with it until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    duration: Option<Duration>,
    /// Show a picture so often, and the last one at the end; without it only that one
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    interval: Option<Duration>,
    /// Print JSON, one document per picture
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// Rates are steady after this time, and nobody waits longer gladly.
const DURATION: Duration = Duration::from_secs(5);
/// Without --interval nobody sees the snapshots.
const UNSEEN: Duration = Duration::from_secs(1);
/// Destinations listed as text.
const MAX_ROWS: usize = 40;
/// Columns where there is no terminal.
const PIPE_WIDTH: u16 = 120;

/// Runs the command.
pub fn run(args: &PortsArgs) -> Result<ExitCode> {
    let filter = args.filters.filter(args.source.recording())?;
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let interval = args.interval.unwrap_or(UNSEEN);
        let plan =
            Plan::new(filter.clone(), Grouping::NONE, Scope::Minisockets, Nanos(interval.as_nanos() as u64));
        let want = if args.interval.is_some() { Want::Every } else { Want::Newest };
        let missing = missing(&filter);
        let mut started = match args.source.start(plan, want) {
            Err(error) if args.source.is_live() && super::cannot_trace(&error) => {
                return args.look(&filter, missing, &error);
            }
            started => started?,
        };
        let shown = tokio::select! {
            shown = started.each(args.duration(), |snapshot| args.running(snapshot, &missing)) => shown,
            () = stop.signalled() => Ok(()),
        };
        let last = started.end()?;
        shown.and_then(|()| args.print(&last, &missing, Place::Last))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What a filter keeps from being known.
fn missing(filter: &Filter) -> Vec<String> {
    let sentence = "with a filter, ports that bind() or listen() took for other connections may be missing: then \
                    fewer are available than is told.";
    if filter.is_everything() { Vec::new() } else { vec![sentence.into()] }
}

impl PortsArgs {
    fn duration(&self) -> Option<Duration> {
        let default = (self.interval.is_none() && self.source.is_live()).then_some(DURATION);
        self.duration.or(default)
    }

    /// A picture on the way.
    fn running(&self, snapshot: &Snapshot, missing: &[String]) -> Result<()> {
        if self.interval.is_none() {
            return Ok(());
        }
        self.print(snapshot, missing, Place::Running)
    }

    /// One look at the sockets there are: levels, and what is missing because nothing could be traced.
    fn look(&self, filter: &Filter, mut missing: Vec<String>, error: &anyhow::Error) -> Result<ExitCode> {
        let (snapshot, unseen) = census::look(filter, &host::facts())
            .context("can't look for network namespaces; is /proc mounted?")?;
        let reason = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        missing.push(format!("rates, and connects that failed, which take tracing: {reason}"));
        missing.extend(unseen);
        self.print(&snapshot, &missing, Place::Last)?;
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, snapshot: &Snapshot, missing: &[String], place: Place) -> Result<()> {
        let mut picture = Vec::new();
        if self.json {
            json::write(&mut picture, snapshot, missing)?;
        } else {
            let layout = text::Layout {
                width: terminal::width().unwrap_or(PIPE_WIDTH),
                max_rows: MAX_ROWS,
                zone: TimeZone::system(),
            };
            text::write(&mut picture, snapshot, missing, &layout)?;
            if self.interval.is_some() {
                picture = terminal::redraw(picture, place);
            }
        }
        Ok(terminal::print(&picture)?)
    }
}
