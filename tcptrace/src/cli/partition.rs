//! `tcptrace export --partition`: adds recordings to a folder of Parquet files, one per host and hour.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError, mpsc::SyncSender},
};

use anyhow::{Context as _, Result, bail};
use tokio::sync::{
    mpsc::{UnboundedSender, unbounded_channel},
    oneshot,
};

use super::{
    live::{self, Stop},
    partition_files::{PartitionFiles, PartitionHost},
    recording::shown,
    recordings::{HostOrder, Recordings},
};
use crate::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    lifecycle::Event,
    model::{Nanos, Source, record::HostFacts, units},
    pipeline::{self, EventSink, PipelinePlan, Window},
    privileges::{self, Work},
    sandbox,
    session::AtEnd,
    view::export::{PartitionKey, PartitionedEvents},
};

/// Runs the command.
pub fn run(from: &[PathBuf], output: &Path) -> Result<ExitCode> {
    if from.iter().any(|path| path == Path::new("-")) || output == Path::new("-") {
        bail!("--partition reads files and writes a folder, not standard input or output");
    }
    let recordings = Recordings::open_identified(from, AtEnd::Stop)?.watched();
    let hosts = recordings.heads().map(PartitionHost::of).collect();
    let mut files = PartitionFiles::open(output, hosts, from).with_context(|| shown(output))?;
    let (source, endings) = recordings.source(Window::default(), HostOrder::HostByHost);
    let Some(rows) = write(source, &mut files)? else {
        eprintln!("tcptrace: interrupted: nothing was added to {}", shown(output));
        return Ok(ExitCode::FAILURE);
    };
    let rows = rows.with_context(|| format!("{}: nothing was added", shown(output)))?;
    for host in files.hosts().iter().filter(|host| host.is_exported) {
        eprintln!("tcptrace: {}: skipped: exported before, with other recordings", host.name);
    }
    let added = files.finish().with_context(|| shown(output))?;
    let added = units::plural(added as u64, "file", "files");
    eprintln!("tcptrace: {}: {} rows in {added}", shown(output), units::count(rows));
    endings.report();
    Ok(ExitCode::SUCCESS)
}

/// Writes all rows; `None` if a signal arrived before that. This thread creates the files; the threads that read recordings may not.
fn write(source: Box<dyn Source>, files: &mut PartitionFiles) -> Result<Option<Result<u64>>> {
    let (requests, mut requested) = unbounded_channel();
    let sink = PartitionSink::new(files.hosts(), requests);
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let (done_sender, mut done) = oneshot::channel();
        privileges::spawn("export", Work::Nothing, move || {
            sandbox::confine();
            done_sender.send(export(source, sink))
        })
        .context("no thread to export")?;
        loop {
            tokio::select! {
                done = &mut done => return done.context("the export panicked").map(Some),
                () = stop.signalled() => return Ok(None),
                Some(FileRequest { key, reply }) = requested.recv() => {
                    // Without a receiver the export has ended.
                    let _ = reply.send(files.create(key));
                }
            }
        }
    })
}

fn export(source: Box<dyn Source>, sink: PartitionSink) -> Result<u64> {
    let shared = Arc::clone(&sink.shared);
    let plan = PipelinePlan::new(Filter::EVERYTHING, Grouping::NONE, Scope::Nothing, Nanos(u64::MAX));
    let plan = PipelinePlan { events: Some(Box::new(sink)), ..plan };
    pipeline::start(source, plan).context("no thread for the pipeline")?.finish()?;
    let taken = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(PartitionWriting { events, failure }) = taken else { bail!("the files were already taken") };
    failure?;
    Ok(events.finish()?)
}

/// A request for a new file.
struct FileRequest {
    key: PartitionKey,
    reply: SyncSender<io::Result<File>>,
}

type CreateFile = Box<dyn FnMut(PartitionKey) -> io::Result<File> + Send>;

struct PartitionWriting {
    events: PartitionedEvents<File, CreateFile>,
    failure: io::Result<()>,
}

/// Receives events from the pipeline, which blocks on it: the source is a file.
struct PartitionSink {
    shared: Arc<Mutex<Option<PartitionWriting>>>,
    /// Name and boot id of each host, and whether its rows are wanted.
    hosts: Vec<(String, String, bool)>,
    /// The host of the last event.
    last: usize,
}

impl PartitionSink {
    fn new(hosts: &[PartitionHost], requests: UnboundedSender<FileRequest>) -> Self {
        let create: CreateFile = Box::new(move |key| {
            let (reply, created) = std::sync::mpsc::sync_channel(1);
            let interrupted = || io::Error::other("interrupted");
            requests.send(FileRequest { key, reply }).map_err(|_| interrupted())?;
            created.recv().map_err(|_| interrupted())?
        });
        let events = PartitionedEvents::new(hosts.iter().map(PartitionHost::metadata).collect(), create);
        let writing = PartitionWriting { events, failure: Ok(()) };
        let of = |host: &PartitionHost| (host.name.clone(), host.boot_id.clone(), !host.is_exported);
        Self { shared: Arc::new(Mutex::new(Some(writing))), hosts: hosts.iter().map(of).collect(), last: 0 }
    }

    /// The number of the host of an event. The facts of a host without a name have none.
    fn number(&mut self, host: &HostFacts) -> usize {
        let is_it = |(name, boot_id, _): &(String, String, bool)| {
            *boot_id == host.boot_id && (*name == host.host || host.host.is_empty())
        };
        if !self.hosts.get(self.last).is_some_and(is_it) {
            self.last = self.hosts.iter().position(is_it).unwrap_or(self.last);
        }
        self.last
    }
}

impl EventSink for PartitionSink {
    fn event(&mut self, event: &Event<'_>, host: &HostFacts) {
        let number = self.number(host);
        if self.hosts.get(number).is_some_and(|(_, _, is_wanted)| *is_wanted)
            && let Some(writing) = self.shared.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && writing.failure.is_ok()
        {
            writing.failure = writing.events.event(number, event, host);
        }
    }

    fn flush(&mut self) {}

    fn dropped(&self) -> u64 {
        0
    }
}
