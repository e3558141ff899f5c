//! The life of a screen: snapshots and keys in, frames out, until the user quits.
//!
//! Everything that can wait for the terminal runs on a thread of its own: a terminal that hangs (a
//! stopped ssh) must not stop the reader of the ring buffer. The thread waits for keys with a timeout and
//! looks at the channel each time: no second thread, no event stream, and a snapshot is at most a tenth of
//! a second late.

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
use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

use super::{
    action::Action,
    key::Key,
    mouse::{self, Regions},
    settings::{Mouse, Settings},
    state::{Next, Replay, State, edit},
    terminal::Terminal,
};
use crate::{
    aggregate::Snapshot,
    inspect::Query,
    replay::{Drive, Request, Status},
};

/// How long to wait for a key before looking for a snapshot.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Snapshots that come faster are not drawn: four frames a second are as many as a slow line carries. A key
/// is answered at once.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(250);

/// Keys and notches of the wheel that are taken in before the screen is drawn once.
const EVENTS_PER_FRAME: usize = 256;

/// How long to wait for the terminal to take the last frame.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows the newest of `snapshots` on the terminal, from the first one on, until the user quits, and sends what
/// it wants to show to `queries`. When the sender of snapshots is dropped, the last one stays on the screen; when
/// there was none, this returns at once. Dropping the future closes the screen.
///
/// Standard output must be a terminal. Needs a tokio runtime with its I/O driver enabled.
pub async fn run(snapshots: Snapshots, queries: watch::Sender<Query>, settings: Settings) -> io::Result<()> {
    show(snapshots, Asks::Pipeline(queries), settings, |state| state).await
}

/// The same for a recording, with control of its time.
pub async fn replay(drive: &Drive, settings: Settings) -> io::Result<()> {
    let status = drive.status.borrow().clone();
    let control = Replay::new(Arc::clone(&drive.index), status, settings.zone.clone());
    let asks = Asks::Replay { requests: drive.requests.clone(), status: drive.status.clone() };
    show(drive.snapshots.clone(), asks, settings, |state| state.of_replay(control)).await
}

async fn show(
    mut snapshots: Snapshots,
    asks: Asks,
    settings: Settings,
    prepare: impl FnOnce(State) -> State,
) -> io::Result<()> {
    let mut continued = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let first = match snapshots.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(first)) => Arc::clone(first),
        Ok(None) | Err(_) => return Ok(()),
    };
    let mut screen = {
        let state = prepare(State::new(first, settings.columns.clone()));
        Screen::start(settings.mouse, |terminal| Show {
            terminal,
            asked: state.query(),
            state,
            snapshots,
            asks,
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
        }
    }
}

/// The newest snapshot, `None` until there is one.
type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// What the thread is told.
#[derive(Default)]
struct Flags {
    /// Close the screen.
    stop: AtomicBool,
    /// The process was stopped and goes on: what is on the terminal is not what was.
    continued: AtomicBool,
}

/// The thread, which ends when this is dropped.
struct Screen {
    flags: Arc<Flags>,
    done: oneshot::Receiver<io::Result<()>>,
    /// Disconnected when the thread has given the terminal back.
    gone: std_mpsc::Receiver<()>,
}

impl Screen {
    fn start(mouse: Mouse, show: impl FnOnce(Terminal) -> Show) -> io::Result<Self> {
        let show = show(Terminal::enter(mouse)?);
        let flags = Arc::new(Flags::default());
        let (finish, done) = oneshot::channel();
        let (going, gone) = std_mpsc::channel();
        let for_thread = Arc::clone(&flags);
        thread::Builder::new().name("screen".into()).spawn(move || {
            let _going: std_mpsc::Sender<()> = going;
            let _ = finish.send(show.run(&for_thread));
        })?;
        Ok(Self { flags, done, gone })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Relaxed);
        // Nothing is ever sent: this returns when the thread ends, or when the terminal hangs for good.
        let _ = self.gone.recv_timeout(PATIENCE);
    }
}

/// Whom the screen asks for what it wants to show.
enum Asks {
    Pipeline(watch::Sender<Query>),
    Replay { requests: std_mpsc::Sender<Request>, status: watch::Receiver<Status> },
}

/// What the thread works with.
struct Show {
    terminal: Terminal,
    state: State,
    snapshots: Snapshots,
    asks: Asks,
    /// What a replay was asked for last.
    asked: Query,
    settings: Settings,
    /// Where things stand since the last frame.
    regions: Regions,
    /// There will be no snapshot any more.
    over: bool,
}

/// Whether the screen goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    On,
    /// On, with a frame to draw.
    Drawing,
    Away,
}

impl Show {
    fn run(mut self, flags: &Flags) -> io::Result<()> {
        self.draw()?;
        let mut followed = Instant::now();
        while !flags.stop.load(Ordering::Relaxed) {
            if Terminal::is_lost() {
                return Err(io::Error::other("a thread panicked and took the terminal from the screen"));
            }
            let mut goes = self.listen(flags)?;
            if goes == Goes::Away {
                return Ok(());
            }
            if flags.continued.swap(false, Ordering::Relaxed) {
                self.terminal.lend(|| {})?;
                goes = Goes::Drawing;
            }
            // A picture of a recording comes when it is asked for, and no faster than the replay makes them.
            let is_replay = self.state.replay().is_some();
            let is_time = is_replay || followed.elapsed() >= SNAPSHOT_EVERY || self.awaits_answer();
            if is_time && (self.follow_status() | self.follow()) {
                followed = Instant::now();
                goes = Goes::Drawing;
            }
            if goes == Goes::Drawing {
                self.draw()?;
            }
        }
        Ok(())
    }

    /// Asks for what is to be shown and shows what there is.
    fn draw(&mut self) -> io::Result<()> {
        let query = self.state.query();
        match &self.asks {
            Asks::Pipeline(queries) => {
                queries.send_if_modified(|asked| {
                    let is_new = *asked != query;
                    if is_new {
                        *asked = query;
                    }
                    is_new
                });
            }
            Asks::Replay { .. } if query != self.asked => {
                self.asked = query.clone();
                self.send(Request::Ask(Box::new(query)));
            }
            Asks::Replay { .. } => {}
        }
        self.regions = self.terminal.draw(&mut self.state, &self.settings)?;
        Ok(())
    }

    /// Waits for the user and takes in what is there.
    fn listen(&mut self, flags: &Flags) -> io::Result<Goes> {
        let mut goes = Goes::On;
        let mut wait = LOOK_EVERY;
        for _ in 0..EVENTS_PER_FRAME {
            if !event::poll(wait)? {
                break;
            }
            wait = Duration::ZERO;
            match handle(&event::read()?, &mut self.state, &self.settings, &self.regions) {
                None => {}
                Some(Next::Draw) => goes = Goes::Drawing,
                Some(Next::Redraw) => {
                    self.terminal.clear()?;
                    goes = Goes::Drawing;
                }
                Some(Next::Drive(command)) => {
                    self.send(Request::Time(command));
                    goes = Goes::Drawing;
                }
                Some(Next::Quit) => return Ok(Goes::Away),
                Some(Next::Suspend) => {
                    self.terminal.lend(suspend)?;
                    flags.continued.store(false, Ordering::Relaxed);
                    goes = Goes::Drawing;
                }
            }
        }
        Ok(goes)
    }

    /// Whether what is on the screen is not what was asked for yet.
    fn awaits_answer(&self) -> bool {
        let answer = self.state.snapshot().answer.as_ref();
        answer.is_some_and(|answer| answer.query != self.state.query())
    }

    /// What the replay is to do.
    fn send(&self, request: Request) {
        if let Asks::Replay { requests, .. } = &self.asks {
            // A replay that is over has left its reason.
            let _ = requests.send(request);
        }
    }

    /// Takes in where the replay stands; returns whether that has changed.
    fn follow_status(&mut self) -> bool {
        let Asks::Replay { status, .. } = &mut self.asks else { return false };
        let has_changed = status.has_changed().unwrap_or(false);
        if has_changed && let Some(replay) = self.state.replay_mut() {
            replay.take(status.borrow_and_update().clone());
        }
        has_changed
    }

    /// Takes a newer snapshot in; returns whether there was one, or there will be none any more.
    fn follow(&mut self) -> bool {
        if self.over {
            return false;
        }
        let goes_on = self.snapshots.has_changed();
        if let Ok(false) = goes_on {
            return false;
        }
        if let Some(newest) = self.snapshots.borrow_and_update().as_ref() {
            self.state.take(Arc::clone(newest));
        }
        if goes_on.is_err() {
            self.over = true;
            self.state.end();
        }
        true
    }
}

fn handle(event: &Event, state: &mut State, settings: &Settings, regions: &Regions) -> Option<Next> {
    match *event {
        Event::Key(event) => {
            let key = Key::pressed(event)?;
            let action = match state.prompt() {
                // What interrupts everywhere interrupts here.
                Some(_) if key != Key::Ctrl('c') => Action::Edit(edit(key)?),
                _ => settings.keymap.action(key)?,
            };
            Some(state.act(action))
        }
        Event::Mouse(event) => {
            let (action, times) = mouse::action(event, regions)?;
            (0..times).map(|_| state.act(action)).last()
        }
        Event::Resize(..) => Some(Next::Draw),
        _ => None,
    }
}

/// Stops the process, as the shell's Ctrl-Z does outside raw mode; returns when it goes on.
fn suspend() {
    // The signal may go to another thread, so that this one runs on for a moment before all stop. A
    // process that has no shell to continue it (an orphaned process group) does not stop at all.
    const UNTIL_STOPPED: Duration = Duration::from_millis(50);
    let _ = kill_process(getpid(), Signal::TSTP);
    thread::sleep(UNTIL_STOPPED);
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
