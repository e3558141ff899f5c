//! `tcptrace export`: converts a recording to a table for other programs.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::sync::oneshot;

use super::{
    exit::misuse,
    filter::FilterArgs,
    live::{self, Stop},
    partition,
    recording::shown,
    recordings::{HostOrder, Recordings},
    window::WindowArgs,
};
use crate::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    lifecycle::Event,
    model::{Flow, Nanos, Record, Source, record::HostFacts, units},
    output_file::{self, Existing, OutputFile},
    pipeline::{self, EventSink, PipelinePlan},
    privileges::{self, Work},
    sandbox,
    session::AtEnd,
    view::export::{EVENTS, ExportFormat, RECORDS, Table, event_row, record_row},
};

/// Convert a recording to Parquet, CSV or JSON lines
///
/// One row per state transition.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// The recordings: files, or folders of files; - is standard input
    #[arg(value_name = "FILE", required = true)]
    from: Vec<PathBuf>,
    /// The file to write: .parquet, .csv or .jsonl; - is standard output
    ///
    /// Its extension selects the format. With --partition the folder.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The format, if the file name does not select it
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<ExportFormat>,
    /// One row per observation, not per state transition
    #[arg(long)]
    raw: bool,
    /// Write a folder of Parquet files, for many recordings
    ///
    /// Its files are host=H/date=D/hour=N. Rows are added to an existing folder.
    #[arg(long, conflicts_with_all = ["raw", "format", "force"])]
    partition: bool,
    /// Replace the output file if it exists
    ///
    /// Once the new one is complete.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

impl ExportArgs {
    /// Creates the output. Standard output has no `OutputFile`: rows written to it cannot be removed.
    fn create(&self) -> Result<(File, Option<OutputFile>)> {
        let inputs: Vec<&Path> = self.from.iter().map(AsRef::as_ref).collect();
        if self.output == Path::new("-") {
            return Ok((output_file::standard_output(&inputs).context("standard output")?, None));
        }
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        let output =
            OutputFile::create(&self.output, existing, &inputs).with_context(|| shown(&self.output))?;
        Ok((output.file().try_clone()?, Some(output)))
    }

    /// Writes the table; returns the number of rows.
    fn write(
        &self,
        source: Box<dyn Source>,
        file: File,
        format: ExportFormat,
        filter: Filter,
    ) -> Result<u64> {
        let columns = if self.raw { &RECORDS[..] } else { &EVENTS[..] };
        let table = format.table(columns, Box::new(file))?;
        if self.raw {
            return records(source, table);
        }
        events(source, table, PipelinePlan::new(filter, Grouping::NONE, Scope::Nothing, Nanos(u64::MAX)))
    }
}

/// Runs the command.
pub fn run(args: &ExportArgs) -> Result<ExitCode> {
    let filter = args.filters.filter(&args.from)?;
    if args.partition {
        if !filter.is_everything() || !args.window.window(None).is_everything() {
            misuse(
                "--partition exports complete recordings, without filters, --since and --until: select rows in the query",
            );
        }
        return partition::run(&args.from, &args.output);
    }
    if args.raw && !filter.is_everything() {
        misuse("--raw accepts no filters: a single observation does not identify its socket");
    }
    let extension = args.output.extension().unwrap_or_default().to_string_lossy();
    let Some(format) = args.format.or_else(|| ExportFormat::of_extension(&extension)) else {
        misuse(&format!(
            "{}: unknown format: the name must end in .parquet, .csv or .jsonl, or give --format",
            shown(&args.output)
        ));
    };
    let recordings = Recordings::open(&args.from, AtEnd::Stop)?.watched();
    let (source, endings) = recordings.source(args.window.window(None), HostOrder::ByTime);
    let (file, output) = args.create()?;
    let Some(rows) = run_interruptible(args.clone(), move |args| args.write(source, file, format, filter))?
    else {
        let left = if output.is_some() { "no table was written" } else { "the table is not complete" };
        eprintln!("tcptrace: interrupted: {left}");
        return Ok(ExitCode::FAILURE);
    };
    let rows = rows.with_context(|| format!("{}, which was not completed", shown(&args.output)))?;
    if let Some(output) = output {
        output.finish().with_context(|| shown(&args.output))?;
    }
    eprintln!("tcptrace: {}: {} rows", shown(&args.output), units::count(rows));
    endings.report();
    Ok(ExitCode::SUCCESS)
}

/// Runs `work` in a sandbox on its own thread, so that this thread can still remove files. Returns `None` if a signal
/// arrived before it finished.
fn run_interruptible<T: Send + 'static>(
    args: ExportArgs,
    work: impl FnOnce(&ExportArgs) -> T + Send + 'static,
) -> Result<Option<T>> {
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let (done_sender, done) = oneshot::channel();
        privileges::spawn("export", Work::Nothing, move || {
            sandbox::confine();
            done_sender.send(work(&args))
        })
        .context("no thread to export")?;
        tokio::select! {
            done = done => done.context("the export panicked").map(Some),
            () = stop.signalled() => Ok(None),
        }
    })
}

/// Writes one row per observation.
fn records(mut source: Box<dyn Source>, mut table: Box<dyn Table>) -> Result<u64> {
    let mut hosts: BTreeMap<u16, HostFacts> = BTreeMap::new();
    let mut stream = 0;
    let (mut rows, mut failure) = (0, Ok(()));
    loop {
        let flow = source.fill(&mut |record| {
            if let Record::Stream { number } = record {
                stream = number;
            }
            let host = hosts.entry(stream).or_default();
            match &record {
                Record::Host(facts) => *host = facts.after(host),
                Record::ClockStep(step) => host.step_clock(*step),
                _ => {}
            }
            if failure.is_ok()
                && let Some(row) = record_row(&record, host)
            {
                rows += 1;
                failure = table.row(&row);
            }
        })?;
        std::mem::replace(&mut failure, Ok(()))?;
        if flow == Flow::Ended {
            table.finish()?;
            return Ok(rows);
        }
    }
}

/// Writes one row per transition.
fn events(source: Box<dyn Source>, table: Box<dyn Table>, plan: PipelinePlan) -> Result<u64> {
    let shared = Arc::new(Mutex::new(Some(Writing { table, count: 0, failure: Ok(()) })));
    let plan = PipelinePlan { events: Some(Box::new(ExportSink(Arc::clone(&shared)))), ..plan };
    pipeline::start(source, plan).context("no thread for the pipeline")?.finish()?;
    let taken = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Writing { table, count, failure }) = taken else { bail!("the table was already taken") };
    failure?;
    table.finish()?;
    Ok(count)
}

struct Writing {
    table: Box<dyn Table>,
    count: u64,
    failure: io::Result<()>,
}

/// Receives events from the pipeline, which blocks on it: the source is a file.
struct ExportSink(Arc<Mutex<Option<Writing>>>);

impl EventSink for ExportSink {
    fn event(&mut self, event: &Event<'_>, host: &HostFacts) {
        if let Some(rows) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && rows.failure.is_ok()
        {
            rows.count += 1;
            rows.failure = rows.table.row(&event_row(event, host));
        }
    }

    fn flush(&mut self) {}

    fn dropped(&self) -> u64 {
        0
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
