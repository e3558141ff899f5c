use std::sync::Arc;

use jiff::tz::TimeZone;
use ratatui::{
    Terminal,
    backend::TestBackend,
    style::{Color, Modifier},
};

use super::*;
use crate::{
    aggregate::{
        Snapshot,
        detail::{Detail, Focus},
    },
    model::TcpState,
    view::{
        glyphs::Glyphs,
        top::{
            ScreenConfig,
            action::Action,
            columns::ALL,
            fixture,
            state::{Edit, Move},
            theme::{Colours, TerminalStyle},
        },
    },
};

const ASCII: TerminalStyle = TerminalStyle { colours: Colours::None, glyphs: Glyphs::Ascii };
const RICH: TerminalStyle = TerminalStyle { colours: Colours::Sixteen, glyphs: Glyphs::Unicode };

/// The frame after `actions`, with a pipeline answer to each.
#[expect(clippy::needless_pass_by_value, reason = "it reads better where it is called")]
fn frame(
    snapshot: Snapshot,
    actions: &[Action],
    look: TerminalStyle,
    width: u16,
    height: u16,
) -> TestBackend {
    let mut state = ScreenState::new(Arc::new(snapshot.clone()), ALL.to_vec());
    let settings = ScreenSettings::new(&ScreenConfig::default(), look, TimeZone::UTC);
    let draw_once = |state: &mut ScreenState| {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
        terminal.draw(|frame| drop(draw(frame, state, &settings))).expect("a terminal in memory");
        terminal.backend().clone()
    };
    for &action in actions {
        draw_once(&mut state);
        state.act(action);
        let query = state.query();
        let detail = match query.focus {
            Focus::Groups => Detail::Nothing,
            Focus::Group(_) => Detail::Group(fixture::members()),
            Focus::Socket(_) => Detail::Socket(Box::new(fixture::life())),
        };
        let filter = query.filter.as_ref().map(ToString::to_string).unwrap_or_default().into();
        let answer = Some(Arc::new(fixture::answer(query, detail)));
        state.take(Arc::new(Snapshot { filter, answer, ..snapshot.clone() }));
    }
    draw_once(&mut state)
}

#[test]
fn tiny_screen_shows_hints_from_their_start() {
    let tiny = frame(fixture::busy(), &[], ASCII, 20, 5);
    let last: String = (0..20).map(|x| tiny.buffer()[(x, 4)].symbol()).collect();
    assert!(last.starts_with("? help"), "{last:?}");
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
fn hostile_names_are_sanitised() {
    let narrow = frame(fixture::hostile(), &[], ASCII, 80, 24);
    let wide = frame(fixture::hostile(), &[], RICH, 250, 30);
    for backend in [&narrow, &wide] {
        let is_safe = |c: char| !c.is_control() && !('\u{202a}'..='\u{202e}').contains(&c);
        assert!(backend.buffer().content.iter().all(|cell| cell.symbol().chars().all(is_safe)));
    }
    insta::assert_snapshot!("hostile_80x24", narrow);
    insta::assert_snapshot!("hostile_250x30", wide);
}

#[test]
fn a_million_sockets() {
    insta::assert_snapshot!(frame(fixture::million(), &[], RICH, 120, 24));
}

#[test]
fn one_socket() {
    let mut snapshot = fixture::busy();
    snapshot.groups.truncate(1);
    snapshot.groups[0] =
        fixture::group("127.0.0.1:22", crate::lifecycle::Role::Inbound, &[(TcpState::Established, 1)]);
    insta::assert_snapshot!(frame(snapshot, &[], ASCII, 80, 24));
}

#[test]
fn sorted_by_words() {
    insta::assert_snapshot!(frame(fixture::lossy(), &[Action::SortPrevious; 2], ASCII, 80, 24));
}

#[test]
fn ports_run_out() {
    let mut snapshot = fixture::busy();
    fixture::use_ports(&mut snapshot, Some(crate::model::Nanos(26_000_000_000)));
    insta::assert_snapshot!(frame(snapshot, &[], RICH, 120, 40));
}

#[test]
fn sockets_of_a_group() {
    insta::assert_snapshot!(frame(fixture::lossy(), &[Action::Open], ASCII, 80, 24));
}

#[test]
fn sockets_of_a_group_with_dwells_beside() {
    let actions = [Action::Open, Action::Move(Move::Down)];
    insta::assert_snapshot!(frame(fixture::lossy(), &actions, RICH, 160, 30));
}

#[test]
fn life_of_a_socket() {
    insta::assert_snapshot!(frame(fixture::busy(), &[Action::Open; 2], ASCII, 80, 24));
}

#[test]
fn filter_prompt() {
    let mut actions = vec![Action::Filter];
    actions.extend("rport 5432 and stat".chars().map(|c| Action::Edit(Edit::Insert(c))));
    insta::assert_snapshot!(frame(fixture::busy(), &actions, ASCII, 120, 24));
}

#[test]
fn help() {
    insta::assert_snapshot!(frame(fixture::lossy(), &[Action::Help], RICH, 80, 40));
}

#[test]
fn help_scrolls() {
    let last = Action::Move(Move::Last);
    insta::assert_snapshot!(frame(fixture::lossy(), &[Action::Help, last], ASCII, 80, 24));
}

#[test]
fn finding_has_evidence_and_fix() {
    insta::assert_snapshot!(frame(fixture::busy(), &[Action::Findings], RICH, 80, 40));
}

#[test]
fn neighbouring_findings_follow() {
    let mut snapshot = fixture::busy();
    fixture::use_ports(&mut snapshot, Some(crate::model::Nanos(26_000_000_000)));
    let actions = [Action::Findings, Action::SortNext, Action::SortNext];
    insta::assert_snapshot!(frame(snapshot, &actions, ASCII, 160, 50));
}

#[test]
fn healthy_host_has_reasons() {
    let mut snapshot = fixture::empty();
    snapshot.interval = crate::model::Nanos::SECOND;
    insta::assert_snapshot!(frame(snapshot, &[Action::Findings], ASCII, 80, 24));
}

#[test]
fn enter_on_a_finding_opens_its_sockets() {
    insta::assert_snapshot!(frame(fixture::busy(), &[Action::Findings, Action::Open], ASCII, 80, 24));
}

#[test]
fn selected_row_is_reversed() {
    let backend = frame(fixture::busy(), &[Action::Move(Move::Down); 2], ASCII, 80, 24);
    assert_eq!(reversed_rows(&backend), [10]);
    assert_eq!(reversed_rows(&frame(fixture::busy(), &[], ASCII, 80, 24)), [0_u16; 0]);
}

#[test]
fn every_size_can_be_drawn() {
    let sizes = [(1, 1), (1, 50), (300, 1), (2, 2), (7, 3), (20, 5), (40, 7), (300, 100)];
    for (width, height) in sizes {
        for actions in [
            &[][..],
            &[Action::Move(Move::Last)],
            &[Action::Help],
            &[Action::Findings],
            &[Action::SortNext],
            &[Action::Open],
            &[Action::Open, Action::Open],
            &[Action::Filter],
        ] {
            frame(fixture::lossy(), actions, RICH, width, height);
            frame(fixture::empty(), actions, ASCII, width, height);
        }
    }
}

#[test]
fn no_cell_is_coloured_without_colour_support() {
    let backend = frame(fixture::lossy(), &[Action::Move(Move::Down)], ASCII, 160, 50);
    let cells = &backend.buffer().content;
    assert!(cells.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
}
