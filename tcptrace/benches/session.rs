//! Recordings: bytes per record, records per second written and read, peak memory. Records are generated in advance in
//! portions, so that only the recording is timed.
//!
//! `cargo bench -p tcptrace --bench session -- [--records 10000000] [--keep FILE]`

use std::{
    fs::{self, File},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tcptrace::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    model::{Flow, Nanos, Record, Source},
    output_file::Existing,
    pipeline::{self, PipelinePlan},
    session::{self, AtEnd, Keep, Reader, Recorder, RecorderStatus},
    synthetic::{Shape, Traffic},
};

/// Connections per second: some 200,000 records per second.
const CONNECTIONS_PER_S: u64 = 28_000;
const PORTION: usize = 256 << 10;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let argument = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let records = argument("--records").and_then(|wanted| wanted.parse().ok()).unwrap_or(10_000_000);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = folder.path().join("bench.tcptrace");
    let resident = resident_kib();
    let (written, took) = write(&path, records);
    let peak = peak_kib();
    let bytes = fs::metadata(&path).expect("the file").len();
    println!("records                   {written}");
    println!("bytes per record          {:.2}", bytes as f64 / written as f64);
    println!("records/s written         {:.0}", written as f64 / took.as_secs_f64());
    println!("peak memory while writing {} MiB ({} before)", peak / 1024, resident / 1024);
    reset_peak();
    let (read, took) = read_only(&path);
    println!("records/s read            {:.0}", read as f64 / took.as_secs_f64());
    let (read, took) = read_and_track(&path);
    println!("records/s read, tracked   {:.0}", read as f64 / took.as_secs_f64());
    println!("peak memory while reading {} MiB", peak_kib() / 1024);
    if let Some(keep) = argument("--keep") {
        fs::copy(&path, keep).expect("a copy");
    }
}

/// Writes `records` records; returns the time in which the writer was active.
fn write(path: &Path, records: usize) -> (usize, Duration) {
    let plan = session::RecordPlan { path: path.to_owned(), keep: Keep::All, existing: Existing::Replace };
    let (mut recorder, recording) = session::start(&plan).expect("a file");
    let shape = Shape { connections_per_s: CONNECTIONS_PER_S, ..Shape::default() };
    let mut traffic = Traffic::new(shape, 1);
    let (mut written, mut took) = (0, Duration::ZERO);
    while written < records {
        let portion: Vec<Record> = traffic.by_ref().take(PORTION.min(records)).collect();
        written += portion.iter().filter(|record| matches!(record, Record::Kernel(_))).count();
        let began = Instant::now();
        for record in portion {
            recorder.push(record);
        }
        drain(&mut recorder, &recording.status);
        took += began.elapsed();
    }
    assert_eq!(recorder.missed(), 0, "everything was written");
    let began = Instant::now();
    drop(recorder);
    recording.done.blocking_recv().expect("the writer").expect("a disk");
    (written, took + began.elapsed())
}

fn drain(recorder: &mut Recorder, status: &Arc<RecorderStatus>) {
    recorder.flush();
    while !(recorder.is_empty() && status.is_idle()) {
        std::thread::sleep(Duration::from_micros(50));
        recorder.flush();
    }
}

fn read_only(path: &Path) -> (u64, Duration) {
    let began = Instant::now();
    let mut reader =
        Reader::new(Box::new(File::open(path).expect("a file")), AtEnd::Stop).expect("a recording");
    let mut records = 0;
    let mut take = |record: Record| records += u64::from(matches!(record, Record::Kernel(_)));
    while reader.fill(&mut take).expect("a recording") == Flow::Running {}
    (records, began.elapsed())
}

fn read_and_track(path: &Path) -> (u64, Duration) {
    let began = Instant::now();
    let reader = Reader::new(Box::new(File::open(path).expect("a file")), AtEnd::Stop).expect("a recording");
    let plan =
        PipelinePlan::new(Filter::EVERYTHING, Grouping::SERVICE, Scope::TimewaitSockets, Nanos::SECOND);
    let running = pipeline::start(Box::new(reader), plan).expect("a thread");
    let last = running.finish().expect("a recording");
    assert_eq!(last.losses.total(), 0, "{:?}", last.losses);
    (last.records, began.elapsed())
}

fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

fn resident_kib() -> u64 {
    status_kib("VmRSS:")
}

fn peak_kib() -> u64 {
    status_kib("VmHWM:")
}

/// Resets the peak of the resident size.
fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}
