//! Replay in random order compared with a straight replay.

use std::{path::PathBuf, sync::Arc, time::Duration};

use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{checkpoints::CheckpointLimits, *};
use crate::{
    aggregate::{Scope, Snapshot, detail::Query},
    filter::{Filter, parse},
    model::{Nanos, Record},
    output_file::Existing,
    pipeline::{self, Moment, PipelinePlan, Window},
    session::{self, AtEnd, Ending, Input, Keep, Reader},
    synthetic::{Shape, Traffic},
    view::{hist, top::json},
};

/// Checkpoints every few batches, at most four.
const CLOSE: CheckpointLimits = CheckpointLimits { most: 4, bytes: usize::MAX, spacing: 300 };
/// No checkpoints: every seek back restarts at the beginning.
const NONE: CheckpointLimits = CheckpointLimits { most: 4, bytes: 0, spacing: 300 };

/// Writes `records` to a file, one batch per `portion` of them.
fn recording(folder: &TempDir, records: Vec<Record>, portion: usize) -> PathBuf {
    let path = folder.path().join("a.tcptrace");
    let plan = session::RecordPlan { path: path.clone(), keep: Keep::All, existing: Existing::Keep };
    let (mut recorder, recording) = session::start(&plan).expect("a file");
    for (n, record) in records.into_iter().enumerate() {
        recorder.push(record);
        if n % portion == 0 {
            recorder.flush();
            while !(recorder.is_empty() && recording.status.is_idle()) {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
    drop(recorder);
    recording.done.blocking_recv().expect("the writer").expect("a disk");
    path
}

fn traffic(seconds: u64) -> Vec<Record> {
    let shape = Shape { connections_per_s: 25, services: 3, peers: 20, seeded: 30 };
    let end = Nanos(1_000_000_000_000 + seconds * 1_000_000_000);
    Traffic::new(shape, 11).take_while(|record| record.ts().is_none_or(|ts| ts <= end)).collect()
}

fn wanted(filter: &str, by: &str) -> SeekTarget {
    let expr = (!filter.is_empty()).then(|| parse("--filter", filter).expect("an expression"));
    SeekTarget {
        filter: Filter::new(expr, &std::collections::BTreeMap::new()).expect("no names"),
        query: Query::new(by.parse().expect("keys")),
        scope: Scope::Every,
        interval: Nanos::SECOND,
        source: "test".into(),
        peer_names: Arc::default(),
        window: Window::default(),
    }
}

/// Text of all that two views show.
fn document(snapshot: &Snapshot) -> String {
    let mut out = Vec::new();
    json::write(&mut out, snapshot).expect("a Vec takes everything");
    hist::json::write(&mut out, snapshot).expect("a Vec takes everything");
    let more = format!("{:?}{:?}", snapshot.history, snapshot.ports);
    String::from_utf8(out).expect("UTF-8") + &more
}

/// Every snapshot of a straight replay, the final one last.
fn straight(path: &std::path::Path, wanted: &SeekTarget) -> Vec<String> {
    let SeekTarget { filter, query, scope, interval, source, peer_names, window: _ } = wanted.clone();
    let (send, mut receive) = mpsc::channel(1);
    let plan = PipelinePlan {
        source,
        peer_names,
        every_snapshot: Some(send),
        ..PipelinePlan::new(filter, query.grouping, scope, interval)
    };
    let reader = Reader::open(path, AtEnd::Stop).expect("a recording");
    let running = pipeline::start(Box::new(reader), plan).expect("a thread");
    let mut snapshots = Vec::new();
    while let Some(snapshot) = receive.blocking_recv() {
        snapshots.push(document(&snapshot));
    }
    snapshots.push(document(&running.finish().expect("a recording")));
    snapshots
}

fn show(player: &mut Player, n: usize) -> Arc<Snapshot> {
    match player.show(n, &mut || true).expect("a recording") {
        SeekResult::Snapshot(snapshot) => snapshot,
        SeekResult::Interrupted => panic!("nothing interrupts"),
    }
}

/// A recording shared by the tests.
struct RecordedFixture {
    _folder: TempDir,
    path: PathBuf,
    straight: Vec<String>,
    wanted: SeekTarget,
}

fn made() -> &'static RecordedFixture {
    static RECORDED_FIXTURE: std::sync::OnceLock<RecordedFixture> = std::sync::OnceLock::new();
    RECORDED_FIXTURE.get_or_init(|| {
        let folder = TempDir::new().expect("a folder");
        let path = recording(&folder, traffic(70), 60);
        let wanted = wanted("", "service,comm");
        let straight = straight(&path, &wanted);
        RecordedFixture { _folder: folder, path, straight, wanted }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A seek from any position shows the same snapshot as a straight replay.
    #[test]
    fn seeks_in_any_order_match_a_straight_replay(
        seeks in vec(any::<prop::sample::Index>(), 1..12), limits in prop::sample::select(vec![CLOSE, NONE]),
    ) {
        let made = made();
        let mut player = Player::of(&made.path, made.wanted.clone(), limits).expect("a recording");
        prop_assert_eq!(player.index().len(), made.straight.len());
        for seek in seeks {
            let n = seek.index(made.straight.len());
            let shown = show(&mut player, n);
            prop_assert_eq!(&document(&shown), &made.straight[n], "snapshot {}", n);
            let frame = *player.index().frame(n).expect("a snapshot");
            prop_assert_eq!(frame.ts, shown.ts);
            prop_assert_eq!(frame.lost, shown.losses.total());
            let counts = shown.states.map(|state| u32::try_from(state.now).expect("few"));
            prop_assert_eq!(frame.counts, counts);
        }
    }
}

#[test]
fn recording_has_distinct_snapshots_and_checkpoints() {
    let made = made();
    assert!(made.straight.len() > 65, "{} snapshots", made.straight.len());
    let distinct: std::collections::BTreeSet<&String> = made.straight.iter().collect();
    assert_eq!(distinct.len(), made.straight.len());
    let player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    assert!((2..=4).contains(&player.kept().0), "{:?}", player.kept());
    let none = Player::of(&made.path, made.wanted.clone(), NONE).expect("a recording");
    assert_eq!(none.kept(), (0, 0));
}

#[test]
fn stepping_both_ways_matches_a_straight_replay() {
    let made = made();
    let mut player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    let order = (0..made.straight.len()).rev().step_by(3).chain(0..made.straight.len());
    for n in order {
        assert_eq!(document(&show(&mut player, n)), made.straight[n], "snapshot {n}");
    }
}

#[test]
fn new_query_matches_a_straight_replay_with_it() {
    let made = made();
    let mut player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    show(&mut player, 40);
    let filter = "role inbound and not state listen";
    let straight = straight(&made.path, &wanted(filter, "peer"));
    let filter = Some(parse("filter", filter).expect("an expression"));
    let query = Query { filter, ..Query::new("peer".parse().expect("a key")) };
    player.ask(query).expect("a recording");
    for n in [40, 60, 12, 61] {
        assert_eq!(document(&show(&mut player, n)), straight[n], "snapshot {n}");
    }
}

#[test]
fn interrupted_seek_can_be_resumed() {
    let made = made();
    let mut player = Player::of(&made.path, made.wanted.clone(), NONE).expect("a recording");
    show(&mut player, 3);
    let mut batches = 0;
    let shown = player.show(60, &mut || {
        batches += 1;
        batches < 5
    });
    assert!(matches!(shown, Ok(SeekResult::Interrupted)) && batches == 5);
    for n in [60, 2] {
        assert_eq!(document(&show(&mut player, n)), made.straight[n], "snapshot {n}");
    }
}

#[test]
fn damaged_recording_plays_up_to_the_damage() {
    let folder = TempDir::new().expect("a folder");
    let path = recording(&folder, traffic(20), 100);
    let whole = std::fs::read(&path).expect("the file");
    let mut broken = whole.clone();
    let middle = whole.len() / 2;
    broken[middle..middle + 64].fill(0xff);
    for (bytes, name) in [(&whole[..middle], "cut"), (&broken[..], "broken")] {
        std::fs::write(&path, bytes).expect("a disk");
        let wanted = wanted("", "service");
        let straight = straight(&path, &wanted);
        let mut player = Player::of(&path, wanted, CLOSE).expect("the part before the damage");
        let ending = player.index().ending.expect("it has ended");
        assert!(ending != Ending::Closed, "{name}: {ending:?}");
        let last = straight.len() - 1;
        assert!((3..18).contains(&last), "{name}: {last}");
        for n in [last, 2, last] {
            let shown = show(&mut player, n);
            assert_eq!(document(&shown), straight[n], "{name}: snapshot {n}");
            assert_eq!(shown.host.limits.is_empty(), n != last, "{name}: the end reports the damage");
        }
    }
}

#[test]
fn later_appends_are_ignored() {
    let folder = TempDir::new().expect("a folder");
    let path = recording(&folder, traffic(10), 100);
    let whole = std::fs::read(&path).expect("the file");
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("a disk");
    let wanted = wanted("", "service");
    let straight = straight(&path, &wanted);
    let mut player = Player::of(&path, wanted, NONE).expect("a recording");
    std::io::Write::write_all(
        &mut std::fs::OpenOptions::new().append(true).open(&path).expect("the file"),
        &whole[whole.len() / 2..],
    )
    .expect("a disk");
    let last = straight.len() - 1;
    for n in [0, last] {
        assert_eq!(document(&show(&mut player, n)), straight[n]);
    }
}

#[test]
fn recording_without_records_has_one_snapshot() {
    let folder = TempDir::new().expect("a folder");
    let path = recording(&folder, vec![Record::Host(Box::default()), Record::Tick { ts: Nanos(5) }], 1);
    let mut player = Player::of(&path, wanted("", "service"), CLOSE).expect("a recording");
    assert_eq!((player.index().len(), show(&mut player, 7).ts), (1, Nanos(5)));
    assert!(
        Player::open(Input::open(folder.path()).expect("it opens"), wanted("", "service"), |_, _| {})
            .is_err()
    );
}

/// Waits until `drive` shows `frame` with the given playback state.
fn until(drive: &mut Drive, frame: usize, is_playing: bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let status = drive.status.borrow().clone();
        if (status.frame, status.target, status.is_playing) == (frame, None, is_playing) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "status is {status:?}, expected snapshot {frame}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn shown(drive: &Drive) -> String {
    document(drive.snapshots.borrow().as_ref().expect("a snapshot"))
}

#[test]
fn commands_seek_to_their_position() {
    let made = made();
    let player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    let (first, end) = player.index().span();
    let last = made.straight.len() - 1;
    let mut drive = drive(player, 0.001).expect("a thread");
    until(&mut drive, 0, true);
    let steps = [
        (ReplayCommand::Toggle, 0),
        (ReplayCommand::Step(3), 3),
        (ReplayCommand::Step(-1), 2),
        (ReplayCommand::Step(-9), 0),
        (ReplayCommand::Go(first.plus(Nanos(17_500_000_000))), 17),
        (ReplayCommand::Go(Nanos(0)), 0),
        (ReplayCommand::End, last),
        (ReplayCommand::Step(1), last),
        (ReplayCommand::Start, 0),
        (ReplayCommand::Go(end), last),
    ];
    for (command, frame) in steps {
        drive.requests.send(Request::Time(command)).expect("a running thread");
        until(&mut drive, frame, false);
        assert_eq!(shown(&drive), made.straight[frame], "{command:?}");
    }
    // Resumed at its end, playback restarts.
    drive.requests.send(Request::Time(ReplayCommand::Toggle)).expect("a running thread");
    until(&mut drive, 0, true);
    drive.finish().expect("a recording");
}

#[test]
fn playback_stops_at_the_end() {
    let made = made();
    let player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    let mut drive = drive(player, 500.0).expect("a thread");
    let last = made.straight.len() - 1;
    until(&mut drive, last, false);
    assert_eq!(shown(&drive), made.straight[last]);
    for _ in 0..20 {
        drive.requests.send(Request::Time(ReplayCommand::Faster)).expect("a running thread");
    }
    drive.requests.send(Request::Time(ReplayCommand::Step(-1))).expect("a running thread");
    until(&mut drive, last - 1, false);
    let speed = drive.status.borrow().speed;
    assert!(SPEEDS.last() == Some(&speed), "{speed}");
    drive.finish().expect("a recording");
}

#[test]
fn peak_command_seeks_to_the_peak() {
    let made = made();
    let player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    let index = Arc::clone(player.index());
    let peak = index.peak(0, Direction::Next).expect("TIME_WAIT rises for a minute");
    let mut drive = drive(player, 0.001).expect("a thread");
    drive.requests.send(Request::Time(ReplayCommand::Peak(Direction::Next))).expect("a running thread");
    until(&mut drive, peak, false);
    drive.requests.send(Request::Time(ReplayCommand::Peak(Direction::Previous))).expect("a running thread");
    drive.requests.send(Request::Time(ReplayCommand::Slower)).expect("a running thread");
    drive.finish().expect("a recording");
}

#[test]
fn finish_interrupts_a_seek() {
    let made = made();
    let player = Player::of(&made.path, made.wanted.clone(), NONE).expect("a recording");
    let mut drive = drive(player, 0.001).expect("a thread");
    until(&mut drive, 0, true);
    drive.requests.send(Request::Time(ReplayCommand::End)).expect("a running thread");
    let status = drive.status.clone();
    drive.finish().expect("a recording");
    // The seek was under way, not started, or just finished: the thread ends in every case.
    let frame = status.borrow().frame;
    assert!(frame == 0 || frame == made.straight.len() - 1, "{frame}");
}

#[test]
fn window_matches_the_full_recording() {
    let made = made();
    let seconds = |seconds: u64| Moment::FromStart(Nanos(seconds * 1_000_000_000));
    let window = Window { since: Some(seconds(10)), until: Some(seconds(20)), length: None };
    let wanted = SeekTarget { window, ..made.wanted.clone() };
    let mut part = Player::of(&made.path, wanted, CheckpointLimits::default()).expect("a recording");
    let mut whole =
        Player::of(&made.path, made.wanted.clone(), CheckpointLimits::default()).expect("a recording");
    let span = |player: &Player| player.index().span();
    let start = span(&whole).0;
    assert!(span(&part).0.since(start).0.abs_diff(10_000_000_000) <= 1_000_000_000);
    assert!(span(&part).1.since(span(&part).0).0.abs_diff(10_000_000_000) <= 1_000_000_000);
    for n in [part.index().len() - 1, 0, 3, 1] {
        let ts = part.index().frame(n).expect("a snapshot").ts;
        let at = whole.index().at(ts);
        assert_eq!(document(&show(&mut part, n)), document(&show(&mut whole, at)), "snapshot {n}");
    }
    let late = Window { since: Some(seconds(3_600)), until: None, length: None };
    let late = Player::of(
        &made.path,
        SeekTarget { window: late, ..made.wanted.clone() },
        CheckpointLimits::default(),
    );
    assert!(late.is_err());
}
