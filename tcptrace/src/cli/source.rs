//! Source of a view's records: the running kernel or a recording.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tokio::sync::{mpsc, watch};

use super::{
    live::{LiveArgs, time_is_up},
    recording::{RecordingSource, SharedEnding, ended, shown},
    window::WindowArgs,
};
use crate::{
    aggregate::Snapshot,
    model::{Flow, NetnsId, Record, Source, text},
    pipeline::{self, Engine, PipelinePlan, Running, Window},
    privileges::{self, Work},
    sandbox,
    session::{AtEnd, Ending},
    view,
};

/// Arguments of every view.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Recordings")]
pub struct SourceArgs {
    /// Read a recording instead of the running kernel; - is standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// With --from: follow the file while it is being written
    #[arg(long, requires = "from")]
    follow: bool,
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    pub(super) live: LiveArgs,
}

/// Which snapshots a view receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotMode {
    /// Only the newest.
    Newest,
    /// All of a recording; of a live source only the newest.
    Every,
}

/// Receiver of snapshots.
pub enum SnapshotSource {
    /// Only the newest.
    Newest(watch::Receiver<Option<Arc<Snapshot>>>),
    /// All of them.
    Every(mpsc::Receiver<Arc<Snapshot>>),
}

impl SnapshotSource {
    /// Waits for the next snapshot; `None` if the source has ended.
    pub async fn next(&mut self) -> Option<Arc<Snapshot>> {
        match self {
            Self::Every(all) => all.recv().await,
            Self::Newest(newest) => loop {
                newest.changed().await.ok()?;
                if let Some(snapshot) = newest.borrow_and_update().clone() {
                    return Some(snapshot);
                }
            },
        }
    }
}

/// A running view.
pub struct Started {
    /// The pipeline.
    pub running: Running,
    /// The snapshots to show.
    pub snapshots: SnapshotSource,
    /// Path and ending of the recording, if it reads one.
    ending: Option<(PathBuf, SharedEnding)>,
}

impl SourceArgs {
    /// Arguments for the running kernel.
    pub fn running_kernel(live: LiveArgs) -> Self {
        Self { from: None, follow: false, window: WindowArgs::default(), live }
    }

    /// Whether the source is the running kernel, which cannot wait.
    pub const fn is_live(&self) -> bool {
        self.from.is_none()
    }

    /// Path of the recording, if there is one.
    pub fn recording(&self) -> Option<&Path> {
        self.from.as_deref()
    }

    /// Opens the source and runs `plan` on it; sets the plan's source name and snapshot channel. Reads at most `length`
    /// of a recording. Afterwards the calling thread has dropped its privileges (live) or is confined (recording): it
    /// can only show snapshots.
    pub fn start(&self, plan: PipelinePlan, want: SnapshotMode, length: Option<Duration>) -> Result<Started> {
        let peer_names = self.live.peer_names()?;
        let (source, name, ending): (Box<dyn Source>, Arc<str>, _) = match &self.from {
            None => {
                self.window.reject_without_recording();
                (self.live.source(&plan)?, "live".into(), None)
            }
            Some(path) => {
                let at_end = if self.follow { AtEnd::Follow } else { AtEnd::Stop };
                let recording = RecordingSource::open(path, at_end)?;
                let ending = Some((path.clone(), recording.ending()));
                (recording.within(self.window.window(length)), shown(path).into(), ending)
            }
        };
        let wants_every = want == SnapshotMode::Every && !self.is_live();
        let (every_snapshot, every) = wants_every.then(|| mpsc::channel(1)).unzip();
        let plan = PipelinePlan { source: name, every_snapshot, peer_names, ..plan };
        let running = pipeline::start(source, plan).context("no thread for the pipeline")?;
        if self.is_live() {
            privileges::keep_for(Work::Nothing);
        } else {
            sandbox::confine();
        }
        let newest = || SnapshotSource::Newest(running.snapshots.clone());
        let snapshots = every.map_or_else(newest, SnapshotSource::Every);
        Ok(Started { running, snapshots, ending })
    }
}

impl Started {
    /// Stops the pipeline and prints a summary on stderr.
    pub fn end(self) -> Result<Arc<Snapshot>> {
        let last = Arc::new(self.running.stop()?);
        eprintln!("{}", view::losses::at_the_end(&last));
        if let Some((path, ending)) = self.ending
            && let Some(ending) = ended(&ending)
            && let Some(sentence) = ending.sentence()
        {
            eprintln!("tcptrace: {}: {sentence}", shown(&path));
        }
        Ok(last)
    }

    /// Calls `show` with every snapshot but the first, which has no rates, until the time is up or the source has
    /// ended.
    pub async fn each(
        &mut self,
        duration: Option<Duration>,
        mut show: impl FnMut(&Snapshot) -> Result<()>,
    ) -> Result<()> {
        if self.snapshots.next().await.is_none() {
            // The pipeline failed; `end` returns the error.
            return Ok(());
        }
        if self.ending.is_none() {
            eprintln!("tcptrace: tracing");
        }
        // A recording ends by itself at that time.
        let time_is_up = time_is_up(duration.filter(|_| self.ending.is_none()));
        tokio::pin!(time_is_up);
        loop {
            let next = tokio::select! {
                () = &mut time_is_up => return Ok(()),
                next = self.snapshots.next() => next,
            };
            let Some(snapshot) = next else { return Ok(()) };
            show(&snapshot)?;
        }
    }

    /// Waits until the source has ended by itself.
    pub async fn ended(&mut self) {
        while self.running.snapshots.changed().await.is_ok() {}
    }
}

/// Reads `window` of `recording`; returns how it ended. Confines the calling thread.
pub fn read_to_end(
    recording: RecordingSource,
    window: Window,
    engine: &mut Engine,
) -> Result<Option<Ending>> {
    let ending = recording.ending();
    let mut source = recording.within(window);
    while source.fill(&mut |record| engine.take(&record))? == Flow::Running {}
    Ok(ended(&ending))
}

/// Names of the network namespaces in the recording at `path`. Reads all of it, because a name comes after the first
/// sockets of its namespace.
pub fn netns_names(path: &Path) -> Result<BTreeMap<String, NetnsId>> {
    ensure!(
        path != Path::new("-"),
        "standard input can't be searched for the name of a network namespace: give its inode number, or save the recording to a file"
    );
    let mut recording = RecordingSource::open(path, AtEnd::Stop)?.watched();
    // Read on a separate thread: reading confines the thread, and this one must still open files.
    let names = privileges::run_on_thread("names", Work::Nothing, move || {
        let mut names = BTreeMap::new();
        let mut take = |record| {
            if let Record::NetnsName { netns, name, .. } = record
                && !name.is_empty()
            {
                names.insert(text::sanitise(&name).into_owned(), netns);
            }
        };
        while recording.fill(&mut take)? == Flow::Running {}
        Ok(names)
    });
    names.context("no thread to read")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_names_come_from_the_recording() {
        let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/session-v1.tcptrace");
        let names = netns_names(&recording).expect("names");
        assert_eq!(names.keys().collect::<Vec<_>>(), ["recfix", "sess1"]);
        assert!(netns_names(Path::new("-")).is_err());
    }
}
