use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::{
    aggregate::{Group, Grouping, Scope, Snapshot},
    filter::Filter,
    lifecycle::{Role, Since},
    model::{
        TcpState,
        own_cost::{EbpfCost, OwnCost},
    },
    pipeline::Engine,
    synthetic::{Shape, Traffic},
    view::top::fixture,
};

fn text(shown: MetricsInput) -> String {
    let mut out = String::new();
    write(&mut out, shown).expect("writing to a string");
    out
}

fn shown(snapshot: Snapshot) -> MetricsInput {
    let cost = OwnCost {
        cpu_ns: 1_500_000_000,
        resident_bytes: 12 << 20,
        ebpf: Some(EbpfCost { run_time_ns: 42_000, runs: 7 }),
    };
    MetricsInput { snapshot: Arc::new(snapshot), cost }
}

/// The series of a page: names with labels.
fn series(text: &str) -> Vec<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.rsplit_once(' ').map(|(series, _)| series)).collect()
}

/// A snapshot of some thousand synthetic connections, with places for two services and two destinations.
fn busy() -> Snapshot {
    let mut engine = Engine::new(Filter::default(), Grouping::SERVICE, Scope::Roles, "live".into());
    for record in Traffic::new(Shape::default(), 1).take(60_000) {
        engine.take(&record);
    }
    let mut snapshot = engine.snapshot();
    snapshot.groups.iter_mut().take(2).for_each(|group| group.has_place = true);
    snapshot.ports.destinations.iter_mut().take(2).for_each(|row| row.has_place = true);
    snapshot
}

#[test]
fn page_of_an_idle_host() {
    insta::assert_snapshot!(text(shown(fixture::empty())));
}

#[test]
fn page_of_synthetic_traffic() {
    insta::assert_snapshot!(text(shown(busy())));
}

#[test]
fn metrics_match_the_snapshot() {
    let snapshot = busy();
    let page = text(shown(snapshot.clone()));
    let value = |series: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series}")).to_owned()
    };
    for state in TcpState::ALL {
        let total = snapshot.states[state.index()];
        let labels = format!("{{state=\"{}\"}}", state.name());
        assert_eq!(value(&format!("tcptrace_sockets{labels}")), total.now.to_string());
        assert_eq!(value(&format!("tcptrace_transitions_total{labels}")), total.entered.to_string());
    }
    assert!(!snapshot.dwells_by_role.is_empty());
    for of in &snapshot.dwells_by_role {
        let labels = format!("state=\"{}\",role=\"{}\"", of.state.name(), of.role.name());
        let count = of.distribution.count.to_string();
        assert_eq!(value(&format!("tcptrace_dwell_seconds_count{{{labels}}}")), count);
        assert_eq!(value(&format!("tcptrace_dwell_seconds_bucket{{le=\"+Inf\",{labels}}}")), count);
        let sum: f64 = value(&format!("tcptrace_dwell_seconds_sum{{{labels}}}")).parse().expect("a number");
        assert!((sum - of.distribution.sum_ns as f64 / 1e9).abs() <= sum * 1e-9);
    }
    let together: u64 = snapshot.dwells_by_role.iter().map(|of| of.distribution.count).sum();
    let whole = snapshot.dwells.iter().filter(|dwells| dwells.split.is_none());
    assert_eq!(together, whole.map(|dwells| dwells.distribution.count).sum::<u64>());
}

#[test]
fn peers_do_not_add_samples() {
    let mut snapshot = busy();
    let few = series(&text(shown(snapshot.clone()))).len();
    snapshot.groups = (0..100_000_u32)
        .map(|n| {
            let addr = std::net::Ipv4Addr::from(0x0a00_0000 + n);
            let counts = TcpState::ALL.map(|state| (state, 1));
            let group = fixture::group(&format!("{addr}:443"), Role::Outbound, &counts);
            Group { has_place: n % 5_000 == 0, ..group }
        })
        .collect();
    let page = text(shown(snapshot));
    let all = series(&page);
    let services: BTreeSet<_> =
        all.iter().filter(|series| series.starts_with("tcptrace_service_sockets")).collect();
    assert_eq!(services.len(), 20 * TcpState::COUNT);
    assert!(all.len() < few + 20 * 2 * TcpState::COUNT, "{} samples", all.len());
    assert!(page.contains("\ntcptrace_services_other 99980\n"));
}

#[test]
fn hostile_names_are_escaped() {
    let mut snapshot = fixture::empty();
    let mut evil = fixture::group("evil\"} 1\n# EOF\\", Role::Inbound, &[(TcpState::CloseWait, 1)]);
    evil.oldest_close_wait = Some(Since::Exact(snapshot.ts));
    // Duplicate labels: Prometheus would drop the entire scrape.
    snapshot.groups = vec![evil.clone(), evil];
    let page = text(shown(snapshot));
    let lines: Vec<&str> =
        page.lines().filter(|line| line.starts_with("tcptrace_service_sockets{")).collect();
    assert_eq!(
        lines,
        [r#"tcptrace_service_sockets{service="evil\"} 1\n# EOF\\",role="inbound",state="CLOSE_WAIT"} 1"#]
    );
    assert_eq!(page.matches("\n# EOF").count(), 1);
}

#[test]
fn series_are_unique_and_every_metric_is_documented() {
    let page = text(shown(busy()));
    let all = series(&page);
    assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len());
    let documented = include_str!("../../../../docs/metrics.md");
    for metric in METRICS {
        let row = format!("| `{}` | {} |", metric.full_name(), metric.kind());
        assert!(documented.contains(&row), "docs/metrics.md has no '{row}'");
    }
}
