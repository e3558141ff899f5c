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

use super::{App, app::Next, input, screen::Look, terminal::Terminal};
use crate::aggregate::Snapshot;

/// How long to wait for a key before looking for a snapshot.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long to wait for the terminal to take the last frame.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows the newest of `snapshots` on the terminal until the user quits. When their sender is dropped, the
/// last one stays on the screen. Dropping the future closes the screen.
///
/// Standard output must be a terminal. Needs a tokio runtime with its I/O driver enabled.
pub async fn run(snapshots: watch::Receiver<Arc<Snapshot>>, look: Look) -> io::Result<()> {
    let mut continued = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let mut screen = Screen::start(snapshots, look)?;
    loop {
        tokio::select! {
            done = &mut screen.done => {
                return done.unwrap_or_else(|_| Err(io::Error::other("the screen's thread panicked")));
            }
            Some(()) = continued.recv() => screen.flags.continued.store(true, Ordering::Relaxed),
        }
    }
}

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
    fn start(snapshots: watch::Receiver<Arc<Snapshot>>, look: Look) -> io::Result<Self> {
        let terminal = Terminal::enter()?;
        let flags = Arc::new(Flags::default());
        let (finish, done) = oneshot::channel();
        let (going, gone) = std_mpsc::channel();
        let for_thread = Arc::clone(&flags);
        thread::Builder::new().name("screen".into()).spawn(move || {
            let _going: std_mpsc::Sender<()> = going;
            let result = show(terminal, snapshots, look, &for_thread);
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
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    look: Look,
    flags: &Flags,
) -> io::Result<()> {
    let mut app = App::new(Arc::clone(&snapshots.borrow_and_update()));
    let mut ended = false;
    terminal.draw(&mut app, look)?;
    while !flags.stop.load(Ordering::Relaxed) {
        let mut changed = false;
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
        match snapshots.has_changed() {
            Ok(true) => {
                app.take(Arc::clone(&snapshots.borrow_and_update()));
                changed = true;
            }
            Err(_) if !ended => {
                ended = true;
                app.take(Arc::clone(&snapshots.borrow()));
                app.end();
                changed = true;
            }
            Ok(false) | Err(_) => {}
        }
        if changed {
            terminal.draw(&mut app, look)?;
        }
    }
    Ok(())
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
