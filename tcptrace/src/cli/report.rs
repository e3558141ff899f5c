//! `tcptrace report`: a recording as one page for people.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    by::GroupArgs,
    filter::FilterArgs,
    live::{self, Stop},
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    model::{Nanos, Record, text, units},
    pipeline::{self, Plan, Running},
    session::{self, AtEnd, Ending, Existing, Reader},
    source::{Flow, Look, Source},
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

/// How often the line of progress is written anew.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Runs the command.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let filter = args.filters.filter()?;
    let reader = Reader::open(&args.from, AtEnd::Stop).with_context(|| shown(&args.from))?;
    let ending = reader.ending();
    let mut output = Output::open(args)?;
    let filter_text = if filter.is_everything() { String::new() } else { filter.to_string() };
    let grouping = args.groups.grouping(Grouping::SERVICE);
    // Rates are over the whole of it, and nobody sees a picture before the last.
    let plan = Plan {
        source: shown(&args.from).into(),
        look: Look::Host,
        ..Plan::new(filter, grouping, Scope::Every, Nanos(u64::MAX))
    };
    let Some(last) = read(reader, plan)? else {
        eprintln!("tcptrace: interrupted: no report was written");
        return Ok(ExitCode::FAILURE);
    };
    let report = Report::of(&last, &filter_text, TimeZone::system());
    let mut content = Vec::new();
    if args.json {
        document::write(&mut content, &report)?;
    } else {
        page::write(&mut content, &report)?;
    }
    output.write(&content)?;
    eprintln!("{}", view::losses::at_the_end(&last));
    let ending = *ending.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sentence) = ending.and_then(Ending::sentence) {
        eprintln!("tcptrace: {}: {sentence}", shown(&args.from));
    }
    if let Output::File { path, .. } = &output {
        eprintln!("tcptrace: {}: {}", shown(path), units::bytes(content.len() as u64));
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the report goes. A file is there before anything is read, so that it is told early when it can't be made, and
/// it does not stay unless all of the report is in it.
enum Output<'a> {
    Standard,
    File { path: &'a Path, file: File, is_whole: bool },
}

impl<'a> Output<'a> {
    fn open(args: &'a ReportArgs) -> Result<Self> {
        let Some(path) = args.output.as_deref().filter(|path| *path != Path::new("-")) else {
            return Ok(Self::Standard);
        };
        let existing = if args.force { Existing::Replace } else { Existing::Keep };
        let file = session::create(path, existing).with_context(|| shown(path))?;
        Ok(Self::File { path, file, is_whole: false })
    }

    fn write(&mut self, content: &[u8]) -> Result<()> {
        match self {
            Self::Standard => {
                let mut out = io::stdout().lock();
                out.write_all(content).and_then(|()| out.flush())?;
            }
            Self::File { path, file, is_whole } => {
                file.write_all(content).with_context(|| shown(path))?;
                *is_whole = true;
            }
        }
        Ok(())
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if let Self::File { path, is_whole: false, .. } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Reads all of the recording; `None` when it was interrupted.
fn read(reader: Reader, plan: Plan) -> Result<Option<Snapshot>> {
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let length = reader.length();
        let position = Arc::new(AtomicU64::new(0));
        let source = Watched { reader, position: Arc::clone(&position) };
        let mut running = pipeline::start(Box::new(source), plan).context("no thread for the pipeline")?;
        let read = tokio::select! {
            () = watch(&mut running, &position, length) => true,
            () = stop.signalled() => false,
        };
        let last = running.stop()?;
        Ok(read.then_some(last))
    })
}

/// A reader that tells how far it is.
struct Watched {
    reader: Reader,
    position: Arc<AtomicU64>,
}

impl Source for Watched {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> Result<Flow> {
        let flow = self.reader.fill(take);
        self.position.store(self.reader.position(), Relaxed);
        flow
    }
}

/// Waits until everything is read, and says on a terminal how far it is.
async fn watch(running: &mut Running, position: &AtomicU64, length: Option<u64>) {
    let is_terminal = io::stderr().is_terminal();
    let mut often = tokio::time::interval(PROGRESS_EVERY);
    // The first comes at once.
    often.tick().await;
    loop {
        tokio::select! {
            changed = running.snapshots.changed() => if changed.is_err() { break },
            _ = often.tick() => if is_terminal { progress(position.load(Relaxed), length) },
        }
    }
    if is_terminal {
        let _ = write!(io::stderr().lock(), "\r\x1b[K");
    }
}

fn progress(read: u64, length: Option<u64>) {
    const WIDTH: u64 = 30;
    let mut stderr = io::stderr().lock();
    let _ = match length.filter(|&length| length > 0) {
        Some(length) => {
            let read = read.min(length);
            let full = (read * WIDTH / length) as usize;
            let bar = "#".repeat(full) + &".".repeat(WIDTH as usize - full);
            write!(stderr, "\r\x1b[K[{bar}] {} of {}", units::bytes(read), units::bytes(length))
        }
        None => write!(stderr, "\r\x1b[Kreading: {}", units::bytes(read)),
    };
    let _ = stderr.flush();
}

/// A path as it may be shown.
fn shown(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".into()
    } else {
        text::sanitise(&path.to_string_lossy()).into()
    }
}
