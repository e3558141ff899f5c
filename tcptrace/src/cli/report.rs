//! `tcptrace report`: writes a recording as one HTML page or JSON document.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    by::GroupArgs,
    filter::FilterArgs,
    joined::{self, JoinSink},
    live::{self, Stop},
    recording::shown,
    recordings::{HostOrder, Recordings},
    terminal,
    window::WindowArgs,
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    filter::Filter,
    join::{JoinSummary, Joiner},
    model::{Nanos, Source, units},
    output_file::{self, Existing, OutputFile},
    pipeline::{self, EventSink, PipelinePlan, StackPlan},
    privileges::{self, Work},
    sandbox,
    session::AtEnd,
    source::PollKind,
    view::{
        self,
        report::{Report, document, page},
    },
};

/// Write a recording as one HTML page: summary, charts and tables
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The page is one HTML file that loads nothing. It contains the addresses, ports and process names of the recording.")]
pub struct ReportArgs {
    /// The recordings: files, or folders of files; - is standard input
    #[arg(value_name = "FILE", required = true)]
    from: Vec<PathBuf>,
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE", required_unless_present = "json")]
    output: Option<PathBuf>,
    /// Write the numbers of the page as one JSON document
    ///
    /// To standard output unless --output is given.
    #[arg(long)]
    json: bool,
    /// Replace the output file if it exists
    ///
    /// Once the new one is complete.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    groups: GroupArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Runs the command.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let filter = args.filters.filter(&args.from)?;
    let recordings = Recordings::open(&args.from, AtEnd::Stop)?.watched();
    let name = Arc::clone(recordings.name());
    let (recording, endings) = recordings.source(args.window.window(None), HostOrder::ByTime);
    let output = ReportTarget::open(args)?;
    let filter_text = if filter.is_everything() { String::new() } else { filter.to_string() };
    let grouping = args.groups.grouping(Grouping::SERVICE);
    let (events, joined): (Option<Box<dyn EventSink>>, _) = if filter.is_everything() {
        let (sink, summary) = JoinSink::counting(Joiner::new(Filter::EVERYTHING));
        (Some(Box::new(sink)), Some(summary))
    } else {
        (None, None)
    };
    // Rates cover the full recording, and only the last snapshot is used.
    let plan = PipelinePlan {
        source: name,
        polls: PollKind::Host,
        stacks: Some(StackPlan::default()),
        events,
        ..PipelinePlan::new(filter, grouping, Scope::Every, Nanos(u64::MAX))
    };
    // The thread that decodes the recording is confined. This thread keeps the output file, which it may have to
    // remove.
    let drawn = privileges::run_on_thread("report", Work::Nothing, || -> Result<_> {
        sandbox::confine();
        let Some(last) = read(recording, plan)? else { return Ok(None) };
        let joined = joined.as_ref().map(joined::summary);
        Ok(Some((draw(&last, &filter_text, joined.as_ref(), args)?, last)))
    });
    let drawn = drawn.context("no thread to read")??;
    let Some((content, last)) = drawn else {
        eprintln!("tcptrace: interrupted: no report was written");
        return Ok(ExitCode::FAILURE);
    };
    let file = output.write(&content)?;
    eprintln!("{}", view::losses::at_the_end(&last));
    endings.report();
    if let Some(path) = file {
        eprintln!("tcptrace: {}: {}", shown(&path), units::bytes(content.len() as u64));
    }
    Ok(ExitCode::SUCCESS)
}

fn draw(last: &Snapshot, filter: &str, joined: Option<&JoinSummary>, args: &ReportArgs) -> Result<Vec<u8>> {
    let report = Report::of(last, filter, TimeZone::system()).with_joined(joined);
    let mut content = Vec::new();
    if args.json {
        document::write(&mut content, &report)?;
    } else {
        page::write(&mut content, &report)?;
    }
    Ok(content)
}

/// Output of the report.
enum ReportTarget {
    Standard,
    File(OutputFile),
}

impl ReportTarget {
    fn open(args: &ReportArgs) -> Result<Self> {
        let inputs: Vec<&Path> = args.from.iter().map(AsRef::as_ref).collect();
        let Some(path) = args.output.as_deref().filter(|path| *path != Path::new("-")) else {
            output_file::refuse_as_standard_output(&inputs).context("standard output")?;
            return Ok(Self::Standard);
        };
        let existing = if args.force { Existing::Replace } else { Existing::Keep };
        let file = OutputFile::create(path, existing, &inputs).with_context(|| shown(path))?;
        Ok(Self::File(file))
    }

    /// Returns the path of the written file.
    fn write(self, content: &[u8]) -> Result<Option<PathBuf>> {
        let Self::File(output) = self else {
            terminal::print(content)?;
            return Ok(None);
        };
        let path = output.path().to_owned();
        let written = output.file().write_all(content).and_then(|()| output.finish());
        written.with_context(|| shown(&path))?;
        Ok(Some(path))
    }
}

/// Reads the full recording; returns `None` if interrupted.
fn read(recording: Box<dyn Source>, plan: PipelinePlan) -> Result<Option<Snapshot>> {
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let mut running = pipeline::start(recording, plan).context("no thread for the pipeline")?;
        let all = async { while running.snapshots.changed().await.is_ok() {} };
        let is_read = tokio::select! {
            () = all => true,
            () = stop.signalled() => false,
        };
        let last = running.stop()?;
        Ok(is_read.then_some(last))
    })
}
