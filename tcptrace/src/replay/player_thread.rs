//! Replay thread: processes requests and publishes snapshots and a [`ReplayStatus`] at the requested speed.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::sync::watch;

use super::{
    index::{Direction, Index},
    player::{Player, SeekResult},
};
use crate::{
    aggregate::{Snapshot, detail::Query},
    model::Nanos,
    privileges::{self, Work},
};

/// Seek or speed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayCommand {
    /// Pauses or resumes; at the end resumes from the start.
    Toggle,
    /// Selects the next higher of [`SPEEDS`].
    Faster,
    /// Selects the next lower speed.
    Slower,
    /// Moves by this many snapshots and pauses.
    Step(isize),
    /// Seeks to the snapshot at this time.
    Go(Nanos),
    /// Seeks to the first snapshot.
    Start,
    /// Seeks to the last snapshot.
    End,
    /// Seeks to a TIME_WAIT peak and pauses.
    Peak(Direction),
    /// Seeks to the beginning of a finding and pauses.
    Incident(Direction),
}

/// Request to the thread.
#[derive(Clone, Debug)]
pub enum Request {
    /// A seek or speed command.
    Time(ReplayCommand),
    /// A new grouping, filter or detail.
    SetQuery(Box<Query>),
    /// End of the thread.
    Stop,
}

/// Seconds of the recording shown per second of wall time.
pub const SPEEDS: [f64; 14] =
    [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0];

/// Minimum time between two snapshots during playback.
const FASTEST: Duration = Duration::from_millis(100);

/// State of the replay.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayStatus {
    /// Number of the snapshot shown.
    pub frame: usize,
    /// Number of the snapshot being sought, if different.
    pub target: Option<usize>,
    /// Whether playback runs.
    pub is_playing: bool,
    /// Playback speed.
    pub speed: f64,
    /// What the last command found, or why it had no effect.
    pub note: Option<Cow<'static, str>>,
}

/// A running replay, which ends when this is dropped.
pub struct Drive {
    /// Sender for requests.
    pub requests: Sender<Request>,
    /// The snapshot shown; `None` before the first.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The current status.
    pub status: watch::Receiver<ReplayStatus>,
    /// Index of the snapshots.
    pub index: Arc<Index>,
    thread: JoinHandle<Result<()>>,
}

impl Drive {
    /// Ends the thread, even while other senders exist: a view whose terminal hangs still holds one.
    pub fn finish(self) -> Result<()> {
        // The thread may have ended with an error already.
        let _ = self.requests.send(Request::Stop);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Plays `player` from its first snapshot on.
pub fn drive(player: Player, speed: f64) -> std::io::Result<Drive> {
    let (requests, receiver) = mpsc::channel();
    let (publish, snapshots) = watch::channel(None);
    let status = ReplayStatus { frame: 0, target: None, is_playing: true, speed, note: None };
    let (publish_status, status_receiver) = watch::channel(status.clone());
    let index = Arc::clone(player.index());
    let driver = Driver {
        player,
        requests: receiver,
        waiting: None,
        is_stale: true,
        publish,
        publish_status,
        status,
        target: 0,
        since: (Instant::now(), Nanos(0)),
    };
    let thread = privileges::spawn("replay", Work::Nothing, move || driver.run())?;
    Ok(Drive { requests, snapshots, status: status_receiver, index, thread })
}

struct Driver {
    player: Player,
    requests: Receiver<Request>,
    /// A request that arrived during a seek.
    waiting: Option<Request>,
    /// The snapshot shown does not match the query yet.
    is_stale: bool,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    publish_status: watch::Sender<ReplayStatus>,
    status: ReplayStatus,
    /// Number of the snapshot to show.
    target: usize,
    /// Start of the current playback: wall time and recording time.
    since: (Instant, Nanos),
}

/// Why [`Driver::wait`] returned.
enum WakeReason {
    Requested(Request),
    /// The next snapshot is due.
    Due,
    /// All request senders are gone.
    Disconnected,
}

impl Driver {
    fn run(mut self) -> Result<()> {
        self.go()?;
        self.begin();
        loop {
            match self.wait() {
                WakeReason::Requested(Request::Time(command)) => self.apply_command(command),
                WakeReason::Requested(Request::SetQuery(query)) => self.ask(*query)?,
                WakeReason::Due => self.play_on(),
                WakeReason::Requested(Request::Stop) | WakeReason::Disconnected => return Ok(()),
            }
            self.go()?;
        }
    }

    /// Waits for a request, or until the next snapshot is due.
    fn wait(&mut self) -> WakeReason {
        if let Some(request) = self.waiting.take() {
            return WakeReason::Requested(request);
        }
        if self.status.target.is_some() || self.is_stale {
            // A command that changes no position interrupted a seek: continue it.
            return match self.requests.try_recv() {
                Ok(request) => WakeReason::Requested(request),
                Err(TryRecvError::Empty) => WakeReason::Due,
                Err(TryRecvError::Disconnected) => WakeReason::Disconnected,
            };
        }
        if !self.status.is_playing {
            return self.requests.recv().map_or(WakeReason::Disconnected, WakeReason::Requested);
        }
        match self.requests.recv_timeout(self.time_to_next()) {
            Ok(request) => WakeReason::Requested(request),
            Err(RecvTimeoutError::Timeout) => WakeReason::Due,
            Err(RecvTimeoutError::Disconnected) => WakeReason::Disconnected,
        }
    }

    fn time_to_next(&self) -> Duration {
        let Some(next) = self.player.index().frame(self.target + 1) else { return FASTEST };
        let left = next.ts.since(self.moment()).as_secs_f64() / self.status.speed;
        Duration::try_from_secs_f64(left).unwrap_or(FASTEST).max(FASTEST)
    }

    /// Recording time that playback has reached.
    fn moment(&self) -> Nanos {
        let (then, ts) = self.since;
        let passed = then.elapsed().as_secs_f64() * self.status.speed * 1e9;
        ts.plus(Nanos(passed as u64))
    }

    /// Restarts the playback clock at the current position.
    fn begin(&mut self) {
        let ts = self.player.index().frame(self.target).map_or(Nanos(0), |frame| frame.ts);
        self.since = (Instant::now(), ts);
    }

    fn play_on(&mut self) {
        if !self.status.is_playing {
            return;
        }
        let index = self.player.index();
        self.target = index.at(self.moment()).max(self.target);
        if self.target + 1 >= index.len() {
            self.status.is_playing = false;
        }
    }

    fn apply_command(&mut self, command: ReplayCommand) {
        self.status.note = None;
        let index = Arc::clone(self.player.index());
        let last = index.len().saturating_sub(1);
        match command {
            ReplayCommand::Toggle => {
                self.status.is_playing = !self.status.is_playing;
                if self.status.is_playing && self.target == last {
                    self.target = 0;
                }
            }
            ReplayCommand::Faster => {
                self.set_speed(SPEEDS.into_iter().find(|&speed| speed > self.status.speed));
            }
            ReplayCommand::Slower => {
                self.set_speed(SPEEDS.into_iter().rev().find(|&speed| speed < self.status.speed));
            }
            ReplayCommand::Step(frames) => {
                self.status.is_playing = false;
                self.target = self.target.saturating_add_signed(frames).min(last);
            }
            ReplayCommand::Go(ts) => self.target = index.at(ts),
            ReplayCommand::Start => self.target = 0,
            ReplayCommand::End => self.target = last,
            ReplayCommand::Peak(which) => {
                self.status.is_playing = false;
                match index.peak(self.target, which) {
                    Some(peak) => self.target = peak,
                    None => self.status.note = Some(none(which, "peak of TIME_WAIT")),
                }
            }
            ReplayCommand::Incident(which) => {
                self.status.is_playing = false;
                let note = match index.incidents(self.target, which) {
                    Some((frame, incidents)) => {
                        self.target = frame;
                        let ids: Vec<&str> = incidents.iter().map(|incident| &*incident.finding).collect();
                        format!("incident {}", ids.join(", ")).into()
                    }
                    None => none(which, "incident"),
                };
                self.status.note = Some(note);
            }
        }
        self.begin();
    }

    fn ask(&mut self, query: Query) -> Result<()> {
        self.player.ask(query)?;
        self.is_stale = true;
        Ok(())
    }

    fn set_speed(&mut self, speed: Option<f64>) {
        match speed {
            Some(speed) => self.status.speed = speed,
            None => self.status.note = Some("that is the limit".into()),
        }
    }

    /// Seeks to the target snapshot, unless a request arrives meanwhile.
    fn go(&mut self) -> Result<()> {
        let is_elsewhere = self.target != self.status.frame || self.is_stale;
        self.status.target = is_elsewhere.then_some(self.target);
        self.publish_status.send_replace(self.status.clone());
        if !is_elsewhere {
            return Ok(());
        }
        let Self { player, requests, waiting, .. } = self;
        let shown = player.show(self.target, &mut || {
            match requests.try_recv() {
                Ok(request) => *waiting = Some(request),
                Err(TryRecvError::Empty) => return true,
                // All request senders are gone.
                Err(TryRecvError::Disconnected) => {}
            }
            false
        })?;
        if let SeekResult::Snapshot(snapshot) = shown {
            self.is_stale = false;
            self.status.frame = self.target;
            self.status.target = None;
            self.publish.send_replace(Some(snapshot));
            self.publish_status.send_replace(self.status.clone());
        }
        Ok(())
    }
}

/// That there is no earlier or later `thing`.
fn none(which: Direction, thing: &str) -> Cow<'static, str> {
    let order = if which == Direction::Next { "later" } else { "earlier" };
    format!("no {order} {thing}").into()
}
