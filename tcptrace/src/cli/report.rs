//! `tcptrace report`: a recording as one page for people.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::PoisonError,
    thread,
};

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    by::GroupArgs,
    filter::FilterArgs,
    live::{self, Stop},
    progress::Watched,
    source::shown,
    terminal,
    whole::Whole,
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    model::{Nanos, units},
    pipeline::{self, Plan},
    sandbox,
    session::{AtEnd, Ending, Existing, Reader},
    source::Look,
    view::{
        self,
        report::{Report, document, page},
    },
};

/// Write what happened in a recording as one page: charts, tables, three sentences
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The page is one file of HTML that fetches nothing. It holds the addresses, ports and process names of the recording.")]
pub struct ReportArgs {
    /// The recording; - is standard input
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE", required_unless_present = "json")]
    output: Option<PathBuf>,
    /// Write the numbers of the page as one JSON document, to standard output unless --output says otherwise
    #[arg(long)]
    json: bool,
    /// Replace a file that is there already
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    groups: GroupArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Runs the command.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let filter = args.filters.filter(Some(&args.from))?;
    let reader = Reader::open(&args.from, AtEnd::Stop).with_context(|| shown(&args.from))?;
    let ending = reader.ending();
    let output = Output::open(args)?;
    let filter_text = if filter.is_everything() { String::new() } else { filter.to_string() };
    let grouping = args.groups.grouping(Grouping::SERVICE);
    // Rates are over the whole of it, and nobody sees a picture before the last.
    let plan = Plan {
        source: shown(&args.from).into(),
        look: Look::Host,
        ..Plan::new(filter, grouping, Scope::Every, Nanos(u64::MAX))
    };
    // Whoever takes the recording apart can open nothing more; the report, which may have to be removed, stays outside.
    let drawn = thread::scope(|scope| {
        let drawing = scope.spawn(|| -> Result<_> {
            sandbox::close(&[&args.from]);
            let Some(last) = read(reader, plan)? else { return Ok(None) };
            Ok(Some((draw(&last, &filter_text, args)?, last)))
        });
        drawing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let Some((content, last)) = drawn else {
        eprintln!("tcptrace: interrupted: no report was written");
        return Ok(ExitCode::FAILURE);
    };
    let file = output.write(&content)?;
    eprintln!("{}", view::losses::at_the_end(&last));
    let ending = *ending.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sentence) = ending.and_then(Ending::sentence) {
        eprintln!("tcptrace: {}: {sentence}", shown(&args.from));
    }
    if let Some(path) = file {
        eprintln!("tcptrace: {}: {}", shown(path), units::bytes(content.len() as u64));
    }
    Ok(ExitCode::SUCCESS)
}

fn draw(last: &Snapshot, filter: &str, args: &ReportArgs) -> Result<Vec<u8>> {
    let report = Report::of(last, filter, TimeZone::system());
    let mut content = Vec::new();
    if args.json {
        document::write(&mut content, &report)?;
    } else {
        page::write(&mut content, &report)?;
    }
    Ok(content)
}

/// Where the report goes.
enum Output<'a> {
    Standard,
    File { path: &'a Path, file: File, whole: Whole },
}

impl<'a> Output<'a> {
    fn open(args: &'a ReportArgs) -> Result<Self> {
        let Some(path) = args.output.as_deref().filter(|path| *path != Path::new("-")) else {
            return Ok(Self::Standard);
        };
        let existing = if args.force { Existing::Replace } else { Existing::Keep };
        let (file, whole) = Whole::create(path, existing)?;
        Ok(Self::File { path, file, whole })
    }

    /// Returns the path of the file that has it now.
    fn write(self, content: &[u8]) -> Result<Option<&'a Path>> {
        match self {
            Self::Standard => {
                terminal::print(content)?;
                Ok(None)
            }
            Self::File { path, mut file, whole } => {
                file.write_all(content).with_context(|| shown(path))?;
                whole.stays();
                Ok(Some(path))
            }
        }
    }
}

/// Reads all of the recording; `None` when it was interrupted.
fn read(reader: Reader, plan: Plan) -> Result<Option<Snapshot>> {
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let source = Watched::new(reader, &plan.source);
        let mut running = pipeline::start(Box::new(source), plan).context("no thread for the pipeline")?;
        let all = async { while running.snapshots.changed().await.is_ok() {} };
        let is_read = tokio::select! {
            () = all => true,
            () = stop.signalled() => false,
        };
        let last = running.stop()?;
        Ok(is_read.then_some(last))
    })
}
