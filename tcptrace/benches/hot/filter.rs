//! Filter expressions, as the tracker's side evaluates them for every socket that changes.

use std::collections::BTreeMap;

use criterion::{BenchmarkId, Criterion, Throughput};
use tcptrace::{
    aggregate::Grouping,
    filter::{Filter, parse},
};

use crate::load::{engine, loopback};

const EXPRESSIONS: [(&str, &str); 4] = [
    ("port", "rport 5432"),
    ("network", "peer 10.0.0.0/8 or peer ::1"),
    ("owner", "comm nginx and not pid 1"),
    ("all", "state time-wait and (rport 5432 or peer 127.0.0.0/8) and not comm nginx and role outbound"),
];

pub fn bench(criterion: &mut Criterion) {
    let mut engine = engine(Grouping::SERVICE);
    let records = loopback();
    // In the middle all connections exist, and no TIME_WAIT has expired yet.
    for record in &records[..records.len() / 2] {
        engine.take(record);
    }
    let tracker = engine.tracker();
    let subjects: Vec<_> = tracker.sockets().map(|(_, socket)| socket.subject(tracker.processes())).collect();
    assert!(!subjects.is_empty(), "no sockets to test");
    let mut group = criterion.benchmark_group("filter");
    group.throughput(Throughput::Elements(subjects.len() as u64));
    for (name, text) in EXPRESSIONS {
        let expression = parse("--filter", text).expect("an expression");
        let filter = Filter::new(Some(expression), &BTreeMap::new()).expect("no names in it");
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| subjects.iter().filter(|subject| !filter.states(subject).is_empty()).count());
        });
    }
}
