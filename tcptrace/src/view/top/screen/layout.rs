//! Layout of the screen: assigns an area to each part.
//!
//! From top to bottom: header, losses if any, timeline of a recording, states, table title, table, dwells of the group,
//! verdict, hints. As the height shrinks, parts disappear in this order: dwells below the table, growth and history of
//! the states, blank lines, timeline, states, verdict, losses and table title, hints.

use ratatui::layout::{Constraint, Layout, Rect};

/// Areas of the parts; a hidden part has height 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    pub header: Rect,
    pub losses: Rect,
    /// Timeline of a recording.
    pub timeline: Rect,
    pub states: Rect,
    /// Table title: the group and the filter.
    pub about: Rect,
    pub table: Rect,
    /// The verdict.
    pub verdict: Rect,
    /// Hints, or the input line.
    pub hints: Rect,
}

/// Heights that the optional parts need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutRequest {
    /// Lines for losses.
    pub losses: u16,
    /// Lines for the timeline of a recording.
    pub timeline: u16,
    /// Lines for the table title.
    pub about: u16,
    /// Lines for the verdict.
    pub verdict: u16,
}

/// Minimum height with blank lines between the parts.
const MIN_HEIGHT_WITH_BLANKS: u16 = 16;
/// Minimum height at which the states have all their lines.
const MIN_HEIGHT_ALL_STATES: u16 = 20;
/// Minimum height at which the verdict may have three lines, which hold the first step of the fix at 80 columns.
const MIN_HEIGHT_LONG_VERDICT: u16 = 24;

/// Most lines of the verdict on a screen of this height.
pub const fn most_verdict(height: u16) -> u16 {
    match height {
        ..7 => 0,
        7..MIN_HEIGHT_ALL_STATES => 1,
        MIN_HEIGHT_ALL_STATES..MIN_HEIGHT_LONG_VERDICT => 2,
        _ => 3,
    }
}

/// Divides `area` into the parts.
pub fn parts(area: Rect, wanted: LayoutRequest) -> Parts {
    let height = area.height;
    let air = u16::from(height >= MIN_HEIGHT_WITH_BLANKS);
    let states = match height {
        ..8 => 0,
        8..MIN_HEIGHT_ALL_STATES => 2,
        MIN_HEIGHT_ALL_STATES.. => 5,
    };
    let [header, losses, timeline, _, states, about, table, verdict, hints] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(if height >= 5 { wanted.losses } else { 0 }),
        Constraint::Length(wanted.timeline),
        Constraint::Length(air),
        Constraint::Length(states),
        Constraint::Length(if height >= 5 { wanted.about.max(air) } else { 0 }),
        Constraint::Fill(1),
        Constraint::Length(wanted.verdict.min(most_verdict(height))),
        Constraint::Length(u16::from(height >= 4)),
    ])
    .areas(area);
    Parts { header, losses, timeline, states, about, table, verdict, hints }
}

/// Minimum width at which the dwells go beside the table.
const MIN_WIDTH_DWELLS_BESIDE: u16 = 130;
/// Width and height of the dwells.
const DWELLS: (u16, u16) = (50, 8);
/// Minimum table height at which the dwells go below it.
const BELOW: u16 = 18;

/// Areas of the table and of the dwells, which go beside it, below it, or are hidden.
pub fn with_dwells(area: Rect) -> (Rect, Rect) {
    let (width, height) = DWELLS;
    let [table, _, dwells] = if area.width >= MIN_WIDTH_DWELLS_BESIDE {
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(2), Constraint::Length(width)])
            .areas(area)
    } else if area.height >= BELOW {
        Layout::vertical([Constraint::Fill(1), Constraint::Length(1), Constraint::Length(height)]).areas(area)
    } else {
        [area, Rect::default(), Rect::default()]
    };
    (table, dwells)
}
