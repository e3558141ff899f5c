//! The help over everything else: what the trace can't see, the keys, the columns.

use ratatui::{
    Frame,
    layout::Constraint,
    symbols::border,
    text::{Line, Span},
    widgets::{Block, Clear, Padding, Paragraph},
};
use unicode_width::UnicodeWidthStr;

use crate::{
    aggregate::Snapshot,
    model::text,
    view::{
        glyphs::Glyphs,
        top::{action::ACTIONS, columns::GROUPS, settings::Settings, state::State, theme::Role},
    },
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

/// As many lines of it as there is room for.
pub fn draw(frame: &mut Frame<'_>, state: &mut State, settings: &Settings) {
    let area = frame.area();
    let lines = lines(state.snapshot(), settings, area.width.saturating_sub(4).min(74) as usize);
    let width = lines.iter().map(Line::width).max().unwrap_or(0) as u16 + 4;
    let height = lines.len() as u16 + 2;
    let area = area.centered(Constraint::Length(width), Constraint::Length(height));
    let rows = area.height.saturating_sub(2) as usize;
    let first = state.help(lines.len(), rows).unwrap_or(0);
    let title =
        if rows < lines.len() { " help: Esc closes, up and down scroll " } else { " help: Esc closes " };
    let border = match settings.theme.glyphs() {
        Glyphs::Unicode => border::PLAIN,
        Glyphs::Ascii => ASCII_BORDER,
    };
    let block = Block::bordered().border_set(border).title(title).padding(Padding::horizontal(1));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block).scroll((first as u16, 0)), area);
}

fn lines(snapshot: &Snapshot, settings: &Settings, width: usize) -> Vec<Line<'static>> {
    let strong = settings.theme.style(Role::Strong);
    let row = |label: &str, help: &'static str| {
        Line::from(vec![Span::styled(format!("{label:14} "), strong), Span::raw(help)])
    };
    let limits = &snapshot.host.limits;
    let notes = limits.iter().flat_map(|limit| wrap(&format!("Note: {}", text::sanitise(limit)), width));
    let keys = ACTIONS.iter().enumerate().map(|(i, action)| row(&settings.keymap.label(i), action.help));
    let key = snapshot.grouping.head();
    let columns = GROUPS.iter().map(|column| {
        let head = if column.head.is_empty() { &*key } else { column.head };
        row(head, column.help)
    });
    notes.chain(keys).chain([Line::default()]).chain(columns).collect()
}

/// `text` in lines of at most `width`, broken between words.
fn wrap(text: &str, width: usize) -> Vec<Line<'static>> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().map(Line::raw).collect()
}
