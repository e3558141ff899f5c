//! Tests of the replay screen: keys to commands, and frames.

use std::sync::Arc;

use jiff::tz::TimeZone;
use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode, style::Modifier};

use super::*;
use crate::{
    model::{Nanos, TcpState, incident::Incident, record::HostFacts},
    replay::{Direction, Frame, Index, ReplayCommand, ReplayStatus},
    session::Ending,
    view::{
        glyphs::Glyphs,
        top::{
            ScreenConfig,
            action::Action,
            columns::ALL,
            fixture,
            key::KeyPress,
            state::{FollowUp, Replay, edit},
            theme::{Colours, TerminalStyle},
        },
    },
};

const ASCII: TerminalStyle = TerminalStyle { colours: Colours::None, glyphs: Glyphs::Ascii };
const RICH: TerminalStyle = TerminalStyle { colours: Colours::Sixteen, glyphs: Glyphs::Unicode };
const S: u64 = 1_000_000_000;

/// Ten minutes in which TIME_WAIT rises and falls twice, records are lost at 2:00, and the half minute after 5:00 is
/// missing.
fn index() -> Arc<Index> {
    let mut index = Index::new(Nanos::SECOND);
    for second in (0..600_u64).filter(|second| !(301..330).contains(second)) {
        let mut counts = [0; TcpState::COUNT];
        let wave = ((second as f64 / 47.0).sin().max(0.0) * 18_000.0) as u32;
        counts[TcpState::TimeWait.index()] = wave;
        counts[TcpState::Established.index()] = 70 + wave / 400;
        counts[TcpState::CloseWait.index()] = second as u32 / 20;
        let lost = if second >= 120 { 12 } else { 0 };
        assert!(index.push(Frame { ts: Nanos((100 + second) * S), counts, lost }));
    }
    // 2026-01-02 03:04:05 UTC at monotonic 0.
    let offset_ns = 1_767_323_045_000_000_000;
    let incident = Incident {
        finding: "close_wait_leak".into(),
        title: "billing leaks sockets in CLOSE_WAIT".into(),
        ts_ns: offset_ns + 520 * S,
    };
    let host = HostFacts { clock_offset_ns: offset_ns, incidents: vec![incident], ..HostFacts::default() };
    index.complete(Arc::new(host), Some(Ending::Closed));
    Arc::new(index)
}

fn status() -> ReplayStatus {
    ReplayStatus { frame: 74, target: None, is_playing: true, speed: 2.0, note: None }
}

fn state(status: ReplayStatus) -> ScreenState {
    let state = ScreenState::new(Arc::new(fixture::busy()), ALL.to_vec());
    state.of_replay(Replay::new(index(), status, TimeZone::UTC))
}

fn frame(state: &mut ScreenState, look: TerminalStyle, width: u16, height: u16) -> (TestBackend, Regions) {
    let settings = ScreenSettings::new(&ScreenConfig::default(), look, TimeZone::UTC);
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
    let mut regions = Regions::default();
    terminal.draw(|frame| regions = draw(frame, state, &settings)).expect("a terminal in memory");
    (terminal.backend().clone(), regions)
}

/// Types `keys`; returns the follow-up of the last one.
fn press(state: &mut ScreenState, keys: &str) -> FollowUp {
    let settings = ScreenSettings::new(&ScreenConfig::default(), ASCII, TimeZone::UTC);
    let mut next = FollowUp::Draw;
    for c in keys.chars() {
        let key = if c == '\n' { KeyPress::Plain(KeyCode::Enter) } else { KeyPress::typed(c) };
        let action = match state.prompt() {
            Some(_) => edit(key).map(Action::Edit),
            None => settings.keymap.action(key),
        };
        next = state.act(action.expect("a bound key"));
    }
    next
}

#[test]
fn base_size() {
    insta::assert_snapshot!(frame(&mut state(status()), ASCII, 80, 24).0);
}

#[test]
fn large_while_seeking() {
    let going = ReplayStatus { frame: 400, target: Some(74), is_playing: false, ..status() };
    insta::assert_snapshot!(frame(&mut state(going), RICH, 160, 50).0);
}

#[test]
fn small() {
    let note =
        ReplayStatus { is_playing: false, note: Some("no later peak of TIME_WAIT".into()), ..status() };
    insta::assert_snapshot!(frame(&mut state(note), ASCII, 60, 14).0);
}

#[test]
fn invalid_time_shows_an_error_at_the_prompt() {
    let mut state = state(status());
    press(&mut state, "tyesterday\n");
    let (backend, _) = frame(&mut state, ASCII, 80, 24);
    let last: String = (0..80).map(|x| backend.buffer()[(x, 23)].symbol()).collect();
    assert_eq!(last.trim_end(), "go to: yesterday   expected 18:03:20, +90s, -10s or 50%");
}

#[test]
fn keys_map_to_replay_commands() {
    let at = |second: u64| FollowUp::Drive(ReplayCommand::Go(Nanos((100 + second) * S)));
    let cases = [
        (" ", FollowUp::Drive(ReplayCommand::Toggle)),
        (".", FollowUp::Drive(ReplayCommand::Step(1))),
        (",", FollowUp::Drive(ReplayCommand::Step(-1))),
        ("]", FollowUp::Drive(ReplayCommand::Faster)),
        ("[", FollowUp::Drive(ReplayCommand::Slower)),
        ("p", FollowUp::Drive(ReplayCommand::Peak(Direction::Next))),
        ("P", FollowUp::Drive(ReplayCommand::Peak(Direction::Previous))),
        ("n", FollowUp::Drive(ReplayCommand::Incident(Direction::Next))),
        ("N", FollowUp::Drive(ReplayCommand::Incident(Direction::Previous))),
        ("0", FollowUp::Drive(ReplayCommand::Start)),
        ("$", FollowUp::Drive(ReplayCommand::End)),
        ("t", FollowUp::Draw),
        ("t03:06:45\n", at(60)),
        ("t+90s\n", at(164)),
        ("t-10s\n", at(64)),
        ("t-10m\n", at(0)),
        ("tnonsense\n", FollowUp::Draw),
        ("t\n", FollowUp::Draw),
        // At the prompt, letters are input, not commands.
        ("tp", FollowUp::Draw),
    ];
    for (keys, expected) in cases {
        assert_eq!(press(&mut state(status()), keys), expected, "{keys:?}");
    }
}

#[test]
fn live_screen_ignores_replay_keys() {
    let mut live = ScreenState::new(Arc::new(fixture::busy()), ALL.to_vec());
    for keys in [".", ",", "p", "0", "$", "t", "]"] {
        assert_eq!(press(&mut live, keys), FollowUp::Draw, "{keys:?}");
        assert!(live.prompt().is_none());
    }
    let (live, regions) = frame(&mut live, ASCII, 80, 24);
    assert_eq!(regions.timeline, Rect::default());
    assert!(!live.to_string().contains("peak"));
}

#[test]
fn timeline_click_goes_to_the_time_at_its_column() {
    let mut state = state(status());
    let (backend, regions) = frame(&mut state, ASCII, 80, 24);
    let timeline = regions.timeline;
    let buffer = backend.buffer();
    let is_reversed = |x: &u16| buffer[(*x, timeline.y)].modifier.contains(Modifier::REVERSED);
    let cursor: Vec<u16> = (0..80).filter(is_reversed).collect();
    let [cursor] = cursor[..] else { panic!("expected one cursor: {cursor:?}") };
    let FollowUp::Drive(ReplayCommand::Go(ts)) = state.act(Action::Click((cursor - timeline.x).into()))
    else {
        panic!("expected a Go command")
    };
    let column = Nanos(600 * S / u64::from(timeline.width));
    assert!(ts.since(Nanos(174 * S)) <= column && Nanos(174 * S).since(ts) <= column, "{ts:?}");
}

#[test]
fn every_size_can_be_drawn() {
    for (width, height) in [(1, 1), (1, 50), (300, 1), (2, 2), (21, 13), (22, 13), (40, 12), (300, 100)] {
        frame(&mut state(status()), RICH, width, height);
        let empty = Replay::new(Arc::default(), status(), TimeZone::UTC);
        let state = ScreenState::new(Arc::new(fixture::empty()), ALL.to_vec());
        frame(&mut state.of_replay(empty), ASCII, width, height);
    }
}

#[test]
fn header_shows_that_a_recording_is_incomplete() {
    let first_line = |ending: Ending| {
        let mut cut = Index::clone(&index());
        cut.complete(Arc::default(), Some(ending));
        let state = ScreenState::new(Arc::new(fixture::busy()), ALL.to_vec());
        let mut state = state.of_replay(Replay::new(Arc::new(cut), status(), TimeZone::UTC));
        let (screen, _) = frame(&mut state, ASCII, 120, 30);
        (0..120).map(|x| screen.buffer()[(x, 0)].symbol().to_owned()).collect::<String>()
    };
    let closed = first_line(Ending::Closed);
    assert!(closed.contains("REPLAY") && !closed.contains("cut"), "{closed}");
    let cut = first_line(Ending::Open { torn_bytes: 7 });
    assert!(cut.contains("cut off"), "{cut}");
    let followed = first_line(Ending::Followed { at: 1, bytes: 1, why: "it is no recording" });
    assert!(followed.contains("not read to the end"), "{followed}");
}
