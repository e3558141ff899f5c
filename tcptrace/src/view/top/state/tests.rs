use super::{
    super::{
        columns::{ALL, GROUPS},
        fixture,
    },
    *,
};
use crate::{
    aggregate::{Grouping, Key},
    filter::parse,
};

fn state() -> ScreenState {
    let mut state = ScreenState::new(Arc::new(fixture::busy()), ALL.to_vec());
    state.rows(2);
    state
}

fn selected(state: &ScreenState) -> Option<&str> {
    let groups = &state.snapshot().groups;
    groups.iter().find(|group| state.is_selected(group)).map(|group| &*group.key)
}

#[test]
fn selection_follows_its_group() {
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
fn pause_freezes_the_screen_and_resume_shows_the_newest() {
    let mut state = state();
    state.act(Action::Pause);
    state.take(Arc::new(fixture::empty()));
    assert_eq!((state.mode(), state.snapshot().groups.len()), (FeedMode::Paused, 4));
    state.act(Action::Pause);
    assert_eq!((state.mode(), state.snapshot().groups.len()), (FeedMode::Live, 0));
    state.end();
    state.act(Action::Pause);
    assert_eq!(state.mode(), FeedMode::Ended);
}

#[test]
fn escape_closes_the_help_first() {
    let mut state = state();
    state.act(Action::Move(Move::Down));
    state.act(Action::Help);
    state.act(Action::Move(Move::Last));
    assert_eq!((state.popup_line(30, 20), state.position().0), (10, Some(0)));
    state.act(Action::Back);
    assert!(state.popup().is_none() && state.position().0.is_some());
}

#[test]
fn sort_column_wraps_around_and_second_click_reverses() {
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

fn press(state: &mut ScreenState, actions: &[Action]) {
    for &action in actions {
        state.act(action);
    }
}

fn typed(state: &mut ScreenState, text: &str) {
    for c in text.chars() {
        state.act(Action::Edit(Edit::Insert(c)));
    }
}

/// Delivers a pipeline answer with `detail`.
fn answer(state: &mut ScreenState, detail: Detail) {
    let mut snapshot = fixture::busy();
    snapshot.grouping = state.query().grouping;
    snapshot.answer = Some(Arc::new(fixture::answer(state.query(), detail)));
    state.take(Arc::new(snapshot));
}

#[test]
fn enter_opens_and_escape_goes_back() {
    let mut state = state();
    press(&mut state, &[Action::Open]);
    // Nothing was selected: this is the group of the worst finding.
    let leak = GroupKey::named("192.168.100.200:50051", Role::Outbound);
    assert_eq!((state.place(), state.query().focus), (ScreenView::Sockets, Focus::Group(leak)));
    assert!(state.members().is_none());
    answer(&mut state, Detail::Group(fixture::members()));
    assert_eq!(state.members().map(|members| members.total), Some(fixture::members().total));
    press(&mut state, &[Action::Move(Move::Down), Action::Open]);
    let Focus::Socket(id) = state.query().focus else { panic!("{:?}", state.query()) };
    assert_eq!(state.place(), ScreenView::Life);
    // The oldest is first.
    assert_eq!(id, SocketId(2));
    answer(&mut state, Detail::Gone);
    assert!(state.is_gone() && state.life().is_none());
    press(&mut state, &[Action::Back, Action::Back]);
    assert_eq!((state.place(), state.query().focus), (ScreenView::Groups, Focus::Groups));
}

#[test]
fn filter_applies_while_typed_and_last_valid_one_stays() {
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
    // Escape at the prompt restores the previous filter.
    press(&mut state, &[Action::Filter, Action::Edit(Edit::Clear)]);
    assert_eq!(state.query().filter, None);
    press(&mut state, &[Action::Edit(Edit::Cancel)]);
    assert_eq!((state.query().filter.as_ref(), state.prompt().is_none()), (good.as_ref(), true));
    press(&mut state, &[Action::Back]);
    assert_eq!((state.query().filter, &*state.filter), (None, ""));
}

#[test]
fn number_keys_select_a_grouping_and_tab_cycles() {
    let mut state = state();
    let keys: Vec<Grouping> = Grouping::single().collect();
    for key in [Key::Peer, Key::Cgroup] {
        press(&mut state, &[Action::GroupBy(key)]);
        assert_eq!(state.query().grouping, Grouping::by(key));
    }
    let cgroup = keys.iter().position(|key| *key == Grouping::by(Key::Cgroup)).expect("a grouping");
    press(&mut state, &[Action::GroupNext]);
    assert_eq!(state.query().grouping, keys[cgroup + 1]);
    press(&mut state, &vec![Action::GroupPrevious; cgroup + 2]);
    assert_eq!(state.query().grouping, keys[keys.len() - 1]);
    press(&mut state, &[Action::GroupNext]);
    assert_eq!(state.query().grouping, keys[0]);
    press(&mut state, &[Action::Reset]);
    assert_eq!(state.query().resets, 1);
}

#[test]
fn paused_screen_updates_answers_only() {
    let mut state = state();
    answer(&mut state, Detail::Nothing);
    press(&mut state, &[Action::Pause]);
    let mut newer = fixture::empty();
    newer.answer = Some(Arc::new(fixture::answer(state.query(), Detail::Nothing)));
    state.take(Arc::new(newer));
    assert_eq!(state.snapshot().groups.len(), 4);
    // Details are current; the groups stay frozen.
    press(&mut state, &[Action::Open]);
    let mut newer = fixture::empty();
    newer.answer = Some(Arc::new(fixture::answer(state.query(), Detail::Group(fixture::members()))));
    state.take(Arc::new(newer));
    assert!(state.members().is_some());
    assert_eq!((state.mode(), state.snapshot().groups.len()), (FeedMode::Paused, 4));
    // Another key has other groups: there is no older snapshot of them to show.
    press(&mut state, &[Action::GroupBy(Key::Peer)]);
    let mut newer = fixture::empty();
    newer.answer = Some(Arc::new(fixture::answer(state.query(), Detail::Nothing)));
    state.take(Arc::new(newer));
    assert_eq!((state.mode(), state.snapshot().groups.len()), (FeedMode::Paused, 0));
}

#[test]
fn last_answer_ends_the_feed() {
    let mut state = state();
    let mut last = fixture::busy();
    last.answer =
        Some(Arc::new(DetailAnswer { ended: true, ..fixture::answer(state.query(), Detail::Nothing) }));
    state.take(Arc::new(last));
    assert_eq!(state.mode(), FeedMode::Ended);
}
