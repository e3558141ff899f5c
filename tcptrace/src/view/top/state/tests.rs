use super::{
    super::{
        columns::{ALL, GROUPS},
        fixture,
    },
    *,
};
use crate::{aggregate::Grouping, filter::parse};

fn state() -> State {
    let mut state = State::new(Arc::new(fixture::busy()), ALL.to_vec());
    state.rows(2);
    state
}

fn selected(state: &State) -> Option<&str> {
    let groups = &state.snapshot().groups;
    groups.iter().find(|group| state.is_selected(group)).map(|group| &*group.key)
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
    assert_eq!(state.sort(), Sort::by(&GROUPS, 0));
    state.act(Action::SortBy(0));
    assert_eq!(state.sort(), Sort::by(&GROUPS, 0).reversed());
}

fn press(state: &mut State, actions: &[Action]) {
    for &action in actions {
        state.act(action);
    }
}

fn typed(state: &mut State, text: &str) {
    for c in text.chars() {
        state.act(Action::Edit(Edit::Insert(c)));
    }
}

/// The pipeline answers.
fn answer(state: &mut State, detail: Detail) {
    let mut snapshot = fixture::busy();
    snapshot.grouping = state.query().grouping;
    snapshot.answer = Some(Arc::new(fixture::answer(state.query(), detail)));
    state.take(Arc::new(snapshot));
}

#[test]
fn enter_leads_down_and_escape_back() {
    let mut state = state();
    press(&mut state, &[Action::Open]);
    // Nothing was selected: it is what the line at the bottom is about.
    let leak = GroupKey::named("192.168.100.200:50051", Role::Outbound);
    assert_eq!((state.place(), state.query().focus), (Place::Sockets, Focus::Group(leak)));
    assert!(state.members().is_none());
    answer(&mut state, Detail::Group(fixture::members()));
    assert_eq!(state.members().map(|members| members.total), Some(fixture::members().total));
    press(&mut state, &[Action::Move(Move::Down), Action::Open]);
    let Focus::Socket(id) = state.query().focus else { panic!("{:?}", state.query()) };
    assert_eq!(state.place(), Place::Life);
    // The oldest stands first.
    assert_eq!(id, SocketId(2));
    answer(&mut state, Detail::Gone);
    assert!(state.is_gone() && state.life().is_none());
    press(&mut state, &[Action::Back, Action::Back]);
    assert_eq!((state.place(), state.query().focus), (Place::Groups, Focus::Groups));
}

#[test]
fn a_filter_is_used_while_it_is_typed_and_the_last_good_one_stays() {
    let mut state = state();
    press(&mut state, &[Action::Filter]);
    typed(&mut state, "rport 54");
    let good = parse("filter", "rport 54").ok();
    assert_eq!((state.query().filter.as_ref(), state.filter_fault()), (good.as_ref(), None));
    typed(&mut state, " and");
    assert_eq!((state.query().filter.as_ref(), &*state.filter), (good.as_ref(), "rport 54"));
    assert!(state.filter_fault().is_some_and(|fault| fault.contains("expected a test")));
    press(&mut state, &[Action::Edit(Edit::Accept)]);
    assert_eq!((state.prompt().is_none(), state.filter_fault(), &*state.filter), (true, None, "rport 54"));
    // Escape while typing brings back the filter that was there.
    press(&mut state, &[Action::Filter, Action::Edit(Edit::Clear)]);
    assert_eq!(state.query().filter, None);
    press(&mut state, &[Action::Edit(Edit::Cancel)]);
    assert_eq!((state.query().filter.as_ref(), state.prompt().is_none()), (good.as_ref(), true));
    press(&mut state, &[Action::Back]);
    assert_eq!((state.query().filter, &*state.filter), (None, ""));
}

#[test]
fn every_key_groups_with_one_press_and_tab_goes_round() {
    let mut state = state();
    let keys: Vec<Grouping> = Grouping::single().collect();
    for (n, &key) in keys.iter().enumerate() {
        press(&mut state, &[Action::GroupBy(n as u8)]);
        assert_eq!(state.query().grouping, key);
    }
    press(&mut state, &[Action::GroupNext]);
    assert_eq!(state.query().grouping, keys[0]);
    press(&mut state, &[Action::GroupPrevious]);
    assert_eq!(state.query().grouping, keys[keys.len() - 1]);
    press(&mut state, &[Action::GroupBy(200)]);
    assert_eq!(state.query().grouping, keys[keys.len() - 1]);
    press(&mut state, &[Action::Reset]);
    assert_eq!(state.query().resets, 1);
}

#[test]
fn a_held_picture_takes_answers_only() {
    let mut state = state();
    answer(&mut state, Detail::Nothing);
    press(&mut state, &[Action::Pause]);
    let mut newer = fixture::empty();
    newer.answer = Some(Arc::new(fixture::answer(state.query(), Detail::Nothing)));
    state.take(Arc::new(newer));
    assert_eq!(state.snapshot().groups.len(), 4);
    // A closer look is of now; the groups stay as they were.
    press(&mut state, &[Action::Open]);
    let mut newer = fixture::empty();
    newer.answer = Some(Arc::new(fixture::answer(state.query(), Detail::Group(fixture::members()))));
    state.take(Arc::new(newer));
    assert!(state.members().is_some());
    assert_eq!((state.mode(), state.snapshot().groups.len()), (Mode::Paused, 4));
    // Groups by another key are others: there is nothing older to show.
    press(&mut state, &[Action::GroupBy(1)]);
    let mut newer = fixture::empty();
    newer.answer = Some(Arc::new(fixture::answer(state.query(), Detail::Nothing)));
    state.take(Arc::new(newer));
    assert_eq!((state.mode(), state.snapshot().groups.len()), (Mode::Paused, 0));
}

#[test]
fn the_last_answer_says_that_the_source_has_ended() {
    let mut state = state();
    let mut last = fixture::busy();
    last.answer = Some(Arc::new(Answer { ended: true, ..fixture::answer(state.query(), Detail::Nothing) }));
    state.take(Arc::new(last));
    assert_eq!(state.mode(), Mode::Ended);
}
