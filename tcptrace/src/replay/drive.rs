//! The thread that goes through a recording: commands in, pictures and a [`Status`] out, at the pace that was
//! asked for.

use std::{
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
    index::{Index, Peak},
    player::{Player, Shown},
};
use crate::{aggregate::Snapshot, inspect::Query, model::Nanos};

/// Where to go, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Play where it stands, stand still where it plays; at the end play from the start.
    Toggle,
    /// The next higher of [`SPEEDS`].
    Faster,
    /// The next lower.
    Slower,
    /// So many pictures on, or back; stands still there.
    Step(isize),
    /// To the picture at this moment.
    Go(Nanos),
    /// To the first picture.
    Start,
    /// To the last.
    End,
    /// To a peak of TIME_WAIT; stands still there.
    Peak(Peak),
}

/// What the thread can be asked for.
#[derive(Clone, Debug)]
pub enum Request {
    /// Another moment, or another pace.
    Time(Command),
    /// To group, filter or look in another way.
    Ask(Box<Query>),
}

/// What one second of watching can show of the recording, in seconds.
pub const SPEEDS: [f64; 14] =
    [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0];

/// While it plays, pictures come no faster than this.
const FASTEST: Duration = Duration::from_millis(100);

/// Where the replay stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The picture that is shown.
    pub picture: usize,
    /// The one it is on the way to, where that is another.
    pub target: Option<usize>,
    /// Whether it goes on by itself.
    pub is_playing: bool,
    /// How fast.
    pub speed: f64,
    /// Why the last command did nothing.
    pub note: Option<&'static str>,
}

/// A replay under way. It ends when this is dropped.
pub struct Drive {
    /// Takes requests.
    pub requests: Sender<Request>,
    /// The picture that is shown; `None` before the first.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Where it stands.
    pub status: watch::Receiver<Status>,
    /// What was when.
    pub index: Arc<Index>,
    thread: JoinHandle<Result<()>>,
}

impl Drive {
    /// Waits for its end, which comes when no one can send commands any more.
    pub fn finish(self) -> Result<()> {
        drop(self.requests);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Plays `player` from its first picture on.
pub fn drive(player: Player, speed: f64) -> std::io::Result<Drive> {
    let (requests, receiver) = mpsc::channel();
    let (publish, snapshots) = watch::channel(None);
    let status = Status { picture: 0, target: None, is_playing: true, speed, note: None };
    let (tell, status_receiver) = watch::channel(status.clone());
    let index = Arc::clone(player.index());
    let driver = Driver {
        player,
        requests: receiver,
        waiting: None,
        is_stale: true,
        publish,
        tell,
        status,
        target: 0,
        since: (Instant::now(), Nanos(0)),
    };
    let thread = std::thread::Builder::new().name("replay".into()).spawn(move || driver.run())?;
    Ok(Drive { requests, snapshots, status: status_receiver, index, thread })
}

struct Driver {
    player: Player,
    requests: Receiver<Request>,
    /// A request that came on the way to a picture.
    waiting: Option<Request>,
    /// The picture that is shown is not what was asked for.
    is_stale: bool,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    tell: watch::Sender<Status>,
    status: Status,
    /// The picture to go to.
    target: usize,
    /// While it plays: when it showed which moment.
    since: (Instant, Nanos),
}

/// Why it goes on.
enum Woken {
    Asked(Request),
    /// Another picture is to be shown.
    Due,
    /// No one can send commands any more.
    Alone,
}

impl Driver {
    fn run(mut self) -> Result<()> {
        self.go()?;
        self.begin();
        loop {
            match self.wait() {
                Woken::Asked(Request::Time(command)) => self.obey(command),
                Woken::Asked(Request::Ask(query)) => self.ask(*query)?,
                Woken::Due => self.play_on(),
                Woken::Alone => return Ok(()),
            }
            self.go()?;
        }
    }

    /// Waits for a command, or until another picture is due.
    fn wait(&mut self) -> Woken {
        if let Some(request) = self.waiting.take() {
            return Woken::Asked(request);
        }
        if self.status.target.is_some() || self.is_stale {
            // A way that was broken off, by a command that goes nowhere.
            return match self.requests.try_recv() {
                Ok(request) => Woken::Asked(request),
                Err(TryRecvError::Empty) => Woken::Due,
                Err(TryRecvError::Disconnected) => Woken::Alone,
            };
        }
        if !self.status.is_playing {
            return self.requests.recv().map_or(Woken::Alone, Woken::Asked);
        }
        match self.requests.recv_timeout(self.until_next()) {
            Ok(request) => Woken::Asked(request),
            Err(RecvTimeoutError::Timeout) => Woken::Due,
            Err(RecvTimeoutError::Disconnected) => Woken::Alone,
        }
    }

    fn until_next(&self) -> Duration {
        let Some(next) = self.player.index().frame(self.target + 1) else { return FASTEST };
        let left = next.ts.since(self.moment()).as_secs_f64() / self.status.speed;
        Duration::try_from_secs_f64(left).unwrap_or(FASTEST).max(FASTEST)
    }

    /// The moment that is to be shown now, while it plays.
    fn moment(&self) -> Nanos {
        let (then, ts) = self.since;
        let passed = then.elapsed().as_secs_f64() * self.status.speed * 1e9;
        ts.plus(Nanos(passed as u64))
    }

    /// From now on time passes from where it stands.
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

    fn obey(&mut self, command: Command) {
        self.status.note = None;
        let index = Arc::clone(self.player.index());
        let last = index.len().saturating_sub(1);
        match command {
            Command::Toggle => {
                self.status.is_playing = !self.status.is_playing;
                if self.status.is_playing && self.target == last {
                    self.target = 0;
                }
            }
            Command::Faster => self.set_speed(SPEEDS.into_iter().find(|&speed| speed > self.status.speed)),
            Command::Slower => {
                self.set_speed(SPEEDS.into_iter().rev().find(|&speed| speed < self.status.speed));
            }
            Command::Step(pictures) => {
                self.status.is_playing = false;
                self.target = self.target.saturating_add_signed(pictures).min(last);
            }
            Command::Go(ts) => self.target = index.at(ts),
            Command::Start => self.target = 0,
            Command::End => self.target = last,
            Command::Peak(which) => {
                self.status.is_playing = false;
                match index.peak(self.target, which) {
                    Some(peak) => self.target = peak,
                    None if which == Peak::Next => self.status.note = Some("no later peak of TIME_WAIT"),
                    None => self.status.note = Some("no earlier peak of TIME_WAIT"),
                }
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
            None => self.status.note = Some("that is the limit"),
        }
    }

    /// Goes to the picture that is wanted, unless a command comes on the way.
    fn go(&mut self) -> Result<()> {
        let is_elsewhere = self.target != self.status.picture || self.is_stale;
        self.status.target = is_elsewhere.then_some(self.target);
        self.tell.send_replace(self.status.clone());
        if !is_elsewhere {
            return Ok(());
        }
        let Self { player, requests, waiting, .. } = self;
        let shown = player.show(self.target, &mut || {
            match requests.try_recv() {
                Ok(request) => *waiting = Some(request),
                Err(TryRecvError::Empty) => return true,
                // Nobody wants to see it any more.
                Err(TryRecvError::Disconnected) => {}
            }
            false
        })?;
        if let Shown::Picture(picture) = shown {
            self.is_stale = false;
            self.status.picture = self.target;
            self.status.target = None;
            self.publish.send_replace(Some(picture));
            self.tell.send_replace(self.status.clone());
        }
        Ok(())
    }
}
