//! End-to-end tests from records and keys to frames, without a terminal.

use jiff::tz::TimeZone;
use ratatui::{Terminal as Frames, backend::TestBackend};

use super::*;
use crate::{
    aggregate::{Grouping, Scope, detail::Focus},
    filter::Filter,
    model::{Flow, Nanos, Record, Source},
    pipeline::{self, PipelinePlan, Running},
    synthetic::{Shape, Traffic},
    view::{
        glyphs::Glyphs,
        top::{
            Colours, ScreenConfig, TerminalStyle,
            action::{ACTIONS, ActionRow, ScreenView},
            fixture, screen,
            state::{FeedMode, Move, Popup},
        },
    },
};

const LOOK: TerminalStyle = TerminalStyle { colours: Colours::None, glyphs: Glyphs::Ascii };

fn settings() -> ScreenSettings {
    ScreenSettings::new(&ScreenConfig::default(), LOOK, TimeZone::UTC)
}

/// A source that yields its records and ends.
struct ScreenScript(Vec<Record>);

impl Source for ScreenScript {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> anyhow::Result<Flow> {
        self.0.drain(..).for_each(take);
        Ok(Flow::Ended)
    }
}

/// A screen over a pipeline that has processed all records.
struct Rig {
    running: Running,
    queries: watch::Sender<Query>,
    state: ScreenState,
    settings: ScreenSettings,
    regions: Regions,
}

impl Rig {
    fn new(shape: Shape, seconds: u64) -> Self {
        let mut ticks = seconds * 100;
        let traffic = Traffic::new(shape, 7).take_while(|record| {
            ticks -= u64::from(matches!(record, Record::Tick { .. }));
            ticks > 0
        });
        Self::over(traffic.collect())
    }

    fn over(records: Vec<Record>) -> Self {
        let (queries, asked) = watch::channel(Query::new(Grouping::SERVICE));
        let plan =
            PipelinePlan::new(Filter::EVERYTHING, Grouping::SERVICE, Scope::TimewaitSockets, Nanos::SECOND);
        let plan = PipelinePlan { queries: Some(asked), ..plan };
        let running = pipeline::start(Box::new(ScreenScript(records)), plan).expect("a thread");
        let last = wait(&running, |snapshot| snapshot.answer.as_ref().is_some_and(|answer| answer.ended));
        let settings = settings();
        let state = ScreenState::new(last, settings.columns.clone());
        Self { running, queries, state, settings, regions: Regions::default() }
    }

    /// Presses keys by name, and waits for the answer to each.
    fn press(&mut self, keys: &str) -> &mut Self {
        for key in keys.split_whitespace() {
            let event = Event::Key(key.parse::<KeyPress>().expect("a key").press());
            self.frame(80, 24);
            handle(&event, &mut self.state, &self.settings, &self.regions);
            let query = self.state.query();
            self.queries.send_replace(query.clone());
            let answer = wait(&self.running, |snapshot| {
                snapshot.answer.as_ref().is_some_and(|answer| answer.query == query)
            });
            self.state.take(answer);
        }
        self
    }

    fn frame(&mut self, width: u16, height: u16) -> TestBackend {
        let mut frames = Frames::new(TestBackend::new(width, height)).expect("a terminal in memory");
        let draw = |frame: &mut ratatui::Frame<'_>| {
            self.regions = screen::draw(frame, &mut self.state, &self.settings);
        };
        frames.draw(draw).expect("a terminal in memory");
        frames.backend().clone()
    }
}

fn wait(running: &Running, is_it: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut snapshots = running.snapshots.clone();
    let found = runtime.block_on(snapshots.wait_for(|snapshot| snapshot.as_deref().is_some_and(&is_it)));
    found.expect("the pipeline runs").clone().expect("checked")
}

const BUSY: Shape = Shape { connections_per_s: 400, services: 3, peers: 20, seeded: 40 };

#[test]
fn records_and_keys_give_the_expected_frames() {
    let mut rig = Rig::new(BUSY, 20);
    insta::assert_snapshot!("groups_80x24", rig.frame(80, 24));
    insta::assert_snapshot!("groups_120x40", rig.frame(120, 40));
    insta::assert_snapshot!("groups_200x30", rig.frame(200, 30));
    rig.press("g enter");
    insta::assert_snapshot!("sockets_80x24", rig.frame(80, 24));
    insta::assert_snapshot!("sockets_160x50", rig.frame(160, 50));
    rig.press("down enter");
    insta::assert_snapshot!("life_80x24", rig.frame(80, 24));
    rig.press("esc esc 9 / r o l e space o u t b o u n d enter");
    insta::assert_snapshot!("filtered_120x40", rig.frame(120, 40));
}

#[test]
fn shown_counts_match_the_pipeline() {
    let mut rig = Rig::new(BUSY, 10);
    let total =
        |rig: &Rig| -> u64 { rig.state.snapshot().groups.iter().flat_map(|group| group.counts).sum() };
    let before = total(&rig);
    for key in "1 2 3 4 5 6 7 8 9".split(' ') {
        rig.press(key);
        assert_eq!(total(&rig), before, "grouped by {key}");
    }
    rig.press("1 g enter");
    let Focus::Group(id) = rig.state.query().focus else { panic!("no group is open") };
    let members = rig.state.members().expect("an answer");
    let group = rig.state.snapshot().groups.iter().find(|group| group.id == id).expect("the group exists");
    assert_eq!(members.total, group.counts.iter().sum::<u64>());
    rig.press("esc / s t a t e space t i m e - w a i t enter");
    let snapshot = rig.state.snapshot();
    let shown: u64 = snapshot.states.iter().map(|state| state.now).sum();
    assert!(shown > 0 && shown == total(&rig) && shown < before);
    rig.press("esc");
    assert_eq!(total(&rig), before);
}

#[test]
fn screen_handles_few_and_many_sockets() {
    let none = Shape { services: 1, seeded: 0, connections_per_s: 1, ..BUSY };
    for (shape, seconds) in [(none, 1), (Shape { seeded: 50_000, ..BUSY }, 1)] {
        let mut rig = Rig::new(shape, seconds);
        for (width, height) in [(20, 5), (80, 24), (300, 80)] {
            rig.frame(width, height);
            rig.press("enter");
            rig.frame(width, height);
            rig.press("enter");
            rig.frame(width, height);
            rig.press("esc esc");
        }
    }
    let mut rig = Rig::over(vec![Record::OwnersEnd { ts: Nanos(0) }, Record::Tick { ts: Nanos(1) }]);
    assert!(rig.press("enter").frame(80, 24).to_string().contains("No TCP sockets yet"));
}

/// Checks the effect of a key on the groups of a busy host.
fn check(row: &ActionRow, key: KeyPress) {
    let settings = settings();
    let mut state = ScreenState::new(Arc::new(fixture::busy()), settings.columns.clone());
    if row.action == Action::Back {
        state.act(Action::Open);
    }
    state.rows(2);
    let before = state.sort();
    let event = Event::Key(key.press());
    let next = handle(&event, &mut state, &settings, &Regions::default());
    let keys: Vec<Grouping> = Grouping::single().collect();
    let says = |word: &str| assert!(row.help.contains(word), "{}: {}", row.name, row.help);
    let did = match row.action {
        Action::Quit => next == Some(FollowUp::Quit),
        Action::Suspend => next == Some(FollowUp::Suspend),
        Action::Redraw => next == Some(FollowUp::Redraw),
        Action::Help => state.popup() == Some(Popup::Help),
        Action::Back => state.place() == ScreenView::Groups,
        Action::Open => state.place() == ScreenView::Sockets,
        Action::Filter => state.prompt().is_some(),
        Action::Pause => state.mode() == FeedMode::Paused,
        Action::Reset => state.query().resets == 1,
        Action::GroupNext => state.query().grouping == keys[1],
        Action::GroupPrevious => state.query().grouping == keys[keys.len() - 1],
        Action::GroupBy(key) => {
            let grouping = Grouping::by(key);
            assert_eq!(row.name, format!("by-{grouping}"));
            state.query().grouping == grouping
        }
        Action::SortNext => state.sort().column == before.column + 1,
        Action::SortPrevious => state.sort().column == before.column - 1,
        Action::Reverse => state.sort() == before.reversed(),
        Action::Findings => state.popup() == Some(Popup::Finding(0)),
        Action::Move(step) => {
            let expected = match step {
                Move::Last => 3,
                Move::PageDown => 2,
                _ => 0,
            };
            state.position().0 == Some(expected)
        }
        // A live screen has no replay control.
        Action::Time(_) | Action::GoTo => {
            state.prompt().is_none() && state.query() == Query::new(Grouping::SERVICE)
        }
        Action::SortBy(_) | Action::Edit(_) | Action::Click(_) => panic!("no key is bound to this"),
    };
    assert!(did, "{key} does not {}", row.name);
    match row.action {
        Action::SortNext => says("right"),
        Action::SortPrevious => says("left"),
        Action::Move(Move::Last) => says("last"),
        Action::Move(Move::First) => says("first"),
        _ => {}
    }
}

#[test]
fn every_key_has_its_documented_effect() {
    for row in &ACTIONS {
        for &key in row.keys {
            check(row, key);
        }
    }
}

#[test]
fn help_lists_every_key() {
    let settings = settings();
    let mut state = ScreenState::new(Arc::new(fixture::busy()), settings.columns.clone());
    state.act(Action::Help);
    let mut frames = Frames::new(TestBackend::new(100, 100)).expect("a terminal in memory");
    frames.draw(|frame| drop(screen::draw(frame, &mut state, &settings))).expect("a terminal in memory");
    let text = frames.backend().to_string();
    let is_replay_action = |row: &ActionRow| matches!(row.action, Action::Time(_) | Action::GoTo);
    for (i, row) in ACTIONS.iter().enumerate().filter(|(_, row)| !is_replay_action(row)) {
        let line = text.lines().find(|line| line.contains(row.help));
        let label = settings.keymap.label(i);
        assert!(line.is_some_and(|line| line.contains(&label)), "{} is not in the help", row.name);
    }
}

#[test]
fn pasted_text_runs_no_command() {
    let settings = settings();
    let mut state = ScreenState::new(Arc::new(fixture::busy()), settings.columns.clone());
    let paste = |state: &mut ScreenState, text: &str| {
        handle(&Event::Paste(text.into()), state, &settings, &Regions::default())
    };
    assert_eq!(paste(&mut state, "q\n\u{3}"), None);
    handle(&Event::Key(KeyPress::typed('/').press()), &mut state, &settings, &Regions::default());
    assert_eq!(paste(&mut state, "rport 5432\nq\u{1b}"), Some(FollowUp::Draw));
    assert_eq!(state.prompt().map(|prompt| prompt.text().to_owned()).as_deref(), Some("rport 5432q"));
}

#[test]
fn prompt_reads_letters_as_input_and_ctrl_c_quits() {
    let settings = settings();
    let mut state = ScreenState::new(Arc::new(fixture::busy()), settings.columns.clone());
    let mut press =
        |key: KeyPress| handle(&Event::Key(key.press()), &mut state, &settings, &Regions::default());
    press(KeyPress::typed('/'));
    assert_eq!(press(KeyPress::typed('q')), Some(FollowUp::Draw));
    assert_eq!(press(KeyPress::Ctrl('c')), Some(FollowUp::Quit));
    assert_eq!(state.prompt().map(|prompt| prompt.text().to_owned()).as_deref(), Some("q"));
}

#[test]
fn stopped_screen_waits_until_it_continues() {
    let continued = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            continued.store(true, Ordering::Relaxed);
        });
        wait_until(&continued, Duration::from_secs(60));
        assert!(continued.load(Ordering::Relaxed), "it drew before it was stopped and continued");
    });
    // An orphaned process group does not stop.
    wait_until(&AtomicBool::new(false), Duration::from_millis(1));
}
