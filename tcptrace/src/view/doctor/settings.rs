//! Findings about settings that do not do what people expect.

use super::{
    evidence::Case,
    finding::{Found, Severity, Who},
    time_wait::default_tw_buckets,
};
use crate::{
    aggregate::{PortSettings, stuck_sockets::StuckSockets},
    model::{
        NetnsId, TcpState,
        record::SysctlLine,
        units::{self, plural},
    },
};

/// Maximum number of lines and namespaces named in one finding.
const MOST_NAMED: usize = 3;
/// Maximum number of listeners named in one finding.
const MAX_LISTENERS: usize = 5;

fn lines<'a>(case: &Case<'a>, name: &str) -> Vec<&'a SysctlLine> {
    case.snapshot.host.sysctl_lines.iter().filter(|line| line.name == name).collect()
}

fn shown(line: &SysctlLine) -> String {
    format!("{}:{}: {} = {}", line.file, line.line, line.name, line.value)
}

/// Namespaces where the value of setting `name` meets `test`, the tracer's own first.
fn where_set(case: &Case<'_>, name: &str, test: impl Fn(NetnsId, i64) -> bool) -> Vec<(NetnsId, i64)> {
    let mut found: Vec<_> = case
        .polled_netns()
        .filter_map(|(netns, surroundings)| Some((netns, surroundings.number(name)?)))
        .filter(|&(netns, value)| test(netns, value))
        .collect();
    found.sort_by_key(|&(netns, _)| netns.0 != case.snapshot.host.netns);
    found
}

/// One line per namespace: `net.ipv4.tcp_timestamps is 0 in netns blue`.
fn values(case: &Case<'_>, name: &str, found: &[(NetnsId, i64)]) -> Vec<String> {
    let mut lines: Vec<String> = found
        .iter()
        .take(MOST_NAMED)
        .map(|&(netns, value)| format!("{name} is {value}{}", case.place(netns)))
        .collect();
    if found.len() > MOST_NAMED {
        lines.push(format!(
            "and in {} more",
            plural((found.len() - MOST_NAMED) as u64, "namespace", "namespaces")
        ));
    }
    lines.extend(self::lines(case, name).into_iter().take(MOST_NAMED).map(shown));
    lines
}

/// Finding: a file still sets the setting that broke clients behind NAT.
pub fn tw_recycle(case: &Case<'_>) -> Option<Found> {
    const NAME: &str = "net.ipv4.tcp_tw_recycle";
    let set = where_set(case, NAME, |_, value| value != 0);
    let lines = lines(case, NAME);
    if lines.is_empty() && set.is_empty() {
        return None;
    }
    let exists = case.polled_netns().any(|(_, surroundings)| surroundings.sysctl(NAME).is_some());
    let fix = lines.first().map_or_else(
        || case.set(set.first().map_or(NetnsId(case.snapshot.host.netns), |&(netns, _)| netns), NAME, 0),
        |line| format!("Take the line out: {}:{}", line.file, line.line),
    );
    Some(Found {
        severity: if set.is_empty() { Severity::Note } else { Severity::Critical },
        title: if exists {
            "tcp_tw_recycle is on: it drops connections from clients behind NAT".into()
        } else {
            "a sysctl file still sets tcp_tw_recycle, which does not exist any more".into()
        },
        evidence: lines
            .iter()
            .copied()
            .map(shown)
            .take(MOST_NAMED)
            .chain(values(case, NAME, &set).into_iter().filter(|_| exists))
            .collect(),
        numbers: vec![("lines", lines.len() as u64)],
        why: "It was removed in Linux 4.12. Before, it compared timestamps per address, so all but one client behind \
              a NAT were dropped at random; since 4.10 timestamps are random per connection and it broke everybody.",
        who: Vec::new(),
        fix: vec![fix],
        dont: "Do not look for a replacement: tcp_tw_reuse is for outgoing connections, and a server needs neither.",
        verify: "tcptrace doctor --explain tcp_tw_recycle".into(),
    })
}

/// Finding: timestamps are off, which PAWS and `tcp_tw_reuse` need.
pub fn timestamps(case: &Case<'_>) -> Option<Found> {
    const NAME: &str = "net.ipv4.tcp_timestamps";
    let found = where_set(case, NAME, |_, value| value == 0);
    let &(netns, _) = found.first()?;
    Some(Found {
        severity: Severity::Warning,
        title: "tcp_timestamps is off: tcp_tw_reuse and PAWS have no effect".into(),
        evidence: values(case, NAME, &found),
        numbers: vec![("namespaces", found.len() as u64)],
        why: "Timestamps distinguish old segments and SYNs from new ones (PAWS, RFC 7323). Without \
              them a TIME_WAIT can't be reused by connect(), and round trips are measured worse.",
        who: Vec::new(),
        fix: vec![case.set(netns, NAME, 1)],
        dont: "Do not switch them off to save 12 bytes a segment or to hide the uptime: since 4.10 they are random.",
        verify: case.command(netns, "sysctl net.ipv4.tcp_timestamps"),
    })
}

/// Finding: the limit of timewait sockets is less than half the kernel's default.
pub fn tw_buckets(case: &Case<'_>) -> Option<Found> {
    const NAME: &str = "net.ipv4.tcp_max_tw_buckets";
    let is_low = |netns: NetnsId, value: i64| {
        let default = default_tw_buckets(case, netns);
        u64::try_from(value).is_ok_and(|value| value * 2 < default)
    };
    let found = where_set(case, NAME, is_low);
    let &(netns, value) = found.first()?;
    let default = default_tw_buckets(case, netns);
    let used =
        case.snapshot.observed.netns.get(&netns).and_then(|surroundings| surroundings.now("sockstat.tw"));
    let mut evidence = values(case, NAME, &found);
    evidence.push(format!(
        "this kernel would set {}; {} used{}",
        units::count(default),
        units::count(used.unwrap_or(0)),
        case.place(netns)
    ));
    let is_near = used.is_some_and(|used| i64::try_from(used).is_ok_and(|used| used * 2 >= value));
    Some(Found {
        severity: if is_near { Severity::Warning } else { Severity::Note },
        title: format!("tcp_max_tw_buckets was lowered to {value}"),
        evidence,
        numbers: vec![("limit", value.unsigned_abs()), ("default", default), ("used", used.unwrap_or(0))],
        why: "It does not shorten TIME_WAIT; it forgets connections that should have one. A safe and harmless table \
              is traded for corrupted connections, to save 250 bytes each.",
        who: Vec::new(),
        fix: vec![case.set(netns, NAME, default)],
        dont: "Do not lower it to make a number on a screen smaller.",
        verify: case.command(netns, "nstat -az TcpExtTCPTimeWaitOverflow"),
    })
}

/// Finding: `tcp_fin_timeout` was lowered, usually to shorten TIME_WAIT, which it does not do.
pub fn fin_timeout(case: &Case<'_>) -> Option<Found> {
    const NAME: &str = "net.ipv4.tcp_fin_timeout";
    let found = where_set(case, NAME, |_, value| value < 60);
    let &(netns, value) = found.first()?;
    let dwell = case.snapshot.groups.iter().map(|group| group.time_wait.dwell.max).max().unwrap_or(0);
    let mut evidence = values(case, NAME, &found);
    if dwell > 0 {
        let longest = units::duration(crate::model::Nanos(dwell));
        evidence.push(format!("the longest TIME_WAIT that ended meanwhile lasted {longest}"));
    }
    evidence.push(format!(
        "it bounds {} here",
        plural(
            case.snapshot.groups.iter().map(|group| group.fin_wait2_orphan).sum(),
            "orphan in FIN_WAIT2",
            "orphans in FIN_WAIT2"
        )
    ));
    Some(Found {
        severity: Severity::Note,
        title: format!("tcp_fin_timeout={value} does not shorten TIME_WAIT"),
        evidence,
        numbers: vec![("fin_timeout_s", value.unsigned_abs())],
        why: "It says how long a FIN_WAIT2 without a process waits for the peer's FIN. TIME_WAIT lasts 60 s, a \
              constant in the kernel's source (TCP_TIMEWAIT_LEN).",
        who: Vec::new(),
        fix: vec![format!("Nothing has to be done; the default is {}", case.set(netns, NAME, 60))],
        dont: "Do not lower it further: peers that answer late then get a RST, and responses are lost.",
        verify: "tcptrace hist --state time-wait,fin-wait2".into(),
    })
}

/// Finding: `tcp_rfc1337`, which decides whether a RST ends a TIME_WAIT early.
pub fn rfc1337(case: &Case<'_>) -> Option<Found> {
    const NAME: &str = "net.ipv4.tcp_rfc1337";
    let reset: u64 = case.snapshot.groups.iter().map(|group| group.time_wait.ended.reset).sum();
    let on = where_set(case, NAME, |_, value| value != 0);
    let (title, netns, value) = match on.first() {
        Some(&(netns, _)) => ("tcp_rfc1337=1: a RST does not end a TIME_WAIT".to_owned(), netns, 0),
        None if reset > 0 => {
            let netns = NetnsId(case.snapshot.host.netns);
            let title = format!(
                "{} by a RST (tcp_rfc1337=0)",
                plural(reset, "TIME_WAIT was ended early", "TIME_WAIT were ended early")
            );
            (title, netns, 1)
        }
        None => return None,
    };
    let mut evidence = values(case, NAME, &on);
    evidence.push(format!(
        "{} by a RST in {}",
        plural(reset, "TIME_WAIT ended", "TIME_WAIT ended"),
        case.watched()
    ));
    Some(Found {
        severity: Severity::Note,
        title,
        evidence,
        numbers: vec![("reset", reset), ("rfc1337", u64::from(!on.is_empty()))],
        why: "RFC 1337: a RST that meets a TIME_WAIT may end it early, and then old segments can do harm. 0, the \
              default, lets it; 1 ignores such a RST. Neither changes how many TIME_WAIT there are.",
        who: case.by_count(|group| group.time_wait.ended.reset),
        fix: vec![format!("No action needed; to change it: {}", case.set(netns, NAME, value))],
        dont: "Do not expect fewer TIME_WAIT of it.",
        verify: "tcptrace top   # time_wait ended: reset".into(),
    })
}

fn ports(case: &Case<'_>, netns: NetnsId) -> Option<PortSettings> {
    PortSettings::of(&case.snapshot.observed.netns.get(&netns)?.sysctls)
}

/// Finding: both ends of the range have the same parity. `connect()` and `bind()` use ports of different parity only if
/// the ends differ.
pub fn port_range(case: &Case<'_>) -> Option<Found> {
    const NAME: &str = "net.ipv4.ip_local_port_range";
    let ranges = case.polled_netns().filter_map(|(netns, _)| Some((netns, ports(case, netns)?.range)));
    let mut found: Vec<_> = ranges.filter(|(_, (first, last))| first % 2 == last % 2).collect();
    found.sort_by_key(|&(netns, _)| netns.0 != case.snapshot.host.netns);
    let &(netns, (first, last)) = found.first()?;
    let better = if last == u16::MAX { (first.saturating_add(1), last) } else { (first, last + 1) };
    Some(Found {
        severity: Severity::Note,
        title: format!(
            "ip_local_port_range {first} {last}: both ends are {}",
            if first % 2 == 0 { "even" } else { "odd" }
        ),
        evidence: found
            .iter()
            .take(MOST_NAMED)
            .map(|&(netns, (first, last))| format!("{NAME} is {first} {last}{}", case.place(netns)))
            .chain(lines(case, NAME).into_iter().map(shown))
            .collect(),
        numbers: vec![("first", first.into()), ("last", last.into())],
        why: "connect() takes ports of the parity of the first one, bind() the others, so that they stay out of each \
              other's way; the kernel asks for ends of different parity. Of an odd number of ports one is never tried.",
        who: Vec::new(),
        fix: vec![case.set(netns, NAME, format!("{} {}", better.0, better.1))],
        dont: "Do not begin it below your services' ports to gain a few: see the overlap with listeners.",
        verify: case.command(netns, "sysctl net.ipv4.ip_local_port_range"),
    })
}

/// Finding: an outgoing connection may hold a listener's port when the listener restarts.
pub fn port_range_listeners(case: &Case<'_>) -> Option<Found> {
    let overlaps = |stuck: &&StuckSockets| {
        ports(case, stuck.netns).is_some_and(|ports| ports.offers(stuck.service.port))
    };
    let found: Vec<_> = case.stuck(TcpState::Listen).filter(overlaps).collect();
    let first = found.first()?;
    let (low, high) = ports(case, first.netns)?.range;
    let mut numbers: Vec<u16> =
        found.iter().filter(|stuck| stuck.netns == first.netns).map(|stuck| stuck.service.port).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let named: Vec<String> = numbers.iter().map(u16::to_string).collect();
    let who: Vec<Who> = found
        .iter()
        .take(MAX_LISTENERS)
        .map(|stuck| Who { oldest: None, at_least: None, ..case.stuck_owner(stuck, stuck.count) })
        .collect();
    Some(Found {
        severity: Severity::Note,
        title: format!(
            "{} inside ip_local_port_range",
            plural(found.len() as u64, "listener is", "listeners are")
        ),
        evidence: vec![format!(
            "ip_local_port_range is {low} {high}{}; listening there: {}",
            case.place(first.netns),
            named.iter().take(8).cloned().collect::<Vec<_>>().join(", ")
        )],
        numbers: vec![("listeners", found.len() as u64)],
        why: "While the service is down an outgoing connection may get its port; bind() then fails with EADDRINUSE \
              when it comes back. Each also takes a port from every destination.",
        who,
        fix: vec![
            "In the application: listen on a port below the range.".into(),
            case.set(first.netns, "net.ipv4.ip_local_reserved_ports", named.join(",")),
        ],
        dont: "Ports that the kernel chose (port 0) do not need this. The line above replaces the whole list.",
        verify: case.command(first.netns, "sysctl net.ipv4.ip_local_reserved_ports"),
    })
}

/// Finding: a setting of the host's files has another value in a container's namespace.
pub fn netns_settings(case: &Case<'_>) -> Option<Found> {
    /// These exist once per host, not per namespace.
    const GLOBAL: [&str; 2] = ["net.ipv4.tcp_max_orphans", "net.ipv4.tcp_ehash_entries"];
    let host = &case.snapshot.host;
    let mut evidence = Vec::new();
    let mut netns_count = 0;
    let mut fix = Vec::new();
    for (netns, surroundings) in case.polled_netns().filter(|(netns, _)| netns.0 != host.netns) {
        let has_sockets = surroundings.now("sockstat.alloc").is_some_and(|alloc| alloc > 0)
            || surroundings.now("sockstat.tw").is_some_and(|tw| tw > 0);
        let differs = |line: &&SysctlLine| {
            !GLOBAL.contains(&&*line.name)
                && host.sysctls.get(&line.name) == Some(&line.value)
                && surroundings.sysctl(&line.name).is_some_and(|value| value != line.value)
        };
        let lines: Vec<&SysctlLine> = host.sysctl_lines.iter().filter(differs).collect();
        if !has_sockets || lines.is_empty() {
            continue;
        }
        netns_count += 1;
        for line in lines {
            let value = surroundings.sysctl(&line.name).unwrap_or_default();
            evidence.push(format!(
                "{}: {} on the host ({}:{}), {value}{}",
                line.name,
                line.value,
                line.file,
                line.line,
                case.place(netns)
            ));
            fix.push(case.set(netns, &line.name, &line.value));
        }
    }
    if netns_count == 0 {
        return None;
    }
    let settings = evidence.len() as u64;
    evidence.truncate(MOST_NAMED);
    fix.truncate(MOST_NAMED);
    fix.insert(
        0,
        "In the container's own definition (securityContext.sysctls, --sysctl), if it needs them at all."
            .into(),
    );
    Some(Found {
        severity: Severity::Note,
        title: format!(
            "{} without settings that the host has",
            plural(netns_count, "network namespace is", "network namespaces are")
        ),
        evidence,
        numbers: vec![("namespaces", netns_count), ("settings", settings)],
        why: "These settings belong to a network namespace. A new one starts with the kernel's defaults, not with \
              what the host's sysctl files say: a container does not inherit them.",
        who: Vec::new(),
        fix,
        dont: "Do not judge a container by the host's sysctl -a.",
        verify: "tcptrace doctor".into(),
    })
}
