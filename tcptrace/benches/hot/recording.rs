//! Recordings: writing on a separate thread, and reading.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use tcptrace::{
    model::{Flow, Record, Source as _},
    output_file::Existing,
    session::{self, AtEnd, Keep, Reader},
};

use crate::load::{LOOPBACK, loopback};

pub fn bench(criterion: &mut Criterion) {
    let records = loopback();
    let seen = records.iter().filter(|record| matches!(record, Record::Kernel(_))).count();
    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Elements(seen as u64)).sample_size(10);
    group.bench_function("write", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| write(records.clone())).sum());
    });
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::new(Box::new(LOOPBACK), AtEnd::Stop).expect("a recording");
            let mut take = |record: Record| drop(std::hint::black_box(record));
            while reader.fill(&mut take).expect("a recording") == Flow::Running {}
        });
    });
}

/// Time until `records` are on disk.
fn write(records: Vec<Record>) -> Duration {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = folder.path().join("bench.tcptrace");
    let plan = session::RecordPlan { path, keep: Keep::All, existing: Existing::Replace };
    let (mut recorder, recording) = session::start(&plan).expect("a file");
    let began = Instant::now();
    for (n, record) in records.into_iter().enumerate() {
        recorder.push(record);
        while n % 4096 == 0 && !recorder.is_empty() && !recording.status.is_idle() {
            std::thread::sleep(Duration::from_micros(20));
            recorder.flush();
        }
    }
    drop(recorder);
    let written = recording.done.blocking_recv().expect("the writer").expect("a disk");
    std::hint::black_box(written);
    began.elapsed()
}
