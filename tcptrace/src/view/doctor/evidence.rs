//! Queries on a snapshot that the findings share, and their common wording.

use super::finding::Who;
use crate::{
    aggregate::{
        Group, Snapshot, StackCall,
        host_counters::Surroundings,
        stuck_sockets::{One, StuckSockets},
    },
    lifecycle::{EndReason, Role},
    model::{Endpoint, NetnsId, TcpState, record::Process, text, units},
    view::stacks,
};

/// Maximum number of namespaces, processes and destinations named in one finding.
const MOST_NAMED: usize = 3;

/// Maximum number of stacks in one finding.
const MOST_CODE: usize = 2;

/// The snapshot under diagnosis.
pub struct Case<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
}

impl<'a> Case<'a> {
    pub const fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot }
    }

    /// Which moment sockets per state belong to.
    pub fn when(&self) -> &'static str {
        if self.snapshot.host.blind { "at the start" } else { "now" }
    }

    /// Every namespace that was polled.
    pub fn polled_netns(&self) -> impl Iterator<Item = (NetnsId, &'a Surroundings)> + use<'a> {
        self.snapshot.observed.netns.iter().map(|(&netns, surroundings)| (netns, surroundings))
    }

    /// Namespaces in which `counter` has grown, the largest growth first.
    pub fn grown(&self, counter: &str) -> Vec<(NetnsId, u64)> {
        let mut grown: Vec<_> = self
            .polled_netns()
            .filter_map(|(netns, surroundings)| Some((netns, surroundings.grown(counter)?)))
            .filter(|&(_, grown)| grown > 0)
            .collect();
        grown.sort_by_key(|&(_, grown)| std::cmp::Reverse(grown));
        grown
    }

    /// Numeric value of a setting in `netns`.
    pub fn setting(&self, netns: NetnsId, name: &str) -> Option<i64> {
        self.snapshot.observed.netns.get(&netns)?.number(name)
    }

    /// Whether `netns` is the tracer's own.
    fn is_own(&self, netns: NetnsId) -> bool {
        netns.0 == self.snapshot.host.netns
    }

    /// The name of `netns`; `None` for the tracer's own.
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

    /// `command`, prefixed so that it runs in `netns`.
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

    /// The `sysctl -w` command that sets `name` in `netns`.
    pub fn set(&self, netns: NetnsId, name: &str, value: impl std::fmt::Display) -> String {
        let value = value.to_string();
        let value = if value.contains(' ') { format!("\"{value}\"") } else { value };
        self.command(netns, &format!("sysctl -w {name}={value}"))
    }

    fn any_pid(&self, netns: NetnsId) -> Option<u32> {
        let stuck = self.snapshot.stuck.iter().filter(|stuck| stuck.netns == netns);
        let groups = self.snapshot.groups.iter().filter(|group| group.netns() == Some(netns));
        stuck
            .filter_map(|stuck| stuck.process.as_ref())
            .chain(groups.filter_map(|group| group.process.as_ref()))
            .map(|process| process.pid)
            .next()
    }

    /// Groups whose connections have this role.
    pub fn groups_of(&self, role: Role) -> impl Iterator<Item = &'a Group> + use<'a> {
        self.snapshot.groups.iter().filter(move |group| group.role == role)
    }

    /// Number of sockets in `netns` that ended by `reason`; of all namespaces if `netns` is `None`.
    pub fn ended(&self, netns: Option<NetnsId>, reason: EndReason) -> u64 {
        self.snapshot
            .groups
            .iter()
            .filter(|group| netns.is_none() || group.netns() == netns)
            .map(|group| group.ended[reason as usize] + group.orphans_ended[reason as usize])
            .sum()
    }

    /// The groups with the highest `count`.
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

    /// Service and process of `group`.
    pub fn who(&self, group: &Group, count: u64) -> Who {
        let service = group.service.map_or_else(|| group.key.clone(), |(_, service)| service.to_string());
        let peer_name = group.peer_name(&self.snapshot.peer_names).map(ToString::to_string);
        Who { service, peer_name, count, ..self.process(group.netns(), group.process.as_ref()) }
    }

    /// The remote end, with the name of its address.
    pub fn remote(&self, remote: Endpoint) -> String {
        self.snapshot.peer_names.with_name(remote.addr, remote)
    }

    fn peer_name(&self, remote: Endpoint) -> Option<String> {
        self.snapshot.peer_names.address(remote.addr).map(ToString::to_string)
    }

    /// A process and the destination that it connects to.
    pub fn destination(&self, netns: NetnsId, remote: Endpoint, process: &Process) -> Who {
        Who {
            service: remote.to_string(),
            peer_name: self.peer_name(remote),
            ..self.process(Some(netns), Some(process))
        }
    }

    /// A process in a network namespace.
    pub fn process(&self, netns: Option<NetnsId>, process: Option<&Process>) -> Who {
        Who {
            netns: netns.and_then(|netns| self.name(netns)),
            comm: process.map(|process| text::sanitise(&process.comm).into_owned()),
            name: process.map(|process| process.shown().into_owned()),
            pid: process.map(|process| process.pid),
            ..Who::default()
        }
    }

    /// Stuck sockets in `state`.
    pub fn stuck(&self, state: TcpState) -> impl Iterator<Item = &'a StuckSockets> + use<'a> {
        self.snapshot.stuck.iter().filter(move |stuck| stuck.state == state)
    }

    /// Process, service and oldest sockets of a row of stuck sockets.
    pub fn stuck_owner(&self, stuck: &StuckSockets, count: u64) -> Who {
        let descriptors = &self.snapshot.observed.descriptors;
        let oldest = stuck.oldest.first();
        Who {
            service: stuck.service.to_string(),
            peer_name: self.peer_name(stuck.service).filter(|_| stuck.role == Role::Outbound),
            count,
            fds: stuck.oldest.iter().filter_map(|one: &One| descriptors.get(&one.id).copied()).collect(),
            oldest: oldest.map(|one| one.age),
            at_least: oldest.map(|one| one.at_least),
            ..self.process(Some(stuck.netns), stuck.process.as_ref())
        }
    }

    /// The rows of `stuck` with the highest `count`.
    pub fn top_stuck_owners(
        &self,
        stuck: &[&StuckSockets],
        count: impl Fn(&StuckSockets) -> u64,
    ) -> Vec<Who> {
        let mut counted: Vec<(u64, &&StuckSockets)> =
            stuck.iter().map(|stuck| (count(stuck), stuck)).collect();
        counted.sort_by_key(|&(count, _)| std::cmp::Reverse(count));
        counted.iter().take(MOST_NAMED).map(|(count, stuck)| self.stuck_owner(stuck, *count)).collect()
    }

    /// The code that makes most calls of a program, a line each; none if no stacks were captured.
    pub fn code(&self, call: StackCall, process: &Process) -> Vec<String> {
        let what = call.phrase();
        let groups = self.snapshot.stacks.groups.iter();
        let of_program = groups.filter(|group| group.call == call && group.process.comm == process.comm);
        of_program
            .filter(|group| !group.stack.frames.is_empty())
            .take(MOST_CODE)
            .map(|group| {
                format!(
                    "{}{} {what} {}",
                    stacks::mark(group.is_estimate()),
                    units::count(group.calls),
                    group.stack.summary()
                )
            })
            .collect()
    }

    /// The code that opened or accepted sockets that now are in CLOSE_WAIT, likewise.
    pub fn code_of_close_wait(&self) -> Vec<String> {
        let leaks = self.snapshot.stacks.leaks.iter().filter(|leak| leak.close_wait > 0);
        let with_code = leaks.filter_map(|leak| {
            let (what, stack) = (leak.call.phrase(), leak.stack.as_ref()?);
            Some(format!("{} {what} {}", units::count(leak.close_wait), stack.summary()))
        });
        with_code.take(MOST_CODE).collect()
    }

    /// Watch time in words.
    pub fn watched(&self) -> String {
        units::duration(self.snapshot.ts.since(self.snapshot.began))
    }
}

/// Quotes a word for the shell.
fn quoted(word: &str) -> String {
    let word = text::sanitise(word);
    let is_plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+:@/".contains(&byte));
    if is_plain && !word.is_empty() {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
