//! `tcptrace hist`: how long sockets stay in every state.

use std::{fs::File, io::BufWriter, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    by::GroupArgs,
    filter::FilterArgs,
    live::{self, Stop},
    source::{SourceArgs, Want},
    terminal::{self, Place},
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    model::Nanos,
    pipeline::Plan,
    view::hist::{hlog::IntervalLog, json, text},
};

/// Show how long sockets stay in every state: histograms and quantiles
#[derive(Args, Clone, Debug)]
pub struct HistArgs {
    #[command(flatten)]
    groups: GroupArgs,
    /// Stop after this time; else at Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    duration: Option<Duration>,
    /// Show a picture so often, and the last one at the end; without it only that one
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    interval: Option<Duration>,
    /// Also write the histograms to this file, as an interval log of `HdrHistogram`: one line per
    /// histogram and interval
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
    /// Print JSON, one document per picture
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// Without --interval nobody sees the snapshots, but they make the history.
const UNSEEN: Duration = Duration::from_secs(1);
/// Groups listed under each state as text.
const MAX_GROUPS: usize = 10;
/// Columns where there is no terminal.
const PIPE_WIDTH: u16 = 100;

/// Runs the command.
pub fn run(args: &HistArgs) -> Result<ExitCode> {
    let grouping = args.groups.grouping(Grouping::NONE);
    let filter = args.filters.filter(args.source.recording())?;
    let mut pictures = Pictures::open(args)?;
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let interval = args.interval.unwrap_or(UNSEEN);
        let plan = Plan::new(filter, grouping, Scope::Every, Nanos(interval.as_nanos() as u64));
        let want = if args.interval.is_some() { Want::Every } else { Want::Newest };
        let mut started = args.source.start(plan, want)?;
        let shown = tokio::select! {
            shown = started.each(args.duration, |snapshot| pictures.running(snapshot)) => shown,
            () = stop.signalled() => Ok(()),
        };
        let last = started.end()?;
        shown.and_then(|()| pictures.last(&last))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Where pictures go.
struct Pictures {
    /// There are more than the last.
    running: bool,
    json: bool,
    log: Option<(PathBuf, IntervalLog<BufWriter<File>>)>,
}

impl Pictures {
    /// Opens the log: an unwritable path is told before anything is traced.
    fn open(args: &HistArgs) -> Result<Self> {
        let open = |path: &PathBuf| {
            let file = File::create(path).with_context(|| format!("can't write {}", path.display()))?;
            anyhow::Ok((path.clone(), IntervalLog::new(BufWriter::new(file))))
        };
        Ok(Self {
            running: args.interval.is_some(),
            json: args.json,
            log: args.hlog.as_ref().map(open).transpose()?,
        })
    }

    /// A picture on the way.
    fn running(&mut self, snapshot: &Snapshot) -> Result<()> {
        if !self.running {
            return Ok(());
        }
        self.log(snapshot)?;
        self.print(snapshot, Place::Running)
    }

    /// The last picture.
    fn last(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.log(snapshot)?;
        self.print(snapshot, Place::Last)
    }

    fn log(&mut self, snapshot: &Snapshot) -> Result<()> {
        if let Some((path, log)) = &mut self.log {
            log.write(snapshot).with_context(|| format!("can't write {}", path.display()))?;
        }
        Ok(())
    }

    fn print(&self, snapshot: &Snapshot, place: Place) -> Result<()> {
        let mut picture = Vec::new();
        if self.json {
            json::write(&mut picture, snapshot)?;
        } else {
            let layout = text::Layout {
                width: terminal::width().unwrap_or(PIPE_WIDTH),
                glyphs: terminal::glyphs(),
                zone: TimeZone::system(),
                max_groups: MAX_GROUPS,
            };
            text::write(&mut picture, snapshot, &layout)?;
            if self.running {
                picture = terminal::redraw(picture, place);
            }
        }
        Ok(terminal::print(&picture)?)
    }
}
