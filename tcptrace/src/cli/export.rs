//! `tcptrace export`: a recording as a table for other programs.

use std::{
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
    filter::FilterArgs,
    live::{self, Stop},
    progress::Watched,
    source::shown,
    whole::Whole,
};
use crate::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    lifecycle::Event,
    model::{Nanos, Record, record::HostFacts, units},
    pipeline::{self, EventSink, Plan},
    sandbox,
    session::{self, AtEnd, Ending, Existing, Reader},
    source::{Flow, Source},
    view::export::{EVENTS, Format, RECORDS, Table, event_row, record_row},
};

/// Write a recording as Parquet, CSV or JSON lines: a row per change of state
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// The recording; - is standard input
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// The file to write, - for standard output; its end tells the format: .parquet, .csv or .jsonl
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The format, where the name does not tell it
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// A row per observation, as recorded, instead of one per change of state
    #[arg(long)]
    raw: bool,
    /// Replace a file that is there already
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    filters: FilterArgs,
}

impl ExportArgs {
    /// Where the table goes; standard output has nothing that could be taken back.
    fn create(&self) -> Result<(File, Option<Whole>)> {
        if self.output == Path::new("-") {
            return Ok((session::standard_output().context("standard output")?, None));
        }
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        let (file, whole) = Whole::create(&self.output, existing)?;
        Ok((file, Some(whole)))
    }

    /// Writes the table; returns how many rows it has.
    fn write(&self, reader: Reader, file: File, format: Format, filter: Filter) -> Result<u64> {
        let source = Watched::new(reader, &shown(&self.from));
        let columns = if self.raw { &RECORDS[..] } else { &EVENTS[..] };
        let table = format.table(columns, Box::new(file))?;
        if self.raw {
            return records(source, table);
        }
        events(source, table, Plan::new(filter, Grouping::NONE, Scope::Nothing, Nanos(u64::MAX)))
    }
}

/// Runs the command.
pub fn run(args: &ExportArgs) -> Result<ExitCode> {
    let filter = args.filters.filter(Some(&args.from))?;
    if args.raw && !filter.is_everything() {
        bail!("--raw takes no filters: an observation alone does not tell what socket it is about");
    }
    let extension = args.output.extension().unwrap_or_default().to_string_lossy();
    let Some(format) = args.format.or_else(|| Format::of_extension(&extension)) else {
        bail!(
            "{}: the name must end in .parquet, .csv or .jsonl, or --format say what to write",
            shown(&args.output)
        );
    };
    let reader = Reader::open(&args.from, AtEnd::Stop).with_context(|| shown(&args.from))?;
    let ending = reader.ending();
    let (file, whole) = args.create()?;
    let Some(rows) = interruptible(args.clone(), move |args| args.write(reader, file, format, filter))?
    else {
        let left = if whole.is_some() { "no table is left" } else { "the table is not complete" };
        eprintln!("tcptrace: interrupted: {left}");
        return Ok(ExitCode::FAILURE);
    };
    let rows = rows.with_context(|| format!("{}, which was not completed", shown(&args.output)))?;
    if let Some(whole) = whole {
        whole.stays();
    }
    eprintln!("tcptrace: {}: {} rows", shown(&args.output), units::count(rows));
    let ending = *ending.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sentence) = ending.and_then(Ending::sentence) {
        eprintln!("tcptrace: {}: {sentence}", shown(&args.from));
    }
    Ok(ExitCode::SUCCESS)
}

/// Does `work` in a sandbox, on a thread of its own: this one may still remove files. `None` when a signal came before
/// it was done.
fn interruptible<T: Send + 'static>(
    args: ExportArgs,
    work: impl FnOnce(&ExportArgs) -> T + Send + 'static,
) -> Result<Option<T>> {
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let (tell, done) = oneshot::channel();
        std::thread::Builder::new()
            .name("export".into())
            .spawn(move || {
                sandbox::close(&[&args.from]);
                tell.send(work(&args))
            })
            .context("no thread to export")?;
        tokio::select! {
            done = done => done.context("the export panicked").map(Some),
            () = stop.signalled() => Ok(None),
        }
    })
}

/// Every observation as a row.
fn records(mut source: impl Source, mut table: Box<dyn Table>) -> Result<u64> {
    let mut host = HostFacts::default();
    let (mut rows, mut failure) = (0, Ok(()));
    loop {
        let flow = source.fill(&mut |record| {
            if let Record::Host(facts) = &record {
                host.clone_from(facts);
            }
            if failure.is_ok()
                && let Some(row) = record_row(&record, &host)
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

/// Every change of state as a row.
fn events(source: impl Source + 'static, table: Box<dyn Table>, plan: Plan) -> Result<u64> {
    let shared = Arc::new(Mutex::new(Some(Writing { table, count: 0, failure: Ok(()) })));
    let plan = Plan { events: Some(Box::new(Sink(Arc::clone(&shared)))), ..plan };
    pipeline::start(Box::new(source), plan).context("no thread for the pipeline")?.finish()?;
    let taken = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Writing { table, count, failure }) = taken else { bail!("the table is gone") };
    failure?;
    table.finish()?;
    Ok(count)
}

struct Writing {
    table: Box<dyn Table>,
    count: u64,
    failure: io::Result<()>,
}

/// Takes events from the pipeline, which waits: its source is a file.
struct Sink(Arc<Mutex<Option<Writing>>>);

impl EventSink for Sink {
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
