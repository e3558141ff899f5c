//! Help overlay: limits of the trace, keys, columns.

use super::{popup, wrap::wrap};
use crate::{
    aggregate::Snapshot,
    model::text,
    view::top::{
        action::{ACTIONS, ScreenView},
        columns::{GROUPS, SOCKETS, TableColumn},
        settings::ScreenSettings,
        state::{EDITS, ScreenState},
        theme::StyleRole,
    },
};
use ratatui::{
    Frame,
    text::{Line, Span},
};

/// Draws the help.
pub fn draw(frame: &mut Frame<'_>, state: &mut ScreenState, settings: &ScreenSettings) {
    let lines = lines(state, settings, popup::width(frame, 74));
    popup::draw(frame, "help", "", lines, state, settings);
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
