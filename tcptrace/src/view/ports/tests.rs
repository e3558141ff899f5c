//! Tests of text and documents about ports.

use std::net::IpAddr;

use jiff::tz::TimeZone;

use super::*;
use crate::{
    aggregate::{
        BindPorts, ConntrackTable, DestinationPorts, NatPorts, NatSnapshot, NetnsPorts, PortSettings,
        PortsSnapshot, SearchTimes, TwReuse,
    },
    model::{
        Endpoint, Nanos, NetnsId, TcpState,
        nat::{Backend, TranslatedSource, Translation},
        record::Process,
    },
    view::{ports::json, top::fixture},
};

const S: u64 = 1_000_000_000;

fn settings(values: &[(&str, &str)]) -> Option<PortSettings> {
    let sysctls = values.iter().map(|(name, value)| (format!("net.ipv4.{name}"), (*value).to_owned()));
    PortSettings::of(&sysctls.collect())
}

fn row(netns: u32, local: &str, remote: &str, dport: u16, used: u64, available: u64) -> DestinationPorts {
    let end = |text: &str, port| Endpoint {
        addr: text.parse::<IpAddr>().expect("an address").into(),
        port,
        ifindex: 0,
    };
    let mut counts = [0; TcpState::COUNT];
    counts[TcpState::TimeWait.index()] = used * 9 / 10;
    counts[TcpState::Established.index()] = used - used * 9 / 10;
    DestinationPorts {
        netns: NetnsId(netns),
        local: end(local, 0),
        remote: end(remote, dport),
        backends: Vec::new(),
        has_place: false,
        counts,
        used,
        available: Some(available),
        slow_above: Some(available / 2),
        search: Some(SearchTimes {
            p50: Nanos(560_000),
            p99: Nanos(4_700_000),
            max: Nanos(5_000_000),
            count: 41,
        }),
        bound: 0,
        outside: 0,
        entered_per_s: 410.3,
        left_per_s: 3.0,
        predicted: 24_700,
        predicted_with_reuse: 510,
        exhausted_in: None,
        connect_failures: 0,
        free_at_failure: None,
        reuse: TwReuse::NotLoopback,
        reusable: 0,
        reused: 0,
        processes: vec![Process::new(4_711, "curl\u{1b}[2J", 0)],
        other_processes: 0,
    }
}

fn snapshot() -> Snapshot {
    let base = fixture::empty();
    let own = base.host.netns;
    let netns = |netns, name: Option<&str>, taken, values: &[(&str, &str)]| NetnsPorts {
        netns: NetnsId(netns),
        name: name.map(Into::into),
        settings: settings(values),
        taken,
    };
    let backend = |addr: &str| Backend {
        saddr: row(own, "10.0.0.1", "10.0.0.5", 1, 0, 0).local.addr,
        daddr: row(own, "10.0.0.1", "10.0.0.5", 1, 0, 0).remote.addr,
        dport: 5_432,
        addr: addr.parse::<IpAddr>().expect("an address").into(),
        port: 6_432,
        used: 9,
    };
    let mut soon = row(own, "10.0.0.1", "10.0.0.5", 5_432, 24_310, 28_230);
    soon.backends = vec![backend("10.244.1.5"), backend("10.244.1.6")];
    soon.exhausted_in = Some(Nanos(9 * S));
    let mut now = row(own + 1, "10.9.0.1", "10.9.0.2", 80, 101, 101);
    now.exhausted_in = Some(Nanos(0));
    now.connect_failures = 1_234;
    now.free_at_failure = Some(12);
    now.reuse = TwReuse::Off;
    let mut bound = row(own, "2001:db8::1", "2001:db8:1234:5678:9abc:def0:1234:5678", 443, 0, 28_230);
    bound.bound = 2;
    bound.processes.clear();
    let destinations = vec![now, soon, bound, row(own + 2, "10.0.0.1", "10.0.0.6", 80, 5, 0)];
    let ports = PortsSnapshot {
        netns: vec![
            netns(own, None, 2, &[("ip_local_port_range", "32768 60999"), ("tcp_tw_reuse", "2")]),
            netns(
                own + 1,
                Some("blue\n"),
                0,
                &[
                    ("ip_local_port_range", "41000 41110"),
                    ("ip_local_reserved_ports", "41000-41009"),
                    ("tcp_tw_reuse", "0"),
                ],
            ),
            netns(own + 2, None, 0, &[]),
        ],
        destinations,
        others: 3,
        binds: vec![],
        other_binds: 0,
        nat: NatSnapshot::default(),
    };
    let mut snapshot = Snapshot { began: base.ts.minus(Nanos(5 * S)), ports, ..base };
    (snapshot.ports.destinations[3].available, snapshot.ports.destinations[3].slow_above) = (None, None);
    snapshot
}

fn render(snapshot: &Snapshot, missing: &[&str], width: u16) -> String {
    let missing: Vec<String> = missing.iter().map(|sentence| (*sentence).to_owned()).collect();
    let mut out = Vec::new();
    let layout = PortsLayout { width, tables: PortsTables::All, max_rows: 40, zone: TimeZone::UTC };
    write(&mut out, snapshot, &missing, &layout).expect("writing to a Vec");
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn table_at_80_columns() {
    let text = render(&snapshot(), &[], 80);
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn table_at_160_columns() {
    insta::assert_snapshot!(render(&snapshot(), &[], 160));
}

#[test]
fn single_snapshot_has_no_rates() {
    let mut snapshot = snapshot();
    snapshot.began = snapshot.ts;
    insta::assert_snapshot!(render(&snapshot, &["rates: they take tracing (CAP_BPF)."], 80));
}

#[test]
fn no_connections_print_a_message() {
    insta::assert_snapshot!(render(&fixture::empty(), &[], 80));
}

#[test]
fn every_width_renders() {
    for width in 0..200 {
        render(&snapshot(), &["a word"], width);
        render(&gateway(), &["a word"], width);
    }
}

/// A host where `bind()` holds ports.
fn binding() -> Snapshot {
    let mut snapshot = snapshot();
    let own = snapshot.host.netns;
    let row = |netns, saddr: &str, open, idle| BindPorts {
        netns: NetnsId(netns),
        saddr: saddr.parse::<IpAddr>().expect("an address").into(),
        bound: open + idle + 2,
        open,
        idle,
        available: Some(28_232),
        connected: 7,
        processes: vec![Process::new(4_711, "haproxy\u{1b}[2J", 0), Process::new(5, "app", 0)],
    };
    snapshot.ports.binds = vec![row(own + 1, "127.0.0.2", 20_000, 8), row(own, "::", 0, 2)];
    snapshot.ports.other_binds = 9;
    snapshot
}

#[test]
fn bound_ports_follow_the_destinations() {
    let mut snapshot = binding();
    let unknown = render(&snapshot, &[], 100);
    std::sync::Arc::make_mut(&mut snapshot.host).bound = true;
    let text = render(&snapshot, &[], 100);
    let table = |text: &str| text[text.find("LOCAL ADDRESS").expect("a table")..].to_owned();
    insta::assert_snapshot!(format!("{}\n{}", table(&unknown), table(&text)));
    // Without a connection, too.
    snapshot.ports.destinations.clear();
    assert!(render(&snapshot, &[], 100).contains("20,010"));
}

#[test]
fn bound_ports_as_json() {
    let mut snapshot = binding();
    let document = |snapshot: &Snapshot| -> serde_json::Value {
        let mut out = Vec::new();
        json::write(&mut out, snapshot, &[]).expect("writing to a Vec");
        serde_json::from_slice(&out).expect("JSON")
    };
    assert!(document(&snapshot)["binds"][0]["idle"].is_null());
    std::sync::Arc::make_mut(&mut snapshot.host).bound = true;
    insta::assert_snapshot!(serde_json::to_string_pretty(&document(&snapshot)["binds"]).expect("JSON"));
    assert_eq!(document(&snapshot)["other_binds"], 9);
}

/// A host that translates.
fn gateway() -> Snapshot {
    let mut snapshot = snapshot();
    let own = snapshot.host.netns;
    let addr = |text: &str| text.parse::<IpAddr>().expect("an address").into();
    let source = |saddr, used| TranslatedSource { saddr: addr(saddr), used, time_wait: 0 };
    let row = |dport, used, time_wait, exhausted_in: Option<u64>| NatPorts {
        netns: NetnsId(own + 1),
        of: Translation {
            snat_addr: addr("10.72.0.1"),
            daddr: addr("10.72.0.2"),
            dport,
            zone: 0,
            used,
            time_wait,
            close: 0,
            ports: (40_000, 40_099),
            sources: vec![source("10.71.0.2", used - 3), source("10.71.0.3", 1)],
            other_sources: 2,
        },
        range: (40_000, 40_099),
        has_rule: true,
        reclaimable: time_wait,
        growth_per_s: Some(2.0),
        exhausted_in: exhausted_in.map(|s| Nanos(s * S)),
    };
    snapshot.ports.nat = NatSnapshot {
        tables: vec![ConntrackTable {
            netns: NetnsId(own + 1),
            name: Some("blue\n".into()),
            entries: 210,
            max: Some(262_144),
            grown: [("insert_failed".into(), 10), ("drop".into(), 10), ("early_drop".into(), 0)].into(),
            time_wait_s: Some(120),
            evicts: true,
            unknown: vec!["NAT rules: no\x1b[2J".into()],
        }],
        translations: vec![row(7_001, 100, 0, Some(0)), row(7_000, 80, 20, Some(20)), row(7_002, 5, 5, None)],
        other_entries: 25,
    };
    snapshot
}

#[test]
fn translated_ports_follow_the_local_ones() {
    insta::assert_snapshot!(render(&gateway(), &[], 100));
}

#[test]
fn only_translated_ports_are_written_on_request() {
    let nat_only = |snapshot: &Snapshot| {
        let mut out = Vec::new();
        let layout = PortsLayout { width: 80, tables: PortsTables::Nat, max_rows: 2, zone: TimeZone::UTC };
        write(&mut out, snapshot, &[], &layout).expect("writing to a Vec");
        String::from_utf8(out).expect("UTF-8")
    };
    let text = nat_only(&gateway());
    assert!(!text.contains("tcp_tw_reuse") && text.contains("and 1 more translations"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    assert!(nat_only(&snapshot()).ends_with("No TCP connection with a translated source.\n"));
}

#[test]
fn translated_ports_as_json() {
    let mut out = Vec::new();
    json::write(&mut out, &gateway(), &[]).expect("writing to a Vec");
    let document: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    insta::assert_snapshot!(
        serde_json::to_string_pretty(&[&document["conntrack"][0], &document["nat"][1]]).expect("JSON")
    );
    assert_eq!(document["other_nat_entries"], 25);
}

#[test]
fn every_effect_of_tcp_tw_reuse_is_explained() {
    let all = [
        TwReuse::Unknown,
        TwReuse::Off,
        TwReuse::NotLoopback,
        TwReuse::NoTimestamps,
        TwReuse::Failing,
        TwReuse::On,
    ];
    let words = all.map(|reuse| {
        let mut snapshot = snapshot();
        snapshot.ports.destinations.truncate(1);
        snapshot.ports.destinations[0].reuse = reuse;
        let words = wording::about(&snapshot, &snapshot.ports.destinations[0]);
        format!("{}: {}", reuse.name(), words.last().expect("a sentence"))
    });
    insta::assert_snapshot!(words.join("\n"));
}

#[test]
fn json_document() {
    let document = |snapshot: &Snapshot| -> serde_json::Value {
        let mut out = Vec::new();
        json::write(&mut out, snapshot, &["a sentence".to_owned()]).expect("writing to a Vec");
        assert!(!out[..out.len() - 1].iter().any(u8::is_ascii_control));
        serde_json::from_slice(&out).expect("JSON")
    };
    let mut snapshot = snapshot();
    snapshot.ports.destinations.truncate(1);
    let pretty = |value| serde_json::to_string_pretty(&value).expect("JSON");
    insta::assert_snapshot!(pretty(document(&snapshot)));
    // A single snapshot has no values that need time.
    snapshot.began = snapshot.ts;
    let row = &document(&snapshot)["destinations"][0];
    for name in ["entered_per_s", "left_per_s", "predicted", "connect_failures"] {
        assert!(row[name].is_null(), "{name}");
    }
    assert_eq!(row["used"], 101);
}
