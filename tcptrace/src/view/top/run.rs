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
    time::Duration,
};

use ratatui::crossterm::event::{self, Event};
use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

use super::{
    App,
    app::{Mode, Next},
    input,
    screen::Look,
    terminal::Terminal,
};
use crate::aggregate::Snapshot;

/// How long to wait for a key before looking for a snapshot.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long to wait for the terminal to take the last frame.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows the newest of `snapshots` on the terminal, from the first one on, until the user quits. When their
/// sender is dropped, the last one stays on the screen; when there was none, this returns at once. Dropping
/// the future closes the screen.
///
/// Standard output must be a terminal. Needs a tokio runtime with its I/O driver enabled.
pub async fn run(mut snapshots: Snapshots, look: Look) -> io::Result<()> {
    let mut continued = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let first = match snapshots.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(first)) => Arc::clone(first),
        Ok(None) | Err(_) => return Ok(()),
    };
    let mut screen = Screen::start(App::new(first), snapshots, look)?;
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
    fn start(app: App, snapshots: Snapshots, look: Look) -> io::Result<Self> {
        let terminal = Terminal::enter()?;
        let flags = Arc::new(Flags::default());
        let (finish, done) = oneshot::channel();
        let (going, gone) = std_mpsc::channel();
        let for_thread = Arc::clone(&flags);
        thread::Builder::new().name("screen".into()).spawn(move || {
            let _going: std_mpsc::Sender<()> = going;
            let result = show(terminal, app, snapshots, look, &for_thread);
            let _ = finish.send(result);
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

fn show(
    mut terminal: Terminal,
    mut app: App,
    mut snapshots: Snapshots,
    look: Look,
    flags: &Flags,
) -> io::Result<()> {
    terminal.draw(&mut app, look)?;
    while !flags.stop.load(Ordering::Relaxed) {
        let mut changed = false;
        if Terminal::is_lost() {
            return Err(io::Error::other("a thread panicked and took the terminal from the screen"));
        }
        if event::poll(LOOK_EVERY)? {
            match handle(&event::read()?, &mut app) {
                None => {}
                Some(Next::Draw) => changed = true,
                Some(Next::Redraw) => {
                    terminal.clear()?;
                    changed = true;
                }
                Some(Next::Quit) => return Ok(()),
                Some(Next::Suspend) => {
                    terminal.lend(suspend)?;
                    flags.continued.store(false, Ordering::Relaxed);
                    changed = true;
                }
            }
        }
        if flags.continued.swap(false, Ordering::Relaxed) {
            terminal.lend(|| {})?;
            changed = true;
        }
        changed |= follow(&mut app, &mut snapshots);
        if changed {
            terminal.draw(&mut app, look)?;
        }
    }
    Ok(())
}

/// Takes a newer snapshot in; returns whether there was one, or there will be none any more.
fn follow(app: &mut App, snapshots: &mut Snapshots) -> bool {
    if app.mode() == Mode::Ended {
        return false;
    }
    let goes_on = snapshots.has_changed();
    if let Ok(false) = goes_on {
        return false;
    }
    if let Some(newest) = snapshots.borrow_and_update().as_ref() {
        app.take(Arc::clone(newest));
    }
    if goes_on.is_err() {
        app.end();
    }
    true
}

fn handle(event: &Event, app: &mut App) -> Option<Next> {
    match *event {
        Event::Key(key) => input::action(key).map(|action| app.act(action)),
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
