//! Help overlay: limits of the trace, keys, columns.

use super::wrap::wrap;
use crate::{
    aggregate::Snapshot,
    model::text,
    view::{
        glyphs::Glyphs,
        top::{
            action::{ACTIONS, ScreenView},
            columns::{GROUPS, SOCKETS, TableColumn},
            settings::ScreenSettings,
            state::{EDITS, ScreenState},
            theme::StyleRole,
        },
    },
};
use ratatui::{
    Frame,
    layout::Constraint,
    symbols::border,
    text::{Line, Span},
    widgets::{Block, Clear, Padding, Paragraph},
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

/// Draws as many lines as fit.
pub fn draw(frame: &mut Frame<'_>, state: &mut ScreenState, settings: &ScreenSettings) {
    let area = frame.area();
    let lines = lines(state, settings, area.width.saturating_sub(4).min(74) as usize);
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

fn lines(state: &ScreenState, settings: &ScreenSettings, width: usize) -> Vec<Line<'static>> {
    let snapshot = state.snapshot();
    let strong = settings.theme.style(StyleRole::Strong);
    let row = |label: &str, help: &'static str| {
        Line::from(vec![Span::styled(format!("{label:15} "), strong), Span::raw(help)])
    };
    let limits = &snapshot.host.limits;
    let notes = limits.iter().flat_map(|limit| wrap(&format!("Note: {}", text::sanitise(limit)), width));
    let notes = notes.map(Line::raw);
    let keys = ACTIONS.iter().enumerate();
    let keys = keys.filter(|(_, row)| state.offers(row.action));
    let keys = keys.map(|(i, action)| row(&settings.keymap.label(i), action.help));
    let editing = [Line::default(), Line::styled("While you type a filter:", strong)];
    let edits = EDITS.iter().filter(|(.., help)| !help.is_empty());
    let edits = edits.map(|(key, _, help)| row(&key.to_string(), help));
    let mouse =
        [Line::default(), row("mouse", "click a row, a column's head; the wheel scrolls"), Line::default()];
    let columns: Vec<_> = match state.place() {
        ScreenView::Groups => heads(&GROUPS, snapshot),
        ScreenView::Sockets | ScreenView::Life => heads(&SOCKETS, snapshot),
    };
    let columns = columns.into_iter().map(|(head, help)| row(&head, help));
    notes.chain(keys).chain(editing).chain(edits).chain(mouse).chain(columns).collect()
}

fn heads<R>(columns: &[TableColumn<R>], snapshot: &Snapshot) -> Vec<(String, &'static str)> {
    let head = |column: &TableColumn<R>| match column.head {
        "" => snapshot.grouping.head(),
        head => head.to_owned(),
    };
    columns.iter().map(|column| (head(column), column.help)).collect()
}
