//! Frame of what lies over the screen.

use ratatui::{
    Frame,
    layout::Constraint,
    symbols::border,
    text::Line,
    widgets::{Block, Clear, Padding, Paragraph},
};

use crate::view::{
    glyphs::Glyphs,
    top::{settings::ScreenSettings, state::ScreenState},
};

const ASCII_BORDER: border::Set<'_> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

/// Widest line for a frame of this width, at most `most`.
pub fn width(frame: &Frame<'_>, most: u16) -> usize {
    frame.area().width.saturating_sub(4).min(most).into()
}

/// Draws as many lines as fit, in the middle of the screen.
pub fn draw(
    frame: &mut Frame<'_>,
    title: &str,
    keys: &str,
    lines: Vec<Line<'_>>,
    state: &mut ScreenState,
    settings: &ScreenSettings,
) {
    let width = lines.iter().map(Line::width).max().unwrap_or(0).max(title.len() + keys.len()) as u16 + 4;
    let height = lines.len() as u16 + 2;
    let area = frame.area().centered(Constraint::Length(width), Constraint::Length(height));
    let rows = area.height.saturating_sub(2) as usize;
    let first = state.popup_line(lines.len(), rows);
    let scroll = if rows < lines.len() { ", up/down scroll" } else { "" };
    let border = match settings.theme.glyphs() {
        Glyphs::Unicode => border::PLAIN,
        Glyphs::Ascii => ASCII_BORDER,
    };
    let title = format!(" {title}: Esc closes{keys}{scroll} ");
    let block = Block::bordered().border_set(border).title(title).padding(Padding::horizontal(1));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block).scroll((first as u16, 0)), area);
}
