//! Times of day while the wall clock is set: live, and read from recordings of every layout.

use super::*;
use crate::{
    lifecycle::Event,
    model::{ClockStep, record::HostFacts},
    pipeline::{EventSink, Moment, Window, Windowed},
    session::{encode::Encoder, message::Compressor},
};

const HOUR: u64 = 3_600 * Nanos::SECOND.0;

/// An event's timestamp and its time of day.
type Times = Vec<(Nanos, u64)>;

/// Collects the times of events.
struct TimesSink(Arc<Mutex<Times>>);

impl EventSink for TimesSink {
    fn event(&mut self, event: &Event<'_>, host: &HostFacts) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.push((event.ts, host.wall_ns(event.ts)));
    }

    fn flush(&mut self) {}

    fn dropped(&self) -> u64 {
        0
    }
}

/// Runs `source`; returns its events' times, and the final host facts.
fn times(source: impl Source + 'static, recorder: Option<Recorder>) -> (Times, Arc<HostFacts>) {
    let times = Arc::<Mutex<Times>>::default();
    let sink = TimesSink(Arc::clone(&times));
    let plan = pipeline::PipelinePlan {
        recorder,
        events: Some(Box::new(sink)),
        ..pipeline::PipelinePlan::new(Filter::EVERYTHING, Grouping::NONE, Scope::Nothing, Nanos(u64::MAX))
    };
    let running = pipeline::start(Box::new(source), plan).expect("a thread");
    let last = running.finish().expect("a source that does not fail");
    let times = std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner));
    (times, last.host)
}

/// Traffic of more than three seconds; the clock is set forward by an hour after a third of the records, and
/// back after two thirds.
fn stepped() -> (Vec<Record>, [ClockStep; 2]) {
    let mut records = made(60_000);
    let offset_ns = offset_of(&records);
    let newest = |records: &[Record]| records.iter().filter_map(Record::ts).max().unwrap_or_default();
    let steps = [(20_000, offset_ns + HOUR), (40_000, offset_ns)].map(|(at, offset_ns)| {
        let step = ClockStep { ts: newest(&records[..at]).plus(Nanos(1)), offset_ns };
        records.insert(at, Record::ClockStep(step));
        step
    });
    (records, steps)
}

fn offset_of(records: &[Record]) -> u64 {
    let host = records.iter().find_map(|record| match record {
        Record::Host(facts) => Some(facts.clock_offset_ns),
        _ => None,
    });
    host.expect("the first record")
}

/// Records `records`; returns the live event times, and the files.
fn recorded(records: Vec<Record>, plan: &RecordPlan) -> (Times, Written) {
    let (recorder, recording) = start(plan).expect("a file");
    let records = records.into_iter();
    let source = PortionSource { records, portion: 500, recorder: Some(Arc::clone(&recording.status)) };
    let (live, _) = times(source, Some(recorder));
    (live, recording.done.blocking_recv().expect("the writer").expect("a disk"))
}

/// Checks every time of day against the step in force, and requires events between any two steps.
fn assert_right(times: &Times, offset_ns: u64, [forward, back]: [ClockStep; 2]) {
    let mut seen = [0; 3];
    for &(ts, wall_ns) in times {
        let step = usize::from(ts >= forward.ts) + usize::from(ts >= back.ts);
        assert_eq!(wall_ns, ts.0 + [offset_ns, forward.offset_ns, back.offset_ns][step], "{ts:?}");
        seen[step] += 1;
    }
    assert!(seen.iter().all(|&seen| seen > 1_000), "{seen:?}");
}

#[test]
fn events_have_the_same_time_of_day_live_and_in_a_replay() {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::All);
    let (records, steps) = stepped();
    let offset_ns = offset_of(&records);
    let (live, _) = recorded(records, &plan);
    assert_right(&live, offset_ns, steps);
    let (read, host) = times(Reader::open(&plan.path, AtEnd::Stop).expect("a recording"), None);
    assert_eq!(read, live);
    assert_eq!(host.clock_steps, steps);
}

#[test]
fn each_file_of_a_series_starts_with_the_current_offset() {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::Series { rotate: Rotate::Time(Nanos(500_000_000)), files: None });
    let (records, steps) = stepped();
    let offset_ns = offset_of(&records);
    let (live, _) = recorded(records, &plan);
    let files: Vec<PathBuf> = spans(&folder).into_iter().map(|(path, _)| path).collect();
    let (mut offsets, mut read, mut bytes) = (Vec::new(), Times::new(), Vec::new());
    for path in &files {
        let mut reader = Reader::open(path, AtEnd::Stop).expect("a recording");
        offsets.extend(reader.header_offset_ns());
        let mut steps_before = None;
        while steps_before.is_none() {
            let mut take = |record| {
                if let Record::Host(facts) = record {
                    steps_before = Some(facts.clock_steps.len());
                }
            };
            reader.fill(&mut take).expect("a recording");
        }
        let is_stepped = steps_before == Some(1);
        assert_eq!(
            offsets.last(),
            Some(&(offset_ns + if is_stepped { HOUR } else { 0 })),
            "{steps_before:?} steps"
        );
        read.extend(times(Reader::open(path, AtEnd::Stop).expect("a recording"), None).0);
        bytes.extend(std::fs::read(path).expect("the file"));
    }
    assert!(offsets.contains(&(offset_ns + HOUR)) && offsets.last() == Some(&offset_ns), "{offsets:?}");
    assert_right(&read, offset_ns, steps);
    assert_eq!(read, live);
    // Concatenated, they are one recording.
    assert_right(&times(self::read(&bytes).expect("a recording"), None).0, offset_ns, steps);
}

#[test]
fn a_flight_recorder_keeps_the_time_of_day_of_every_piece() {
    let folder = TempDir::new().expect("a folder");
    let plan = plan(&folder, Keep::Last(Nanos(10 * Nanos::SECOND.0)));
    let (records, steps) = stepped();
    let offset_ns = offset_of(&records);
    let (live, _) = recorded(records, &plan);
    let (read, _) = times(Reader::open(&plan.path, AtEnd::Stop).expect("a recording"), None);
    assert_right(&read, offset_ns, steps);
    assert_eq!(read, live);
    // Only the newest pieces: the first step was before them.
    let last = TempDir::new().expect("a folder");
    let last = super::plan(&last, Keep::Last(Nanos::SECOND));
    std::fs::create_dir_all(last.path.parent().expect("its folder")).expect("a folder");
    recorded(stepped().0, &last);
    let (read, host) = times(Reader::open(&last.path, AtEnd::Stop).expect("a recording"), None);
    assert_eq!(host.clock_steps, steps);
    assert!(read.len() > 1_000 && read.len() < live.len() && read == live[live.len() - read.len()..]);
}

/// A recording of arbitrary `records`.
fn file_of(header: &[u8], records: &[Record]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut file = header.to_vec();
    for record in records {
        encoder.record(record);
    }
    encoder.take_batch(&mut Compressor::new().expect("memory"), &mut file).expect("memory");
    file.extend(message::END);
    file
}

/// A recording with impossible clock steps.
fn hostile() -> Vec<u8> {
    let wild = [0, 1, i64::MAX as u64, i64::MIN as u64, u64::MAX];
    let step = |ts, offset_ns| ClockStep { ts: Nanos(ts), offset_ns };
    let all = wild.iter().flat_map(|&ts| wild.map(|offset_ns| step(ts, offset_ns)));
    let mut records: Vec<Record> = made(500);
    let mut many = Vec::new();
    for (n, wild) in all.chain((0..3_000).map(|n| step(n * 7 % 2_000, n))).enumerate() {
        many.push(wild);
        records.insert(5 + n % 300, Record::ClockStep(wild));
    }
    for record in &mut records {
        if let Record::Host(facts) = record {
            facts.clock_offset_ns = u64::MAX - 5;
            facts.clock_steps = [&many[..], &many[..]].concat();
        }
    }
    file_of(&small_header(), &records)
}

#[test]
fn a_recording_with_impossible_steps_is_read_within_bounds() {
    let file = hostile();
    let (read, ending) = read_all(&file).expect("a recording");
    assert_eq!(ending, Ending::Closed);
    let steps = read.iter().filter(|record| matches!(record, Record::ClockStep(_))).count();
    assert_eq!(steps, 3_025);
    let (seen, host) = times(self::read(&file).expect("a recording"), None);
    assert!(!seen.is_empty() && host.clock_steps.len() <= 1_024);
    let dropped: Vec<_> = host.limits.iter().filter(|limit| limit.contains("wall clock")).collect();
    assert_eq!(dropped.len(), 1, "{:?}", host.limits);
    for wall in [0, 1, i64::MAX as u64, u64::MAX] {
        let window = Window { since: Some(Moment::Wall(wall)), ..Window::default() };
        let mut windowed = Windowed::new(self::read(&file).expect("a recording"), window, "a".into());
        while let Ok(Flow::Running) = windowed.fill(&mut |_| {}) {}
    }
}
