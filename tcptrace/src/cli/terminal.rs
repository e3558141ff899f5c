//! Properties of the terminal on standard output, and frames that replace each other on it.

use std::io::{self, IsTerminal as _, Write as _};

use crate::view::{
    doctor::text::Paint,
    glyphs::Glyphs,
    top::{Colours, Environment, TerminalStyle},
};

/// Position of a frame in a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramePosition {
    /// Another frame follows.
    Running,
    /// The last frame, which stays on the screen.
    Last,
}

/// Width in columns; `None` for a file or a pipe.
pub fn width() -> Option<u16> {
    size().map(|(columns, _)| columns)
}

/// Columns and rows.
fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Characters that the terminal can show, from the locale.
pub fn glyphs() -> Glyphs {
    Glyphs::of_locale(locale().as_deref())
}

/// Style of the terminal, from the environment.
pub fn style() -> TerminalStyle {
    TerminalStyle::new(Environment {
        no_color: variable("NO_COLOR").as_deref(),
        term: variable("TERM").as_deref(),
        colorterm: variable("COLORTERM").as_deref(),
        locale: locale().as_deref(),
    })
}

/// Whether stdout is a terminal that can place its cursor, as the screen needs it; TERM=dumb can't.
pub fn can_place_cursor() -> bool {
    io::stdout().is_terminal() && variable("TERM").as_deref() != Some("dumb")
}

/// Whether text output may be coloured.
pub fn paint() -> Paint {
    let has_colours = style().colours != Colours::None;
    if has_colours && io::stdout().is_terminal() { Paint::Colour } else { Paint::Plain }
}

/// Writes all of `frame` to standard output.
pub fn print(frame: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(frame)?;
    out.flush()
}

fn locale() -> Option<String> {
    ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Makes `frame` replace the frame before: on a terminal over it, else below it, after an empty line. A running frame
/// is cut to the height of the terminal; the last one is complete.
pub fn redraw(frame: Vec<u8>, place: FramePosition) -> Vec<u8> {
    let rows = size().filter(|_| can_place_cursor()).map(|(_, rows)| usize::from(rows));
    match (rows, place) {
        (Some(rows), FramePosition::Running) => over(&frame, rows),
        (Some(_), FramePosition::Last) => [b"\x1b[H\x1b[J", &*frame].concat(),
        (None, FramePosition::Running) => [&*frame, b"\n"].concat(),
        (None, FramePosition::Last) => frame,
    }
}

/// Draws from the top of the screen; clears each line to its end, and everything below.
fn over(frame: &[u8], rows: usize) -> Vec<u8> {
    let mut out = b"\x1b[H".to_vec();
    for line in frame.split_inclusive(|&byte| byte == b'\n').take(rows.saturating_sub(1)) {
        out.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        out.extend_from_slice(b"\x1b[K\n");
    }
    out.extend_from_slice(b"\x1b[J");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_frames_are_cut_to_the_terminal_height() {
        assert_eq!(over(b"a\nb\nc\n", 3), b"\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(over(b"a\n", 3), b"\x1b[Ha\x1b[K\n\x1b[J");
    }
}
