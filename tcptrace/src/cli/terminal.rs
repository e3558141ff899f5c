//! What the terminal on standard output is like, and pictures that take each other's place on it.

use std::io::{self, IsTerminal as _, Write as _};

use crate::view::{
    doctor::text::Paint,
    glyphs::Glyphs,
    top::{Colours, Environment, Look},
};

/// Which of several pictures it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Another will follow.
    Running,
    /// The last: it stays.
    Last,
}

/// Columns of the terminal that text goes to; `None` for a file or a pipe.
pub fn width() -> Option<u16> {
    size().map(|(columns, _)| columns)
}

/// Columns and rows.
fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Which characters it shows, as the environment says.
pub fn glyphs() -> Glyphs {
    Glyphs::of_locale(locale().as_deref())
}

/// What it can show, as the environment says.
pub fn look() -> Look {
    Look::new(Environment {
        no_color: variable("NO_COLOR").as_deref(),
        term: variable("TERM").as_deref(),
        colorterm: variable("COLORTERM").as_deref(),
        locale: locale().as_deref(),
    })
}

/// Whether text that goes to it may be coloured.
pub fn paint() -> Paint {
    let has_colours = look().colours != Colours::None;
    if has_colours && io::stdout().is_terminal() { Paint::Colour } else { Paint::Plain }
}

/// Writes all of `picture` to standard output.
pub fn print(picture: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(picture)?;
    out.flush()
}

fn locale() -> Option<String> {
    ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `picture` so that it takes the place of the one before: on a terminal over it, else below it, after an
/// empty line. One that runs is cut to the height of the terminal; the last is whole.
pub fn redraw(picture: Vec<u8>, place: Place) -> Vec<u8> {
    let rows = size().filter(|_| io::stdout().is_terminal()).map(|(_, rows)| usize::from(rows));
    match (rows, place) {
        (Some(rows), Place::Running) => over(&picture, rows),
        (Some(_), Place::Last) => [b"\x1b[H\x1b[J", &*picture].concat(),
        (None, Place::Running) => [&*picture, b"\n"].concat(),
        (None, Place::Last) => picture,
    }
}

/// From the top of the screen, each line cleared to its end, and what is below.
fn over(picture: &[u8], rows: usize) -> Vec<u8> {
    let mut out = b"\x1b[H".to_vec();
    for line in picture.split_inclusive(|&byte| byte == b'\n').take(rows.saturating_sub(1)) {
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
    fn a_running_picture_is_cut_to_the_terminal() {
        assert_eq!(over(b"a\nb\nc\n", 3), b"\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(over(b"a\n", 3), b"\x1b[Ha\x1b[K\n\x1b[J");
    }
}
