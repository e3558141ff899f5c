//! Work of `top` once per second: a snapshot of 120,000 sockets, and a frame of it.

use std::{sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion};
use tcptrace::{aggregate::Grouping, synthetic::Shape, view::top::offscreen::Offscreen};

use crate::load::{grown, traffic};

const SOCKETS: u64 = 120_000;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    // Some forty groups, some fifty thousand.
    for by in ["service", "peer"] {
        let grouping: Grouping = by.parse().expect("a key");
        let mut traffic = traffic(SOCKETS, Shape { peers: 60_000, ..Shape::default() });
        let mut engine = None;
        let mut grown = || grown(grouping, &mut traffic);
        group.bench_function(BenchmarkId::new("snapshot", by), |bencher| {
            let engine = engine.get_or_insert_with(&mut grown);
            bencher.iter(|| engine.snapshot());
        });
        group.bench_function(BenchmarkId::new("screen", by), |bencher| {
            let engine = engine.get_or_insert_with(&mut grown);
            let snapshot = Arc::new(engine.snapshot());
            let mut screen = Offscreen::new(Arc::clone(&snapshot), 200, 50).expect("no terminal");
            bencher.iter(|| screen.show(Arc::clone(&snapshot)).expect("no terminal"));
        });
        let (sockets, clone) = (engine.as_ref(), BenchmarkId::new("checkpoint", by));
        if let Some(engine) = sockets {
            group.bench_function(clone, |bencher| bencher.iter_with_large_drop(|| engine.clone()));
        }
    }
}
