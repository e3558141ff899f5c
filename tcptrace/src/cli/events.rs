//! `tcptrace events`: prints one line per state transition, as it happens, or per connection.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    filter::FilterArgs,
    joined::{self, JoinSink},
    live::{self, Stop},
    output::{self, Backpressure, EventQueue},
    source::{SnapshotMode, SourceArgs},
};
use crate::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    join::Joiner,
    model::{Nanos, units::parse_duration},
    pipeline::{EventSink, PipelinePlan},
    view::{
        events::{EventFormat, HostColumn},
        joined::JoinedWriter,
    },
};

/// Print one line per state transition, as it happens
#[derive(Args, Clone, Debug)]
pub struct EventsArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t, conflicts_with = "json")]
    format: Form,
    /// The same as --format json: one JSON object per line
    #[arg(long)]
    json: bool,
    /// Print one line per connection with the states of both ends, which the recordings contain
    #[arg(long, requires = "from")]
    joined: bool,
    /// Stop after this time; of a recording, read only this much
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A text line
    #[default]
    Text,
    /// A JSON object per line
    Json,
    /// RFC 4180, with a header line
    Csv,
}

impl EventsArgs {
    fn format(&self) -> EventFormat {
        match self.format {
            _ if self.json => EventFormat::Json,
            Form::Text => EventFormat::Text,
            Form::Json => EventFormat::Json,
            Form::Csv => EventFormat::Csv,
        }
    }
}

/// Snapshot interval; `events` uses only the first and the last snapshot.
const INTERVAL: Nanos = Nanos::SECOND;

/// Runs the command.
pub fn run(args: &EventsArgs) -> Result<ExitCode> {
    let filter = args.filters.filter(args.source.recordings())?;
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let pace = if args.source.is_live() { Backpressure::Drop } else { Backpressure::Wait };
        let recordings = args.source.open()?;
        let are_several = recordings.as_ref().is_some_and(|recordings| recordings.count() > 1);
        let hosts = if are_several { HostColumn::Shown } else { HostColumn::Hidden };
        let (lines, mut output) = output::open(pace)?;
        let mut join_summary = None;
        let (events, filter): (Box<dyn EventSink>, Filter) = if args.joined {
            let writer = JoinedWriter::new(args.format(), TimeZone::system());
            // Either end may match, so the joiner receives the events of all.
            let (sink, summary) = JoinSink::writing(Joiner::new(filter), writer, lines);
            join_summary = Some(summary);
            (Box::new(sink), Filter::EVERYTHING)
        } else {
            (Box::new(EventQueue::new(lines, args.format(), hosts)), filter)
        };
        let plan = PipelinePlan {
            events: Some(events),
            ..PipelinePlan::new(filter, Grouping::NONE, Scope::Nothing, INTERVAL)
        };
        let peer_names = args.source.live.peer_names()?;
        let mut started =
            args.source.start_on(recordings, peer_names, plan, SnapshotMode::Newest, args.duration)?;
        let mut written = None;
        let trace = async {
            let _ = started.running.snapshots.wait_for(Option::is_some).await;
            if args.source.is_live() {
                eprintln!("tcptrace: tracing");
            }
            tokio::select! {
                () = live::time_is_up(args.duration.filter(|_| args.source.is_live())) => {}
                () = started.ended() => {}
            }
        };
        tokio::select! {
            () = trace => {}
            () = stop.signalled() => {}
            done = &mut output.done => written = done.ok(),
        }
        started.end()?;
        if let Some(shared) = join_summary {
            eprintln!("tcptrace: {}", joined::sentence(&joined::summary(&shared)));
        }
        // Wait until the queue is written.
        if written.is_none() {
            written = output.done.await.ok();
        }
        written.unwrap_or(Ok(()))?;
        Ok(ExitCode::SUCCESS)
    })
}
