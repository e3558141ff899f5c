//! One look at the sockets there are, through a filter: each is known as the tracker would know it from its seed
//! (role, closer, owner), and counted when it matches in the state it is in, in its group where groups are wanted.

use std::{io, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    aggregate::{Aggregate, Context, Grouping, Names, Scope, Snapshot},
    filter::{Filter, Subject},
    lifecycle::{Event, Limits, Observer, Processes, Socket, Tracker},
    model::{NetnsId, Record, SeedSocket, SocketId, StateCounts, TcpState, record::HostFacts, units::plural},
    privileges,
    source::{
        self, host,
        netns::{self, Netns, Round},
        owners::{self, Effort},
        sock_diag::{self, DumpError, StateMask, Summary},
    },
    view::states::Groups,
};

/// What was counted.
pub struct Census {
    /// Every namespace that can hold a socket that matches.
    pub round: Round<Result<(StateCounts, Summary), DumpError>>,
    /// Whether the filter names the namespaces it wants.
    pub names_netns: bool,
    /// The sockets that match by group, where groups were wanted.
    pub groups: Option<Groups>,
    /// What may be missing because of the filter, a sentence each.
    pub missing: Vec<String>,
}

/// A look into one namespace.
struct Visited {
    sockets: Vec<SeedSocket>,
    summary: Summary,
    settings: Record,
}

/// A look into every namespace that `filter` asks about.
type Looked = Round<Result<Visited, DumpError>>;

/// Counts the sockets that match `filter`. Fails as [`netns::in_each`] does.
pub fn count(filter: &Filter, grouping: Grouping, facts: &HostFacts) -> io::Result<Census> {
    let scope = filter.kernel_part();
    let needs_owners = filter.asks_for_owners() || grouping.needs_owners();
    let (round, tracker, missing) = gather(filter, needs_owners)?;

    let mut counts: FxHashMap<NetnsId, StateCounts> = FxHashMap::default();
    let mut aggregate = Aggregate::new(grouping, Scope::Minisockets);
    for (id, socket) in tracker.sockets() {
        if filter.matches(&Subject::of(socket, tracker.processes()), socket.state) {
            let counts = counts.entry(socket.netns).or_default();
            if socket.is_orphan_fin_wait2() {
                counts.add_orphan_fin_wait2();
            } else {
                counts.add(socket.state);
            }
            if !grouping.is_none() {
                aggregate.appeared(id, &mut socket.clone(), tracker.processes());
            }
        }
    }
    let groups = (!grouping.is_none()).then(|| {
        let snapshot = picture(aggregate, &round, &tracker, facts);
        Groups { grouping, groups: snapshot.groups, other_groups: snapshot.other_groups }
    });
    let visited = round.visited.into_iter().map(|(netns, result)| {
        let counts = counts.remove(&netns.id).unwrap_or_default();
        (netns, result.map(|visited| (counts, visited.summary)))
    });
    let round = Round {
        visited: visited.collect(),
        refused: round.refused,
        unreadable_processes: round.unreadable_processes,
    };
    // No namespace has this number.
    Ok(Census { round, names_netns: !source::may_be_in(&scope, NetnsId(u32::MAX)), groups, missing })
}

/// The sockets that match `filter` as a snapshot without a past, and what may be missing in it. Fails as
/// [`netns::in_each`] does.
pub fn look(filter: &Filter, facts: &HostFacts) -> io::Result<(Snapshot, Vec<String>)> {
    let (round, tracker, mut missing) = gather(filter, true)?;
    let mut aggregate = Aggregate::new(Grouping::NONE, Scope::Minisockets);
    for (netns, result) in &round.visited {
        match result {
            Ok(visited) => drop(aggregate.take(&visited.settings)),
            Err(error) => {
                missing.push(format!("network namespace {} was not looked into: {error}.", netns.id));
            }
        }
    }
    if !round.refused.is_empty() || round.unreadable_processes > 0 {
        missing.push(format!("other network namespaces: {}.", why_unreadable()));
    }
    for (id, socket) in tracker.sockets() {
        let mut socket = socket.clone();
        socket.shown = filter.states(&Subject::of(&socket, tracker.processes()));
        aggregate.appeared(id, &mut socket, tracker.processes());
    }
    Ok((picture(aggregate, &round, &tracker, facts), missing))
}

/// Every socket that `filter` may be about, as the tracker knows it from its seed; and why some owners may not be
/// known.
fn gather(filter: &Filter, needs_owners: bool) -> io::Result<(Looked, Tracker, Vec<String>)> {
    let scope = filter.kernel_part();
    let began = host::monotonic_now();
    let round = netns::in_each(
        |netns| source::may_be_in(&scope, netns.id),
        |netns| {
            let ts = host::monotonic_now();
            let settings = Record::NetnsSettings { ts, netns: netns.id, sysctls: host::sysctls() };
            let mut sockets = Vec::new();
            let summary = sock_diag::for_each(StateMask::ALL, netns.id, |socket| {
                if scope.passes(&socket.tuple.ends(netns.id)) {
                    sockets.push(socket);
                }
            })?;
            Ok(Visited { sockets, summary, settings })
        },
    )?;
    let mut tracker = Tracker::new(Limits::default());
    let visited = || round.visited.iter().filter_map(|(_, result)| result.as_ref().ok());
    let sockets = || visited().flat_map(|visited| &visited.sockets);
    sockets().for_each(|&socket| tracker.take(&Record::Seed(socket), &mut Nobody));
    tracker.take(&Record::SeedEnd { ts: host::monotonic_now(), began }, &mut Nobody);
    let missing = if needs_owners { find_owners(&sockets(), &mut tracker) } else { None };
    Ok((round, tracker, missing.into_iter().collect()))
}

/// What `aggregate` has taken in, as a snapshot.
fn picture(mut aggregate: Aggregate, round: &Looked, tracker: &Tracker, facts: &HostFacts) -> Snapshot {
    let context = Context { host: Arc::new(facts.clone()), source: Arc::from("live"), ..Context::default() };
    let names = names(round.visited.iter().map(|(netns, _)| netns), tracker);
    aggregate.snapshot(host::monotonic_now(), tracker, &names, context)
}

/// The names of the namespaces, and of the cgroups that the owners are in.
fn names<'a>(visited: impl Iterator<Item = &'a Netns>, tracker: &Tracker) -> Names {
    let mut names = Names::default();
    names.netns.extend(visited.filter_map(|netns| Some((netns.id, netns.name.clone()?))));
    let owners = tracker.sockets().filter_map(|(_, socket)| tracker.processes().get(socket.process?));
    let cgroups = owners.map(|process| process.cgroup).filter(|&cgroup| cgroup != 0).collect();
    for record in source::names::of_cgroups(cgroups) {
        names.take(&record);
    }
    names
}

/// Why some processes could not be looked into.
pub fn why_unreadable() -> &'static str {
    if privileges::may_look_into_processes() {
        "the kernel refuses it, although this process has CAP_SYS_PTRACE"
    } else {
        "looking there takes CAP_SYS_PTRACE, which root has"
    }
}

/// Tells the tracker who holds `sockets`; returns why some may not be known.
fn find_owners<'a>(
    sockets: &(impl Iterator<Item = &'a SeedSocket> + Clone),
    tracker: &mut Tracker,
) -> Option<String> {
    let held = || sockets.clone().filter(|socket| socket.inode != 0);
    let wanted: FxHashSet<u32> = held().map(|socket| socket.inode).collect();
    let mut found = match owners::find(&wanted, Effort::UntilFound) {
        Ok(found) => found,
        Err(error) => return Some(format!("owners of sockets are unknown: {error}.")),
    };
    let ts = host::monotonic_now();
    for socket in held() {
        if let Some(holder) = found.by_inode.remove(&socket.inode) {
            tracker
                .take(&Record::Owner { ts, id: socket.id, process: holder.process, fd: None }, &mut Nobody);
        }
    }
    tracker.take(&Record::OwnersEnd { ts }, &mut Nobody);
    (found.unreadable_processes > 0).then(|| {
        format!(
            "sockets of {} have no known owner: {}.",
            plural(found.unreadable_processes.into(), "process", "processes"),
            why_unreadable()
        )
    })
}

/// Only what the tracker knows in the end matters.
struct Nobody;

impl Observer for Nobody {
    fn appeared(&mut self, _: SocketId, _: &mut Socket, _: &Processes) {}
    fn changed(&mut self, _: &Event<'_>, _: &mut Socket, _: &Processes) {}
    fn corrected(&mut self, _: TcpState, _: &mut Socket, _: &Processes) {}
    fn identified(&mut self, _: &mut Socket, _: &Processes) {}
    fn orphaned(&mut self, _: &mut Socket) {}
}
