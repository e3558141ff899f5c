//! `tcptrace hist`: histograms of the time that sockets spend in each state.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    by::GroupArgs,
    filter::FilterArgs,
    live::{self, Stop},
    recording::shown,
    source::{SnapshotMode, SourceArgs},
    terminal::{self, FramePosition},
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    model::{Nanos, units::parse_duration},
    output_file::{Existing, OutputFile},
    pipeline::PipelinePlan,
    privileges::{self, Work},
    view::hist::{hlog::IntervalLog, json, text},
};

/// Show how long sockets stay in each state: histograms and quantiles
#[derive(Args, Clone, Debug)]
pub struct HistArgs {
    #[command(flatten)]
    groups: GroupArgs,
    /// Stop after this time, else at Ctrl-C; of a recording, read only this much
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Print a snapshot at this interval and one at the end; without it only the last
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    interval: Option<Duration>,
    /// Also write the histograms to this file, as an interval log of `HdrHistogram`
    ///
    /// One line per histogram and interval.
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
    /// Replace the --hlog file if it exists
    #[arg(long, requires = "hlog")]
    force: bool,
    /// Print JSON, one document per snapshot
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// Snapshot interval without `--interval`: these snapshots are not printed, but they fill the history.
const UNSEEN: Duration = Duration::from_secs(1);
/// Maximum number of groups per state in text output.
const MAX_GROUPS: usize = 10;
/// Output width if stdout is not a terminal.
const PIPE_WIDTH: u16 = 100;

/// Runs the command.
pub fn run(args: &HistArgs) -> Result<ExitCode> {
    let grouping = args.groups.grouping(Grouping::NONE);
    let filter = args.filters.filter(args.source.recordings())?;
    let mut printer = SnapshotPrinter::open(args)?;
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let interval = args.interval.unwrap_or(UNSEEN);
        let plan = PipelinePlan::new(filter, grouping, Scope::Every, Nanos(interval.as_nanos() as u64));
        let want = if args.interval.is_some() { SnapshotMode::Every } else { SnapshotMode::Last };
        let mut started = args.source.start(plan, want, args.duration)?;
        let shown = tokio::select! {
            shown = started.each(args.duration, |snapshot| printer.running(snapshot)) => shown,
            () = stop.signalled() => Ok(()),
        };
        let last = started.end()?;
        shown.and_then(|()| printer.last(&last))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Prints snapshots and writes them to the interval log.
struct SnapshotPrinter {
    /// Whether intermediate snapshots are printed.
    running: bool,
    json: bool,
    log: Option<Log>,
}

/// An interval log. The file gets its name with the first interval, so that others can read it while it grows.
struct Log {
    path: PathBuf,
    intervals: IntervalLog<BufWriter<File>>,
    name: FilePublisher,
}

impl Log {
    fn open(path: &Path, args: &HistArgs) -> io::Result<Self> {
        let existing = if args.force { Existing::Replace } else { Existing::Keep };
        let inputs: Vec<&Path> = args.source.recordings().iter().map(AsRef::as_ref).collect();
        let output = OutputFile::create(path, existing, &inputs)?;
        let intervals = IntervalLog::new(BufWriter::new(output.file().try_clone()?));
        Ok(Self { path: path.to_owned(), intervals, name: FilePublisher::start(output)? })
    }

    fn write(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.intervals.write(snapshot)?;
        self.name.publish()
    }
}

/// Names a file, or removes it, on its own thread: the thread that reads a recording is in a sandbox that forbids both.
struct FilePublisher {
    publish: Option<mpsc::SyncSender<()>>,
    published: mpsc::Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FilePublisher {
    fn start(mut output: OutputFile) -> io::Result<Self> {
        let (publish, wanted) = mpsc::sync_channel(1);
        let (sender, published) = mpsc::channel();
        let thread = privileges::spawn("hlog", Work::Files, move || {
            if wanted.recv().is_ok() {
                let _ = sender.send(output.publish());
            }
        })?;
        Ok(Self { publish: Some(publish), published, thread: Some(thread) })
    }

    fn publish(&mut self) -> io::Result<()> {
        let Some(publish) = self.publish.take() else { return Ok(()) };
        let _ = publish.send(());
        self.published
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that renames the file has ended")))
    }
}

/// Waits for the thread, so that a file without a name is removed before the command ends.
impl Drop for FilePublisher {
    fn drop(&mut self) {
        self.publish = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl SnapshotPrinter {
    /// Opens the log first: an unwritable path fails before tracing starts.
    fn open(args: &HistArgs) -> Result<Self> {
        let open = |path: &PathBuf| Log::open(path, args).with_context(|| shown(path));
        Ok(Self {
            running: args.interval.is_some(),
            json: args.json,
            log: args.hlog.as_ref().map(open).transpose()?,
        })
    }

    /// Handles an intermediate snapshot.
    fn running(&mut self, snapshot: &Snapshot) -> Result<()> {
        if !self.running {
            return Ok(());
        }
        self.log(snapshot)?;
        self.print(snapshot, FramePosition::Running)
    }

    /// Handles the last snapshot.
    fn last(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.log(snapshot)?;
        self.print(snapshot, FramePosition::Last)
    }

    fn log(&mut self, snapshot: &Snapshot) -> Result<()> {
        if let Some(log) = &mut self.log {
            log.write(snapshot).with_context(|| shown(&log.path))?;
        }
        Ok(())
    }

    fn print(&self, snapshot: &Snapshot, place: FramePosition) -> Result<()> {
        let mut output = Vec::new();
        if self.json {
            json::write(&mut output, snapshot)?;
        } else {
            let layout = text::HistLayout {
                width: terminal::width().unwrap_or(PIPE_WIDTH),
                glyphs: terminal::glyphs(),
                zone: TimeZone::system(),
                max_groups: MAX_GROUPS,
            };
            text::write(&mut output, snapshot, &layout)?;
            if self.running {
                output = terminal::redraw(output, place);
            }
        }
        Ok(terminal::print(&output)?)
    }
}
