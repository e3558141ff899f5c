//! Keys in, commands and frames of a replay out.

use std::sync::Arc;

use jiff::tz::TimeZone;
use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode, style::Modifier};

use super::*;
use crate::{
    model::{Nanos, TcpState},
    replay::{Command, Frame, Index, Peak, Status},
    session::Ending,
    view::{
        glyphs::Glyphs,
        top::{
            Config,
            action::Action,
            columns::ALL,
            fixture,
            key::Key,
            state::{Next, Replay, edit},
            theme::{Colours, Look},
        },
    },
};

const ASCII: Look = Look { colours: Colours::None, glyphs: Glyphs::Ascii };
const RICH: Look = Look { colours: Colours::Sixteen, glyphs: Glyphs::Unicode };
const S: u64 = 1_000_000_000;

/// Ten minutes in which TIME_WAIT rises and falls twice; something is lost at 2:00 and nothing recorded for the
/// half minute after 5:00.
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
    index.complete(1_767_323_045_000_000_000, Some(Ending::Closed));
    Arc::new(index)
}

fn status() -> Status {
    Status { picture: 74, target: None, is_playing: true, speed: 2.0, note: None }
}

fn state(status: Status) -> State {
    let state = State::new(Arc::new(fixture::busy()), ALL.to_vec());
    state.of_replay(Replay::new(index(), status, TimeZone::UTC))
}

fn frame(state: &mut State, look: Look, width: u16, height: u16) -> (TestBackend, Regions) {
    let settings = Settings::new(&Config::default(), look, TimeZone::UTC);
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
    let mut regions = Regions::default();
    terminal.draw(|frame| regions = draw(frame, state, &settings)).expect("a terminal in memory");
    (terminal.backend().clone(), regions)
}

/// What typing `keys` leads to, the last of it.
fn press(state: &mut State, keys: &str) -> Next {
    let settings = Settings::new(&Config::default(), ASCII, TimeZone::UTC);
    let mut next = Next::Draw;
    for c in keys.chars() {
        let key = if c == '\n' { Key::Plain(KeyCode::Enter) } else { Key::typed(c) };
        let action = match state.prompt() {
            Some(_) => edit(key).map(Action::Edit),
            None => settings.keymap.action(key),
        };
        next = state.act(action.expect("a key that does something"));
    }
    next
}

#[test]
fn base_size() {
    insta::assert_snapshot!(frame(&mut state(status()), ASCII, 80, 24).0);
}

#[test]
fn large_and_on_the_way() {
    let going = Status { picture: 400, target: Some(74), is_playing: false, ..status() };
    insta::assert_snapshot!(frame(&mut state(going), RICH, 160, 50).0);
}

#[test]
fn small() {
    let note = Status { is_playing: false, note: Some("no later peak of TIME_WAIT"), ..status() };
    insta::assert_snapshot!(frame(&mut state(note), ASCII, 60, 14).0);
}

#[test]
fn a_time_that_is_none_is_said_while_it_is_typed() {
    let mut state = state(status());
    press(&mut state, "tyesterday\n");
    let (backend, _) = frame(&mut state, ASCII, 80, 24);
    let last: String = (0..80).map(|x| backend.buffer()[(x, 23)].symbol()).collect();
    assert_eq!(last.trim_end(), "go to: yesterday   expected 18:03:20, +90s, -10s or 50%");
}

#[test]
fn keys_ask_for_times() {
    let at = |second: u64| Next::Drive(Command::Go(Nanos((100 + second) * S)));
    let cases = [
        (" ", Next::Drive(Command::Toggle)),
        (".", Next::Drive(Command::Step(1))),
        (",", Next::Drive(Command::Step(-1))),
        ("]", Next::Drive(Command::Faster)),
        ("[", Next::Drive(Command::Slower)),
        ("p", Next::Drive(Command::Peak(Peak::Next))),
        ("P", Next::Drive(Command::Peak(Peak::Previous))),
        ("0", Next::Drive(Command::Start)),
        ("$", Next::Drive(Command::End)),
        ("t", Next::Draw),
        ("t03:06:45\n", at(60)),
        ("t+90s\n", at(164)),
        ("t-10s\n", at(64)),
        ("t-10m\n", at(0)),
        ("tnonsense\n", Next::Draw),
        ("t\n", Next::Draw),
        // What is typed are letters, not keys.
        ("tp", Next::Draw),
    ];
    for (keys, expected) in cases {
        assert_eq!(press(&mut state(status()), keys), expected, "{keys:?}");
    }
}

#[test]
fn live_there_is_no_time_to_go_through() {
    let mut live = State::new(Arc::new(fixture::busy()), ALL.to_vec());
    for keys in [".", ",", "p", "0", "$", "t", "]"] {
        assert_eq!(press(&mut live, keys), Next::Draw, "{keys:?}");
        assert!(live.prompt().is_none());
    }
    let (live, regions) = frame(&mut live, ASCII, 80, 24);
    assert_eq!(regions.timeline, Rect::default());
    assert!(!live.to_string().contains("peak"));
}

#[test]
fn a_click_goes_to_the_moment_that_stands_there() {
    let mut state = state(status());
    let (backend, regions) = frame(&mut state, ASCII, 80, 24);
    let timeline = regions.timeline;
    let buffer = backend.buffer();
    let is_reversed = |x: &u16| buffer[(*x, timeline.y)].modifier.contains(Modifier::REVERSED);
    let cursor: Vec<u16> = (0..80).filter(is_reversed).collect();
    let [cursor] = cursor[..] else { panic!("one cursor: {cursor:?}") };
    let Next::Drive(Command::Go(ts)) = state.act(Action::Click((cursor - timeline.x).into())) else {
        panic!("it goes somewhere")
    };
    let column = Nanos(600 * S / u64::from(timeline.width));
    assert!(ts.since(Nanos(174 * S)) <= column && Nanos(174 * S).since(ts) <= column, "{ts:?}");
}

#[test]
fn no_size_is_too_small_or_too_large() {
    for (width, height) in [(1, 1), (1, 50), (300, 1), (2, 2), (21, 13), (22, 13), (40, 12), (300, 100)] {
        frame(&mut state(status()), RICH, width, height);
        let empty = Replay::new(Arc::default(), status(), TimeZone::UTC);
        let state = State::new(Arc::new(fixture::empty()), ALL.to_vec());
        frame(&mut state.of_replay(empty), ASCII, width, height);
    }
}
