//! Selects the groups that a report lists: the first of every ranking, and the rest merged into one. Also sums all.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeSet};

use crate::{
    aggregate::{DwellQuantiles, Group, GroupKey, Snapshot, TimeWaitEnds, TimewaitSockets},
    lifecycle::{Closer, EndReason, Role, Since},
    model::TcpState,
};

/// Number of groups to list, and the weight to rank them by.
type Ranking = (usize, fn(&Group) -> u64);

const RANKINGS: [Ranking; 5] = [
    (24, |group| group.time_wait.entered + group.time_wait.now),
    (12, connections_closed),
    (8, |group| group.counts[TcpState::CloseWait.index()]),
    (8, |group| group.counts[TcpState::FinWait2.index()]),
    (8, |group| group.counts.iter().sum()),
];

/// The groups of a report.
pub struct ReportGroups<'a> {
    /// The sum of all groups.
    pub all: Group,
    /// Listed groups, most TIME_WAIT first; the rest is merged into the last one.
    pub groups: Vec<Cow<'a, Group>>,
    /// Number of groups in the rest.
    pub other_groups: u64,
}

impl<'a> ReportGroups<'a> {
    /// Selects the groups of `snapshot`.
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let mut all = sum(GroupKey::ALL, "all", snapshot.groups.iter());
        for (state, of) in
            [(TcpState::TimeWait, &mut all.time_wait), (TcpState::FinWait2, &mut all.fin_wait2)]
        {
            let whole = snapshot.dwells.iter().find(|dwells| dwells.state == state && dwells.split.is_none());
            of.dwell = whole.map(|dwells| DwellQuantiles::of(&dwells.distribution)).unwrap_or_default();
        }
        let (others, own): (Vec<&Group>, Vec<&Group>) =
            snapshot.groups.iter().partition(|group| group.id == GroupKey::OTHER);
        let chosen = choose(&own);
        let mut listed: Vec<&Group> = chosen.iter().map(|&index| own[index]).collect();
        listed.sort_by_key(|group| Reverse((group.time_wait.entered, connections_closed(group))));
        let hidden = own.len() - chosen.len();
        let rest =
            own.iter().enumerate().filter(|(index, _)| !chosen.contains(index)).map(|(_, &group)| group);
        let rest: Vec<&Group> = rest.chain(others).collect();
        let mut groups: Vec<Cow<'a, Group>> = listed.into_iter().map(Cow::Borrowed).collect();
        if !rest.is_empty() {
            groups.push(Cow::Owned(sum(GroupKey::OTHER, "other", rest.into_iter())));
        }
        Self { all, groups, other_groups: snapshot.other_groups + hidden as u64 }
    }
}

/// Indices of the first of every ranking; a group with weight 0 in all of them is left out.
fn choose(groups: &[&Group]) -> BTreeSet<usize> {
    let mut chosen = BTreeSet::new();
    for (most, weight) in RANKINGS {
        let mut order: Vec<usize> = (0..groups.len()).filter(|&index| weight(groups[index]) > 0).collect();
        order.sort_by_key(|&index| Reverse(weight(groups[index])));
        chosen.extend(order.into_iter().take(most));
    }
    chosen
}

/// Connections that were closed or never established.
pub fn connections_closed(group: &Group) -> u64 {
    group.closed[1..].iter().sum()
}

/// Sums `groups` into one group. Quantiles cannot be summed and stay empty.
fn sum<'a>(id: GroupKey, key: &str, groups: impl Iterator<Item = &'a Group>) -> Group {
    let mut sum = Group {
        host: None,
        id,
        key: key.into(),
        service: None,
        role: Role::Unknown,
        has_place: false,
        counts: [0; TcpState::COUNT],
        process: None,
        other_processes: 0,
        closers: [0; Closer::ALL.len() + 1],
        closed: [0; Closer::ALL.len() + 1],
        ended: [0; EndReason::COUNT],
        orphans_ended: [0; EndReason::COUNT],
        connects_ended: [0; EndReason::COUNT],
        time_wait: TimewaitSockets::default(),
        fin_wait2: TimewaitSockets::default(),
        fin_wait2_orphan: 0,
        oldest_close_wait: None,
        close_wait_owner: None,
        dwells: Vec::new(),
        dwells_elsewhere: 0,
    };
    for group in groups {
        add(&mut sum.counts, &group.counts);
        add(&mut sum.closers, &group.closers);
        add(&mut sum.closed, &group.closed);
        add(&mut sum.ended, &group.ended);
        add(&mut sum.orphans_ended, &group.orphans_ended);
        add(&mut sum.connects_ended, &group.connects_ended);
        add_timewaits(&mut sum.time_wait, &group.time_wait);
        add_timewaits(&mut sum.fin_wait2, &group.fin_wait2);
        sum.fin_wait2_orphan += group.fin_wait2_orphan;
        sum.oldest_close_wait =
            sum.oldest_close_wait.into_iter().chain(group.oldest_close_wait).reduce(Since::older);
    }
    sum
}

fn add(sum: &mut [u64], counts: &[u64]) {
    for (sum, count) in sum.iter_mut().zip(counts) {
        *sum += count;
    }
}

fn add_timewaits(sum: &mut TimewaitSockets, of: &TimewaitSockets) {
    let TimewaitSockets { now, entered, entered_per_s, ended, dwell: _, dwell_bounds } = of;
    sum.now += now;
    sum.entered += entered;
    sum.entered_per_s += entered_per_s;
    TimeWaitEnds::add(&mut sum.ended, ended);
    sum.dwell_bounds += dwell_bounds;
}
