//! `tcptrace events`: one line per change of state, as it happens.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{
    filter::FilterArgs,
    live::{self, Stop},
    output::{self, Pace},
    source::{SourceArgs, Want},
};
use crate::{
    aggregate::{Grouping, Scope},
    model::Nanos,
    pipeline::Plan,
    view::events::Format,
};

/// Print one line per change of state, as it happens
#[derive(Args, Clone, Debug)]
pub struct EventsArgs {
    /// How to write them
    #[arg(long, value_enum, default_value_t, conflicts_with = "json")]
    format: Form,
    /// The same as --format json: one JSON object per line
    #[arg(long)]
    json: bool,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A line to read
    #[default]
    Text,
    /// A JSON object per line
    Json,
    /// RFC 4180, with a header line
    Csv,
}

impl EventsArgs {
    fn format(&self) -> Format {
        match self.format {
            _ if self.json => Format::Json,
            Form::Text => Format::Text,
            Form::Json => Format::Json,
            Form::Csv => Format::Csv,
        }
    }
}

/// How often the pipeline looks at its counts; nobody sees them before the end.
const INTERVAL: Nanos = Nanos::SECOND;

/// Runs the command.
pub fn run(args: &EventsArgs) -> Result<ExitCode> {
    let filter = args.filters.filter(args.source.recording())?;
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let pace = if args.source.is_live() { Pace::Drop } else { Pace::Wait };
        let (lines, mut output) = output::open(args.format(), pace)?;
        let plan = Plan {
            events: Some(Box::new(lines)),
            ..Plan::new(filter, Grouping::NONE, Scope::Nothing, INTERVAL)
        };
        let mut started = args.source.start(plan, Want::Newest)?;
        let mut written = None;
        let trace = async {
            let _ = started.running.snapshots.wait_for(Option::is_some).await;
            if args.source.is_live() {
                eprintln!("tcptrace: tracing");
            }
            tokio::select! {
                () = live::time_is_up(args.duration) => {}
                () = started.ended() => {}
            }
        };
        tokio::select! {
            () = trace => {}
            () = stop.signalled() => {}
            done = &mut output.done => written = done.ok(),
        }
        started.end()?;
        // Everything queued is written.
        if written.is_none() {
            written = output.done.await.ok();
        }
        written.unwrap_or(Ok(()))?;
        Ok(ExitCode::SUCCESS)
    })
}
