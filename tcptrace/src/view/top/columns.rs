//! The columns of the groups table, one row each in [`GROUPS`]: what plain text and the screen show,
//! and what can be sorted by. A new column is one new row.

use std::{borrow::Cow, cmp::Ordering};

use crate::{
    aggregate::{DestinationPorts, Group, Snapshot},
    inspect::SocketRow,
    lifecycle::{Bound, Closer, Dwell, OwnerKind, Role},
    model::{Nanos, TcpState, text, units},
};

/// One column of a table with rows of the type `R`.
pub struct Column<R> {
    /// What it is called in the configuration and in the hints: `time_wait`.
    pub name: &'static str,
    /// Its head. Empty for the key, whose head depends on the grouping.
    pub head: &'static str,
    /// Its head where `head` does not fit.
    pub short: &'static str,
    /// Its least and its greatest width.
    pub width: (u16, u16),
    /// What it takes more than its least width for.
    pub grows: Grows,
    /// Which side of it is straight.
    pub align: Align,
    /// Which columns stay when there is no room for all: the lowest numbers.
    pub priority: u8,
    /// The value of one row.
    pub value: for<'a> fn(&'a Snapshot, &'a R) -> Value<'a>,
    /// What it shows, for the help.
    pub help: &'static str,
}

/// What a column takes room for that is left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grows {
    /// Its whole head.
    ForHead,
    /// The longest of its cells.
    ForCells,
}

/// Which side of a column is straight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// The left one, as of words.
    Left,
    /// The right one, as of numbers.
    Right,
}

/// A value in a column: what is shown, and what is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// A key: cut in the middle, since both its ends tell something.
    Key(Cow<'a, str>),
    /// Text.
    Text(Cow<'a, str>),
    /// A number that names something; `None` where it is not known.
    Id(Option<u32>),
    /// A number of things.
    Count(u64),
    /// Two numbers of things that add up.
    Pair(u64, u64),
    /// Per second; `None` while there is no interval to take it over.
    Rate(Option<f64>),
    /// A length of time; `None` while there is none.
    Length(Option<Nanos>),
    /// A length of time that may be a bound; `None` where it is not known.
    Bounded(Option<Dwell>),
    /// A part of a whole in `0.0..`; `None` where there is no whole.
    Part(Option<f64>),
    /// The largest part of a whole and its share in `0.0..=1.0`; `None` while the whole is empty.
    Share(Option<(&'static str, f64)>),
}

impl Value<'_> {
    /// As a person reads it, in at most `width` columns where that is possible.
    pub fn text(&self, width: usize) -> Cow<'_, str> {
        match self {
            Self::Key(text) | Self::Text(text) => Cow::Borrowed(text),
            Self::Id(Some(id)) => Cow::Owned(id.to_string()),
            Self::Count(n) => Cow::Owned(count(*n, width)),
            Self::Pair(a, b) => {
                let exact = format!("{}/{}", units::count(*a), units::count(*b));
                Cow::Owned(if exact.len() <= width {
                    exact
                } else {
                    format!("{}/{}", units::compact(*a), units::compact(*b))
                })
            }
            Self::Id(None)
            | Self::Rate(None)
            | Self::Length(None)
            | Self::Bounded(None)
            | Self::Part(None)
            | Self::Share(None) => Cow::Borrowed("-"),
            Self::Bounded(Some(dwell)) => Cow::Owned(bounded(*dwell)),
            Self::Rate(Some(per_s)) => Cow::Owned(units::rate(*per_s)),
            Self::Length(Some(length)) => Cow::Owned(units::duration(*length)),
            Self::Part(Some(part)) => Cow::Owned(format!("{:.0}%", part * 100.0)),
            Self::Share(Some((name, share))) => Cow::Owned(format!("{name} {:.0}%", share * 100.0)),
        }
    }

    /// Whether there is nothing to see: shown dim.
    pub fn is_nothing(&self) -> bool {
        match self {
            Self::Key(_) => false,
            Self::Text(text) => text == "-",
            Self::Id(id) => id.is_none(),
            Self::Count(n) => *n == 0,
            Self::Pair(a, b) => a + b == 0,
            Self::Rate(rate) => rate.is_none_or(|rate| rate < 0.05),
            Self::Length(length) => length.is_none(),
            Self::Bounded(length) => length.is_none(),
            Self::Part(part) => part.is_none(),
            Self::Share(share) => share.is_none(),
        }
    }

    /// The order of two values of the same column, smallest first; nothing comes before something.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Key(a), Self::Key(b)) | (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Id(a), Self::Id(b)) => a.cmp(b),
            (Self::Count(a), Self::Count(b)) => a.cmp(b),
            (Self::Pair(a, b), Self::Pair(c, d)) => a.saturating_add(*b).cmp(&c.saturating_add(*d)),
            (Self::Rate(a), Self::Rate(b)) | (Self::Part(a), Self::Part(b)) => {
                a.unwrap_or(-1.0).total_cmp(&b.unwrap_or(-1.0))
            }
            (Self::Length(a), Self::Length(b)) => a.cmp(b),
            (Self::Bounded(a), Self::Bounded(b)) => a.map(|a| a.length).cmp(&b.map(|b| b.length)),
            (Self::Share(a), Self::Share(b)) => {
                let (a, b) = (a.unwrap_or(("", 0.0)), b.unwrap_or(("", 0.0)));
                a.0.cmp(b.0).then(a.1.total_cmp(&b.1))
            }
            _ => Ordering::Equal,
        }
    }
}

/// A count in at most `width` columns where that is possible: `18,122`, else `18k`.
pub fn count(n: u64, width: usize) -> String {
    let exact = units::count(n);
    if exact.len() <= width { exact } else { units::compact(n) }
}

/// A length of time with the sign of a bound: `60.1s`, `>60.1s`, `~60.1s`.
pub fn bounded(dwell: Dwell) -> String {
    let sign = match dwell.bound {
        Bound::Exact => "",
        Bound::AtLeast => ">",
        Bound::Inferred => "~",
    };
    format!("{sign}{}", units::duration(dwell.length))
}

/// Every column of the groups, from left to right.
pub const ALL: [usize; GROUPS.len()] = numbers();

const fn numbers<const N: usize>() -> [usize; N] {
    let mut numbers = [0; N];
    let mut n = 0;
    while n < N {
        numbers[n] = n;
        n += 1;
    }
    numbers
}

/// Every column of the groups, from left to right.
pub const GROUPS: [Column<Group>; 17] = [
    Column {
        name: "key",
        head: "",
        short: "",
        width: (21, 64),
        grows: Grows::ForCells,
        align: Align::Left,
        priority: 0,
        value: |_, group| Value::Key(text::sanitise(&group.key)),
        help: "what the sockets have in common",
    },
    Column {
        name: "role",
        head: "ROLE",
        short: "ROLE",
        width: (4, 4),
        grows: Grows::ForHead,
        align: Align::Left,
        priority: 6,
        value: |_, group| Value::Text(role(group.role).into()),
        help: "in: accepted here; out: connected from here; lstn: listener",
    },
    Column {
        name: "closer",
        head: "CLOSER",
        short: "CLOSER",
        width: (11, 11),
        grows: Grows::ForHead,
        align: Align::Left,
        priority: 5,
        value: |_, group| Value::Share(group.main_closer().map(|(who, share)| (closer(who), share))),
        help: "who closed first, mostly; the first gets the TIME_WAIT",
    },
    Column {
        name: "process",
        head: "PROCESS",
        short: "PROCESS",
        width: (10, 20),
        grows: Grows::ForCells,
        align: Align::Left,
        priority: 4,
        value: |_, group| Value::Text(process(group)),
        help: "the owner of most of them, +N: other owners",
    },
    Column {
        name: "pid",
        head: "PID",
        short: "PID",
        width: (7, 7),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 15,
        value: |_, group| Value::Id(group.process.as_ref().map(|process| process.pid)),
        help: "its process id",
    },
    Column {
        name: "time_wait",
        head: "TIME_WAIT",
        short: "TIME_WAIT",
        width: (9, 9),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 1,
        value: |_, group| Value::Count(group.time_wait.now),
        help: "sockets in TIME_WAIT now",
    },
    Column {
        name: "time_wait_per_s",
        head: "+/s",
        short: "+/s",
        width: (5, 5),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 3,
        value: |snapshot, group| Value::Rate(rate(snapshot, group.time_wait.entered_per_s)),
        help: "sockets that enter TIME_WAIT per second",
    },
    Column {
        name: "time_wait_p50",
        head: "TW-P50",
        short: "TW-P50",
        width: (6, 6),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 12,
        value: |_, group| Value::Length(dwell(group, |dwell| dwell.p50)),
        help: "median time in TIME_WAIT, of those seen from entry to end",
    },
    Column {
        name: "time_wait_p99",
        head: "TW-P99",
        short: "TW-P99",
        width: (6, 6),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 13,
        value: |_, group| Value::Length(dwell(group, |dwell| dwell.p99)),
        help: "the same, 0.99 quantile",
    },
    Column {
        name: "reused",
        head: "REUSED",
        short: "REUSED",
        width: (7, 9),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 16,
        value: |_, group| Value::Count(group.time_wait.ended.reused),
        help: "TIME_WAIT taken over by a connect() (tcp_tw_reuse)",
    },
    Column {
        name: "fin_wait2",
        head: "FW2 o/h",
        short: "FW2 o/h",
        width: (7, 11),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 7,
        value: |_, group| Value::Pair(group.fin_wait2_orphan, group.fin_wait2_held()),
        help: "FIN_WAIT2: orphans (nobody has them open) / held",
    },
    Column {
        name: "close_wait",
        head: "CLOSE_WAIT",
        short: "CLWAIT",
        width: (6, 10),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 8,
        value: |_, group| Value::Count(state(group, TcpState::CloseWait)),
        help: "the peer has closed, the process here has not",
    },
    Column {
        name: "close_wait_age",
        head: "CW-AGE",
        short: "CW-AGE",
        width: (7, 7),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 10,
        value: |snapshot, group| {
            Value::Bounded(group.oldest_close_wait.and_then(|since| since.age(snapshot.ts)))
        },
        help: "how long the oldest has waited for close(); >: at least",
    },
    Column {
        name: "established",
        head: "ESTABLISHED",
        short: "ESTAB",
        width: (7, 11),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 14,
        value: |_, group| Value::Count(state(group, TcpState::Established)),
        help: "connected now",
    },
    Column {
        name: "syn_recv",
        head: "SYN_RECV",
        short: "SYNRCV",
        width: (6, 8),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 17,
        value: |_, group| Value::Count(state(group, TcpState::SynRecv)),
        help: "handshakes in progress",
    },
    Column {
        name: "ports",
        head: "PORTS",
        short: "PORTS",
        width: (5, 5),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 9,
        value: |snapshot, group| {
            let ports = ports_of(snapshot, group).filter(|ports| ports.available.is_some());
            Value::Part(ports.map(DestinationPorts::share))
        },
        help: "local ports towards it in use, of those there are",
    },
    Column {
        name: "ports_gone",
        head: "GONE IN",
        short: "GONE IN",
        width: (7, 7),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 11,
        value: |snapshot, group| {
            Value::Length(ports_of(snapshot, group).and_then(|ports| ports.exhausted_in))
        },
        help: "when there is no port left, if it goes on like this; 0: now",
    },
];

/// The local ports towards the destination that a group is, those of the local address that runs out first.
pub fn ports_of<'a>(snapshot: &'a Snapshot, group: &Group) -> Option<&'a DestinationPorts> {
    let (netns, remote) = group.service.filter(|_| group.role == Role::Outbound)?;
    snapshot.ports.destinations.iter().find(|ports| ports.netns == netns && ports.remote == remote)
}

/// The column that every view is sorted by at first: `TIME_WAIT`.
pub const TIME_WAIT: usize = 5;

/// The columns of the sockets of a group, from left to right.
pub const SOCKETS: [Column<SocketRow>; 10] = [
    Column {
        name: "local",
        head: "LOCAL",
        short: "LOCAL",
        width: (18, 47),
        grows: Grows::ForCells,
        align: Align::Left,
        priority: 0,
        value: |_, socket| Value::Key(socket.tuple.local().to_string().into()),
        help: "address and port on this host",
    },
    Column {
        name: "peer",
        head: "PEER",
        short: "PEER",
        width: (18, 47),
        grows: Grows::ForCells,
        align: Align::Left,
        priority: 1,
        value: |_, socket| Value::Key(peer(socket).into()),
        help: "address and port of the other end",
    },
    Column {
        name: "state",
        head: "STATE",
        short: "STATE",
        width: (11, 11),
        grows: Grows::ForHead,
        align: Align::Left,
        priority: 2,
        value: |_, socket| Value::Text(socket.state.name().into()),
        help: "the state it is in",
    },
    Column {
        name: "age",
        head: "AGE",
        short: "AGE",
        width: (7, 7),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 3,
        value: |snapshot, socket| Value::Bounded(socket.age(looked_at(snapshot))),
        help: "how long it has been in it; >: at least, ~: computed",
    },
    Column {
        name: "left",
        head: "LEFT",
        short: "LEFT",
        width: (6, 6),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 4,
        value: |snapshot, socket| Value::Bounded(socket.time_left(looked_at(snapshot))),
        help: "TIME_WAIT: until its minute is over",
    },
    Column {
        name: "process",
        head: "PROCESS",
        short: "PROCESS",
        width: (10, 20),
        grows: Grows::ForCells,
        align: Align::Left,
        priority: 5,
        value: |_, socket| {
            Value::Text(socket.process.as_ref().map_or("-".into(), |process| text::sanitise(&process.comm)))
        },
        help: "its owner, for a minisocket the last one",
    },
    Column {
        name: "pid",
        head: "PID",
        short: "PID",
        width: (7, 7),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 6,
        value: |_, socket| Value::Id(socket.process.as_ref().map(|process| process.pid)),
        help: "its process id",
    },
    Column {
        name: "known",
        head: "KNOWN BY",
        short: "KNOWN BY",
        width: (8, 8),
        grows: Grows::ForHead,
        align: Align::Left,
        priority: 9,
        value: |_, socket| Value::Text(owner(socket.owner).into()),
        help: "call: its own system call; proc: /proc/PID/fd; listener",
    },
    Column {
        name: "role",
        head: "ROLE",
        short: "ROLE",
        width: (4, 4),
        grows: Grows::ForHead,
        align: Align::Left,
        priority: 7,
        value: |_, socket| Value::Text(role(socket.role).into()),
        help: "in: accepted here; out: connected from here; lstn: listener",
    },
    Column {
        name: "closer",
        head: "CLOSER",
        short: "CLOSER",
        width: (7, 7),
        grows: Grows::ForHead,
        align: Align::Left,
        priority: 8,
        value: |_, socket| Value::Text(closer(socket.closer).into()),
        help: "who closed first",
    },
];

/// Every one of them.
pub const ALL_OF_SOCKETS: [usize; SOCKETS.len()] = numbers();
/// The column that sockets are sorted by at first: the age.
pub const AGE: usize = 3;

/// When the sockets of a snapshot were looked at.
pub fn looked_at(snapshot: &Snapshot) -> Nanos {
    snapshot.answer.as_ref().map_or(snapshot.ts, |answer| answer.ts)
}

fn peer(socket: &SocketRow) -> String {
    let remote = socket.tuple.remote();
    if remote.port == 0 { "-".into() } else { remote.to_string() }
}

/// How an owner is known, in a column.
pub const fn owner(owner: OwnerKind) -> &'static str {
    match owner {
        OwnerKind::Unknown => "-",
        OwnerKind::Listener => "listener",
        OwnerKind::Proc => "proc",
        OwnerKind::Exact => "call",
    }
}

/// A role in four columns.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Unknown => "?",
        Role::Inbound => "in",
        Role::Outbound => "out",
        Role::Listener => "lstn",
    }
}

/// Who closed first, in a column.
pub fn closer(closer: Closer) -> &'static str {
    match closer {
        Closer::None => "-",
        Closer::Local => "local",
        Closer::Remote => "remote",
        Closer::Both => "both",
        Closer::ResetReceived => "rst-in",
        Closer::ResetSent => "rst-out",
        Closer::TimedOut => "timeout",
        Closer::Refused => "refused",
    }
}

fn process(group: &Group) -> Cow<'_, str> {
    let Some(process) = &group.process else { return "-".into() };
    let comm = text::sanitise(&process.comm);
    match group.other_processes {
        0 => comm,
        others => format!("{comm} +{others}").into(),
    }
}

/// `per_s`, where the snapshot has an interval to take rates over.
pub fn rate(snapshot: &Snapshot, per_s: f64) -> Option<f64> {
    (snapshot.interval > Nanos(0)).then_some(per_s)
}

fn dwell(group: &Group, quantile: fn(&crate::aggregate::DwellQuantiles) -> u64) -> Option<Nanos> {
    let dwell = &group.time_wait.dwell;
    (dwell.count > 0).then(|| Nanos(quantile(dwell)))
}

fn state(group: &Group, state: TcpState) -> u64 {
    group.counts[state.index()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<R>(columns: &[Column<R>]) {
        let mut priorities: Vec<_> = columns.iter().map(|column| column.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        assert_eq!(priorities.len(), columns.len());
        for column in columns {
            assert!(column.short.len() <= column.width.0 as usize, "{}", column.name);
            assert!(column.head.len() <= column.width.1 as usize, "{}", column.name);
            assert!(column.short.len() <= column.head.len(), "{}", column.name);
            assert!(column.help.len() <= 61, "{} is cut in the help at 80 columns", column.name);
            assert!(!column.name.contains(' '), "{} is no name", column.name);
        }
    }

    #[test]
    fn priorities_are_distinct_and_heads_fit() {
        check(&GROUPS);
        check(&SOCKETS);
        assert_eq!((GROUPS[TIME_WAIT].name, SOCKETS[AGE].name), ("time_wait", "age"));
    }

    #[test]
    fn numbers_too_wide_for_their_column_are_rounded() {
        assert_eq!(Value::Count(9_999).text(6), "9,999");
        assert_eq!(Value::Count(123_456).text(6), "123k");
        assert_eq!(Value::Pair(120, 3).text(7), "120/3");
        assert_eq!(Value::Pair(123_456, 3).text(7), "123k/3");
    }

    #[test]
    fn nothing_sorts_below_something() {
        let nothing = Value::Length(None);
        assert_eq!(nothing.compare(&Value::Length(Some(Nanos(0)))), Ordering::Less);
        assert_eq!(Value::Rate(None).compare(&Value::Rate(Some(0.0))), Ordering::Less);
        assert_eq!(Value::Share(None).compare(&Value::Share(Some(("both", 0.0)))), Ordering::Less);
    }
}
