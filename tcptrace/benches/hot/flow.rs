//! Decoder, tracker and aggregate, from memory: the path of every record.

use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use tcptrace::{aggregate::Grouping, synthetic::Shape};

use crate::load::{RecordRing, engine, grown, loopback, traffic};

/// Records generated at once: as many as the source reads from the ring per batch.
const PORTION: usize = 32 << 10;

pub fn bench(criterion: &mut Criterion) {
    recorded(criterion);
    steady(criterion);
}

/// A recording of real traffic, from its first to its last record.
fn recorded(criterion: &mut Criterion) {
    let ring: RecordRing = loopback().into_iter().collect();
    let mut group = criterion.benchmark_group("flow");
    group.throughput(Throughput::Elements(ring.len())).sample_size(20);
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            ring.each(|record| {
                std::hint::black_box(record);
            });
        });
    });
    group.bench_function("recorded", |bencher| {
        bencher.iter_batched_ref(
            || engine(Grouping::SERVICE),
            |engine| ring.each(|record| engine.take(record)),
            BatchSize::PerIteration,
        );
    });
}

/// Synthetic traffic on a host with a stable number of sockets. One iteration is one record.
fn steady(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow/sockets");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(4));
    for sockets in [1_000, 10_000, 100_000, 1_000_000] {
        let mut traffic = traffic(sockets, Shape::default());
        let mut engine = None;
        group.bench_function(BenchmarkId::from_parameter(sockets), |bencher| {
            let engine = engine.get_or_insert_with(|| grown(Grouping::SERVICE, &mut traffic));
            bencher.iter_custom(|records| {
                let (mut done, mut took) = (0, Duration::ZERO);
                while done < records {
                    let ring: RecordRing = traffic.by_ref().take(PORTION).collect();
                    let began = Instant::now();
                    ring.each(|record| engine.take(record));
                    took += began.elapsed();
                    done += ring.len();
                }
                took.mul_f64(records as f64 / done as f64)
            });
        });
    }
}
