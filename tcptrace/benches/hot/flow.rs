//! Decode, tracker and aggregate, from memory: the way of every record.

use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use tcptrace::{aggregate::Grouping, synthetic::Shape};

use crate::load::{Ring, engine, grown, loopback, traffic};

/// Records made at once: what the source takes from the ring in one go.
const PORTION: usize = 32 << 10;

pub fn bench(criterion: &mut Criterion) {
    recorded(criterion);
    steady(criterion);
}

/// A recording of real traffic, from its first to its last record.
fn recorded(criterion: &mut Criterion) {
    let ring: Ring = loopback().into_iter().collect();
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

/// Made-up traffic, of a host that has had so many sockets for a while. An iteration is a record.
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
                    let ring: Ring = traffic.by_ref().take(PORTION).collect();
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
