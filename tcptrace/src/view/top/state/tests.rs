use super::{
    super::{columns::GROUPS, fixture},
    *,
};

fn state() -> State {
    let mut state = State::new(Arc::new(fixture::busy()));
    state.rows(2);
    state
}

fn selected(state: &State) -> Option<&str> {
    state.groups.selected().map(|selected| &*selected.key)
}

#[test]
fn the_selection_stays_on_its_group() {
    let mut state = state();
    state.act(Action::Move(Move::Down));
    state.act(Action::Move(Move::Down));
    assert_eq!(selected(&state), Some("*:443"));
    let mut newer = fixture::busy();
    newer.groups[1].time_wait.now = 1_000_000;
    state.take(Arc::new(newer));
    assert_eq!((selected(&state), state.position()), (Some("*:443"), (Some(0), 4)));
    state.act(Action::Reverse);
    assert_eq!((selected(&state), state.position()), (Some("*:443"), (Some(3), 4)));
    let rows = state.rows(2).to_vec();
    assert!(rows.iter().any(|&row| state.is_selected(&state.snapshot().groups[row])));
    state.act(Action::Back);
    assert_eq!(selected(&state), None);
}

#[test]
fn a_pause_holds_the_picture_and_goes_on_with_the_newest() {
    let mut state = state();
    state.act(Action::Pause);
    state.take(Arc::new(fixture::empty()));
    assert_eq!((state.mode(), state.snapshot().groups.len()), (Mode::Paused, 4));
    state.act(Action::Pause);
    assert_eq!((state.mode(), state.snapshot().groups.len()), (Mode::Live, 0));
    state.end();
    state.act(Action::Pause);
    assert_eq!(state.mode(), Mode::Ended);
}

#[test]
fn escape_closes_the_help_first() {
    let mut state = state();
    state.act(Action::Move(Move::Down));
    state.act(Action::Help);
    state.act(Action::Move(Move::Last));
    assert_eq!((state.help(30, 20), state.position().0), (Some(10), Some(0)));
    state.act(Action::Back);
    assert!(!state.is_help_open() && state.position().0.is_some());
}

#[test]
fn sorting_goes_round_and_a_head_clicked_twice_turns_round() {
    let mut state = state();
    for _ in 0..GROUPS.len() {
        state.act(Action::SortNext);
    }
    assert_eq!(state.sort(), Sort::default());
    state.act(Action::SortNext);
    state.act(Action::SortPrevious);
    assert_eq!(state.sort(), Sort::default());
    state.act(Action::SortBy(0));
    assert_eq!(state.sort(), Sort::by(0));
    state.act(Action::SortBy(0));
    assert_eq!(state.sort(), Sort::by(0).reversed());
}
