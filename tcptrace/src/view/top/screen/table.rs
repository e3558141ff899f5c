//! Draws a table on the screen and returns its clickable regions.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
};

use crate::{
    aggregate::Snapshot,
    view::{
        glyphs::Glyphs,
        top::{
            mouse::Regions,
            sort::{Sort, SortDirection},
            table::{Placed, ScreenTable},
            theme::{StyleRole, Theme},
        },
    },
};

/// Arrow of a sort direction.
pub const fn arrow(glyphs: Glyphs, direction: SortDirection) -> &'static str {
    match (glyphs, direction) {
        (Glyphs::Unicode, SortDirection::Descending) => "▼",
        (Glyphs::Unicode, SortDirection::Ascending) => "▲",
        (Glyphs::Ascii, SortDirection::Descending) => "v",
        (Glyphs::Ascii, SortDirection::Ascending) => "^",
    }
}

/// Splits `area` into the line of heads and the rows.
pub fn split(area: Rect) -> (Rect, Rect) {
    let [head, rows] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    (head, rows)
}

/// Draws the heads and rows of `table`; highlights the row that is `selected`.
pub fn draw<R>(
    frame: &mut Frame<'_>,
    area: Rect,
    table: &ScreenTable<'_, R>,
    sort: Sort,
    selected: impl Fn(&R) -> bool,
    theme: &Theme,
) -> Regions {
    let (head, rows) = split(area);
    let placed = table.place(area.width as usize);
    frame.render_widget(heads(table.snapshot, &placed, sort, theme), head);
    for (row, line) in table.rows.iter().zip(rows.rows()) {
        let mut cells = Line::default();
        for (i, placed) in placed.iter().enumerate() {
            let (text, is_nothing) = placed.cell(table.snapshot, row);
            if i > 0 {
                cells.push_span(" ");
            }
            cells.push_span(Span::styled(
                text,
                if is_nothing { theme.style(StyleRole::Faint) } else { Style::new() },
            ));
        }
        frame.render_widget(cells, line);
        if selected(row) {
            frame.buffer_mut().set_style(line, theme.style(StyleRole::Selected));
        }
    }
    Regions { rows, heads: places(&placed, head), ..Regions::default() }
}

/// Areas of the heads, without the blanks between them.
fn places<R>(placed: &[Placed<R>], head: Rect) -> Vec<(Rect, usize)> {
    let mut x = head.x;
    placed
        .iter()
        .map(|placed| {
            let width = placed.width as u16;
            let place = Rect { x, width, ..head }.intersection(head);
            x = x.saturating_add(width + 1);
            (place, placed.index)
        })
        .collect()
}

/// The heads; that of the sort column has an arrow.
fn heads<R>(snapshot: &Snapshot, placed: &[Placed<R>], sort: Sort, theme: &Theme) -> Line<'static> {
    let strong = theme.style(StyleRole::Strong);
    let mut row = String::new();
    let mut sorted = None;
    for (i, placed) in placed.iter().enumerate() {
        if i > 0 {
            row.push(' ');
        }
        let head = placed.head(snapshot);
        if placed.index == sort.column {
            let start = row.len() + head.len() - head.trim_start().len();
            let end = row.len() + head.trim_end().len();
            sorted = Some((start, end, placed.is_left_aligned()));
        }
        row.push_str(&head);
    }
    row.push(' ');
    let Some((start, end, words)) = sorted else { return Line::styled(row, strong) };
    // The arrow replaces a blank: the one before a number, or the one after a word.
    let arrow = arrow(theme.glyphs(), sort.direction);
    let (before, head, after) = if words {
        (&row[..start], format!("{}{arrow}", &row[start..end]), &row[end + 1..])
    } else {
        (&row[..start.saturating_sub(1)], format!("{arrow}{}", &row[start..end]), &row[end..])
    };
    Line::from(vec![
        Span::styled(before.to_owned(), strong),
        Span::styled(head, theme.style(StyleRole::Sorted)),
        Span::styled(after.to_owned(), strong),
    ])
}
