//! Renders the number of sockets per state as a table or a JSON document.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use jiff::{Timestamp, Unit};
use serde::Serialize;

use crate::aggregate::{Group, Grouping, Losses};
use crate::model::peer_names::PeerNames;
use crate::model::record::HostFacts;
use crate::model::{Nanos, StateCounts, TcpState, text, units};
use crate::pipeline::NetnsCounts;
use crate::view::clock;
use crate::view::document::{DocumentHead, Origin};
use crate::view::top::columns::role;
use crate::view::top::table::{Cut, fit};

/// The rows of the table, in the order of a connection's life, our close before the peer's.
pub(super) const ORDER: [TcpState; TcpState::COUNT] = [
    TcpState::Listen,
    TcpState::SynSent,
    TcpState::SynRecv,
    TcpState::Established,
    TcpState::FinWait1,
    TcpState::FinWait2,
    TcpState::Closing,
    TcpState::TimeWait,
    TcpState::CloseWait,
    TcpState::LastAck,
    TcpState::Close,
];

/// The columns of the table of namespaces, beside their total.
const NETNS_COLUMNS: [TcpState; 4] =
    [TcpState::Established, TcpState::FinWait2, TcpState::TimeWait, TcpState::CloseWait];

/// The columns of the table of groups, beside their total, with their heads.
const GROUP_COLUMNS: [(TcpState, &str); 4] = [
    (TcpState::Established, "ESTAB"),
    (TcpState::FinWait2, "FINWAIT2"),
    (TcpState::TimeWait, "TIMEWAIT"),
    (TcpState::CloseWait, "CLWAIT"),
];

/// Maximum number of groups in text output; JSON has more.
const MAX_GROUP_ROWS: usize = 20;

/// Maximum number of namespaces in text output; JSON has all.
const MAX_NETNS_ROWS: usize = 20;

/// Input of the view.
#[derive(Clone, Debug)]
pub struct States {
    /// The host that was counted.
    pub host: HostFacts,
    /// Time of the count, `CLOCK_MONOTONIC`.
    pub taken_at: Nanos,
    /// `live`, or the name of a recording.
    pub source: String,
    /// Every namespace that was counted.
    pub netns: Vec<NetnsCounts>,
    /// The same sockets by group, if requested.
    pub groups: Option<GroupedCounts>,
    /// Losses by cause; live, only kernel answers that could not be decoded.
    pub losses: Losses,
    /// Gaps in the counts, one sentence each.
    pub missing: Vec<String>,
}

/// Sockets by group.
#[derive(Clone, Debug)]
pub struct GroupedCounts {
    /// The grouping.
    pub grouping: Grouping,
    /// The groups.
    pub groups: Vec<Group>,
    /// Number of groups counted together, in the one called "other".
    pub other_groups: u64,
    /// Names of remote addresses.
    pub peer_names: Arc<PeerNames>,
}

impl States {
    /// The counts of all namespaces together.
    pub fn counts(&self) -> StateCounts {
        self.netns.iter().fold(StateCounts::default(), |mut sum, netns| {
            sum.merge(&netns.counts);
            sum
        })
    }

    fn wall_clock(&self) -> Timestamp {
        let exact = clock::wall(&self.host, self.taken_at);
        exact.round(Unit::Millisecond).unwrap_or(exact)
    }
}

/// Writes the table.
pub fn write_text(states: &States, out: &mut impl Write) -> io::Result<()> {
    let counts = states.counts();
    let total = counts.total();
    writeln!(out, "{}  {}  linux {}", states.wall_clock(), states.host.host, states.host.kernel)?;
    writeln!(out, "\n{:<12} {:>12} {:>7}", "STATE", "COUNT", "SHARE")?;
    for state in ORDER {
        write!(
            out,
            "{:<12} {:>12} {:>7}",
            state.name(),
            units::count(counts.get(state)),
            share(counts.get(state), total)
        )?;
        if state == TcpState::FinWait2 && counts.get(state) > 0 {
            let (orphan, held) = (counts.orphan_fin_wait2(), counts.held_fin_wait2());
            write!(out, "  {} orphan, {} held by a process", units::count(orphan), units::count(held))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{:<12} {:>12}", "total", units::count(total))?;
    if let Some(groups) = &states.groups {
        write_groups(groups, out)?;
    }
    if states.netns.len() > 1 {
        write_netns(states, out)?;
    }
    for (n, sentence) in states.missing.iter().enumerate() {
        writeln!(out, "{}missing: {sentence}", if n == 0 { "\n" } else { "" })?;
    }
    Ok(())
}

/// The groups with the most sockets.
fn write_groups(groups: &GroupedCounts, out: &mut impl Write) -> io::Result<()> {
    const KEY: usize = 28;
    let total = |group: &Group| group.counts.iter().sum::<u64>();
    let mut rows: Vec<&Group> = groups.groups.iter().filter(|group| total(group) > 0).collect();
    rows.sort_by(|a, b| total(b).cmp(&total(a)).then_with(|| a.key.cmp(&b.key)));
    if rows.is_empty() {
        return Ok(());
    }
    let head = fit(&groups.grouping.head(), KEY, true, Cut::End);
    write!(out, "\n{head} ROLE {:>9}", "TOTAL")?;
    for (_, head) in GROUP_COLUMNS {
        write!(out, " {head:>8}")?;
    }
    writeln!(out)?;
    for group in rows.iter().take(MAX_GROUP_ROWS) {
        let key = fit(&group.named_key(&groups.peer_names), KEY, true, Cut::Middle);
        write!(out, "{key} {:<4} {:>9}", role(group.role), units::count(total(group)))?;
        for (state, _) in GROUP_COLUMNS {
            write!(out, " {:>8}", units::count(group.counts[state.index()]))?;
        }
        writeln!(out)?;
    }
    let hidden = rows.len().saturating_sub(MAX_GROUP_ROWS);
    if hidden > 0 {
        writeln!(out, "and {hidden} more: --json has them")?;
    }
    if groups.other_groups > 0 {
        writeln!(out, "other: {} groups counted together", units::count(groups.other_groups))?;
    }
    Ok(())
}

fn write_netns(states: &States, out: &mut impl Write) -> io::Result<()> {
    let mut rows: Vec<_> = states.netns.iter().filter(|netns| netns.counts.total() > 0).collect();
    rows.sort_by_key(|netns| std::cmp::Reverse(netns.counts.total()));
    let has_hosts = rows.iter().any(|netns| netns.host != states.host.host);
    writeln!(out)?;
    if has_hosts {
        write!(out, "{:<19} ", "HOST")?;
    }
    write!(out, "{:<19} {:>12}", "NETNS", "TOTAL")?;
    for state in NETNS_COLUMNS {
        write!(out, " {:>11}", state.name())?;
    }
    writeln!(out)?;
    for netns in rows.iter().take(MAX_NETNS_ROWS) {
        let label = match &netns.name {
            Some(name) => text::sanitise(name).into_owned(),
            None if netns.is_own => format!("{} (own)", netns.id),
            None => netns.id.to_string(),
        };
        if has_hosts {
            write!(out, "{:<19.19} ", text::sanitise(&netns.host))?;
        }
        write!(out, "{label:<19.19} {:>12}", units::count(netns.counts.total()))?;
        for state in NETNS_COLUMNS {
            write!(out, " {:>11}", units::count(netns.counts.get(state)))?;
        }
        writeln!(out)?;
    }
    let (hidden, empty) = (rows.len().saturating_sub(MAX_NETNS_ROWS), states.netns.len() - rows.len());
    if hidden > 0 {
        writeln!(out, "and {hidden} more: --json has them all")?;
    }
    if empty > 0 {
        writeln!(out, "and {empty} without a TCP socket")?;
    }
    Ok(())
}

fn share(count: u64, total: u64) -> String {
    let percent = count as f64 * 100.0 / total as f64;
    match count {
        0 => "-".into(),
        _ if percent < 0.1 => "<0.1%".into(),
        _ => format!("{percent:.1}%"),
    }
}

/// Writes the JSON document and a newline.
pub fn write_json(states: &States, out: &mut impl Write) -> io::Result<()> {
    let counts = states.counts();
    let origin = Origin {
        taken_at: states.wall_clock().to_string(),
        host: text::sanitise(&states.host.host),
        kernel: text::sanitise(&states.host.kernel),
        source: text::sanitise(&states.source),
        loss: states.losses,
    };
    let document = StatesDocument {
        head: DocumentHead { schema: "tcptrace.states.v1", origin },
        counts: Counts::from(&counts),
        netns: states
            .netns
            .iter()
            .map(|netns| NetnsRow {
                host: text::sanitise(&netns.host),
                netns: netns.id.0,
                name: netns.name.as_deref().map(text::sanitise),
                counts: (&netns.counts).into(),
            })
            .collect(),
        group_by: states.groups.as_ref().map(|groups| groups.grouping.to_string()),
        other_groups: states.groups.as_ref().map(|groups| groups.other_groups),
        groups: states.groups.as_ref().map(|groups| {
            groups.groups.iter().map(|group| GroupRow::of(group, &groups.peer_names)).collect()
        }),
        missing: &states.missing,
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

#[derive(Serialize)]
struct StatesDocument<'a> {
    #[serde(flatten)]
    head: DocumentHead<'a>,
    #[serde(flatten)]
    counts: Counts,
    netns: Vec<NetnsRow<'a>>,
    /// `group_by`, `other_groups` and `groups` appear only with `--by`.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_groups: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<GroupRow<'a>>>,
    missing: &'a [String],
}

#[derive(Serialize)]
struct GroupRow<'a> {
    key: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Cow<'a, str>>,
    peer_name: Option<&'a str>,
    role: &'static str,
    total: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl<'a> GroupRow<'a> {
    fn of(group: &'a Group, names: &'a PeerNames) -> Self {
        Self {
            key: text::sanitise(&group.key),
            host: group.host.as_deref().map(text::sanitise),
            peer_name: group.peer_name(names).map(AsRef::as_ref),
            role: group.role.name(),
            total: group.counts.iter().sum(),
            counts: ORDER.into_iter().map(|state| (state.name(), group.counts[state.index()])).collect(),
        }
    }
}

#[derive(Serialize)]
struct NetnsRow<'a> {
    host: Cow<'a, str>,
    netns: u32,
    name: Option<Cow<'a, str>>,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Serialize)]
struct Counts {
    total: u64,
    states: Vec<StateRow>,
    fin_wait2: StatesFinWait2,
}

#[derive(Serialize)]
struct StateRow {
    state: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct StatesFinWait2 {
    orphan: u64,
    held: u64,
}

impl From<&StateCounts> for Counts {
    fn from(counts: &StateCounts) -> Self {
        Self {
            total: counts.total(),
            states: ORDER.map(|state| StateRow { state: state.name(), count: counts.get(state) }).into(),
            fin_wait2: StatesFinWait2 { orphan: counts.orphan_fin_wait2(), held: counts.held_fin_wait2() },
        }
    }
}

#[cfg(test)]
#[path = "states_tests.rs"]
mod tests;
