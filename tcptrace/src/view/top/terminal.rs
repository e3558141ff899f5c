//! The terminal while a screen is on it: raw mode, the alternate screen and the mouse, and all of it undone
//! on every way out, a panic included.

use std::{
    io::{self, BufWriter, Stdout, Write},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use ratatui::{
    backend::CrosstermBackend,
    crossterm::{
        cursor,
        event::{DisableMouseCapture, EnableMouseCapture},
        execute, queue,
        terminal::{
            BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
            disable_raw_mode, enable_raw_mode,
        },
    },
};

use super::{
    mouse::Regions,
    screen,
    settings::{Mouse, Settings},
    state::State,
};

/// Whether the terminal is ours: so that it is given back once, by whoever comes first.
static OURS: AtomicBool = AtomicBool::new(false);

/// One frame goes out in one write, as far as this holds it.
const FRAME_BYTES: usize = 64 * 1024;

/// The terminal on standard output, ours until this is dropped.
pub struct Terminal {
    inner: ratatui::Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    mouse: Mouse,
}

impl Terminal {
    /// Takes the terminal.
    pub fn enter(mouse: Mouse) -> io::Result<Self> {
        restore_on_panic();
        take(mouse)?;
        let out = BufWriter::with_capacity(FRAME_BYTES, io::stdout());
        let inner = ratatui::Terminal::new(CrosstermBackend::new(out)).inspect_err(|_| give_back())?;
        Ok(Self { inner, mouse })
    }

    /// Draws `state`, unless the terminal is lost: what is on it now is the shell's. Only the cells that
    /// changed go out, in one piece where the terminal can hold it back until the end. Returns where things
    /// stand.
    pub fn draw(&mut self, state: &mut State, settings: &Settings) -> io::Result<Regions> {
        let mut regions = Regions::default();
        if Self::is_lost() {
            return Ok(regions);
        }
        queue!(self.inner.backend_mut(), BeginSynchronizedUpdate)?;
        self.inner.draw(|frame| regions = screen::draw(frame, state, settings))?;
        execute!(self.inner.backend_mut(), EndSynchronizedUpdate)?;
        Ok(regions)
    }

    /// Whether a panic somewhere has taken the terminal away.
    pub fn is_lost() -> bool {
        !OURS.load(Ordering::Relaxed)
    }

    /// Forgets what is on the screen: the next frame draws every cell. The terminal is not asked where its cursor
    /// is, as `clear()` of ratatui does: one that is far away may be late to answer, and that would be an error.
    pub fn clear(&mut self) -> io::Result<()> {
        let size = self.inner.size()?;
        self.inner.resize(size.into())
    }

    /// Runs `away` with the terminal as the shell wants it.
    pub fn lend(&mut self, away: impl FnOnce()) -> io::Result<()> {
        give_back();
        away();
        take(self.mouse)?;
        self.clear()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

fn take(mouse: Mouse) -> io::Result<()> {
    enable_raw_mode()?;
    OURS.store(true, Ordering::Relaxed);
    let enter = || {
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        if mouse == Mouse::Ours { execute!(io::stdout(), EnableMouseCapture) } else { Ok(()) }
    };
    enter().inspect_err(|_| give_back())
}

/// Does what it can: there is nobody left to tell about an error.
fn give_back() {
    if OURS.swap(false, Ordering::Relaxed) {
        let undo = execute!(
            io::stdout(),
            EndSynchronizedUpdate,
            DisableMouseCapture,
            LeaveAlternateScreen,
            cursor::Show
        );
        drop(undo);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}

/// The message of a panic belongs on the shell's screen, where it can be read.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            give_back();
            report(panic);
        }));
    });
}
