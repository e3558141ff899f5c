//! `tcptrace record`: writes every observation to a file.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{
    exit::misuse,
    filter::FilterArgs,
    live::{self, LiveArgs, Stop},
    progress::show_status,
    recording,
    triggers::{self, RateLimit, Triggers},
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    model::{Nanos, units},
    output_file::Existing,
    pipeline::{self, PipelinePlan, Running, StackPlan},
    privileges::{self, Work},
    session::{self, Failure, Keep, RecorderStatus, Recording, Rotate, Written},
    source::PollKind,
    view,
};

/// Record every observation to a file, which every view reads with --from
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A recording contains the addresses, ports and process names of this host's connections; only its owner may read it. \
It is an Arrow IPC stream, which pyarrow, polars and pandas can read, even while it is being written; DuckDB reads it \
through pyarrow, or as the Parquet file that `tcptrace export` writes.\n\n\
A restarted recorder continues after the highest number it finds: numbered files are never replaced, and \
--keep counts the files of earlier runs.")]
pub struct RecordArgs {
    /// The file; - is standard output
    ///
    /// --rotate adds the first free number to the name: FILE-0001.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    duration: Option<Duration>,
    /// Start a new file after this size or time: 64MiB, or 10m
    ///
    /// Each can be read without the others.
    #[arg(long, value_name = "SIZE|TIME", value_parser = rotate, conflicts_with = "last")]
    rotate: Option<Rotate>,
    /// With --rotate or --when: keep only this many files, the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep: Option<u64>,
    /// With --when: keep only so many bytes in all files, the newest: 1GiB
    #[arg(long, value_name = "SIZE", requires = "when", hide_short_help = true, value_parser = units::parse_size)]
    keep_bytes: Option<u64>,
    /// Keep only the last TIME in memory; write it on SIGUSR1, and at the end
    ///
    /// On SIGUSR1 to FILE-0001 and so on; at the end to FILE, or to the next number if FILE exists.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    last: Option<Duration>,
    /// Also record the code that opens and closes connections
    ///
    /// User stacks of the system calls, for `tcptrace stacks --from FILE`.
    #[arg(long)]
    stacks: bool,
    /// With --last: write when one of these findings begins; `tcptrace doctor --list` lists them
    ///
    /// To a numbered file each time, and nothing at the end.
    #[arg(long, value_name = "FINDING,..", requires = "last", value_delimiter = ',', value_parser = triggers::finding)]
    when: Vec<&'static str>,
    /// With --when: write so long after the finding began
    #[arg(long, value_name = "TIME", requires = "when", hide_short_help = true, default_value = "2m", value_parser = units::parse_duration)]
    after: Duration,
    /// With --when: write at most so many files in this time
    #[arg(long, value_name = "N/TIME", requires = "when", hide_short_help = true, default_value = "1/10m")]
    at_most: RateLimit,
    /// Replace FILE if it exists
    ///
    /// Numbered files and files written by --last are never replaced.
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
    // A number alone is seconds elsewhere; here it could also mean bytes.
    let has_unit = text.ends_with(|c: char| c.is_ascii_alphabetic());
    match (units::parse_size(text), units::parse_duration(text)) {
        _ if !has_unit => Err("expected a size (64MiB) or a time (10m)".into()),
        (Ok(bytes), _) => Ok(Rotate::Size(bytes)),
        (_, Ok(time)) => Ok(Rotate::Time(nanos(time))),
        _ => Err("expected a size (64MiB) or a time (10m)".into()),
    }
}

impl RecordArgs {
    fn plan(&self) -> session::RecordPlan {
        let keep = match (self.last, self.rotate) {
            (Some(last), _) if !self.when.is_empty() => Keep::Incidents {
                last: nanos(last + self.after),
                files: self.keep.map(|keep| keep as usize),
                bytes: self.keep_bytes,
            },
            (Some(last), _) => Keep::Last(nanos(last)),
            (None, Some(rotate)) => Keep::Series { rotate, files: self.keep.map(|keep| keep as usize) },
            (None, None) => Keep::All,
        };
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        session::RecordPlan { path: self.output.clone(), keep, existing }
    }

    fn is_stream(&self) -> bool {
        self.output == Path::new("-")
    }

    /// The message when the recording has started in `file`.
    fn beginning(&self, file: &Path) -> String {
        let file = shown(file);
        match self.last {
            Some(last) if !self.when.is_empty() => format!(
                "keeping the last {}; written to a numbered {file} when {} begins, or now on SIGUSR1",
                units::duration(nanos(last)),
                self.when.join(" or ")
            ),
            Some(last) => format!(
                "keeping the last {}; written to {file} at the end, or now on SIGUSR1",
                units::duration(nanos(last))
            ),
            None => format!("recording to {file}"),
        }
    }
}

/// Redraw interval of the status line.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the command.
pub fn run(args: &RecordArgs) -> Result<ExitCode> {
    if args.is_stream() && (args.rotate.is_some() || args.last.is_some()) {
        misuse("--rotate and --last create several files: give a file name, not -");
    }
    if args.keep.is_some() && args.rotate.is_none() && args.when.is_empty() {
        misuse("--keep needs --rotate or --when");
    }
    let runtime = live::runtime()?;
    let code = runtime.block_on(record(args));
    // A disk that hangs must not block the exit.
    runtime.shutdown_background();
    code
}

async fn record(args: &RecordArgs) -> Result<ExitCode> {
    let mut stop = Stop::listen_until_done()?;
    // Register this first: an uncaught SIGUSR1 ends the process.
    let mut wants_dump = signal(SignalKind::user_defined1()).context("SIGUSR1 can't be caught")?;
    let filter = args.filters.filter(&[])?;
    let peer_names = args.live.peer_names()?;
    let source = args.live.open(&filter, PollKind::Host, args.stacks.then(StackPlan::default))?;
    // Open the file last, so that none is left behind if tracing is impossible.
    let (recorder, mut recording) = session::start(&args.plan())?;
    // Triggers judge what `doctor` judges; without them only the losses are of interest.
    let grouping: Grouping = "service,process".parse().unwrap_or(Grouping::SERVICE);
    let (grouping, scope, polls) = if args.when.is_empty() {
        (Grouping::NONE, Scope::Nothing, PollKind::States)
    } else {
        (grouping, Scope::TimewaitSockets, PollKind::Host)
    };
    let plan = PipelinePlan {
        source: "live".into(),
        peer_names,
        recorder: Some(recorder),
        polls,
        ..PipelinePlan::new(filter, grouping, scope, Nanos::SECOND)
    };
    let mut triggers = Triggers::new(&args.when, args.after, args.at_most);
    let running = pipeline::start(Box::new(source), plan).context("no thread for the pipeline")?;
    privileges::keep_for(Work::Nothing);

    let outcome = tokio::select! {
        outcome = watch(args, &mut wants_dump, &mut recording, &mut triggers, running.snapshots.clone()) => outcome,
        () = stop.signalled() => RecordOutcome::Stop,
    };
    show_status("");
    // An incident whose time has not come is written now.
    let waiting = triggers.take();
    if !waiting.is_empty() {
        recording.status.dump_incidents(waiting);
    }
    let (done, last) = match outcome {
        RecordOutcome::Over(done) => (done, running.stop()?),
        RecordOutcome::Stop => tokio::select! {
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
        eprintln!("{}", dump_message(&dump));
    }
    eprintln!("{}", view::losses::at_the_end(&last));
    match done {
        // The files of incidents were reported.
        Ok(_) if !args.when.is_empty() => Ok(ExitCode::SUCCESS),
        Ok(written) => {
            eprintln!("tcptrace: {}", summary(&written));
            Ok(ExitCode::SUCCESS)
        }
        // The reader of the stream has closed the pipe.
        Err(Failure { cause, .. }) if args.is_stream() && cause.why.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            eprintln!("tcptrace: recording stopped: {}", describe_failure(&failure));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Why the recording ends.
enum RecordOutcome {
    /// Stop was requested: a signal, or the end of `--duration`.
    Stop,
    /// The recorder ended by itself.
    Over(Result<Written, Failure>),
}

/// Waits for the end of the recording and shows its status.
async fn watch(
    args: &RecordArgs,
    wants_dump: &mut Signal,
    recording: &mut Recording,
    triggers: &mut Triggers,
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
) -> RecordOutcome {
    let is_triggered = !args.when.is_empty();
    let begun = Instant::now();
    let time_is_up = async {
        if let Ok(file) = (&mut recording.begun).await {
            show_status("");
            eprintln!("tcptrace: {}", args.beginning(&file));
        }
        live::time_is_up(args.duration).await;
    };
    tokio::pin!(time_is_up);
    let mut status = tokio::time::interval(STATUS_INTERVAL);
    loop {
        tokio::select! {
            () = &mut time_is_up => return RecordOutcome::Stop,
            done = &mut recording.done => match done {
                Ok(done) => return RecordOutcome::Over(done),
                Err(_) => return RecordOutcome::Stop,
            },
            Some(dump) = recording.dumps.recv() => {
                show_status("");
                eprintln!("{}", dump_message(&dump));
            }
            Some(()) = wants_dump.recv() => recording.status.dump(),
            Ok(()) = snapshots.changed(), if is_triggered => {
                let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
                for begun in triggers.update(&snapshot, tokio::time::Instant::now()) {
                    show_status("");
                    triggers.report(&begun);
                }
            }
            () = triggers.due() => recording.status.dump_incidents(triggers.take()),
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

/// The message after a dump (SIGUSR1).
fn dump_message(dump: &Result<Written, Failure>) -> String {
    match dump {
        Ok(written) => format!("tcptrace: {}", summary(written)),
        Err(failure) => format!(
            "tcptrace: not written: {}\ntcptrace: all records are still in memory: SIGUSR1 retries",
            describe_failure(failure)
        ),
    }
}

/// Describes a failure: the cause, then on lines of their own what can be read and what was not written.
fn describe_failure(Failure { cause, written }: &Failure) -> String {
    let mut lines = vec![cause.to_string()];
    // Not if the file no longer exists.
    if written.files > 0 && cause.why.kind() != io::ErrorKind::NotFound {
        lines.push(format!("what was written before can be read: {}", summary(written)));
    }
    if written.left_out > 0 {
        let records = units::plural(written.left_out, "record", "records");
        lines.push(format!("{records} in memory were not written to a file"));
    }
    lines.join("\ntcptrace: ")
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
    recording::shown(path)
}

fn write_status(status: &Arc<RecorderStatus>, elapsed: Duration) {
    let missed = match status.missed.load(Relaxed) {
        0 => String::new(),
        missed => format!(", {} not recorded", units::count(missed)),
    };
    show_status(&format!(
        "{} {} records, {}{missed}",
        units::duration(nanos(elapsed)),
        units::count(status.records.load(Relaxed)),
        units::bytes(status.bytes.load(Relaxed)),
    ));
}
