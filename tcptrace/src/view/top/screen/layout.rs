//! Where the parts of the screen are: its size in, one area each out.
//!
//! From top to bottom: the header, the losses where there are any, the timeline of a recording, the states, what the table is about, the
//! table, the dwells of its group, what stands out, the hints. What there is no height for goes in this order:
//! the dwells, the states' history and growth, blank lines, what stands out, hints, states.

use ratatui::layout::{Constraint, Layout, Rect};

/// The parts of the screen. Those that are left out have no height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    pub header: Rect,
    pub losses: Rect,
    /// What was when in a recording.
    pub timeline: Rect,
    pub states: Rect,
    /// What the table is about, and which filter it has.
    pub about: Rect,
    pub table: Rect,
    /// What stands out.
    pub insight: Rect,
    /// Hints, or the line that is typed.
    pub hints: Rect,
}

/// What has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Lines for losses.
    pub losses: u16,
    /// Lines for the timeline of a recording.
    pub timeline: u16,
    /// Lines for what the table is about.
    pub about: u16,
}

/// From this height on there is air between the parts.
const AIRY: u16 = 16;
/// From this height on the states have all their lines.
const TALL: u16 = 20;
/// Narrower than this, a sentence takes two lines.
const SENTENCE: u16 = 150;

/// The parts of a screen on `area`.
pub fn parts(area: Rect, wanted: Wanted) -> Parts {
    let height = area.height;
    let air = u16::from(height >= AIRY);
    let states = match height {
        ..8 => 0,
        8..TALL => 2,
        TALL.. => 5,
    };
    let insight = match height {
        ..7 => 0,
        TALL.. if area.width < SENTENCE => 2,
        _ => 1,
    };
    let [header, losses, timeline, _, states, about, table, insight, hints] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(if height >= 5 { wanted.losses } else { 0 }),
        Constraint::Length(wanted.timeline),
        Constraint::Length(air),
        Constraint::Length(states),
        Constraint::Length(if height >= 5 { wanted.about.max(air) } else { 0 }),
        Constraint::Fill(1),
        Constraint::Length(insight),
        Constraint::Length(u16::from(height >= 4)),
    ])
    .areas(area);
    Parts { header, losses, timeline, states, about, table, insight, hints }
}

/// Columns from which on there is a place for the dwells beside the table.
const BESIDE: u16 = 130;
/// Columns and lines of the dwells.
const DWELLS: (u16, u16) = (50, 8);
/// Lines of the table from which on there is a place for the dwells below it.
const BELOW: u16 = 18;

/// The table and the dwells of its group, beside or below it where there is room.
pub fn with_dwells(area: Rect) -> (Rect, Rect) {
    let (width, height) = DWELLS;
    let [table, _, dwells] = if area.width >= BESIDE {
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(2), Constraint::Length(width)])
            .areas(area)
    } else if area.height >= BELOW {
        Layout::vertical([Constraint::Fill(1), Constraint::Length(1), Constraint::Length(height)]).areas(area)
    } else {
        [area, Rect::default(), Rect::default()]
    };
    (table, dwells)
}
