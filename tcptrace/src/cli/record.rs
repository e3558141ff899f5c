//! `tcptrace record`: everything that is seen, into a file.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    filter::FilterArgs,
    live::{self, LiveArgs, Stop},
    size,
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    model::{Nanos, text, units},
    pipeline::{self, Plan, Running},
    session::{self, Existing, Failure, Keep, Recording, Rotate, Status, Written},
    source::Look,
    view,
};

/// Record everything that is seen to a file, for any view to read with --from
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A recording holds the addresses, ports and process names of this host's connections; only its owner may read it. \
It is an Arrow IPC stream: pandas, polars, pyarrow and DuckDB read it too, while it is being written as well.")]
pub struct RecordArgs {
    /// The file, - for standard output; with --rotate its name gets a number: FILE-0001
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    duration: Option<Duration>,
    /// Go on with a new file after so much: 64MiB, or 10m. Each can be read without the others
    #[arg(long, value_name = "SIZE|TIME", value_parser = rotate, conflicts_with = "last")]
    rotate: Option<Rotate>,
    /// With --rotate: keep this many files, the newest
    #[arg(long, value_name = "N", requires = "rotate", value_parser = clap::value_parser!(u64).range(1..))]
    keep: Option<u64>,
    /// Keep the newest stretch only, in memory, and write it at the end, or on SIGUSR1 to FILE-0001 and so on
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    last: Option<Duration>,
    /// Replace files that are there already
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    live: LiveArgs,
}

const fn nanos(time: Duration) -> Nanos {
    Nanos(time.as_nanos() as u64)
}

fn rotate(text: &str) -> Result<Rotate, String> {
    match (size(text), super::duration(text)) {
        (Ok(bytes), _) => Ok(Rotate::Size(bytes)),
        (_, Ok(time)) => Ok(Rotate::Time(nanos(time))),
        _ => Err("expected a size (64MiB) or a time (10m)".into()),
    }
}

impl RecordArgs {
    fn plan(&self) -> session::Plan {
        let keep = match (self.last, self.rotate) {
            (Some(last), _) => Keep::Last(nanos(last)),
            (None, Some(rotate)) => Keep::Series { rotate, files: self.keep.map(|keep| keep as usize) },
            (None, None) => Keep::All,
        };
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        session::Plan { path: self.output.clone(), keep, existing }
    }

    fn is_stream(&self) -> bool {
        self.output == Path::new("-")
    }

    /// What is said when it has begun.
    fn beginning(&self) -> String {
        let file = shown(&self.output);
        match (self.last, self.rotate) {
            (Some(last), _) => format!(
                "keeping the last {}, to be written to {file} at the end; SIGUSR1 writes it now",
                units::duration(nanos(last))
            ),
            (None, Some(_)) => format!("recording to {}", shown(&session::numbered(&self.output, 1))),
            (None, None) => format!("recording to {file}"),
        }
    }
}

/// How often the line of status is written anew.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// Runs the command.
pub fn run(args: &RecordArgs) -> Result<ExitCode> {
    let runtime = live::runtime()?;
    let code = runtime.block_on(record(args));
    // A disk that hangs must not keep the command from ending.
    runtime.shutdown_background();
    code
}

async fn record(args: &RecordArgs) -> Result<ExitCode> {
    let mut stop = Stop::listen_patiently()?;
    // From the first moment: uncaught it would end the program.
    let mut wants_dump = signal(SignalKind::user_defined1()).context("SIGUSR1 can't be caught")?;
    let filter = args.filters.filter(None)?;
    if args.is_stream() && (args.rotate.is_some() || args.last.is_some()) {
        bail!("--rotate and --last make files of their own: give them a name, not -");
    }
    let source = args.live.open(&filter, Look::Host)?;
    // Last: where nothing can be traced, no file is left behind.
    let (recorder, mut recording) = session::start(&args.plan())?;
    let plan = Plan {
        source: "live".into(),
        recorder: Some(recorder),
        ..Plan::new(filter, Grouping::NONE, Scope::Nothing, Nanos::SECOND)
    };
    let running = pipeline::start(Box::new(source), plan).context("no thread for the pipeline")?;

    let outcome = tokio::select! {
        outcome = watch(args, &mut wants_dump, &mut recording) => outcome,
        () = stop.signalled() => Outcome::Stop,
    };
    clear_status();
    let (done, last) = match outcome {
        Outcome::Over(done) => (done, running.stop()?),
        Outcome::Stop => tokio::select! {
            ended = end(running, &mut recording) => ended?,
            () = stop.signalled_again() => {
                let held = units::count(recording.status.records.load(Relaxed));
                eprintln!(
                    "tcptrace: interrupted before the last records were written: {} holds {held} records and can be read",
                    shown(&args.output)
                );
                return Ok(ExitCode::FAILURE);
            }
        },
    };
    while let Ok(dump) = recording.dumps.try_recv() {
        tell_dump(dump);
    }
    eprintln!("{}", view::losses::at_the_end(&last));
    match done {
        Ok(written) => {
            eprintln!("tcptrace: {}", summary(&written));
            Ok(ExitCode::SUCCESS)
        }
        // Whoever read it has had enough.
        Err(Failure { cause, .. }) if args.is_stream() && cause.why.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        Err(Failure { cause, written }) => {
            eprintln!("tcptrace: recording stopped: {cause}");
            // Not where the file itself is gone.
            if cause.why.kind() != io::ErrorKind::NotFound {
                eprintln!("tcptrace: what was written before can be read: {}", summary(&written));
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Why the recording ends.
enum Outcome {
    /// Because it was asked to.
    Stop,
    /// The writer gave up.
    Over(Result<Written, Failure>),
}

/// Waits until it is over, and says meanwhile how it goes.
async fn watch(args: &RecordArgs, wants_dump: &mut Signal, recording: &mut Recording) -> Outcome {
    let begun = Instant::now();
    let time_is_up = async {
        if (&mut recording.begun).await.is_ok() {
            clear_status();
            eprintln!("tcptrace: {}", args.beginning());
        }
        live::time_is_up(args.duration).await;
    };
    tokio::pin!(time_is_up);
    let mut status = tokio::time::interval(STATUS_EVERY);
    loop {
        tokio::select! {
            () = &mut time_is_up => return Outcome::Stop,
            done = &mut recording.done => match done {
                Ok(done) => return Outcome::Over(done),
                Err(_) => return Outcome::Stop,
            },
            Some(dump) = recording.dumps.recv() => {
                clear_status();
                tell_dump(dump);
            }
            Some(()) = wants_dump.recv() => recording.status.dump(),
            _ = status.tick() => write_status(&recording.status, begun.elapsed()),
        }
    }
}

/// Stops the source, and waits until everything is written.
async fn end(running: Running, recording: &mut Recording) -> Result<(Result<Written, Failure>, Snapshot)> {
    let last =
        tokio::task::spawn_blocking(move || running.stop()).await.context("the pipeline panicked")??;
    let done = (&mut recording.done).await.context("the recorder panicked")?;
    Ok((done, last))
}

fn tell_dump(dump: Result<Written, session::Unwritten>) {
    match dump {
        Ok(written) => eprintln!("tcptrace: {}", summary(&written)),
        Err(error) => eprintln!("tcptrace: not written: {error}"),
    }
}

fn summary(written: &Written) -> String {
    let series = if written.files > 1 { format!(" (file {})", written.files) } else { String::new() };
    format!(
        "{}{series}: {} records of {}, {}",
        shown(&written.path),
        units::count(written.records),
        units::duration(written.span),
        units::bytes(written.bytes),
    )
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") {
        return "standard output".into();
    }
    text::sanitise(&path.to_string_lossy()).into_owned()
}

fn write_status(status: &Arc<Status>, elapsed: Duration) {
    let mut stderr = io::stderr().lock();
    if !stderr.is_terminal() {
        return;
    }
    let missed = match status.missed.load(Relaxed) {
        0 => String::new(),
        missed => format!(", {} not recorded", units::count(missed)),
    };
    let _ = write!(
        stderr,
        "\r\x1b[K{} {} records, {}{missed}",
        units::duration(nanos(elapsed)),
        units::count(status.records.load(Relaxed)),
        units::bytes(status.bytes.load(Relaxed)),
    );
    let _ = stderr.flush();
}

fn clear_status() {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K");
    }
}
