//! Cost of a record with and without the names of its workload, program and peer, in one run: both engines take the same
//! records in turns.
//!
//! `cargo bench -p tcptrace --bench names`; docs/benchmarks.md explains the output.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tcptrace::{
    aggregate::Grouping,
    model::{
        Nanos, Record,
        peer_names::{NameOrigin, Prefix},
        process::ProcessFacts,
        workload::Workload,
    },
    pipeline::Engine,
    synthetic::{Shape, Traffic},
};

#[allow(dead_code)]
#[path = "hot/load.rs"]
mod load;

use load::{RecordRing, engine, traffic};

const SOCKETS: u64 = 100_000;
/// Simulated time until the number of sockets is stable.
const GROWTH: Nanos = Nanos(62_000_000_000);
/// Records per measurement, and number of measurements.
const PORTION: usize = 32 << 10;
const PORTIONS: usize = 48;

fn main() {
    println!(
        "by          ns/record without names    with names    ratio (smallest quarter, median, largest quarter)"
    );
    for by in ["service", "peer", "process", "exe"] {
        let (without, with, ratios) = measure(by.parse().expect("a key"));
        println!(
            "{by:<10} {without:>24.0} {with:>13.0}    {:.3} {:.3} {:.3}",
            ratios[ratios.len() / 4],
            ratios[ratios.len() / 2],
            ratios[ratios.len() * 3 / 4]
        );
    }
}

/// First quartiles of the nanoseconds per record without and with names, and the sorted ratios.
fn measure(by: Grouping) -> (f64, f64, Vec<f64>) {
    let mut traffic = traffic(SOCKETS, Shape::default());
    let (mut plain, mut named) = (engine(by), engine(by));
    grow(&mut traffic, &mut plain, &mut named);
    let snapshot = named.snapshot();
    let has_names = |facts: Option<&Arc<ProcessFacts>>| facts.is_some_and(|facts| facts.exe.is_some());
    let owner = snapshot.groups.iter().find_map(|group| group.process.as_ref()).expect("an owner");
    assert!(has_names(owner.facts.as_ref()) && owner.workload().is_some() && !snapshot.peer_names.is_empty());
    assert!(plain.snapshot().peer_names.is_empty());

    let mut times = [Vec::new(), Vec::new()];
    let mut ratios = Vec::new();
    for n in 0..PORTIONS {
        let ring: RecordRing = traffic.by_ref().take(PORTION).collect();
        let mut took = [0.0; 2];
        // The second may find the records in the cache.
        for which in if n % 2 == 0 { [0, 1] } else { [1, 0] } {
            let engine = if which == 0 { &mut plain } else { &mut named };
            took[which] = nanoseconds(|| ring.each(|record| engine.take(record))) / ring.len() as f64;
            times[which].push(took[which]);
        }
        ratios.push(took[1] / took[0]);
    }
    ratios.sort_by(f64::total_cmp);
    let [without, with] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 4]
    });
    (without, with, ratios)
}

/// Runs both until the number of sockets is stable; `named` learns every name of the traffic first.
fn grow(traffic: &mut Traffic, plain: &mut Engine, named: &mut Engine) {
    let mut began = None;
    for record in traffic {
        plain.take(&record);
        named.take(&record);
        let Record::Tick { ts } = record else { continue };
        if began.is_none() {
            for name in names(ts) {
                named.take(&name);
            }
        }
        if ts.since(*began.get_or_insert(ts)) > GROWTH {
            break;
        }
    }
}

/// Names of the container, the programs and the peers in [`Traffic`].
fn names(ts: Nanos) -> Vec<Record> {
    let shape = Shape::default();
    let workload = Workload {
        runtime: Some("containerd".into()),
        pod: Some("checkout-7d9f".into()),
        k8s_namespace: Some("shop".into()),
        container: Some("app".into()),
        ..Workload::default()
    };
    let mut names = vec![Record::Workload { ts, cgroup: 7, workload: Arc::new(workload.labelled()) }];
    names.extend((0..shape.services).map(|n| {
        let facts = ProcessFacts {
            exe: Some(format!("/usr/bin/server-{n}").into()),
            uid: Some(33),
            user: Some("www-data".into()),
            ..ProcessFacts::default()
        };
        let (pid, comm) = (100 + n as u32, format!("server-{n}").into());
        Record::ProcessFacts { ts, pid, comm, facts: Arc::new(facts.labelled()) }
    }));
    let name = |origin, network: [u8; 4], bits, name: String| {
        let addr = std::net::IpAddr::from(Ipv4Addr::from(network)).into();
        Record::AddressName { ts, origin, prefix: Prefix::of_address(addr, bits), name: name.into() }
    };
    names.push(name(NameOrigin::Given, [10, 0, 0, 0], 8, "lan".into()));
    names.extend((0..shape.peers).map(|n| {
        let [.., high, low] = (n as u32).to_be_bytes();
        name(NameOrigin::Workload, [10, 17, high, low], 32, format!("shop/client-{n}"))
    }));
    names
}

/// CPU time of this thread, less affected by other load on the machine than wall time.
fn nanoseconds(run: impl FnOnce()) -> f64 {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
    };
    let began = now();
    run();
    now().saturating_sub(began).as_nanos() as f64
}
