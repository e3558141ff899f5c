//! Round trips, every kind of damage, and replays compared with the live run.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

mod clock;
mod pieces;
mod values;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    filter::Filter,
    model::{
        ClockStep, Flow, Nanos, Record, SeedSocket, Source,
        record::{KernelLosses, SeedObject, Sweep},
    },
    output_file::Existing,
    pipeline,
    synthetic::{Shape, Traffic},
    view::top::json,
};

/// A finite source that hands out a fixed number of records at a time.
struct PortionSource {
    records: std::vec::IntoIter<Record>,
    portion: usize,
    /// Wait for this writer before each portion: another test covers a full queue.
    recorder: Option<Arc<RecorderStatus>>,
}

impl Source for PortionSource {
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
    // A recording ends with a tick.
    let ts = records.iter().filter_map(Record::ts).max().unwrap_or_default();
    records.push(Record::Tick { ts });
    records
}

fn plan(folder: &TempDir, keep: Keep) -> RecordPlan {
    RecordPlan { path: folder.path().join("a.tcptrace"), keep, existing: Existing::Keep }
}

/// The last snapshot as JSON, without the name of its source.
fn document(snapshot: &Snapshot) -> String {
    let mut out = Vec::new();
    let snapshot = Snapshot { source: Arc::from("test"), ..snapshot.clone() };
    json::write(&mut out, &snapshot).expect("writing to a Vec cannot fail");
    String::from_utf8(out).expect("UTF-8")
}

/// Runs `source`, optionally with a recorder; returns the last snapshot.
fn run(source: impl Source + 'static, recorder: Option<Recorder>) -> Snapshot {
    let plan = pipeline::PipelinePlan {
        recorder,
        ..pipeline::PipelinePlan::new(Filter::EVERYTHING, Grouping::SERVICE, Scope::Every, Nanos(u64::MAX))
    };
    pipeline::start(Box::new(source), plan).expect("a thread").finish().expect("a source that does not fail")
}

fn record(records: Vec<Record>, plan: &RecordPlan) -> (Snapshot, Written) {
    let (recorder, recording) = start(plan).expect("a file");
    let last = run(
        PortionSource {
            records: records.into_iter(),
            portion: 500,
            recorder: Some(Arc::clone(&recording.status)),
        },
        Some(recorder),
    );
    let written = recording.done.blocking_recv().expect("the writer").expect("a disk");
    (last, written)
}

fn read(bytes: &[u8]) -> Result<Reader, ReadError> {
    Reader::new(Box::new(io::Cursor::new(bytes.to_vec())), AtEnd::Stop)
}

/// Reads to the end: the records, and the ending.
fn read_all(bytes: &[u8]) -> Result<(Vec<Record>, Ending), ReadError> {
    let mut reader = read(bytes)?;
    let mut records = Vec::new();
    while reader.fill(&mut |record| records.push(record)).expect("memory can be read") == Flow::Running {}
    let ending = reader.ending().lock().unwrap_or_else(PoisonError::into_inner).expect("an ending");
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
fn a_replay_shows_the_same_as_the_live_run() {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::All);
    let (live, written) = record(made(60_000), &plan);
    assert_eq!(written.records, live.records);
    let reader = Reader::open(&plan.path, AtEnd::Stop).expect("a recording");
    let ending = reader.ending();
    let replayed = run(reader, None);
    assert_eq!(*ending.lock().expect("no panic"), Some(Ending::Closed));
    assert_eq!(document(&replayed), document(&live));
    assert!(live.states.iter().any(|state| state.entered > 1_000), "there was traffic");
}

#[test]
fn every_kind_of_record_round_trips() {
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
        [SeedObject::Full, SeedObject::Timewait { left: Nanos(7) }, SeedObject::Request { timeouts: 2 }];
    for (seed, object) in seeds.into_iter().zip(objects) {
        records.push(Record::Found(SeedSocket { ts, object, ..seed }));
        for from in [Sweep::Whole, Sweep::FinWait2] {
            let SeedSocket { id, netns, tuple, .. } = seed;
            records.push(Record::Missing { ts, id, netns, tuple, from });
        }
    }
    for offset_ns in [0, 5, 1_767_323_045_000_000_000, u64::MAX] {
        records.push(Record::ClockStep(ClockStep { ts, offset_ns }));
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

#[test]
fn cookies_counted_down_round_trip() {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::All);
    // gen_cookie_next() counts down from 2^64-1 where it interrupts itself.
    let down = |cookie: u64| if cookie == 0 { 0 } else { u64::MAX - cookie };
    let mut records = made(3_000);
    let (mut transitions, mut seeds, mut requests) = (0, 0, 0);
    for record in &mut records {
        match record {
            Record::Kernel(seen) => {
                seen.raw.cookie = down(seen.raw.cookie);
                let is_request = seen.raw.kind == tcptrace_common::record::Kind::RequestArmed as u8;
                if is_request {
                    seen.raw.arg0 = down(seen.raw.arg0.max(1));
                    requests += 1;
                }
                transitions += 1;
            }
            Record::Seed(seed) => {
                seed.id.0 = down(seed.id.0);
                seeds += 1;
            }
            Record::Owner { id, .. } => id.0 = down(id.0),
            _ => {}
        }
    }
    assert!(transitions > 1_000 && seeds > 0 && requests > 0, "{transitions} {seeds} {requests}");
    let wanted = shown(&records);
    record(records, &plan);
    let (read, ending) = read_all(&std::fs::read(&plan.path).expect("the file")).expect("a recording");
    assert_eq!(ending, Ending::Closed);
    assert_eq!(shown(&read), wanted);
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
fn each_file_of_a_series_is_self_contained() {
    let folder = TempDir::new().expect("a folder");
    let rotate = Rotate::Time(Nanos::SECOND);
    let plan = plan(&folder, Keep::Series { rotate, files: None });
    let (live, written) = record(made(60_000), &plan);
    assert!(written.files >= 3, "{written:?}");
    let files: Vec<Snapshot> = (1..=written.files as u64)
        .map(|n| {
            let path = output::numbered(&plan.path, n);
            run(Reader::open(&path, AtEnd::Stop).expect("a recording"), None)
        })
        .collect();
    let last = files.last().expect("a file");
    // Counts at the end equal the live run's; events add up.
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

/// The files of a folder by name, with the time that the records of each span.
fn spans(folder: &TempDir) -> Vec<(PathBuf, Nanos)> {
    let span = |path: &Path| {
        let (records, _) = read_all(&std::fs::read(path).expect("the file")).expect("a recording");
        let first = records.iter().filter_map(Record::ts).min().unwrap_or_default();
        records.iter().filter_map(Record::ts).max().unwrap_or_default().since(first)
    };
    let entries = std::fs::read_dir(folder.path()).expect("the folder");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.clone(), span(&path)))
        .collect();
    files.sort_unstable();
    files
}

#[test]
fn a_series_keeps_the_newest_files_across_restarts() {
    let folder = TempDir::new().expect("a folder");
    let rotate = Rotate::Time(Nanos::SECOND);
    let all = plan(&folder, Keep::Series { rotate, files: None });
    let (live, written) = record(made(60_000), &all);
    let seconds = live.ts.since(live.began).0 / Nanos::SECOND.0;
    assert!(seconds >= 3 && written.files as u64 <= seconds + 1, "{} files of {seconds} s", written.files);
    let files = spans(&folder);
    assert_eq!(files.len(), written.files);
    for (path, span) in &files[..files.len() - 1] {
        assert!(*span >= Nanos::SECOND, "{} spans {} ns", path.display(), span.0);
    }
    let last = written.files as u64;
    // A second run with a limit; --force must not replace existing numbers.
    let keep = Keep::Series { rotate, files: Some(3) };
    let (_, again) = record(made(60_000), &RecordPlan { keep, existing: Existing::Replace, ..all.clone() });
    assert_eq!(again.path, output::numbered(&all.path, last + again.files as u64));
    let names: Vec<PathBuf> = spans(&folder).into_iter().map(|(path, _)| path).collect();
    let newest = last + again.files as u64 - 2..=last + again.files as u64;
    assert_eq!(names, newest.map(|n| output::numbered(&all.path, n)).collect::<Vec<_>>());
}

#[test]
fn flight_recorder_dumps_are_never_replaced() {
    let folder = TempDir::new().expect("a folder");
    let plan = RecordPlan { existing: Existing::Replace, ..plan(&folder, Keep::Last(Nanos::SECOND)) };
    let names: Vec<PathBuf> = (0..3).map(|_| record(made(3_000), &plan).1.path).collect();
    assert_eq!(names[0], plan.path);
    assert_eq!(names[1..], [1, 2].map(|n| output::numbered(&plan.path, n)));
    assert!(spans(&folder).len() == 3);
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
fn an_existing_file_is_kept_unless_forced() {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::All);
    std::fs::write(&plan.path, "precious").expect("a file");
    let Err(error) = start(&plan) else { panic!("the file was opened") };
    assert!(error.to_string().ends_with("there is such a file already; --force replaces it"), "{error}");
    record(made(100), &RecordPlan { existing: Existing::Replace, ..plan.clone() });
    assert!(Reader::open(&plan.path, AtEnd::Stop).is_ok());
}

#[test]
fn a_truncated_file_reads_up_to_the_cut() {
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
fn a_newer_major_version_is_rejected_with_advice() {
    let mut compressor = message::Compressor::new().expect("memory");
    let metadata =
        [(schema::key::FORMAT, "2.0".to_owned()), (schema::key::VERSION, "9.1.0\x1b[2J".to_owned())];
    let file = message::header(&metadata, &mut compressor).expect("memory");
    let Err(error) = read(&file) else { panic!("the file was accepted") };
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
    // The whole recording fits into a pipe.
    let (begin, rest) = whole.split_at(whole.len() / 2);
    io::Write::write_all(&mut to, begin).expect("room");
    let mut reader = Reader::open(path.as_ref(), AtEnd::Stop).expect("a recording");
    let mut records = Vec::new();
    let ending = reader.ending();
    // Nothing arrives for a while: that is not the end.
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
fn a_fifo_without_a_writer_does_not_block() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).expect("a pipe");
    let mut reader = Reader::open(&path, AtEnd::Stop).expect("a pipe without data opens");
    let mut records = Vec::new();
    for _ in 0..2 {
        assert_eq!(reader.fill(&mut |record| records.push(record)).expect("a pipe"), Flow::Running);
    }
    let whole = small();
    let mut to = std::fs::OpenOptions::new().write(true).open(&path).expect("a FIFO with a reader");
    io::Write::write_all(&mut to, &whole).expect("room");
    drop(to);
    while reader.fill(&mut |record| records.push(record)).expect("a pipe") == Flow::Running {}
    assert_eq!(records.len(), read_all(&whole).expect("a recording").0.len());
    // An invalid header is detected when it arrives.
    let mut reader = Reader::open(&path, AtEnd::Stop).expect("a pipe without data opens");
    let mut to = std::fs::OpenOptions::new().write(true).open(&path).expect("a FIFO with a reader");
    io::Write::write_all(&mut to, b"something else").expect("room");
    let read = (0..100).find_map(|_| reader.fill(&mut |_| {}).err());
    assert!(matches!(read.expect("an error").downcast_ref(), Some(ReadError::Foreign)));
}

#[test]
fn an_error_is_reported_once() {
    let Err(error) = Reader::open("/there/is/none".as_ref(), AtEnd::Stop) else { panic!("file opened") };
    let message = format!("{:#}", anyhow::Error::from(error).context("none"));
    assert_eq!(message, "none: No such file or directory (os error 2)");
}

/// A series of recordings that can be concatenated, and the live run's last snapshot.
fn joined_series() -> (Vec<Vec<u8>>, Snapshot) {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::Series { rotate: Rotate::Time(Nanos::SECOND), files: None });
    let (live, written) = record(made(60_000), &plan);
    assert!(written.files >= 3);
    (spans(&folder).into_iter().map(|(path, _)| std::fs::read(path).expect("the file")).collect(), live)
}

#[test]
fn concatenated_recordings_are_read_as_one() {
    let (files, live) = joined_series();
    let bytes = files.concat();
    assert_eq!(read_all(&bytes).expect("a recording").1, Ending::Closed);
    let joined = run(read(&bytes).expect("a recording"), None);
    for (state, (joined, live)) in joined.states.iter().zip(&live.states).enumerate() {
        assert_eq!((joined.now, joined.entered), (live.now, live.entered), "state {state}");
    }
    assert_eq!((joined.records, joined.losses.total()), (live.records, 0));
    // With one file missing, its events are unknown, but no socket stays counted after its end.
    let with_gap = [&files[0][..], &files[files.len() - 1]].concat();
    let joined = run(read(&with_gap).expect("a recording"), None);
    for (state, (joined, live)) in joined.states.iter().zip(&live.states).enumerate() {
        assert_eq!(joined.now, live.now, "state {state}");
    }
    // The last one may be truncated like any other.
    let cut = &bytes[..bytes.len() - 100];
    assert!(matches!(read_all(cut).expect("a recording").1, Ending::Open { .. }));
}

#[test]
fn unreadable_data_after_the_end_is_reported() {
    let (files, _) = joined_series();
    let whole = files[0].clone();
    let (records, _) = read_all(&whole).expect("a recording");
    let at = whole.len() as u64;
    let mut of_another_host = small_header();
    of_another_host.extend_from_slice(&whole[at as usize / 2..]);
    let cases = [
        (&b"x"[..], "it is no recording"),
        (&b"\xff\xff\xff\xff\0\0\0\0"[..], "it is no recording"),
        (&vec![7; 200_000][..], "it is no recording"),
        (&whole[..], "it is a recording that begins before the end of the one before"),
        (&of_another_host[..], "it is a recording of another host, or of another boot of it"),
    ];
    for (rest, why) in cases {
        let (read, ending) = read_all(&[&whole[..], rest].concat()).expect("a recording");
        assert_eq!(ending, Ending::Followed { at, bytes: rest.len() as u64, why });
        // The sentence is in the final host record.
        assert_eq!(read.len(), records.len() + 1, "{why}");
        let Some(Record::Host(host)) = read.last() else { panic!("{:?}", read.last()) };
        let limit = host.limits.last().expect("a sentence");
        assert!(limit.contains(why) && limit.contains("was not read"), "{limit}");
    }
}

#[test]
fn losses_of_concatenated_recordings_add_up() {
    let losses = |ring_full| KernelLosses { ring_full, ..KernelLosses::default() };
    let loss = |ts, n| Record::Loss { ts: Nanos(ts), losses: losses(n) };
    let of = |records: &[Record]| {
        let folder = TempDir::new().expect("a folder");
        let plan = plan(&folder, Keep::All);
        let host = Record::Host(Box::default());
        record([&[host][..], records].concat(), &plan);
        std::fs::read(plan.path).expect("the file")
    };
    let bytes = [of(&[loss(10, 3), loss(20, 5)]), of(&[loss(30, 1)]), of(&[loss(40, 2)])].concat();
    let (read, ending) = read_all(&bytes).expect("a recording");
    let losses: Vec<u64> = read
        .iter()
        .filter_map(
            |record| if let Record::Loss { losses, .. } = record { Some(losses.ring_full) } else { None },
        )
        .collect();
    assert_eq!((losses, ending), (vec![3, 5, 6, 8], Ending::Closed));
}

#[test]
fn a_growing_file_is_followed() {
    /// Returns the available bytes, and grows with each read.
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
    fn flipped_bytes_are_detected_or_harmless(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        static SMALL: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut bytes = SMALL.get_or_init(small).clone();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok((records, _)) = read_all(&bytes) {
            // The tracker must accept any decoded records.
            run(PortionSource { records: records.into_iter(), portion: 100_000, recorder: None }, None);
        }
    }

    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn any_message_is_rejected_or_skipped(meta in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = small_header();
        bytes.extend_from_slice(&[0xff; 4]);
        bytes.extend_from_slice(&(meta.len() as i32).to_le_bytes());
        bytes.extend_from_slice(&meta);
        let (_, ending) = read_all(&bytes).expect("a valid header");
        prop_assert!(ending != Ending::Closed || meta.is_empty());
    }
}

/// A valid header.
fn small_header() -> Vec<u8> {
    let metadata =
        [(schema::key::FORMAT, schema::FORMAT.to_string()), (schema::key::CLOCK_OFFSET_NS, "5".to_owned())];
    message::header(&metadata, &mut message::Compressor::new().expect("memory")).expect("memory")
}
