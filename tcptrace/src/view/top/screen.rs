//! One frame: an [`App`] in, the cells of the terminal out.
//!
//! From top to bottom: the header, the losses where there are any, the states, the groups, the hints.
//! What there is no height for goes in this order: the states' history, blank lines, hints, states.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    symbols::border,
    text::{Line, Span},
    widgets::{Block, Clear, Padding, Paragraph, Wrap},
};

use unicode_width::UnicodeWidthStr;

use super::{
    app::{App, Mode},
    columns::COLUMNS,
    input::BINDINGS,
    sort::Direction,
    summary,
    table::{self, Placed},
};
use crate::{
    aggregate::Snapshot,
    model::{text, units},
    view::{glyphs::Glyphs, losses::losses},
};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether to use colours. They never tell anything alone.
    pub colours: Colours,
    /// Which marks show the direction of the order.
    pub glyphs: Glyphs,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// The terminal's sixteen.
    Some,
    /// Only bold, dim and reversed.
    None,
}

impl Look {
    /// A look for a terminal with these environment variables, as `std::env::var_os` would give them:
    /// `NO_COLOR` and `TERM`, then the first that is set of `LC_ALL`, `LC_CTYPE` and `LANG`.
    pub fn new(no_color: Option<&str>, term: Option<&str>, locale: Option<&str>) -> Self {
        let plain = no_color.is_some_and(|value| !value.is_empty()) || term == Some("dumb");
        Self { colours: if plain { Colours::None } else { Colours::Some }, glyphs: Glyphs::of_locale(locale) }
    }

    fn colour(self, colour: Color) -> Style {
        match self.colours {
            Colours::Some => Style::new().fg(colour),
            Colours::None => Style::new(),
        }
    }

    const fn arrow(self, direction: Direction) -> &'static str {
        match (self.glyphs, direction) {
            (Glyphs::Unicode, Direction::Descending) => "▼",
            (Glyphs::Unicode, Direction::Ascending) => "▲",
            (Glyphs::Ascii, Direction::Descending) => "v",
            (Glyphs::Ascii, Direction::Ascending) => "^",
        }
    }
}

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

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws `app` on the whole of `frame`.
pub fn draw(frame: &mut Frame<'_>, app: &mut App, look: Look) {
    let area = frame.area();
    let losses = losses(&app.snapshot().losses);
    let height = area.height;
    let air = u16::from(height >= 16);
    let states = match height {
        ..8 => 0,
        8..20 => 3,
        20.. => 4,
    };
    let [header, loss, _, totals, _, groups, hints] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::from(losses.is_some() && height >= 3)),
        Constraint::Length(air),
        Constraint::Length(states),
        Constraint::Length(air),
        Constraint::Fill(1),
        Constraint::Length(u16::from(height >= 5)),
    ])
    .areas(area);
    draw_header(frame, header, app, losses.is_some(), look);
    if let Some(losses) = losses {
        let line = Line::styled(losses, look.colour(Color::Red).add_modifier(Modifier::BOLD));
        frame.render_widget(line, loss);
    }
    draw_states(frame, totals, app.snapshot(), look);
    draw_groups(frame, groups, app, look);
    draw_hints(frame, hints, app, look);
    if app.is_help_open() {
        draw_help(frame, area, app, look);
    }
}

/// As many facts as there is room for on the left, whether the picture moves on the right.
fn draw_header(frame: &mut Frame<'_>, area: Rect, app: &App, lossy: bool, look: Look) {
    let snapshot = app.snapshot();
    let (mode, style) = match app.mode() {
        Mode::Live => ("LIVE", look.colour(Color::Green)),
        Mode::Paused => ("PAUSED", look.colour(Color::Yellow)),
        Mode::Ended => ("ENDED", look.colour(Color::Yellow)),
    };
    let mut right = vec![Span::styled(mode, style.add_modifier(Modifier::BOLD))];
    if let Some(rate) = summary::records_per_s(snapshot) {
        right.push(Span::raw(format!("  {rate}")));
    }
    if lossy {
        let lost = format!("  lost {}", units::compact(snapshot.losses.total()));
        right.push(Span::styled(lost, look.colour(Color::Red).add_modifier(Modifier::BOLD)));
    } else {
        right.push(Span::styled("  lost 0", DIM));
    }
    let mut right = Line::from(right).right_aligned();
    let facts = summary::facts(snapshot);
    let name = facts.first().map_or(0, String::len);
    while right.width() + name + 2 > area.width as usize && right.spans.len() > 2 {
        right.spans.remove(1);
    }
    let room = (area.width as usize).saturating_sub(right.width() + 2);
    let mut left = Line::default();
    for (i, fact) in facts.into_iter().enumerate() {
        let span = if i == 0 { Span::styled(fact, BOLD) } else { Span::raw(format!("  {fact}")) };
        if left.width() + span.width() > room {
            break;
        }
        left.push_span(span);
    }
    frame.render_widget(left, area);
    frame.render_widget(right, area);
}

/// The states, and below them, where there is height for it, how they came to be what they are.
fn draw_states(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, look: Look) {
    let mut lines = [Line::raw("   "), Line::raw("now"), Line::raw("+/s"), Line::raw("   ")];
    for cells in summary::states(snapshot, area.width as usize) {
        let history = cells.history(snapshot, look.glyphs);
        let number = if cells.is_nothing { DIM } else { Style::new() };
        lines[0].push_span(Span::styled(cells.head, number.patch(BOLD)));
        lines[1].push_span(Span::styled(cells.now, number));
        lines[2].push_span(Span::styled(cells.entered_per_s, number));
        lines[3].push_span(Span::styled(history, look.colour(Color::Cyan)));
    }
    frame.render_widget(Paragraph::new(lines.to_vec()), area);
}

fn draw_groups(frame: &mut Frame<'_>, area: Rect, app: &mut App, look: Look) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    if app.snapshot().groups.is_empty() {
        let text = "No TCP sockets yet. They appear here as they open.";
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let rows = app.rows(body.height as usize).to_vec();
    let snapshot = app.snapshot();
    let placed = table::place(snapshot, &rows, app.sort(), area.width as usize);
    frame.render_widget(heads(snapshot, &placed, app, look), head);
    for (&row, line) in rows.iter().zip(body.rows()) {
        let group = &snapshot.groups[row];
        let mut cells = Line::default();
        for (i, placed) in placed.iter().enumerate() {
            let (text, is_nothing) = placed.cell(snapshot, group);
            if i > 0 {
                cells.push_span(" ");
            }
            cells.push_span(Span::styled(text, if is_nothing { DIM } else { Style::new() }));
        }
        frame.render_widget(cells, line);
        if app.is_selected(group) {
            frame.buffer_mut().set_style(line, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
}

/// The heads; the one that is sorted by has an arrow beside it.
fn heads(snapshot: &Snapshot, placed: &[Placed], app: &App, look: Look) -> Line<'static> {
    let sort = app.sort();
    let style = look.colour(Color::Cyan).patch(BOLD);
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
            sorted = Some((start, end, placed.is_words()));
        }
        row.push_str(&head);
    }
    row.push(' ');
    let Some((start, end, words)) = sorted else { return Line::styled(row, BOLD) };
    // A blank stands before every number and after every word.
    let arrow = look.arrow(sort.direction);
    let (before, head, after) = if words {
        (&row[..start], format!("{}{arrow}", &row[start..end]), &row[end + 1..])
    } else {
        (&row[..start.saturating_sub(1)], format!("{arrow}{}", &row[start..end]), &row[end..])
    };
    Line::from(vec![
        Span::styled(before.to_owned(), BOLD),
        Span::styled(head, style),
        Span::styled(after.to_owned(), BOLD),
    ])
}

/// The keys that are used most, and where the selection stands.
fn draw_hints(frame: &mut Frame<'_>, area: Rect, app: &App, look: Look) {
    let sort = app.sort();
    let column = if sort.column == 0 { "key" } else { COLUMNS[sort.column].name };
    let position = match app.position() {
        (Some(row), groups) => format!("{}/{}", units::count(row as u64 + 1), units::count(groups as u64)),
        (None, groups) => format!("{} groups", units::count(groups as u64)),
    };
    let right =
        Line::styled(format!("by {column} {}  {position}", look.arrow(sort.direction)), DIM).right_aligned();
    let room = (area.width as usize).saturating_sub(right.width() + 1);
    let mut left = Line::default();
    for binding in &BINDINGS {
        let Some(hint) = binding.hint else { continue };
        let key = binding.label.split(',').next().unwrap_or_default();
        let gap = if left.spans.is_empty() { "" } else { "  " };
        if left.width() + gap.len() + key.len() + 1 + hint.len() > room {
            break;
        }
        left.push_span(Span::styled(format!("{gap}{key}"), BOLD));
        left.push_span(Span::styled(format!(" {hint}"), DIM));
    }
    frame.render_widget(left, area);
    frame.render_widget(right, area);
}

/// The help over everything else: what the trace can't see, the keys, the columns.
fn draw_help(frame: &mut Frame<'_>, area: Rect, app: &mut App, look: Look) {
    let lines = help(app.snapshot(), area.width.saturating_sub(4).min(74) as usize);
    let width = lines.iter().map(Line::width).max().unwrap_or(0) as u16 + 4;
    let height = lines.len() as u16 + 2;
    let area = area.centered(Constraint::Length(width), Constraint::Length(height));
    let rows = area.height.saturating_sub(2) as usize;
    let first = app.help(lines.len(), rows).unwrap_or(0);
    let title =
        if rows < lines.len() { " help: Esc closes, up and down scroll " } else { " help: Esc closes " };
    let border = match look.glyphs {
        Glyphs::Unicode => border::PLAIN,
        Glyphs::Ascii => ASCII_BORDER,
    };
    let block = Block::bordered().border_set(border).title(title).padding(Padding::horizontal(1));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block).scroll((first as u16, 0)), area);
}

fn help(snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let row = |label: &str, help: &'static str| {
        Line::from(vec![Span::styled(format!("{label:13}"), BOLD), Span::raw(help)])
    };
    let limits = &snapshot.host.limits;
    let notes = limits.iter().flat_map(|limit| wrap(&format!("Note: {}", text::sanitise(limit)), width));
    let keys = BINDINGS.iter().map(|binding| row(binding.label, binding.help));
    let key = snapshot.grouping.head();
    let columns = COLUMNS.iter().map(|column| {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::fixture, super::input::Action, *};

    const ASCII: Look = Look { colours: Colours::None, glyphs: Glyphs::Ascii };
    const RICH: Look = Look { colours: Colours::Some, glyphs: Glyphs::Unicode };

    /// The frame after `actions`.
    fn frame(snapshot: Snapshot, actions: &[Action], look: Look, width: u16, height: u16) -> TestBackend {
        let mut app = App::new(Arc::new(snapshot));
        let draw_once = |app: &mut App| {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
            terminal.draw(|frame| draw(frame, app, look)).expect("a terminal in memory");
            terminal.backend().clone()
        };
        for &action in actions {
            draw_once(&mut app);
            app.act(action);
        }
        draw_once(&mut app)
    }

    fn reversed_rows(backend: &TestBackend) -> Vec<u16> {
        let buffer = backend.buffer();
        let reversed = |y: &u16| buffer[(0, *y)].modifier.contains(Modifier::REVERSED);
        (0..buffer.area.height).filter(reversed).collect()
    }

    #[test]
    fn base_size() {
        insta::assert_snapshot!(frame(fixture::busy(), &[], ASCII, 80, 24));
    }

    #[test]
    fn large() {
        insta::assert_snapshot!(frame(fixture::lossy(), &[], RICH, 160, 50));
    }

    #[test]
    fn small() {
        insta::assert_snapshot!(frame(fixture::lossy(), &[Action::Pause], ASCII, 40, 10));
    }

    #[test]
    fn empty() {
        insta::assert_snapshot!(frame(fixture::empty(), &[], ASCII, 80, 24));
    }

    #[test]
    fn sorted_by_words() {
        insta::assert_snapshot!(frame(fixture::lossy(), &[Action::SortPrevious; 2], ASCII, 80, 24));
    }

    #[test]
    fn help() {
        insta::assert_snapshot!(frame(fixture::lossy(), &[Action::Help], RICH, 80, 40));
    }

    #[test]
    fn help_scrolls() {
        insta::assert_snapshot!(frame(fixture::lossy(), &[Action::Help, Action::Last], ASCII, 80, 24));
    }

    #[test]
    fn the_selected_row_is_reversed() {
        let backend = frame(fixture::busy(), &[Action::Down, Action::Down], ASCII, 80, 24);
        assert_eq!(reversed_rows(&backend), [9]);
        assert_eq!(reversed_rows(&frame(fixture::busy(), &[], ASCII, 80, 24)), [0_u16; 0]);
    }

    #[test]
    fn no_size_is_too_small_or_too_large() {
        let sizes = [(1, 1), (1, 50), (300, 1), (2, 2), (7, 3), (20, 5), (40, 7), (300, 100)];
        for (width, height) in sizes {
            for actions in [&[][..], &[Action::Last], &[Action::Help], &[Action::SortNext]] {
                frame(fixture::lossy(), actions, RICH, width, height);
                frame(fixture::empty(), actions, ASCII, width, height);
            }
        }
    }

    #[test]
    fn without_colours_there_is_none() {
        let backend = frame(fixture::lossy(), &[Action::Down], ASCII, 160, 50);
        let cells = &backend.buffer().content;
        assert!(cells.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    }

    #[test]
    fn the_environment_makes_the_look() {
        assert_eq!(Look::new(None, Some("xterm"), Some("en_US.UTF-8")), RICH);
        assert_eq!(Look::new(Some("1"), Some("xterm"), Some("C")), ASCII);
        assert_eq!(Look::new(Some(""), Some("dumb"), None), ASCII);
    }
}
