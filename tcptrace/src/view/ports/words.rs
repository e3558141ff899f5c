//! What the numbers of a destination mean and what would change them, in sentences.

use super::{columns::process, local, measured, name, remote};
use crate::{
    aggregate::{DestinationPorts, NetnsPorts, PortSettings, Snapshot, TwReuse},
    model::{Nanos, TcpState, units},
};

/// How many ports a namespace has for each destination, and why.
pub(super) fn budget(netns: &NetnsPorts, is_own: bool) -> String {
    let whose = if is_own { String::new() } else { format!("netns {}: ", name(netns)) };
    let Some(settings) = &netns.settings else {
        return format!("{whose}its settings are not known, so neither is how many ports there are");
    };
    let (low, high) = settings.range;
    let mut less = Vec::new();
    if settings.reserved > 0 {
        less.push(format!("{} reserved", units::count(settings.reserved)));
    }
    if netns.taken > 0 {
        less.push(format!("{} taken by bind() or listen()", units::count(netns.taken)));
    }
    if (high.saturating_sub(low)).is_multiple_of(2) && high > low {
        less.push("1 because connect() tries an even number".into());
    }
    let less = if less.is_empty() { String::new() } else { format!(" less {}", less.join(", ")) };
    let available = units::count(netns.available().unwrap_or_default());
    format!("{whose}ports {low}-{high}{less}: {available} per destination; {}", reuse_setting(settings))
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

/// Whether a destination needs more than its line.
pub(super) fn is_worth_words(row: &DestinationPorts) -> bool {
    row.exhausted_in.is_some() || row.connect_failures > 0 || row.bound > 0 || row.reused > 0
}

/// What is to be said of it, a sentence or two each.
pub(super) fn about(snapshot: &Snapshot, row: &DestinationPorts) -> Vec<String> {
    let mut sentences =
        vec![format!("{} from {}: {}", remote(snapshot, row), local(row), level(snapshot, row))];
    if row.connect_failures > 0 {
        sentences.push(format!(
            "{} found no port (EADDRNOTAVAIL); the connections are opened by {}.",
            plural(row.connect_failures, "connect() call", "connect() calls"),
            process(row),
        ));
    }
    if row.bound > 0 {
        sentences.push(format!(
            "{} took a port by bind() before connect(), which takes it from every destination of the namespace: \
             IP_BIND_ADDRESS_NO_PORT leaves the choice to connect().",
            plural(row.bound, "connection", "connections"),
        ));
    }
    let settings = snapshot.ports.netns_of(row).and_then(|netns| netns.settings.as_ref());
    if row.exhausted_in.is_some() || row.connect_failures > 0 || row.reused > 0 {
        sentences.extend(settings.map(|settings| reuse(snapshot, row, settings)));
    }
    sentences
}

fn level(snapshot: &Snapshot, row: &DestinationPorts) -> String {
    let used = units::count(row.used);
    let Some(available) = row.available else { return format!("{used} ports used.") };
    let of = format!("{used} of {} ports used", units::count(available));
    let waiting = match row.count(TcpState::TimeWait) {
        0 => String::new(),
        n => format!(", {} of them by TIME_WAIT", units::count(n)),
    };
    match row.exhausted_in {
        Some(Nanos(0)) => format!("{of}{waiting}; none is left."),
        Some(length) => format!(
            "{of}{waiting}, +{}/s; none left in {}.",
            units::rate(row.entered_per_s),
            units::duration(length)
        ),
        None if measured(snapshot).is_none() => format!("{of}{waiting}."),
        None => format!("{of}{waiting}; at these rates it stays below that."),
    }
}

/// What `tcp_tw_reuse` does about it, or would do.
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
         the rates of now hold {instead}."
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
            "tcp_tw_reuse is on, and yet connect() found no port while {} were in TIME_WAIT: the peer seems not to \
             use TCP timestamps.",
            units::count(row.count(TcpState::TimeWait))
        ),
        TwReuse::On => format!(
            "tcp_tw_reuse is on: a TIME_WAIT keeps its port for {delay}; {} may be taken over now, {} were.",
            units::count(row.reusable),
            units::count(row.reused)
        ),
    }
}

fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", units::count(n), if n == 1 { one } else { many })
}
