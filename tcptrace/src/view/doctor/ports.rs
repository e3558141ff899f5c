//! Findings about local ports of outgoing connections: exhausted, or soon exhausted.

use super::{
    evidence::Case,
    finding::{Found, Severity, Who},
};
use crate::{
    aggregate::{DestinationPorts, StackCall, TwReuse},
    model::{
        Nanos, TcpState,
        units::{self, plural},
    },
    view::ports::{free_ports, used},
};

/// Maximum number of destinations named in one finding.
const MOST_NAMED: usize = 3;

/// Finding: `connect()` found no port.
pub fn exhausted(case: &Case<'_>) -> Option<Found> {
    let mut failed: Vec<_> =
        case.snapshot.ports.destinations.iter().filter(|ports| ports.connect_failures > 0).collect();
    failed.sort_by_key(|ports| std::cmp::Reverse(ports.connect_failures));
    let worst = failed.first()?;
    let failures: u64 = failed.iter().map(|ports| ports.connect_failures).sum();
    let title = format!(
        "{} no local port to {}",
        plural(failures, "connect found", "connects found"),
        case.remote(worst.remote)
    );
    Some(found(case, Severity::Critical, title, &failed))
}

/// Finding: `connect()` will soon find no port, or already searches long.
pub fn near(case: &Case<'_>) -> Option<Found> {
    let near: Vec<_> = case
        .snapshot
        .ports
        .destinations
        .iter()
        .filter(|ports| ports.connect_failures == 0 && ports.available.is_some())
        .filter(|ports| ports.runs_out_soon().is_some() || ports.searches_long())
        .collect();
    let worst = near.first()?;
    let title = match worst.runs_out_soon() {
        Some(Nanos(0)) => format!("no local port to {} is left", case.remote(worst.remote)),
        Some(left) => {
            format!("local ports to {} run out {}", case.remote(worst.remote), units::in_time(left))
        }
        None => format!(
            "{:.0}% of the local ports to {} are used: connect() searches long for one",
            worst.share().unwrap_or_default() * 100.0,
            case.remote(worst.remote)
        ),
    };
    Some(found(case, Severity::Warning, title, &near))
}

fn found(case: &Case<'_>, severity: Severity, title: String, destinations: &[&DestinationPorts]) -> Found {
    let worst = destinations[0];
    Found {
        severity,
        title,
        evidence: destinations
            .iter()
            .take(MOST_NAMED)
            .map(|ports| seen(case, ports))
            .chain(code(case, worst))
            .collect(),
        numbers: vec![
            ("failures", destinations.iter().map(|ports| ports.connect_failures).sum()),
            ("used", worst.used),
            ("available", worst.available.unwrap_or(0)),
            ("time_wait", worst.count(TcpState::TimeWait)),
            ("predicted", worst.predicted),
        ],
        why: if worst.is_held_by_time_wait() { BY_TIME_WAIT } else { BY_OPEN },
        who: destinations.iter().take(MOST_NAMED).flat_map(|ports| who(case, ports)).collect(),
        fix: fix(case, worst),
        dont: if worst.is_held_by_time_wait() {
            "Not tcp_tw_recycle (removed), not tcp_fin_timeout, not a lower tcp_max_tw_buckets; SO_LINGER 0 only where \
             lost data does not matter."
        } else {
            "Not tcp_tw_reuse: it gives back ports in TIME_WAIT, and hardly any is. Not tcp_fin_timeout."
        },
        verify: "tcptrace ports   # and again: tcptrace doctor".into(),
    }
}

/// The code of the process that holds most ports: where it closes first, if TIME_WAIT holds them, else where it connects.
fn code(case: &Case<'_>, worst: &DestinationPorts) -> Vec<String> {
    let call = if worst.is_held_by_time_wait() { StackCall::Close } else { StackCall::Connect };
    worst.processes.first().map(|process| case.code(call, process)).unwrap_or_default()
}

const BY_TIME_WAIT: &str = "Each connection to one remote address and port needs a local port of its own, and a TIME_WAIT of this side keeps \
     it for 60 s: ports held = new connections per second x how long each is held (Little's law). From half of them \
     on connect() searches long for a free one, before it sends a SYN; when none is left it fails with EADDRNOTAVAIL.";

const BY_OPEN: &str = "Each connection to one remote address and port needs a local port of its own for as long as it is open. From half \
     of them on connect() searches long for a free one, before it sends a SYN; when none is left it fails with \
     EADDRNOTAVAIL.";

fn seen(case: &Case<'_>, ports: &DestinationPorts) -> String {
    let left =
        ports.exhausted_in.map(|left| format!(", none left {}", units::in_time(left))).unwrap_or_default();
    let failures = match ports.connect_failures {
        0 => String::new(),
        n => format!("; {} with EADDRNOTAVAIL", plural(n, "connect failed", "connects failed")),
    };
    let search = ports.search_cpu_share().zip(ports.search).map(|(share, search)| {
        format!(
            "; connect() searches {} (p50), {} (p99): {:.1}% of a CPU",
            units::duration(search.p50),
            units::duration(search.p99),
            share * 100.0
        )
    });
    let search = search.unwrap_or_default();
    let free = free_ports(ports).map(|words| format!("; at the latest failure {words}")).unwrap_or_default();
    format!(
        "{}{}: {}, +{}/s{left}{failures}{free}{search}",
        case.remote(ports.remote),
        case.place(ports.netns),
        used(ports),
        units::rate(ports.entered_per_s),
    )
}

fn who(case: &Case<'_>, ports: &DestinationPorts) -> Vec<Who> {
    let who = |process: &crate::model::record::Process| Who {
        count: ports.used,
        ..case.destination(ports.netns, ports.remote, process)
    };
    ports.processes.iter().take(MOST_NAMED).map(who).collect()
}

fn fix(case: &Case<'_>, ports: &DestinationPorts) -> Vec<String> {
    let mut fix = vec![if ports.is_held_by_time_wait() {
        "In the application: keep and reuse connections (a pool, HTTP keep-alive), or let the other side close first."
            .to_owned()
    } else {
        format!("In the application: {}", free_ports_advice(ports))
    }];
    if ports.bound > 0 {
        fix.push(format!(
            "In the application: {} reserved a port for all destinations; IP_BIND_ADDRESS_NO_PORT, or no bind() at all.",
            plural(ports.bound, "bind() before connect()", "bind()s before connect()")
        ));
    }
    match ports.reuse {
        _ if !ports.is_held_by_time_wait() => {}
        TwReuse::Off | TwReuse::NotLoopback | TwReuse::Unknown => {
            fix.push(case.set(ports.netns, "net.ipv4.tcp_tw_reuse", 1));
        }
        TwReuse::NoTimestamps => fix.push(case.set(ports.netns, "net.ipv4.tcp_timestamps", 1)),
        TwReuse::Failing => {
            fix.push(
                "tcp_tw_reuse is on but reuses nothing: enable TCP timestamps on the other side.".into(),
            );
        }
        TwReuse::On => {}
    }
    let settings = case.snapshot.ports.netns(ports.netns).and_then(|netns| netns.settings.as_ref());
    if settings.is_none_or(|settings| settings.range.0 > 10_240) {
        fix.push(format!(
            "Then a wider range (services inside it: ip_local_reserved_ports): {}",
            case.set(ports.netns, "net.ipv4.ip_local_port_range", "10240 65535")
        ));
    } else {
        fix.push("Then more addresses, local or remote: each pair has the full range.".into());
    }
    fix
}

/// Advice for ports that are not held by TIME_WAIT.
fn free_ports_advice(ports: &DestinationPorts) -> String {
    let Some((state, count)) = ports.main_state() else { return "close what is not used.".into() };
    let how = match state {
        TcpState::CloseWait => "call close() on what the peer has closed",
        TcpState::SynSent | TcpState::SynRecv => "a connect timeout of its own, and fewer attempts at once",
        TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing | TcpState::LastAck => {
            "find out why the other side does not finish the close"
        }
        _ => "fewer connections open at once: an upper limit for the pool, and close what is idle",
    };
    format!("{how}; {} of {} are {}.", units::count(count), units::count(ports.used), state.name())
}
