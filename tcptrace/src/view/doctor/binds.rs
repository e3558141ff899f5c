//! Findings about local ports that `bind()` takes before `connect()`: exhausted, or nearly so.

use super::{
    evidence::Case,
    finding::{Found, Severity, Who},
};
use crate::{
    aggregate::BindPorts,
    model::{
        text,
        units::{self, plural},
    },
    view::ports::binds::address,
};

/// Maximum number of local addresses named in one finding.
const MOST_NAMED: usize = 3;
/// From this share of the ports on, they are nearly exhausted.
const NEAR: f64 = 0.8;

/// How a program leaves the choice of the port to `connect()`.
struct BindingClient {
    /// The beginning of its process name.
    comm: &'static str,
    fix: &'static str,
}

const CLIENTS: &[BindingClient] = &[
    BindingClient {
        comm: "haproxy",
        fix: "HAProxy: `source ADDRESS` without a range of ports: then it sets IP_BIND_ADDRESS_NO_PORT, and connect() chooses the port",
    },
    BindingClient {
        comm: "nginx",
        fix: "nginx: `proxy_bind ADDRESS` without a port: then it sets IP_BIND_ADDRESS_NO_PORT, and connect() chooses the port",
    },
    BindingClient {
        comm: "envoy",
        fix: "Envoy: upstream_bind_config with port_value 0 and socket_options [{level: 0, name: 24, int_value: 1, state: STATE_PREBIND}] \
              (IP_BIND_ADDRESS_NO_PORT; the newest releases set it themselves)",
    },
];

const ANY_CLIENT: &str = "In the application: setsockopt(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT) before bind() to an address with port 0, or \
                          no bind() at all before connect()";

/// Finding: `bind()` to a local address finds no port.
pub fn exhausted(case: &Case<'_>) -> Option<Found> {
    let rows = with_share(case, |share| share >= 1.0);
    let worst = rows.first()?;
    let title = format!("bind() to {} finds no local port", address(worst));
    Some(found(case, Severity::Critical, title, &rows))
}

/// Finding: `bind()` to a local address will soon find no port.
pub fn near(case: &Case<'_>) -> Option<Found> {
    let rows = with_share(case, |share| (NEAR..1.0).contains(&share));
    let worst = rows.first()?;
    let title = format!(
        "{:.0}% of the local ports of {} are held by bind() before connect()",
        worst.share().unwrap_or_default() * 100.0,
        address(worst)
    );
    Some(found(case, Severity::Warning, title, &rows))
}

/// The local addresses with such a share of ports in use, at least half of it by `bind()`.
fn with_share<'a>(case: &Case<'a>, is_it: impl Fn(f64) -> bool) -> Vec<&'a BindPorts> {
    let mut rows: Vec<_> = case
        .snapshot
        .ports
        .binds
        .iter()
        .filter(|row| row.share().is_some_and(&is_it) && row.bound >= row.connected)
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bound));
    rows
}

fn found(case: &Case<'_>, severity: Severity, title: String, rows: &[&BindPorts]) -> Found {
    let worst = rows[0];
    let comm = worst.processes.first().map(|process| text::sanitise(&process.comm));
    Found {
        severity,
        title,
        evidence: rows.iter().take(MOST_NAMED).map(|row| seen(case, row)).collect(),
        numbers: vec![
            ("bound", worst.bound),
            ("available", worst.available.unwrap_or(0)),
            ("open", worst.open),
            ("idle", worst.idle),
            ("connected", worst.connected),
        ],
        why: "bind() without IP_BIND_ADDRESS_NO_PORT takes a local port before the destination is known, so from every \
              destination: all connections from one local address share one range of ports. When none is left, bind() fails \
              with EADDRINUSE before a packet is sent, and connect() of others finds fewer.",
        who: rows.iter().take(MOST_NAMED).flat_map(|row| who(case, row)).collect(),
        fix: vec![
            comm.as_deref().map_or(ANY_CLIENT, fix).to_owned(),
            "Or bind to more local addresses: each has the full range.".into(),
        ],
        dont: "Not tcp_tw_reuse, which concerns connect() alone; not SO_REUSEADDR, with which connect() fails instead \
               (EADDRNOTAVAIL).",
        verify: "tcptrace ports   # BOUND falls; and again: tcptrace doctor".into(),
    }
}

fn fix(comm: &str) -> &'static str {
    CLIENTS.iter().find(|client| comm.starts_with(client.comm)).map_or(ANY_CLIENT, |client| client.fix)
}

fn seen(case: &Case<'_>, row: &BindPorts) -> String {
    let more = if row.connected > 0 {
        format!("; connect() chose {} more", units::count(row.connected))
    } else {
        String::new()
    };
    let idle = match row.idle {
        0 => String::new(),
        n => format!(", {} without", units::count(n)),
    };
    format!(
        "{}{}: {} of {} held by bind(), {} with a connection{idle}{more}",
        address(row),
        case.place(row.netns),
        units::count(row.bound),
        plural(row.available.unwrap_or_default(), "port", "ports"),
        units::count(row.open),
    )
}

fn who(case: &Case<'_>, row: &BindPorts) -> Vec<Who> {
    let who = |process: &crate::model::record::Process| Who {
        service: address(row),
        count: row.bound,
        ..case.process(Some(row.netns), Some(process))
    };
    row.processes.iter().take(MOST_NAMED).map(who).collect()
}
