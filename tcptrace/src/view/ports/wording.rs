//! Explains the numbers of a destination and how to change them, in sentences.

use std::io::{self, Write};

use super::{columns::process, local, measured, name, remote};
use crate::{
    aggregate::{DestinationPorts, NetnsPorts, PortSettings, Snapshot, TwReuse},
    model::{
        Nanos, TcpState,
        units::{self, plural},
    },
};

/// Number of ports per destination in a namespace, and how it is computed.
pub(super) fn budget(netns: &NetnsPorts, is_own: bool) -> String {
    let whose = if is_own { String::new() } else { format!("netns {}: ", name(netns)) };
    let Some(settings) = &netns.settings else {
        return format!("{whose}its settings are unknown, so the number of ports is unknown too");
    };
    let (low, high) = settings.range;
    let mut less = Vec::new();
    if settings.reserved > 0 {
        less.push(format!("{} reserved", units::count(settings.reserved)));
    }
    if netns.taken > 0 {
        less.push(format!("{} taken by bind() or listen()", units::count(netns.taken)));
    }
    let less = if less.is_empty() { String::new() } else { format!(" less {}", less.join(", ")) };
    let available = units::count(netns.available().unwrap_or_default());
    let one_call = if settings.one_call_tries_all() {
        ""
    } else {
        " (one connect() call leaves out the first or the last)"
    };
    format!(
        "{whose}ports {low}-{high}{less}: {available} per destination{one_call}; {}",
        reuse_setting(settings)
    )
}

fn reuse_setting(settings: &PortSettings) -> &'static str {
    match settings.tw_reuse {
        None => "tcp_tw_reuse not known",
        Some(0) => "tcp_tw_reuse 0 (off)",
        Some(_) if !settings.timestamps => "tcp_tw_reuse without effect, tcp_timestamps is 0",
        Some(1) => "tcp_tw_reuse 1 (on)",
        Some(_) => "tcp_tw_reuse 2 (loopback only)",
    }
}

/// Whether a destination needs sentences besides its row.
pub(super) fn needs_explanation(row: &DestinationPorts) -> bool {
    row.runs_out_soon().is_some() || row.connect_failures > 0 || row.bound > 0 || row.reused > 0
}

/// Sentences about a destination.
pub(super) fn about(snapshot: &Snapshot, row: &DestinationPorts) -> Vec<String> {
    let mut sentences =
        vec![format!("{} from {}: {}", remote(snapshot, row), local(row), level(snapshot, row))];
    if row.connect_failures > 0 {
        sentences.push(format!(
            "{} found no local port (EADDRNOTAVAIL); the connections are opened by {}.",
            plural(row.connect_failures, "connect() call", "connect() calls"),
            process(row),
        ));
    }
    sentences.extend(free_ports(row).map(|words| format!("At the latest failure {words}.")));
    if row.bound > 0 {
        sentences.push(format!(
            "{} took a port by bind() before connect(), which takes it from every destination of the namespace: \
             IP_BIND_ADDRESS_NO_PORT leaves the choice to connect().",
            plural(row.bound, "connection", "connections"),
        ));
    }
    let settings = snapshot.ports.netns(row.netns).and_then(|netns| netns.settings.as_ref());
    let is_short = row.runs_out_soon().is_some() || row.connect_failures > 0;
    if (is_short && row.is_held_by_time_wait()) || row.reused > 0 {
        sentences.extend(settings.map(|settings| reuse(snapshot, row, settings)));
    }
    sentences
}

/// Why `connect()` found none of many free ports: `doctor` uses it too.
pub fn free_ports(row: &DestinationPorts) -> Option<String> {
    let free = row.unexplained_free_ports()?;
    Some(format!(
        "{} free: its socket has a smaller range of its own (IP_LOCAL_PORT_RANGE), or, before Linux 6.18, connections from other \
         addresses keep ports that bind() held",
        plural(free, "port of the range was", "ports of the range were")
    ))
}

fn level(snapshot: &Snapshot, row: &DestinationPorts) -> String {
    let used = used(row);
    match row.exhausted_in {
        Some(Nanos(0)) => format!("{used}; none left now."),
        Some(left) => {
            format!("{used}, +{}/s; none left {}.", units::rate(row.entered_per_s), units::in_time(left))
        }
        None if measured(snapshot).is_none() || row.available.is_none() => format!("{used}."),
        None => format!("{used}; at these rates it stays below that."),
    }
}

/// `24,310 of 28,232 ports used, 21,879 of them TIME_WAIT`: `doctor` uses it too.
pub fn used(row: &DestinationPorts) -> String {
    let of = row.available.map_or_else(String::new, |available| format!(" of {}", units::count(available)));
    let most = row.main_state().map_or_else(String::new, |(state, count)| {
        format!(", {} of them {}", units::count(count), state.name())
    });
    format!("{}{of} ports used{most}", units::count(row.used))
}

/// Effect of `tcp_tw_reuse` on the destination, now or if enabled.
fn reuse(snapshot: &Snapshot, row: &DestinationPorts, settings: &PortSettings) -> String {
    let delay = units::duration(settings.reuse_delay);
    let instead = if measured(snapshot).is_some() {
        format!(
            "about {} ports instead of {}",
            units::count(row.predicted_with_reuse),
            units::count(row.predicted)
        )
    } else {
        "fewer ports".into()
    };
    let with_1 = format!(
        "with tcp_tw_reuse=1 connect() takes over one that is {delay} old, if both sides use TCP timestamps, and \
         the current rates hold {instead}."
    );
    match row.reuse {
        TwReuse::Unknown => "tcp_tw_reuse of its namespace is not known.".into(),
        TwReuse::Off => format!("tcp_tw_reuse is 0: each TIME_WAIT keeps its port for 60 s; {with_1}"),
        TwReuse::NotLoopback => {
            format!(
                "tcp_tw_reuse is 2, for loopback only: here a TIME_WAIT keeps its port for 60 s; {with_1}"
            )
        }
        TwReuse::NoTimestamps => format!(
            "tcp_timestamps is 0, so tcp_tw_reuse does nothing: each TIME_WAIT keeps its port for 60 s; after \
             tcp_timestamps=1, {with_1}"
        ),
        TwReuse::Failing => format!(
            "tcp_tw_reuse is on, and yet connect() found no port and took over none of {}: the peer seems not to use \
             TCP timestamps.",
            plural(row.count(TcpState::TimeWait), "TIME_WAIT", "TIME_WAIT")
        ),
        TwReuse::On => format!(
            "tcp_tw_reuse is on: a TIME_WAIT keeps its port for {delay}; {} may be taken over now, {} were.",
            units::count(row.reusable),
            units::count(row.reused)
        ),
    }
}

/// Wraps `sentence` to at most `width` columns; lines after the first begin with `indent`.
pub(super) fn wrapped(out: &mut impl Write, sentence: &str, indent: &str, width: usize) -> io::Result<()> {
    let begin = &sentence[..sentence.len() - sentence.trim_start().len()];
    let mut line = begin.to_owned();
    let mut is_empty = true;
    for word in sentence.split_whitespace() {
        if !is_empty && line.len() + 1 + word.len() > width {
            writeln!(out, "{line}")?;
            line = format!("{begin}{indent}");
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    writeln!(out, "{line}")
}
