//! Popup with a finding: what `doctor` says of it.

use ratatui::{Frame, style::Style, text::Line};

use super::{footer::severity, popup};
use crate::{
    model::units,
    view::{
        doctor::text::{self, Commands, DoctorLayout, FindingDetail, Paint},
        top::{settings::ScreenSettings, state::ScreenState},
    },
};

/// Draws the finding at `index`.
pub fn draw(frame: &mut Frame<'_>, state: &mut ScreenState, index: usize, settings: &ScreenSettings) {
    let layout = DoctorLayout {
        width: popup::width(frame, 100),
        paint: Paint::Plain,
        detail: FindingDetail::Full,
        commands: Commands::WrappedAt(popup::width(frame, u16::MAX)),
    };
    let findings = state.findings();
    let count = findings.all().len();
    // A later snapshot may have fewer.
    let index = index.min(count.saturating_sub(1));
    let mut written = Vec::new();
    let (title, keys, colour) = if let Some(finding) = findings.all().get(index) {
        text::finding(&mut written, finding, layout).expect("memory can be written");
        let past = findings.past(finding);
        let past = past.map(|ago| format!(", the last {} ago", units::duration(ago))).unwrap_or_default();
        let sockets = if finding.who.is_empty() { "" } else { ", Enter sockets" };
        let others = if count > 1 { ", left/right others" } else { "" };
        let title = format!("finding {} of {count}{past}", index + 1);
        (title, format!("{sockets}{others}"), severity(Some(finding.severity)))
    } else {
        text::healthy(&mut written, state.snapshot(), layout).expect("memory can be written");
        ("no finding".to_owned(), String::new(), severity(None))
    };
    let written = String::from_utf8_lossy(&written).into_owned();
    let style = |n: usize| if n == 0 { settings.theme.style(colour) } else { Style::default() };
    let lines =
        written.lines().enumerate().map(|(n, line)| Line::styled(line.to_owned(), style(n))).collect();
    popup::draw(frame, &title, &keys, lines, state, settings);
}
