//! Local ports of outgoing connections: none left, or soon none.

use super::{Found, Severity, Who, case::Case};
use crate::{
    aggregate::{DestinationPorts, TwReuse},
    model::{
        TcpState, text,
        units::{self, plural},
    },
};

/// Destinations named in one finding.
const MOST_NAMED: usize = 3;
/// A destination that holds so much of its ports is near the end.
const NEAR: f64 = 0.7;

/// `connect()` found no port.
pub fn exhausted(case: &Case<'_>) -> Option<Found> {
    let mut failed: Vec<_> =
        case.snapshot.ports.destinations.iter().filter(|ports| ports.connect_failures > 0).collect();
    failed.sort_by_key(|ports| std::cmp::Reverse(ports.connect_failures));
    let worst = failed.first()?;
    let failures: u64 = failed.iter().map(|ports| ports.connect_failures).sum();
    let title =
        format!("{} no local port to {}", plural(failures, "connect found", "connects found"), worst.remote);
    Some(found(case, Severity::Critical, title, &failed))
}

/// It will soon find none.
pub fn near(case: &Case<'_>) -> Option<Found> {
    let near: Vec<_> = case
        .snapshot
        .ports
        .destinations
        .iter()
        .filter(|ports| ports.connect_failures == 0 && ports.available.is_some())
        .filter(|ports| ports.exhausted_in.is_some() || ports.share() >= NEAR)
        .collect();
    let worst = near.first()?;
    let title = match worst.exhausted_in {
        Some(left) => format!("local ports to {} run out in {}", worst.remote, units::duration(left)),
        None => format!("{:.0}% of the local ports to {} are held", worst.share() * 100.0, worst.remote),
    };
    Some(found(case, Severity::Warning, title, &near))
}

fn found(case: &Case<'_>, severity: Severity, title: String, destinations: &[&DestinationPorts]) -> Found {
    let worst = destinations[0];
    Found {
        severity,
        title,
        evidence: destinations.iter().take(MOST_NAMED).map(|ports| seen(case, ports)).collect(),
        numbers: vec![
            ("failures", destinations.iter().map(|ports| ports.connect_failures).sum()),
            ("used", worst.used),
            ("available", worst.available.unwrap_or(0)),
            ("time_wait", worst.count(TcpState::TimeWait)),
            ("predicted", worst.predicted),
        ],
        why: "Each connection to one remote address and port needs a local port of its own, and a TIME_WAIT of this \
              side keeps it for 60 s: ports held = new connections per second x how long each is held (Little's \
              law). When none is left connect() fails with EADDRNOTAVAIL.",
        who: destinations.iter().take(MOST_NAMED).flat_map(|ports| who(case, ports)).collect(),
        fix: fix(case, worst),
        dont: "Not tcp_tw_recycle (gone), not tcp_fin_timeout, not a lower tcp_max_tw_buckets; SO_LINGER 0 only \
               where lost data does not matter.",
        verify: "tcptrace ports   # and again: tcptrace doctor".into(),
    }
}

fn seen(case: &Case<'_>, ports: &DestinationPorts) -> String {
    let available = ports.available.map_or_else(|| "?".into(), units::count);
    let left = match ports.exhausted_in {
        Some(left) if left.0 == 0 => ", none left now".to_owned(),
        Some(left) => format!(", none left in {}", units::duration(left)),
        None => String::new(),
    };
    let failures = match ports.connect_failures {
        0 => String::new(),
        n => format!("; {} with EADDRNOTAVAIL", plural(n, "connect failed", "connects failed")),
    };
    format!(
        "{}{}: {} of {available} ports used, {} of them TIME_WAIT, +{}/s{left}{failures}",
        ports.remote,
        case.place(ports.netns),
        units::count(ports.used),
        units::count(ports.count(TcpState::TimeWait)),
        units::rate(ports.entered_per_s),
    )
}

fn who(case: &Case<'_>, ports: &DestinationPorts) -> Vec<Who> {
    let who = |process: &crate::model::record::Process| Who {
        netns: case.name(ports.netns),
        comm: Some(text::sanitise(&process.comm).into_owned()),
        pid: Some(process.pid),
        service: ports.remote.to_string(),
        count: ports.used,
        ..Who::default()
    };
    ports.processes.iter().take(MOST_NAMED).map(who).collect()
}

fn fix(case: &Case<'_>, ports: &DestinationPorts) -> Vec<String> {
    let mut fix = vec![
        "In the application: keep and reuse connections (a pool, HTTP keep-alive), or let the other side close first."
            .to_owned(),
    ];
    if ports.bound > 0 {
        fix.push(format!(
            "In the application: {} took a port for the whole host; IP_BIND_ADDRESS_NO_PORT, or no bind() at all.",
            plural(ports.bound, "bind() before connect()", "bind()s before connect()")
        ));
    }
    match ports.reuse {
        TwReuse::Off | TwReuse::NotLoopback | TwReuse::Unknown => {
            fix.push(case.set(ports.netns, "net.ipv4.tcp_tw_reuse", 1));
        }
        TwReuse::NoTimestamps => fix.push(case.set(ports.netns, "net.ipv4.tcp_timestamps", 1)),
        TwReuse::Failing => {
            fix.push("tcp_tw_reuse is on and finds nothing to reuse: the peer uses no timestamps, or all are younger than 1 s.".into());
        }
        TwReuse::On => {}
    }
    let settings = case.snapshot.ports.netns_of(ports).and_then(|netns| netns.settings.as_ref());
    if settings.is_none_or(|settings| settings.range.0 > 10_240) {
        fix.push(format!(
            "Then a wider range (services inside it: ip_local_reserved_ports): {}",
            case.set(ports.netns, "net.ipv4.ip_local_port_range", "10240 65535")
        ));
    } else {
        fix.push("Then more addresses, local or remote: each pair has the whole range of its own.".into());
    }
    fix
}
