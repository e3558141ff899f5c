//! A replay in any order against a straight one.

use std::{path::PathBuf, sync::Arc, time::Duration};

use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{checkpoints::Limits, *};
use crate::{
    aggregate::{Scope, Snapshot},
    filter::{Filter, parse},
    inspect::Query,
    model::{Nanos, Record},
    pipeline::{self, Plan},
    session::{self, AtEnd, Ending, Existing, Keep, Reader},
    synthetic::{Shape, Traffic},
    view::{hist, top::json},
};

/// Checkpoints every few batches, of which there is room for four.
const CLOSE: Limits = Limits { most: 4, bytes: usize::MAX, spacing: 300 };
/// None at all: every way back begins at the start.
const NONE: Limits = Limits { most: 4, bytes: 0, spacing: 300 };

/// Writes `records` to a file, a batch for every `portion` of them.
fn recording(folder: &TempDir, records: Vec<Record>, portion: usize) -> PathBuf {
    let path = folder.path().join("a.tcptrace");
    let plan = session::Plan { path: path.clone(), keep: Keep::All, existing: Existing::Keep };
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

fn wanted(filter: &str, by: &str) -> Wanted {
    let expr = (!filter.is_empty()).then(|| parse("--filter", filter).expect("an expression"));
    Wanted {
        filter: Filter::new(expr, &std::collections::BTreeMap::new()).expect("no names"),
        query: Query::new(by.parse().expect("keys")),
        scope: Scope::Every,
        interval: Nanos::SECOND,
        source: "test".into(),
    }
}

/// All that two views show of it.
fn document(snapshot: &Snapshot) -> String {
    let mut out = Vec::new();
    json::write(&mut out, snapshot).expect("a Vec takes everything");
    hist::json::write(&mut out, snapshot).expect("a Vec takes everything");
    let more = format!("{:?}{:?}", snapshot.history, snapshot.ports);
    String::from_utf8(out).expect("UTF-8") + &more
}

/// Every picture of a straight replay, the one at the end last.
fn straight(path: &std::path::Path, wanted: &Wanted) -> Vec<String> {
    let Wanted { filter, query, scope, interval, source } = wanted.clone();
    let (send, mut receive) = mpsc::channel(1);
    let plan = Plan { source, pictures: Some(send), ..Plan::new(filter, query.grouping, scope, interval) };
    let reader = Reader::open(path, AtEnd::Stop).expect("a recording");
    let running = pipeline::start(Box::new(reader), plan).expect("a thread");
    let mut pictures = Vec::new();
    while let Some(picture) = receive.blocking_recv() {
        pictures.push(document(&picture));
    }
    pictures.push(document(&running.finish().expect("a recording")));
    pictures
}

fn show(player: &mut Player, n: usize) -> Arc<Snapshot> {
    match player.show(n, &mut || true).expect("a recording") {
        Shown::Picture(picture) => picture,
        Shown::Interrupted => panic!("nothing interrupts"),
    }
}

/// What a property test needs of a recording: made once.
struct Made {
    _folder: TempDir,
    path: PathBuf,
    straight: Vec<String>,
    wanted: Wanted,
}

fn made() -> &'static Made {
    static MADE: std::sync::OnceLock<Made> = std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        let folder = TempDir::new().expect("a folder");
        let path = recording(&folder, traffic(70), 60);
        let wanted = wanted("", "service,comm");
        let straight = straight(&path, &wanted);
        Made { _folder: folder, path, straight, wanted }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Wherever one comes from, a moment shows what a straight replay shows there.
    #[test]
    fn any_order_shows_what_a_straight_replay_shows(
        seeks in vec(any::<prop::sample::Index>(), 1..12), limits in prop::sample::select(vec![CLOSE, NONE]),
    ) {
        let made = made();
        let mut player = Player::of(&made.path, made.wanted.clone(), limits).expect("a recording");
        prop_assert_eq!(player.index().len(), made.straight.len());
        for seek in seeks {
            let n = seek.index(made.straight.len());
            let shown = show(&mut player, n);
            prop_assert_eq!(&document(&shown), &made.straight[n], "picture {}", n);
            let frame = *player.index().frame(n).expect("a picture");
            prop_assert_eq!(frame.ts, shown.ts);
            prop_assert_eq!(frame.lost, shown.losses.total());
            let counts = shown.states.map(|state| u32::try_from(state.now).expect("few"));
            prop_assert_eq!(frame.counts, counts);
        }
    }
}

#[test]
fn there_is_something_to_show() {
    let made = made();
    assert!(made.straight.len() > 65, "{} pictures", made.straight.len());
    let distinct: std::collections::BTreeSet<&String> = made.straight.iter().collect();
    assert_eq!(distinct.len(), made.straight.len());
    let player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    assert!((2..=4).contains(&player.kept().0), "{:?}", player.kept());
    let none = Player::of(&made.path, made.wanted.clone(), NONE).expect("a recording");
    assert_eq!(none.kept(), (0, 0));
}

#[test]
fn backwards_and_forwards_by_one() {
    let made = made();
    let mut player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    let order = (0..made.straight.len()).rev().step_by(3).chain(0..made.straight.len());
    for n in order {
        assert_eq!(document(&show(&mut player, n)), made.straight[n], "picture {n}");
    }
}

#[test]
fn grouped_and_filtered_anew_it_is_as_if_from_the_start() {
    let made = made();
    let mut player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    show(&mut player, 40);
    let filter = "role inbound and not state listen";
    let straight = straight(&made.path, &wanted(filter, "peer"));
    let filter = Some(parse("filter", filter).expect("an expression"));
    let query = Query { filter, ..Query::new("peer".parse().expect("a key")) };
    player.ask(query).expect("a recording");
    for n in [40, 60, 12, 61] {
        assert_eq!(document(&show(&mut player, n)), straight[n], "picture {n}");
    }
}

#[test]
fn a_way_that_is_broken_off_can_be_gone_on() {
    let made = made();
    let mut player = Player::of(&made.path, made.wanted.clone(), NONE).expect("a recording");
    show(&mut player, 3);
    let mut batches = 0;
    let shown = player.show(60, &mut || {
        batches += 1;
        batches < 5
    });
    assert!(matches!(shown, Ok(Shown::Interrupted)) && batches == 5);
    for n in [60, 2] {
        assert_eq!(document(&show(&mut player, n)), made.straight[n], "picture {n}");
    }
}

#[test]
fn a_damaged_recording_plays_up_to_the_damage() {
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
            assert_eq!(document(&shown), straight[n], "{name}: picture {n}");
            assert_eq!(shown.host.limits.is_empty(), n != last, "{name}: what is missing is said at the end");
        }
    }
}

#[test]
fn what_is_appended_later_is_not_there() {
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
fn a_recording_without_records_has_one_picture() {
    let folder = TempDir::new().expect("a folder");
    let path = recording(&folder, vec![Record::Host(Box::default()), Record::Tick { ts: Nanos(5) }], 1);
    let mut player = Player::of(&path, wanted("", "service"), CLOSE).expect("a recording");
    assert_eq!((player.index().len(), show(&mut player, 7).ts), (1, Nanos(5)));
    assert!(Player::open(folder.path(), wanted("", "service"), |_, _| {}).is_err());
}

/// Waits until `drive` stands at `picture` and plays, or does not.
fn until(drive: &mut Drive, picture: usize, is_playing: bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let status = drive.status.borrow().clone();
        if (status.picture, status.target, status.is_playing) == (picture, None, is_playing) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "it stands at {status:?}, not at {picture}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn shown(drive: &Drive) -> String {
    document(drive.snapshots.borrow().as_ref().expect("a picture"))
}

#[test]
fn commands_lead_where_they_say() {
    let made = made();
    let player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    let (first, end) = player.index().span();
    let last = made.straight.len() - 1;
    let mut drive = drive(player, 0.001).expect("a thread");
    until(&mut drive, 0, true);
    let steps = [
        (Command::Toggle, 0),
        (Command::Step(3), 3),
        (Command::Step(-1), 2),
        (Command::Step(-9), 0),
        (Command::Go(first.plus(Nanos(17_500_000_000))), 17),
        (Command::Go(Nanos(0)), 0),
        (Command::End, last),
        (Command::Step(1), last),
        (Command::Start, 0),
        (Command::Go(end), last),
    ];
    for (command, picture) in steps {
        drive.requests.send(Request::Time(command)).expect("it goes on");
        until(&mut drive, picture, false);
        assert_eq!(shown(&drive), made.straight[picture], "{command:?}");
    }
    // Played at its end it begins anew.
    drive.requests.send(Request::Time(Command::Toggle)).expect("it goes on");
    until(&mut drive, 0, true);
    drive.finish().expect("a recording");
}

#[test]
fn it_plays_to_its_end_and_stands_there() {
    let made = made();
    let player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    let mut drive = drive(player, 500.0).expect("a thread");
    let last = made.straight.len() - 1;
    until(&mut drive, last, false);
    assert_eq!(shown(&drive), made.straight[last]);
    for _ in 0..20 {
        drive.requests.send(Request::Time(Command::Faster)).expect("it goes on");
    }
    drive.requests.send(Request::Time(Command::Step(-1))).expect("it goes on");
    until(&mut drive, last - 1, false);
    let speed = drive.status.borrow().speed;
    assert!(SPEEDS.last() == Some(&speed), "{speed}");
    drive.finish().expect("a recording");
}

#[test]
fn from_peak_to_peak() {
    let made = made();
    let player = Player::of(&made.path, made.wanted.clone(), CLOSE).expect("a recording");
    let index = Arc::clone(player.index());
    let peak = index.peak(0, Peak::Next).expect("TIME_WAIT rises for a minute");
    let mut drive = drive(player, 0.001).expect("a thread");
    drive.requests.send(Request::Time(Command::Peak(Peak::Next))).expect("it goes on");
    until(&mut drive, peak, false);
    drive.requests.send(Request::Time(Command::Peak(Peak::Previous))).expect("it goes on");
    drive.requests.send(Request::Time(Command::Slower)).expect("it goes on");
    drive.finish().expect("a recording");
}

#[test]
fn nobody_waits_for_a_way_that_nobody_wants_to_see() {
    let made = made();
    let player = Player::of(&made.path, made.wanted.clone(), NONE).expect("a recording");
    let mut drive = drive(player, 0.001).expect("a thread");
    until(&mut drive, 0, true);
    drive.requests.send(Request::Time(Command::End)).expect("it goes on");
    let status = drive.status.clone();
    drive.finish().expect("a recording");
    // It was on the way, or had just not begun, or had just arrived: it ends in every case.
    let picture = status.borrow().picture;
    assert!(picture == 0 || picture == made.straight.len() - 1, "{picture}");
}
