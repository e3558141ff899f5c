//! Screen loop: handles snapshots and keys and draws frames until the user quits.
//!
//! All terminal I/O runs on its own thread: a terminal that hangs (a stopped ssh) must not stop the ring buffer reader.
//! The thread polls for keys with a timeout and then checks the snapshot channel. This needs no second thread and no
//! event stream, and delays a snapshot by at most 100 ms.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, Event};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, getpid, kill_process},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

use super::{
    action::Action,
    key::KeyPress,
    mouse::{self, Regions},
    settings::{Mouse, ScreenSettings},
    state::{Edit, FollowUp, Replay, ScreenState, edit},
    terminal::Terminal,
};
use crate::{
    aggregate::{Snapshot, detail::Query},
    privileges::{self, Work},
    replay::{Drive, ReplayStatus, Request},
};

/// Poll timeout for keys, before the next check for a snapshot.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Snapshots that arrive faster are not drawn: a slow line carries about four frames a second. Keys are handled
/// at once.
const MIN_SNAPSHOT_INTERVAL: Duration = Duration::from_millis(250);

/// Maximum number of input events handled before a frame is drawn.
const EVENTS_PER_FRAME: usize = 256;

/// Interval of the check whether the terminal has hung up.
const HANGUP_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait for the screen thread to end, which may block on the terminal.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Shows the newest of `snapshots` on the terminal, from the first one on, until the user quits, and sends its query to
/// `queries`. When the sender of snapshots is dropped, the last one stays on the screen; if there was none, this
/// returns at once. Dropping the future closes the screen.
///
/// Standard output must be a terminal. Needs a tokio runtime with its drivers enabled.
pub async fn run(
    snapshots: Snapshots,
    queries: watch::Sender<Query>,
    settings: ScreenSettings,
) -> io::Result<()> {
    show(snapshots, QueryReceiver::Pipeline(queries), settings, |state| state).await
}

/// Shows a recording, with replay control.
pub async fn replay(drive: &Drive, settings: ScreenSettings) -> io::Result<()> {
    let status = drive.status.borrow().clone();
    let control = Replay::new(Arc::clone(&drive.index), status, settings.zone.clone());
    let receiver = QueryReceiver::Replay { requests: drive.requests.clone(), status: drive.status.clone() };
    show(drive.snapshots.clone(), receiver, settings, |state| state.of_replay(control)).await
}

async fn show(
    mut snapshots: Snapshots,
    receiver: QueryReceiver,
    settings: ScreenSettings,
    prepare: impl FnOnce(ScreenState) -> ScreenState,
) -> io::Result<()> {
    let mut continued = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let first = match snapshots.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(first)) => Arc::clone(first),
        Ok(None) | Err(_) => return Ok(()),
    };
    let mut screen = {
        let state = prepare(ScreenState::new(first, settings.columns.clone()));
        Screen::start(settings.mouse, |terminal| Show {
            terminal,
            asked: state.query(),
            state,
            snapshots,
            receiver,
            settings,
            regions: Regions::default(),
            over: false,
        })?
    };
    loop {
        tokio::select! {
            done = &mut screen.done => {
                return done.unwrap_or_else(|_| Err(io::Error::other("the screen's thread panicked")));
            }
            Some(()) = continued.recv() => screen.flags.continued.store(true, Ordering::Relaxed),
            () = wait_for_hangup() => return Err(io::Error::other("the terminal has hung up")),
        }
    }
}

/// Returns once the terminal has hung up. SIGHUP normally ends the command first, but `nohup` ignores it, and the
/// screen thread would then poll for keys in an endless busy loop.
async fn wait_for_hangup() {
    let mut checks = tokio::time::interval(HANGUP_CHECK_INTERVAL);
    loop {
        checks.tick().await;
        let stdout = io::stdout();
        let mut there = [PollFd::new(&stdout, PollFlags::OUT)];
        if poll(&mut there, Some(&Timespec::default())).is_ok()
            && there[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
        {
            return;
        }
    }
}

/// The newest snapshot, `None` until there is one.
type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// Flags for the screen thread.
#[derive(Default)]
struct Flags {
    /// Close the screen.
    stop: AtomicBool,
    /// The process was stopped and continued: the terminal content has changed.
    continued: AtomicBool,
}

/// Handle of the screen thread; dropping it ends the thread.
struct Screen {
    flags: Arc<Flags>,
    done: oneshot::Receiver<io::Result<()>>,
    /// Disconnected once the thread has restored the terminal.
    gone: std_mpsc::Receiver<()>,
}

impl Screen {
    fn start(mouse: Mouse, show: impl FnOnce(Terminal) -> Show) -> io::Result<Self> {
        let show = show(Terminal::enter(mouse)?);
        let flags = Arc::new(Flags::default());
        let (finish, done) = oneshot::channel();
        let (alive, gone) = std_mpsc::channel();
        let for_thread = Arc::clone(&flags);
        privileges::spawn("screen", Work::Nothing, move || {
            let _alive: std_mpsc::Sender<()> = alive;
            let _ = finish.send(show.run(&for_thread));
        })?;
        Ok(Self { flags, done, gone })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Relaxed);
        // Nothing is ever sent: this returns when the thread ends, or times out if the terminal hangs.
        let _ = self.gone.recv_timeout(JOIN_TIMEOUT);
    }
}

/// Receiver of the screen's queries.
enum QueryReceiver {
    Pipeline(watch::Sender<Query>),
    Replay { requests: std_mpsc::Sender<Request>, status: watch::Receiver<ReplayStatus> },
}

/// State of the screen thread.
struct Show {
    terminal: Terminal,
    state: ScreenState,
    snapshots: Snapshots,
    receiver: QueryReceiver,
    /// Last query sent to a replay.
    asked: Query,
    settings: ScreenSettings,
    /// Clickable regions of the last frame.
    regions: Regions,
    /// No newer snapshot follows.
    over: bool,
}

/// Next step of the screen loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoopStep {
    Wait,
    DrawFrame,
    Quit,
}

impl Show {
    fn run(mut self, flags: &Flags) -> io::Result<()> {
        self.draw()?;
        let mut followed = Instant::now();
        while !flags.stop.load(Ordering::Relaxed) {
            if Terminal::has_lost_terminal() {
                return Err(io::Error::other("a thread panicked and took the terminal from the screen"));
            }
            let mut step = self.listen(flags)?;
            if step == LoopStep::Quit {
                return Ok(());
            }
            if flags.continued.swap(false, Ordering::Relaxed) {
                self.terminal.suspend(|| {})?;
                step = LoopStep::DrawFrame;
            }
            // Replay snapshots are not throttled here: they come on request, at the pace of the replay.
            let is_replay = self.state.replay().is_some();
            let is_time = is_replay || followed.elapsed() >= MIN_SNAPSHOT_INTERVAL || self.awaits_answer();
            if is_time && (self.update_replay_status() | self.follow()) {
                followed = Instant::now();
                step = LoopStep::DrawFrame;
            }
            if step == LoopStep::DrawFrame {
                self.draw()?;
            }
        }
        Ok(())
    }

    /// Sends the query if it has changed, and draws a frame.
    fn draw(&mut self) -> io::Result<()> {
        let query = self.state.query();
        match &self.receiver {
            QueryReceiver::Pipeline(queries) => {
                queries.send_if_modified(|asked| {
                    let is_new = *asked != query;
                    if is_new {
                        *asked = query;
                    }
                    is_new
                });
            }
            QueryReceiver::Replay { .. } if query != self.asked => {
                self.asked = query.clone();
                self.send(Request::SetQuery(Box::new(query)));
            }
            QueryReceiver::Replay { .. } => {}
        }
        self.regions = self.terminal.draw(&mut self.state, &self.settings)?;
        Ok(())
    }

    /// Waits for input events and handles them.
    fn listen(&mut self, flags: &Flags) -> io::Result<LoopStep> {
        let mut step = LoopStep::Wait;
        let mut wait = LOOK_EVERY;
        for _ in 0..EVENTS_PER_FRAME {
            if !event::poll(wait)? {
                break;
            }
            wait = Duration::ZERO;
            match handle(&event::read()?, &mut self.state, &self.settings, &self.regions) {
                None => {}
                Some(FollowUp::Draw) => step = LoopStep::DrawFrame,
                Some(FollowUp::Redraw) => {
                    self.terminal.clear()?;
                    step = LoopStep::DrawFrame;
                }
                Some(FollowUp::Drive(command)) => {
                    self.send(Request::Time(command));
                    step = LoopStep::DrawFrame;
                }
                Some(FollowUp::Quit) => return Ok(LoopStep::Quit),
                Some(FollowUp::Suspend) => {
                    self.terminal.suspend(|| suspend(&flags.continued))?;
                    flags.continued.store(false, Ordering::Relaxed);
                    step = LoopStep::DrawFrame;
                }
            }
        }
        Ok(step)
    }

    /// Whether the answer on the screen is not yet that to the current query.
    fn awaits_answer(&self) -> bool {
        let answer = self.state.snapshot().answer.as_ref();
        answer.is_some_and(|answer| answer.query != self.state.query())
    }

    /// Sends a request to the replay.
    fn send(&self, request: Request) {
        if let QueryReceiver::Replay { requests, .. } = &self.receiver {
            // This fails only after the replay has ended; its thread returns the reason.
            let _ = requests.send(request);
        }
    }

    /// Updates the replay status; returns whether it has changed.
    fn update_replay_status(&mut self) -> bool {
        let QueryReceiver::Replay { status, .. } = &mut self.receiver else { return false };
        let has_changed = status.has_changed().unwrap_or(false);
        if has_changed && let Some(replay) = self.state.replay_mut() {
            replay.take(status.borrow_and_update().clone());
        }
        has_changed
    }

    /// Receives a newer snapshot; returns whether there was one, or the channel has closed.
    fn follow(&mut self) -> bool {
        if self.over {
            return false;
        }
        let has_newer = self.snapshots.has_changed();
        if let Ok(false) = has_newer {
            return false;
        }
        if let Some(newest) = self.snapshots.borrow_and_update().as_ref() {
            self.state.take(Arc::clone(newest));
        }
        if has_newer.is_err() {
            self.over = true;
            self.state.end();
        }
        true
    }
}

fn handle(
    event: &Event,
    state: &mut ScreenState,
    settings: &ScreenSettings,
    regions: &Regions,
) -> Option<FollowUp> {
    match *event {
        Event::Key(event) => {
            let key = KeyPress::pressed(event)?;
            let action = match state.prompt() {
                // Ctrl-C quits at the prompt too.
                Some(_) if key != KeyPress::Ctrl('c') => Action::Edit(edit(key)?),
                _ => settings.keymap.action(key)?,
            };
            Some(state.act(action))
        }
        Event::Mouse(event) => {
            let (action, times) = mouse::action(event, regions)?;
            (0..times).map(|_| state.act(action)).last()
        }
        // Pasted characters are never commands.
        Event::Paste(ref text) => {
            state.prompt()?;
            let typed = text.chars().filter(|c| !c.is_control());
            typed.map(|c| state.act(Action::Edit(Edit::Insert(c)))).last()
        }
        Event::Resize(..) => Some(FollowUp::Draw),
        _ => None,
    }
}

/// Stops the process, like the shell's Ctrl-Z outside raw mode; returns when it continues.
fn suspend(continued: &AtomicBool) {
    // The kernel may deliver the signal to another thread, so that this one runs on until that one has a CPU. A process
    // that no shell can continue (an orphaned process group) does not stop at all.
    const LONGEST: Duration = Duration::from_secs(1);
    continued.store(false, Ordering::Relaxed);
    let _ = kill_process(getpid(), Signal::TSTP);
    wait_until(continued, LONGEST);
}

/// Waits until `flag` is set, for `longest` at most.
fn wait_until(flag: &AtomicBool, longest: Duration) {
    const STEP: Duration = Duration::from_millis(10);
    let began = Instant::now();
    while !flag.load(Ordering::Relaxed) && began.elapsed() < longest {
        thread::sleep(STEP);
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
