//! Source of a view's records: the running kernel or a recording.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use tokio::sync::{mpsc, watch};

use super::{
    live::{LiveArgs, time_is_up},
    recording::RecordingSource,
    recordings::{Endings, HostOrder, Recordings},
    window::WindowArgs,
};
use crate::{
    aggregate::Snapshot,
    model::{Flow, NetnsId, Record, Source, peer_names::PeerNames, text},
    pipeline::{self, Engine, PipelinePlan, Running, Window},
    privileges::{self, Work},
    sandbox,
    session::AtEnd,
    view,
};

/// Arguments of every view.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Recordings")]
pub struct SourceArgs {
    /// Read a recording instead of the running kernel: a file, a folder of files, or - for standard input
    ///
    /// Repeat it to read the recordings of several hosts as one.
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
    /// With --from: follow the file while it is being written
    #[arg(long, requires = "from", hide_short_help = true)]
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
    /// Only the last of a recording; of a live source the newest.
    Last,
}

impl SnapshotMode {
    /// The order in which the records of several hosts are read.
    const fn order(self) -> HostOrder {
        match self {
            Self::Newest | Self::Every => HostOrder::ByTime,
            Self::Last => HostOrder::HostByHost,
        }
    }
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
    /// Endings of the recordings, if it reads any.
    endings: Option<Endings>,
}

impl SourceArgs {
    /// Arguments for the running kernel.
    pub fn running_kernel(live: LiveArgs) -> Self {
        Self { from: Vec::new(), follow: false, window: WindowArgs::default(), live }
    }

    /// Whether the source is the running kernel, which cannot wait.
    pub const fn is_live(&self) -> bool {
        self.from.is_empty()
    }

    /// Paths of the recordings; none for the running kernel.
    pub fn recordings(&self) -> &[PathBuf] {
        &self.from
    }

    /// Opens the recordings; `None` for the running kernel.
    pub fn open(&self) -> Result<Option<Recordings>> {
        if self.is_live() {
            self.window.reject_without_recording();
            return Ok(None);
        }
        let at_end = if self.follow { AtEnd::Follow } else { AtEnd::Stop };
        Recordings::open(&self.from, at_end).map(Some)
    }

    /// The recordings of each host and boot on their own; `None` for the running kernel.
    pub fn open_each(&self) -> Result<Vec<Option<Recordings>>> {
        Ok(match self.open()? {
            None => vec![None],
            Some(recordings) => recordings.split().into_iter().map(Some).collect(),
        })
    }

    /// Opens the source and runs `plan` on it; sets the plan's source name and snapshot channel. Reads at most `length`
    /// of a recording. Afterwards the calling thread has dropped its privileges (live) or is confined (recording): it
    /// can only show snapshots.
    pub fn start(&self, plan: PipelinePlan, want: SnapshotMode, length: Option<Duration>) -> Result<Started> {
        self.start_on(self.open()?, self.live.peer_names()?, plan, want, length)
    }

    /// Like [`Self::start`], on these recordings.
    pub fn start_on(
        &self,
        recordings: Option<Recordings>,
        peer_names: Arc<PeerNames>,
        plan: PipelinePlan,
        want: SnapshotMode,
        length: Option<Duration>,
    ) -> Result<Started> {
        let (source, name, endings): (Box<dyn Source>, Arc<str>, _) = match recordings {
            None => (self.live.source(&plan)?, "live".into(), None),
            Some(recordings) => {
                let name = Arc::clone(recordings.name());
                let (source, endings) = recordings.source(self.window.window(length), want.order());
                (source, name, Some(endings))
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
        Ok(Started { running, snapshots, endings })
    }
}

impl Started {
    /// Stops the pipeline and prints a summary on stderr.
    pub fn end(self) -> Result<Arc<Snapshot>> {
        let last = Arc::new(self.running.stop()?);
        eprintln!("{}", view::losses::at_the_end(&last));
        if let Some(endings) = self.endings {
            endings.report();
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
        if self.endings.is_none() {
            eprintln!("tcptrace: tracing");
        }
        // A recording ends by itself at that time.
        let time_is_up = time_is_up(duration.filter(|_| self.endings.is_none()));
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

/// Reads `window` of `recordings`; returns how they ended. Confines the calling thread.
pub fn read_to_end(
    recordings: Recordings,
    window: Window,
    order: HostOrder,
    engine: &mut Engine,
) -> Result<Endings> {
    let (mut source, endings) = recordings.source(window, order);
    while source.fill(&mut |record| engine.take(&record))? == Flow::Running {}
    Ok(endings)
}

/// Names of the network namespaces in the recording at `paths`. Reads all of it, because a name comes after the first
/// sockets of its namespace.
pub fn netns_names(paths: &[PathBuf]) -> Result<BTreeMap<String, NetnsId>> {
    let [path] = paths else {
        bail!(
            "a network namespace has another number on every host: with several recordings, give its inode number"
        );
    };
    ensure!(
        !path.is_dir(),
        "a network namespace has another number on every host: with a folder of recordings, give its inode number"
    );
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
        let names = netns_names(&[recording]).expect("names");
        assert_eq!(names.keys().collect::<Vec<_>>(), ["recfix", "sess1"]);
        assert!(netns_names(&["-".into()]).is_err());
    }
}
