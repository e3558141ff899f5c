//! Terminal setup: raw mode, alternate screen, bracketed paste and mouse capture, all restored on every exit path,
//! panics included.

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
        event::{DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture},
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
    settings::{Mouse, ScreenSettings},
    state::ScreenState,
};

/// Whether the terminal is in screen mode; ensures that only the first caller restores it.
static IN_SCREEN_MODE: AtomicBool = AtomicBool::new(false);

/// Write buffer: a frame up to this size is one write.
const FRAME_BYTES: usize = 64 * 1024;

/// The terminal on standard output, in screen mode until this is dropped.
pub struct Terminal {
    inner: ratatui::Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    mouse: Mouse,
}

impl Terminal {
    /// Switches the terminal to screen mode.
    pub fn enter(mouse: Mouse) -> io::Result<Self> {
        restore_on_panic();
        take(mouse)?;
        let out = BufWriter::with_capacity(FRAME_BYTES, io::stdout());
        let inner = ratatui::Terminal::new(CrosstermBackend::new(out)).inspect_err(|_| restore_terminal())?;
        Ok(Self { inner, mouse })
    }

    /// Draws `state`, unless the terminal is lost and shows the shell's output. Writes only changed cells, as one
    /// synchronized update if the terminal supports it. Returns the clickable regions.
    pub fn draw(&mut self, state: &mut ScreenState, settings: &ScreenSettings) -> io::Result<Regions> {
        let mut regions = Regions::default();
        if Self::has_lost_terminal() {
            return Ok(regions);
        }
        queue!(self.inner.backend_mut(), BeginSynchronizedUpdate)?;
        self.inner.draw(|frame| regions = screen::draw(frame, state, settings))?;
        execute!(self.inner.backend_mut(), EndSynchronizedUpdate)?;
        Ok(regions)
    }

    /// Whether a panic on any thread has restored the terminal.
    pub fn has_lost_terminal() -> bool {
        !IN_SCREEN_MODE.load(Ordering::Relaxed)
    }

    /// Discards the last frame, so that the next one draws every cell. Unlike ratatui's `clear()`, this does not query
    /// the cursor position: a remote terminal may answer too late, which would be an error.
    pub fn clear(&mut self) -> io::Result<()> {
        let size = self.inner.size()?;
        self.inner.resize(size.into())
    }

    /// Runs `away` with the terminal restored for the shell.
    pub fn suspend(&mut self, away: impl FnOnce()) -> io::Result<()> {
        restore_terminal();
        away();
        take(self.mouse)?;
        self.clear()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore_terminal();
    }
}

fn take(mouse: Mouse) -> io::Result<()> {
    enable_raw_mode()?;
    IN_SCREEN_MODE.store(true, Ordering::Relaxed);
    let enter = || {
        execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste, cursor::Hide)?;
        if mouse == Mouse::Captured { execute!(io::stdout(), EnableMouseCapture) } else { Ok(()) }
    };
    enter().inspect_err(|_| restore_terminal())
}

/// Restores the terminal, ignoring errors: no caller can handle them.
fn restore_terminal() {
    if IN_SCREEN_MODE.swap(false, Ordering::Relaxed) {
        let undo = execute!(
            io::stdout(),
            EndSynchronizedUpdate,
            DisableMouseCapture,
            DisableBracketedPaste,
            LeaveAlternateScreen,
            cursor::Show
        );
        drop(undo);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}

/// Restores the terminal before a panic message, so that the message is readable on the shell's screen.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore_terminal();
            report(panic);
        }));
    });
}
