//! Findings about NAT: translated ports exhausted or soon exhausted, and a connection tracking table that fills up.

use super::{
    evidence::Case,
    finding::{Found, Severity, Who},
};
use crate::{
    aggregate::{ConntrackTable, NatPorts},
    model::{
        Nanos, NetnsId,
        nat::SnatRule,
        units::{self, plural},
    },
    view::ports::nat::{clients, remote},
};

/// Maximum number of destinations named in one finding.
const MOST_NAMED: usize = 3;
/// From this share of `nf_conntrack_max` on the table is nearly full.
const NEARLY_FULL: f64 = 0.8;
/// Share of ports or of the table from which on entries in TIME_WAIT matter.
const MUCH: f64 = 0.5;
/// Length of a socket's own TIME_WAIT (`TCP_TIMEWAIT_LEN`), in seconds.
const TIME_WAIT_S: u64 = 60;

/// From this share of held ports on the kernel may find no free one: of a wide range `nf_nat_l4proto_unique_tuple()` tries
/// some 240 ports.
const HARD_TO_FIND: f64 = 0.98;

/// Whether new connections fail: no port is left, or the kernel failed to find one of the last.
fn fails(case: &Case<'_>, row: &NatPorts) -> bool {
    let table = case.snapshot.ports.nat.table(row.netns);
    row.exhausted_in == Some(Nanos(0))
        || (row.held_share() >= HARD_TO_FIND && table.is_some_and(|table| table.grown("insert_failed") > 0))
}

/// Finding: NAT has no port left, or finds none.
pub fn exhausted(case: &Case<'_>) -> Option<Found> {
    let rows: Vec<_> = case.snapshot.ports.nat.translations.iter().filter(|row| fails(case, row)).collect();
    let worst = rows.first()?;
    let (from, to) = (worst.of.snat_addr, remote(case.snapshot, worst));
    let title = if worst.exhausted_in == Some(Nanos(0)) {
        format!("NAT has no port left from {from} to {to}")
    } else {
        let (held, available) = (units::count(worst.held()), units::count(worst.available()));
        format!("NAT finds no port from {from} to {to}: {held} of {available} are held")
    };
    Some(ports(case, Severity::Critical, title, &rows))
}

/// Finding: NAT will soon have no port left.
pub fn near(case: &Case<'_>) -> Option<Found> {
    let is_near = |row: &&NatPorts| {
        !fails(case, row) && (row.runs_out_soon().is_some() || row.held_share() >= NEARLY_FULL)
    };
    let rows: Vec<_> = case.snapshot.ports.nat.translations.iter().filter(is_near).collect();
    let worst = rows.first()?;
    let (from, to) = (worst.of.snat_addr, remote(case.snapshot, worst));
    let title = match worst.runs_out_soon() {
        Some(left) => format!("NAT ports from {from} to {to} run out {}", units::in_time(left)),
        None => format!("{:.0}% of the NAT ports from {from} to {to} are held", worst.held_share() * 100.0),
    };
    Some(ports(case, Severity::Warning, title, &rows))
}

fn ports(case: &Case<'_>, severity: Severity, title: String, rows: &[&NatPorts]) -> Found {
    let worst = rows[0];
    let table = case.snapshot.ports.nat.table(worst.netns);
    let grown = |counter| table.map_or(0, |table| table.grown(counter));
    let mut evidence: Vec<String> = rows.iter().take(MOST_NAMED).map(|row| seen(case, row)).collect();
    evidence.push(format!(
        "in {}: insert_failed +{}, drop +{}{}",
        case.watched(),
        units::count(grown("insert_failed")),
        units::count(grown("drop")),
        case.place(worst.netns)
    ));
    Found {
        severity,
        title,
        evidence,
        numbers: vec![
            ("used", worst.of.used),
            ("held", worst.held()),
            ("available", worst.available()),
            ("time_wait", worst.of.time_wait),
            ("insert_failed", grown("insert_failed")),
            ("drop", grown("drop")),
        ],
        why: "Each connection from one translated address to one destination needs a translated port of its own, for as \
              long as its connection tracking entry lasts. When none is free the kernel drops the SYN: clients see a \
              connect that times out, and no error here.",
        who: rows.iter().take(MOST_NAMED).flat_map(|row| who(case, row)).collect(),
        fix: fix(case, worst),
        dont: "Not ip_local_port_range: NAT does not use it. Not a larger nf_conntrack_max: the table is not what is full. \
               Not NOTRACK: without an entry there is no NAT.",
        verify: "tcptrace ports --nat   # and again: tcptrace doctor".into(),
    }
}

fn seen(case: &Case<'_>, row: &NatPorts) -> String {
    let growth = row.growth_per_s.map(|per_s| format!(", {per_s:+.1}/s")).unwrap_or_default();
    let (low, high) = row.range;
    format!(
        "{} to {}{}: {} of {} ports held ({low}-{high}){growth}, {} more reclaimable; clients: {}",
        row.of.snat_addr,
        remote(case.snapshot, row),
        case.place(row.netns),
        units::count(row.held()),
        units::count(row.available()),
        units::count(row.reclaimable),
        clients(case.snapshot, row),
    )
}

fn who(case: &Case<'_>, row: &NatPorts) -> Vec<Who> {
    let who = |source: &crate::model::nat::TranslatedSource| Who {
        netns: case.name(row.netns),
        service: format!(
            "{} to {}",
            case.snapshot.peer_names.with_name(source.saddr, source.saddr),
            remote(case.snapshot, row)
        ),
        count: source.used,
        ..Who::default()
    };
    row.of.sources.iter().take(MOST_NAMED).map(who).collect()
}

fn fix(case: &Case<'_>, row: &NatPorts) -> Vec<String> {
    let client =
        row.of.sources.first().map_or_else(String::new, |source| format!(" (most: {})", source.saddr));
    let table = case.snapshot.ports.nat.table(row.netns);
    let mut fix = vec![format!(
        "In the clients{client}: keep and reuse connections (a pool, HTTP keep-alive), and close what is idle."
    )];
    let iptables = if row.of.daddr.is_ipv4() { "iptables" } else { "ip6tables" };
    let rule = |target: &str| {
        let (daddr, dport) = (row.of.daddr, row.of.dport);
        let rule = format!("{iptables} -t nat -I POSTROUTING -p tcp -d {daddr} --dport {dport} -j {target}");
        case.command(row.netns, &rule)
    };
    if !table.is_some_and(|table| table.evicts) && row.of.time_wait as f64 >= MUCH * row.of.used as f64 {
        fix.push(case.set(row.netns, TIMEOUT, TIME_WAIT_S));
    }
    let (low, high) = SnatRule::ANY_PORT;
    if row.range != SnatRule::ANY_PORT {
        fix.push(format!(
            "Then a wider range: {}",
            rule(&format!("MASQUERADE --to-ports {low}-{high} --random-fully"))
        ));
    }
    fix.push(format!(
        "Then more addresses, each has the full range: {}   # FIRST-LAST: addresses routed to this host",
        rule("SNAT --to-source FIRST-LAST --random-fully")
    ));
    fix
}

const TIMEOUT: &str = "net.netfilter.nf_conntrack_tcp_timeout_time_wait";

/// Finding: the connection tracking table is full, or nearly.
pub fn table_full(case: &Case<'_>) -> Option<Found> {
    let share = |table: &ConntrackTable| table.share().unwrap_or_default();
    let mut full: Vec<&ConntrackTable> = case
        .snapshot
        .ports
        .nat
        .tables
        .iter()
        .filter(|table| share(table) >= NEARLY_FULL || table.grown("early_drop") > 0)
        .collect();
    full.sort_by(|a, b| share(b).total_cmp(&share(a)));
    let worst = full.first()?;
    let max = worst.max.unwrap_or_default();
    let drops = worst.grown("drop");
    let is_full = worst.entries >= max && drops > 0;
    let seen = |table: &&ConntrackTable| {
        format!(
            "{} of {} entries{}; in {}: drop +{}, early_drop +{}",
            units::count(table.entries),
            units::count(table.max.unwrap_or_default()),
            case.place(table.netns),
            case.watched(),
            units::count(table.grown("drop")),
            units::count(table.grown("early_drop")),
        )
    };
    let mut fix = vec![case.set(worst.netns, "net.netfilter.nf_conntrack_max", max.saturating_mul(2))];
    if worst.time_wait_s.is_some_and(|seconds| seconds > TIME_WAIT_S) {
        fix.push(case.set(worst.netns, TIMEOUT, TIME_WAIT_S));
    }
    fix.push(case.command(
        worst.netns,
        "sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=86400   # 5 days by default: forgotten connections",
    ));
    Some(Found {
        severity: if is_full { Severity::Critical } else { Severity::Warning },
        title: format!(
            "the connection tracking table is {} ({:.0}%)",
            if is_full { "full" } else { "nearly full" },
            share(worst) * 100.0
        ),
        evidence: full.iter().take(MOST_NAMED).map(seen).collect(),
        numbers: vec![
            ("entries", worst.entries),
            ("max", max),
            ("drop", drops),
            ("early_drop", worst.grown("early_drop")),
        ],
        why: "Every connection through this host has an entry, until its timeout ends. At nf_conntrack_max the kernel \
              evicts entries that saw traffic in one direction only (early_drop), and then drops the first packet of \
              every new connection: \"nf_conntrack: table full, dropping packet\".",
        who: Vec::new(),
        fix,
        dont: "Do not flush the table (conntrack -F): that breaks every translated connection.",
        verify: "tcptrace ports --nat   # and again: tcptrace doctor".into(),
    })
}

/// Finding: entries stay in TIME_WAIT longer than the sockets do, and that costs ports or a good part of the table.
pub fn time_wait_timeout(case: &Case<'_>) -> Option<Found> {
    let nat = &case.snapshot.ports.nat;
    let in_time_wait = |netns: NetnsId| -> u64 {
        nat.translations.iter().filter(|row| row.netns == netns).map(|row| row.of.time_wait).sum()
    };
    let holds_ports = |table: &ConntrackTable| {
        let mut rows = nat.translations.iter().filter(|row| row.netns == table.netns);
        !table.evicts && rows.any(|row| row.of.time_wait as f64 >= MUCH * row.available() as f64)
    };
    let matters = |table: &&ConntrackTable| {
        let share_of_table = in_time_wait(table.netns) as f64 / table.max.unwrap_or(u64::MAX).max(1) as f64;
        table.time_wait_s.is_some_and(|seconds| seconds > TIME_WAIT_S)
            && (share_of_table >= MUCH || holds_ports(table))
    };
    let worst = nat.tables.iter().filter(matters).max_by_key(|table| in_time_wait(table.netns))?;
    let seconds = worst.time_wait_s.unwrap_or_default();
    let entries = in_time_wait(worst.netns);
    Some(Found {
        severity: Severity::Note,
        title: format!(
            "connection tracking keeps closed connections for {seconds} s, their sockets for 60 s"
        ),
        evidence: vec![format!(
            "{} in TIME_WAIT{}, of {}",
            plural(entries, "translated entry", "translated entries"),
            case.place(worst.netns),
            plural(worst.entries, "entry", "entries"),
        )],
        numbers: vec![("time_wait", entries), ("entries", worst.entries), ("timeout_s", seconds)],
        why: "An entry in TIME_WAIT keeps its translated port (before Linux 6.5) and its place in the table. Once the \
              socket's own TIME_WAIT is over, after 60 s, its client may reuse the port anyway.",
        who: Vec::new(),
        fix: vec![case.set(worst.netns, TIMEOUT, TIME_WAIT_S)],
        dont: "Not below 60: late segments would find no entry, and be dropped or answered with a RST.",
        verify: "tcptrace ports --nat".into(),
    })
}
