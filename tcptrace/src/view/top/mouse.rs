//! Maps mouse events to [`Action`]s by the regions of the last frame.

use ratatui::{
    crossterm::event::{MouseButton, MouseEvent, MouseEventKind},
    layout::{Position, Rect},
};

use super::{action::Action, state::Move};

/// Clickable regions of the last frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions {
    /// The rows of the table.
    pub rows: Rect,
    /// The column heads with their column indices.
    pub heads: Vec<(Rect, usize)>,
    /// The timeline of a recording.
    pub timeline: Rect,
}

/// Rows per wheel notch; each row is one move action.
pub const WHEEL_ROWS: usize = 3;

/// The action of `event`, and how often to apply it.
pub fn action(event: MouseEvent, regions: &Regions) -> Option<(Action, usize)> {
    let at = Position::new(event.column, event.row);
    match event.kind {
        MouseEventKind::ScrollUp => Some((Action::Move(Move::Up), WHEEL_ROWS)),
        MouseEventKind::ScrollDown => Some((Action::Move(Move::Down), WHEEL_ROWS)),
        MouseEventKind::Down(MouseButton::Left) if regions.rows.contains(at) => {
            Some((Action::Move(Move::ToLine((at.y - regions.rows.y) as usize)), 1))
        }
        MouseEventKind::Down(MouseButton::Left) | MouseEventKind::Drag(MouseButton::Left)
            if regions.timeline.contains(at) =>
        {
            Some((Action::Click((at.x - regions.timeline.x) as usize), 1))
        }
        MouseEventKind::Down(MouseButton::Left) => regions
            .heads
            .iter()
            .find(|(area, _)| area.contains(at))
            .map(|&(_, column)| (Action::SortBy(column), 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyModifiers;

    use super::*;

    #[test]
    fn clicks_and_wheel_map_to_actions() {
        let regions = Regions {
            rows: Rect::new(0, 8, 80, 10),
            heads: vec![(Rect::new(0, 7, 20, 1), 0), (Rect::new(21, 7, 9, 1), 5)],
            timeline: Rect::new(12, 2, 60, 3),
        };
        let event = |kind, column, row| {
            action(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }, &regions)
        };
        let click = MouseEventKind::Down(MouseButton::Left);
        assert_eq!(event(click, 3, 10), Some((Action::Move(Move::ToLine(2)), 1)));
        assert_eq!(event(click, 22, 7), Some((Action::SortBy(5), 1)));
        assert_eq!(event(click, 20, 7), None);
        assert_eq!(event(click, 13, 4), Some((Action::Click(1), 1)));
        assert_eq!(event(click, 11, 4), None);
        assert_eq!(event(MouseEventKind::Up(MouseButton::Left), 3, 10), None);
        assert_eq!(event(MouseEventKind::ScrollDown, 3, 10), Some((Action::Move(Move::Down), WHEEL_ROWS)));
    }
}
