//! What the rows ask of a snapshot, and the words that they share.

use super::Who;
use crate::{
    aggregate::{
        Group, Snapshot,
        observed::Surroundings,
        standing::{One, Standing},
    },
    lifecycle::{EndReason, Role},
    model::{NetnsId, TcpState, record::Process, text, units},
};

/// Namespaces, processes and destinations named in one finding.
const MOST_NAMED: usize = 3;

/// A snapshot being looked at.
pub struct Case<'a> {
    /// It.
    pub snapshot: &'a Snapshot,
}

impl<'a> Case<'a> {
    pub const fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot }
    }

    /// Every namespace that was looked at.
    pub fn netns(&self) -> impl Iterator<Item = (NetnsId, &'a Surroundings)> + use<'a> {
        self.snapshot.observed.netns.iter().map(|(&netns, surroundings)| (netns, surroundings))
    }

    /// Namespaces in which `counter` has grown, those in which it has most first.
    pub fn grown(&self, counter: &str) -> Vec<(NetnsId, u64)> {
        let mut grown: Vec<_> = self
            .netns()
            .filter_map(|(netns, surroundings)| Some((netns, surroundings.grown(counter)?)))
            .filter(|&(_, grown)| grown > 0)
            .collect();
        grown.sort_by_key(|&(_, grown)| std::cmp::Reverse(grown));
        grown
    }

    /// The number that a setting has in `netns`.
    pub fn setting(&self, netns: NetnsId, name: &str) -> Option<i64> {
        self.snapshot.observed.netns.get(&netns)?.number(name)
    }

    /// Whether `netns` is the tracer's own.
    fn is_own(&self, netns: NetnsId) -> bool {
        netns.0 == self.snapshot.host.netns
    }

    /// How to call `netns`, unless it is the tracer's own.
    pub fn name(&self, netns: NetnsId) -> Option<String> {
        if self.is_own(netns) {
            return None;
        }
        let name =
            self.snapshot.observed.netns.get(&netns).and_then(|surroundings| surroundings.name.clone());
        Some(name.map_or_else(|| netns.to_string(), |name| text::sanitise(&name).into_owned()))
    }

    /// ` in netns blue`, or nothing for the tracer's own.
    pub fn place(&self, netns: NetnsId) -> String {
        self.name(netns).map(|name| format!(" in netns {name}")).unwrap_or_default()
    }

    /// A command as it is run in `netns`.
    pub fn command(&self, netns: NetnsId, command: &str) -> String {
        if self.is_own(netns) {
            return command.to_owned();
        }
        let name =
            self.snapshot.observed.netns.get(&netns).and_then(|surroundings| surroundings.name.clone());
        match (name, self.any_pid(netns)) {
            (Some(name), _) => format!("ip netns exec {} {command}", quoted(&name)),
            (None, Some(pid)) => format!("nsenter -t {pid} -n {command}"),
            (None, None) => format!("nsenter -t PID -n {command} (PID: any process in netns {netns})"),
        }
    }

    /// The command that sets `net.ipv4.NAME`.
    pub fn set(&self, netns: NetnsId, name: &str, value: impl std::fmt::Display) -> String {
        let value = value.to_string();
        let value = if value.contains(' ') { format!("\"{value}\"") } else { value };
        self.command(netns, &format!("sysctl -w {name}={value}"))
    }

    fn any_pid(&self, netns: NetnsId) -> Option<u32> {
        let standing = self.snapshot.standing.iter().filter(|standing| standing.netns == netns);
        let groups = self.snapshot.groups.iter().filter(|group| group.netns() == Some(netns));
        standing
            .filter_map(|standing| standing.process.as_ref())
            .chain(groups.filter_map(|group| group.process.as_ref()))
            .map(|process| process.pid)
            .next()
    }

    /// Groups of connections that were opened in this way.
    pub fn groups(&self, role: Role) -> impl Iterator<Item = &'a Group> + use<'a> {
        self.snapshot.groups.iter().filter(move |group| group.role == role)
    }

    /// How many sockets of `netns` ended by `reason`; all namespaces when there is none.
    pub fn ended(&self, netns: Option<NetnsId>, reason: EndReason) -> u64 {
        self.snapshot
            .groups
            .iter()
            .filter(|group| netns.is_none() || group.netns() == netns)
            .map(|group| group.ended[reason as usize] + group.orphans_ended[reason as usize])
            .sum()
    }

    /// Who has most of what `count` counts.
    pub fn by_count(&self, count: impl Fn(&Group) -> u64) -> Vec<Who> {
        let mut counted: Vec<(u64, &Group)> = self
            .snapshot
            .groups
            .iter()
            .map(|group| (count(group), group))
            .filter(|&(count, _)| count > 0)
            .collect();
        counted.sort_by_key(|&(count, _)| std::cmp::Reverse(count));
        counted.iter().take(MOST_NAMED).map(|(count, group)| self.who(group, *count)).collect()
    }

    /// The service and process of `group`.
    pub fn who(&self, group: &Group, count: u64) -> Who {
        let service = group.service.map_or_else(|| group.key.clone(), |(_, service)| service.to_string());
        Who { service, count, ..self.process(group.netns(), group.process.as_ref()) }
    }

    fn process(&self, netns: Option<NetnsId>, process: Option<&Process>) -> Who {
        Who {
            netns: netns.and_then(|netns| self.name(netns)),
            comm: process.map(|process| text::sanitise(&process.comm).into_owned()),
            pid: process.map(|process| process.pid),
            ..Who::default()
        }
    }

    /// Sockets that stand in `state`.
    pub fn standing(&self, state: TcpState) -> impl Iterator<Item = &'a Standing> + use<'a> {
        self.snapshot.standing.iter().filter(move |standing| standing.state == state)
    }

    /// A process with sockets that stand.
    pub fn who_stands(&self, standing: &Standing, count: u64) -> Who {
        let descriptors = &self.snapshot.observed.descriptors;
        let oldest = standing.oldest.first();
        Who {
            service: standing.service.to_string(),
            count,
            fds: standing.oldest.iter().filter_map(|one: &One| descriptors.get(&one.id).copied()).collect(),
            oldest: oldest.map(|one| one.age),
            at_least: oldest.map(|one| one.at_least),
            ..self.process(Some(standing.netns), standing.process.as_ref())
        }
    }

    /// Whoever has most of `standing`, counted by `count`.
    pub fn most_standing(&self, standing: &[&Standing], count: impl Fn(&Standing) -> u64) -> Vec<Who> {
        let mut counted: Vec<(u64, &&Standing)> =
            standing.iter().map(|standing| (count(standing), standing)).collect();
        counted.sort_by_key(|&(count, _)| std::cmp::Reverse(count));
        counted.iter().take(MOST_NAMED).map(|(count, standing)| self.who_stands(standing, *count)).collect()
    }

    /// How long it was watched, in words.
    pub fn watched(&self) -> String {
        units::duration(self.snapshot.ts.since(self.snapshot.began))
    }
}

/// A word that a shell takes as it is.
fn quoted(word: &str) -> String {
    let word = text::sanitise(word);
    let is_plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+:@/".contains(&byte));
    if is_plain && !word.is_empty() {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
