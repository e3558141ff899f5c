//! Round trips, damage of every kind, and what a replay shows against what the live run showed.

use std::{
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    filter::Filter,
    model::{
        Nanos, Record, SeedSocket,
        record::{SeedObject, Sweep},
    },
    pipeline,
    source::{Flow, Source},
    synthetic::{Shape, Traffic},
    view::top::json,
};

/// A source that ends: what it hands out in one go is a portion.
struct Made {
    records: std::vec::IntoIter<Record>,
    portion: usize,
    /// Whose writer is waited for: a queue that is full is another test.
    recorder: Option<Arc<Status>>,
}

impl Source for Made {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> anyhow::Result<Flow> {
        while self.recorder.as_ref().is_some_and(|status| !status.is_idle()) {
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        self.records.by_ref().take(self.portion).for_each(take);
        Ok(if self.records.len() == 0 { Flow::Ended } else { Flow::Running })
    }
}

fn made(n: usize) -> Vec<Record> {
    shaped(n, Shape { connections_per_s: 2_000, ..Shape::default() })
}

fn shaped(n: usize, shape: Shape) -> Vec<Record> {
    let mut records: Vec<Record> = Traffic::new(shape, 7).take(n).collect();
    // A recording ends with the time.
    let ts = records.iter().filter_map(Record::ts).max().unwrap_or_default();
    records.push(Record::Tick { ts });
    records
}

fn plan(folder: &TempDir, keep: Keep) -> Plan {
    Plan { path: folder.path().join("a.tcptrace"), keep, existing: Existing::Keep }
}

/// The last snapshot as JSON, without the name of its source.
fn document(snapshot: &Snapshot) -> String {
    let mut out = Vec::new();
    let snapshot = Snapshot { source: Arc::from("test"), ..snapshot.clone() };
    json::write(&mut out, &snapshot).expect("a Vec takes everything");
    String::from_utf8(out).expect("UTF-8")
}

/// Runs `source` with a recorder beside it: the last snapshot, and what was written.
fn run(source: impl Source + 'static, recorder: Option<Recorder>) -> Snapshot {
    let plan = pipeline::Plan {
        recorder,
        ..pipeline::Plan::new(Filter::EVERYTHING, Grouping::SERVICE, Scope::Every, Nanos(u64::MAX))
    };
    pipeline::start(Box::new(source), plan).expect("a thread").finish().expect("a source that does not fail")
}

fn record(records: Vec<Record>, plan: &Plan) -> (Snapshot, Written) {
    let (recorder, recording) = start(plan).expect("a file");
    let last = run(
        Made { records: records.into_iter(), portion: 500, recorder: Some(Arc::clone(&recording.status)) },
        Some(recorder),
    );
    let written = recording.done.blocking_recv().expect("the writer").expect("a disk");
    (last, written)
}

fn read(bytes: &[u8]) -> Result<Reader, ReadError> {
    Reader::new(Box::new(io::Cursor::new(bytes.to_vec())), AtEnd::Stop)
}

/// Reads to the end: the records, and how it ended.
fn read_all(bytes: &[u8]) -> Result<(Vec<Record>, Ending), ReadError> {
    let mut reader = read(bytes)?;
    let mut records = Vec::new();
    while reader.fill(&mut |record| records.push(record)).expect("memory can be read") == Flow::Running {}
    let ending = reader.ending().lock().unwrap_or_else(PoisonError::into_inner).expect("it has ended");
    Ok((records, ending))
}

/// A small recording.
fn small() -> Vec<u8> {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::All);
    record(shaped(60, Shape { connections_per_s: 2_000, services: 3, peers: 3, seeded: 4 }), &plan);
    std::fs::read(plan.path).expect("the file")
}

#[test]
fn a_replay_shows_what_the_live_run_showed() {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::All);
    let (live, written) = record(made(60_000), &plan);
    assert_eq!(written.records, live.records);
    let reader = Reader::open(&plan.path, AtEnd::Stop).expect("a recording");
    assert_eq!(reader.length(), Some(written.bytes));
    let ending = reader.ending();
    let replayed = run(reader, None);
    assert_eq!(*ending.lock().expect("no panic"), Some(Ending::Closed));
    assert_eq!(document(&replayed), document(&live));
    assert!(live.states.iter().any(|state| state.entered > 1_000), "there was traffic");
}

#[test]
fn every_kind_of_record_comes_back() {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::All);
    let mut records = made(3_000);
    let seeds: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Seed(seed) => Some(*seed),
            _ => None,
        })
        .collect();
    let ts = records.iter().filter_map(Record::ts).max().unwrap_or_default();
    let objects =
        [SeedObject::Full, SeedObject::Minisocket { left: Nanos(7) }, SeedObject::Request { timeouts: 2 }];
    for (seed, object) in seeds.into_iter().zip(objects) {
        records.push(Record::Found(SeedSocket { ts, object, ..seed }));
        for from in [Sweep::Whole, Sweep::FinWait2] {
            let SeedSocket { id, netns, tuple, .. } = seed;
            records.push(Record::Missing { ts, id, netns, tuple, from });
        }
    }
    let wanted: Vec<String> = shown(&records);
    record(records, &plan);
    let (read, ending) = read_all(&std::fs::read(&plan.path).expect("the file")).expect("a recording");
    assert_eq!(ending, Ending::Closed);
    let read = shown(&read);
    for (n, (read, wanted)) in read.iter().zip(&wanted).enumerate() {
        assert_eq!(read, wanted, "record {n}");
    }
    assert_eq!(read.len(), wanted.len());
}

/// Records as text, without ticks and with kernel objects numbered.
fn shown(records: &[Record]) -> Vec<String> {
    let mut objects = std::collections::HashMap::new();
    let mut show = |record: &Record| match record {
        Record::Kernel(seen) => {
            let mut seen = *seen;
            let is_paired = seen.raw.kind != tcptrace_common::record::Kind::Transition as u8;
            let next = objects.len() as u64 + 1;
            seen.raw.object = if is_paired { *objects.entry(seen.raw.object).or_insert(next) } else { 0 };
            format!("{seen:?}")
        }
        other => format!("{other:?}"),
    };
    records.iter().filter(|record| !matches!(record, Record::Tick { .. })).map(&mut show).collect()
}

#[test]
fn each_file_of_a_series_stands_for_itself() {
    let folder = TempDir::new().expect("a folder");
    let rotate = Rotate::Time(Nanos::SECOND);
    let plan = plan(&folder, Keep::Series { rotate, files: None });
    let (live, written) = record(made(60_000), &plan);
    assert!(written.files >= 3, "{written:?}");
    let files: Vec<Snapshot> = (1..=written.files)
        .map(|n| {
            let path = output::numbered(&plan.path, n);
            run(Reader::open(&path, AtEnd::Stop).expect("a recording"), None)
        })
        .collect();
    let last = files.last().expect("a file");
    // What is there at the end is what the live run had; what happened adds up.
    for (state, (last, live)) in last.states.iter().zip(&live.states).enumerate() {
        assert_eq!(last.now, live.now, "state {state}");
        let entered: u64 = files.iter().map(|file| file.states[state].entered).sum();
        assert_eq!(entered, live.entered, "state {state}");
    }
    assert_eq!(files.iter().map(|file| file.records).sum::<u64>(), live.records);
    for (file, n) in files.iter().zip(1..) {
        assert_eq!(file.losses.total(), 0, "file {n}");
    }
    let ended = |snapshot: &Snapshot| -> u64 {
        snapshot.groups.iter().map(|group| group.ended.iter().sum::<u64>()).sum()
    };
    assert_eq!(files.iter().map(ended).sum::<u64>(), ended(&live));
}

#[test]
fn of_a_series_the_newest_stay() {
    let folder = TempDir::new().expect("a folder");
    let keep = Keep::Series { rotate: Rotate::Time(Nanos::SECOND), files: Some(2) };
    let plan = plan(&folder, keep);
    let (_, written) = record(made(60_000), &plan);
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.sort_unstable();
    let wanted = [written.files - 1, written.files].map(|n| output::numbered(&plan.path, n));
    assert_eq!(names, wanted);
}

#[test]
fn a_flight_recorder_keeps_the_newest_stretch() {
    let folder = TempDir::new().expect("a folder");
    let length = Nanos(1_500_000_000);
    let plan = plan(&folder, Keep::Last(length));
    let (live, written) = record(made(60_000), &plan);
    assert!(live.ts.since(live.began) > length.plus(length), "the run was longer");
    assert!(written.span >= length && written.span < live.ts.since(live.began), "{written:?}");
    let replayed = run(Reader::open(&plan.path, AtEnd::Stop).expect("a recording"), None);
    for (replayed, live) in replayed.states.iter().zip(&live.states) {
        assert_eq!(replayed.now, live.now);
    }
    assert_eq!(replayed.losses.total(), 0);
    assert!(replayed.records < live.records);
}

#[test]
fn a_file_that_is_there_stays_unless_it_is_to_be_replaced() {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::All);
    std::fs::write(&plan.path, "precious").expect("a file");
    let Err(error) = start(&plan) else { panic!("the file was opened") };
    assert!(error.to_string().ends_with("there is such a file already; --force replaces it"), "{error}");
    record(made(100), &Plan { existing: Existing::Replace, ..plan.clone() });
    assert!(Reader::open(&plan.path, AtEnd::Stop).is_ok());
}

#[test]
fn a_file_cut_anywhere_reads_up_to_there() {
    let whole = small();
    let (all, _) = read_all(&whole).expect("a recording");
    let mut most = 0;
    for length in 0..whole.len() {
        match read_all(&whole[..length]) {
            Ok((records, ending)) => {
                assert!(matches!(ending, Ending::Open { .. }), "{length}: {ending:?}");
                assert!(records.len() <= all.len() + 1, "{length}");
                most = most.max(records.len());
            }
            Err(ReadError::Empty) => assert_eq!(length, 0),
            Err(ReadError::OnlyHeader) => assert!(length > 0),
            Err(error) => panic!("{length}: {error}"),
        }
    }
    assert!(most >= all.len(), "{most}");
}

#[test]
fn other_files_are_refused() {
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0";
    let arrow_file = b"ARROW1\0\0\xff\xff\xff\xff\x10\0\0\0";
    for foreign in [&png[..], arrow_file, b"\xff\xff\xff\xff\0\0\0\0", b"tcptrace"] {
        assert!(matches!(read(foreign), Err(ReadError::Foreign)), "{foreign:?}");
    }
    assert!(matches!(read(b""), Err(ReadError::Empty)));
    assert!(matches!(read(b"\xff\xff\xff\xff\x10\0"), Err(ReadError::OnlyHeader)));
}

#[test]
fn a_file_of_the_future_is_refused_with_what_to_do() {
    let mut compressor = message::Compressor::new().expect("memory");
    let metadata =
        [(schema::key::FORMAT, "2.0".to_owned()), (schema::key::VERSION, "9.1.0\x1b[2J".to_owned())];
    let file = message::header(&metadata, &mut compressor).expect("memory");
    let Err(error) = read(&file) else { panic!("it was read") };
    assert_eq!(
        error.to_string(),
        "the recording has format 2.0, written by tcptrace 9.1.0?[2J; this tcptrace reads format 1: use one that \
         is as new as the one that wrote it"
    );
}

#[test]
fn a_pipe_is_read_as_it_fills() {
    let (from, mut to) = io::pipe().expect("a pipe");
    let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&from));
    let whole = small();
    let (wanted, _) = read_all(&whole).expect("a recording");
    // Room enough in a pipe for all of it.
    let (begin, rest) = whole.split_at(whole.len() / 2);
    io::Write::write_all(&mut to, begin).expect("room");
    let mut reader = Reader::open(path.as_ref(), AtEnd::Stop).expect("a recording");
    let mut records = Vec::new();
    let ending = reader.ending();
    // Nothing comes for a while: that is no end.
    for _ in 0..whole.len() {
        assert_eq!(reader.fill(&mut |record| records.push(record)).expect("a pipe"), Flow::Running);
        if reader.frames.has_paused() {
            break;
        }
    }
    assert!(records.len() < wanted.len() && ending.lock().expect("no panic").is_none());
    io::Write::write_all(&mut to, rest).expect("room");
    drop(to);
    while reader.fill(&mut |record| records.push(record)).expect("a pipe") == Flow::Running {}
    assert_eq!(*ending.lock().expect("no panic"), Some(Ending::Closed));
    assert_eq!(records.len(), wanted.len());
}

#[test]
fn a_growing_file_is_followed() {
    /// Gives what is there, and grows each time it is asked.
    struct Growing(Arc<Mutex<(Vec<u8>, usize, usize)>>);
    impl Read for Growing {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (bytes, at, there) = &mut *state;
            let n = buf.len().min(*there - *at);
            buf[..n].copy_from_slice(&bytes[*at..*at + n]);
            *at += n;
            *there = (*there + 4_000).min(bytes.len());
            Ok(n)
        }
    }
    let whole = small();
    let (wanted, _) = read_all(&whole).expect("a recording");
    let growing = Growing(Arc::new(Mutex::new((whole, 0, 100))));
    let mut reader = Reader::new(Box::new(growing), AtEnd::Follow).expect("a recording");
    let mut records = Vec::new();
    while reader.fill(&mut |record| records.push(record)).expect("memory can be read") == Flow::Running {}
    assert_eq!(records.len(), wanted.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes_are_found_or_harmless(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        static SMALL: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut bytes = SMALL.get_or_init(small).clone();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok((records, _)) = read_all(&bytes) {
            // Whatever it says, the tracker must cope with it.
            run(Made { records: records.into_iter(), portion: 100_000, recorder: None }, None);
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn any_message_is_refused_or_passed_over(meta in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = small_header();
        bytes.extend_from_slice(&[0xff; 4]);
        bytes.extend_from_slice(&(meta.len() as i32).to_le_bytes());
        bytes.extend_from_slice(&meta);
        let (_, ending) = read_all(&bytes).expect("the header is right");
        prop_assert!(ending != Ending::Closed || meta.is_empty());
    }
}

/// A header that is right.
fn small_header() -> Vec<u8> {
    let metadata =
        [(schema::key::FORMAT, schema::FORMAT.to_string()), (schema::key::CLOCK_OFFSET_NS, "5".to_owned())];
    message::header(&metadata, &mut message::Compressor::new().expect("memory")).expect("memory")
}
