//! Where the parts of the screen are: its size in, one area each out.
//!
//! From top to bottom: the header, the losses where there are any, the states, the table, the hints. What
//! there is no height for goes in this order: the states' history, blank lines, hints, states.

use ratatui::layout::{Constraint, Layout, Rect};

/// The parts of the screen. Those that are left out have no height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    pub header: Rect,
    pub losses: Rect,
    pub states: Rect,
    pub table: Rect,
    pub hints: Rect,
}

/// The parts of a screen on `area`, with so many lines for losses.
pub fn parts(area: Rect, losses: u16) -> Parts {
    let height = area.height;
    let air = u16::from(height >= 16);
    let states = match height {
        ..8 => 0,
        8..20 => 3,
        20.. => 4,
    };
    let [header, losses, _, states, _, table, hints] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(if height >= 3 { losses } else { 0 }),
        Constraint::Length(air),
        Constraint::Length(states),
        Constraint::Length(air),
        Constraint::Fill(1),
        Constraint::Length(u16::from(height >= 5)),
    ])
    .areas(area);
    Parts { header, losses, states, table, hints }
}
