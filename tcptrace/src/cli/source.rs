//! Where a view takes its records from: the running kernel, or a recording.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tokio::sync::{mpsc, watch};

use super::{
    live::{LiveArgs, time_is_up},
    progress::Watched,
};
use crate::{
    aggregate::Snapshot,
    model::{NetnsId, Record, text},
    pipeline::{self, Engine, Plan, Running},
    sandbox,
    session::{AtEnd, Ending, Reader},
    source::{Flow, Source},
    view,
};

/// Arguments of every view.
#[derive(Args, Clone, Debug)]
pub struct SourceArgs {
    /// Read a recording instead of the running kernel; - is standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// With --from: go on with what is still being written to the file
    #[arg(long, requires = "from")]
    follow: bool,
    #[command(flatten)]
    pub(super) live: LiveArgs,
}

/// Which snapshots a view wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The newest, whenever it looks.
    Newest,
    /// Every one, from a source that can wait; live the newest.
    Every,
}

/// Snapshots as they come.
pub enum Snapshots {
    /// The newest.
    Newest(watch::Receiver<Option<Arc<Snapshot>>>),
    /// Every one.
    Every(mpsc::Receiver<Arc<Snapshot>>),
}

impl Snapshots {
    /// Waits for the next; `None` when the source has ended.
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

/// A view at work.
pub struct Started {
    /// The pipeline.
    pub running: Running,
    /// What it shows.
    pub snapshots: Snapshots,
    /// How the recording ended.
    ending: Option<(PathBuf, Arc<Mutex<Option<Ending>>>)>,
}

impl SourceArgs {
    /// The running kernel.
    pub const fn running_kernel(live: LiveArgs) -> Self {
        Self { from: None, follow: false, live }
    }

    /// Whether the records come from the running kernel: nothing may make it wait.
    pub const fn is_live(&self) -> bool {
        self.from.is_none()
    }

    /// The recording, if it is one.
    pub fn recording(&self) -> Option<&Path> {
        self.from.as_deref()
    }

    /// Opens the source and starts `plan` with it: its name and who gets the snapshots is set here.
    pub fn start(&self, plan: Plan, want: Want) -> Result<Started> {
        let (source, name, ending): (Box<dyn Source>, Arc<str>, _) = match &self.from {
            None => (self.live.source(&plan.filter, plan.look)?, "live".into(), None),
            Some(path) => {
                let at_end = if self.follow { AtEnd::Follow } else { AtEnd::Stop };
                let reader = Reader::open(path, at_end).with_context(|| shown(path))?;
                let ending = Some((path.clone(), reader.ending()));
                sandbox::close(&[path]);
                (Box::new(reader), shown(path).into(), ending)
            }
        };
        let (pictures, every) = if want == Want::Every && !self.is_live() {
            let (send, receive) = mpsc::channel(1);
            (Some(send), Some(receive))
        } else {
            (None, None)
        };
        let plan = Plan { source: name, pictures, ..plan };
        let running = pipeline::start(source, plan).context("no thread for the pipeline")?;
        let snapshots = match every {
            Some(every) => Snapshots::Every(every),
            None => Snapshots::Newest(running.snapshots.clone()),
        };
        Ok(Started { running, snapshots, ending })
    }
}

impl Started {
    /// Ends it, and says on stderr how it went.
    pub fn end(self) -> Result<Arc<Snapshot>> {
        let last = Arc::new(self.running.stop()?);
        eprintln!("{}", view::losses::at_the_end(&last));
        if let Some((path, ending)) = self.ending
            && let Some(ending) = *ending.lock().unwrap_or_else(PoisonError::into_inner)
            && let Some(sentence) = ending.sentence()
        {
            eprintln!("tcptrace: {}: {sentence}", shown(&path));
        }
        Ok(last)
    }

    /// Hands every snapshot but the first, which has no rates, to `show` until the time is up or the source has ended.
    pub async fn each(
        &mut self,
        duration: Option<Duration>,
        mut show: impl FnMut(&Snapshot) -> Result<()>,
    ) -> Result<()> {
        if self.snapshots.next().await.is_none() {
            // The pipeline ended with an error, which the end tells.
            return Ok(());
        }
        if self.ending.is_none() {
            eprintln!("tcptrace: tracing");
        }
        let time_is_up = time_is_up(duration);
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

/// Reads the recording at `path` to its end, with a line of progress; returns how it ended.
pub fn read_to_end(path: &Path, engine: &mut Engine) -> Result<Option<Ending>> {
    let reader = Reader::open(path, AtEnd::Stop).with_context(|| shown(path))?;
    let ending = reader.ending();
    let mut source = Watched::new(reader, &shown(path));
    while source.fill(&mut |record| engine.take(&record)).with_context(|| shown(path))? == Flow::Running {}
    let ending = *ending.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(ending)
}

/// The names of network namespaces in the recording at `path`: all of it is read, for a name comes after the first
/// sockets of its namespace.
pub fn netns_names(path: &Path) -> Result<BTreeMap<String, NetnsId>> {
    ensure!(
        path != Path::new("-"),
        "standard input can't be read ahead for the name of a network namespace: give its inode number, or save it to a file"
    );
    // On a thread of its own: this one may have files to open yet.
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            sandbox::close(&[path]);
            let mut names = BTreeMap::new();
            let mut reader = Watched::new(Reader::open(path, AtEnd::Stop)?, &shown(path));
            let mut take = |record| {
                if let Record::NetnsName { netns, name, .. } = record {
                    names.insert(text::sanitise(&name).into_owned(), netns);
                }
            };
            while reader.fill(&mut take)? == Flow::Running {}
            anyhow::Ok(names)
        });
        reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
    .with_context(|| shown(path))
}

/// A path as it may be shown.
pub fn shown(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".into()
    } else {
        text::sanitise(&path.to_string_lossy()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_the_name_that_it_had() {
        let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/session-v1.tcptrace");
        let names = netns_names(&recording).expect("names");
        assert_eq!(names.keys().collect::<Vec<_>>(), ["recfix", "sess1"]);
        assert!(netns_names(Path::new("-")).is_err());
    }
}
