//! Counts the sockets that `sock_diag` reports, through a filter. The tracker gets each socket as a seed (role, closer,
//! owner); a socket that matches counts in its state, and in its group if groups are requested.

use std::{collections::BTreeMap, io, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    aggregate::{Aggregate, Context, Grouping, HostNames, Scope, Snapshot},
    filter::Filter,
    lifecycle::{Event, Observer, Processes, Socket, Tracker, TrackerLimits},
    model::{
        NetnsId, Record, SeedSocket, SocketId, StateCounts, TcpState, peer_names::PeerNames,
        record::HostFacts, units::plural,
    },
    privileges,
    source::{
        self, NameOptions, host,
        netns::{self, Round},
        owners,
        sock_diag::{self, DumpError, StateMask, Summary},
    },
    view::states::GroupedCounts,
};

/// Result of a count.
pub struct SocketCount {
    /// Every namespace that can hold a matching socket.
    pub round: Round<Result<(StateCounts, Summary), DumpError>>,
    /// Whether the filter restricts the network namespaces.
    pub names_netns: bool,
    /// Matching sockets by group, if groups were requested.
    pub groups: Option<GroupedCounts>,
    /// Gaps because owners are unknown, one sentence each.
    pub missing: Vec<String>,
}

/// The sockets of one namespace.
struct Visited {
    sockets: Vec<SeedSocket>,
    summary: Summary,
    settings: Record,
}

/// The sockets of every namespace that `filter` may match.
type Listed = Round<Result<Visited, DumpError>>;

/// The sockets of this host, their owners and names.
struct Gathered {
    round: Listed,
    tracker: Tracker,
    /// Why owners may be unknown.
    missing: Vec<String>,
    /// Records with the names of owners.
    names: Vec<Record>,
}

/// Counts the sockets that match `filter`. Fails as [`netns::visit_each`] does.
pub fn count(
    filter: &Filter,
    grouping: Grouping,
    facts: &HostFacts,
    options: &NameOptions,
    peer_names: Arc<PeerNames>,
) -> io::Result<SocketCount> {
    let scope = filter.kernel_part();
    let needs_owners = filter.tests_owners() || grouping.needs_owners();
    let Gathered { round, tracker, missing, names } = gather(filter, needs_owners.then_some(options))?;

    let mut counts: FxHashMap<NetnsId, StateCounts> = FxHashMap::default();
    let mut aggregate = Aggregate::new(grouping, Scope::TimewaitSockets);
    for (id, socket) in tracker.sockets() {
        if filter.matches(&socket.subject(tracker.processes()), socket.state) {
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
        let host_names = host_names(&round, &names, options, peer_names);
        let snapshot = finish(aggregate, &tracker, &host_names, facts);
        GroupedCounts {
            grouping,
            groups: snapshot.groups,
            other_groups: snapshot.other_groups,
            peer_names: snapshot.peer_names,
        }
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
    Ok(SocketCount { round, names_netns: !source::may_be_in(&scope, NetnsId(u32::MAX)), groups, missing })
}

/// Returns the sockets that match `filter` as a snapshot without history, and the gaps in it. Fails as
/// [`netns::visit_each`] does.
pub fn snapshot(
    filter: &Filter,
    grouping: Grouping,
    facts: &HostFacts,
    options: &NameOptions,
    peer_names: Arc<PeerNames>,
) -> io::Result<(Snapshot, Vec<String>)> {
    let Gathered { round, tracker, mut missing, names } = gather(filter, Some(options))?;
    let mut aggregate = Aggregate::new(grouping, Scope::TimewaitSockets);
    for (netns, result) in &round.visited {
        match result {
            Ok(visited) => drop(aggregate.take(&visited.settings)),
            Err(error) => {
                missing.push(format!("network namespace {} was not read: {error}.", netns.id));
            }
        }
    }
    if !round.refused.is_empty() || round.unreadable_processes > 0 {
        missing.push(format!("other network namespaces: {}.", unreadable_reason()));
    }
    let scope = filter.kernel_part();
    if !facts.bound {
        missing.push(source::bound_ports::NOT_LISTED.into());
    }
    for record in source::conntrack::records(&scope).into_iter().chain(source::bound_ports::records(&scope)) {
        aggregate.take(&record);
    }
    for (id, socket) in tracker.sockets() {
        let mut socket = socket.clone();
        socket.counted.shown = filter.states(&socket.subject(tracker.processes()));
        aggregate.appeared(id, &mut socket, tracker.processes());
    }
    let host_names = host_names(&round, &names, options, peer_names);
    Ok((finish(aggregate, &tracker, &host_names, facts), missing))
}

/// Seeds a tracker with every socket that `filter` may match, and with their owners, if `owners` says how these are
/// named.
fn gather(filter: &Filter, owners: Option<&NameOptions>) -> io::Result<Gathered> {
    let scope = filter.kernel_part();
    let began = host::monotonic_now();
    let round = netns::visit_each(
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
    let mut tracker = Tracker::new(TrackerLimits::default());
    let visited = || round.visited.iter().filter_map(|(_, result)| result.as_ref().ok());
    let sockets = || visited().flat_map(|visited| &visited.sockets);
    sockets().for_each(|&socket| tracker.take(&Record::Seed(socket), &mut SilentObserver));
    tracker.take(&Record::SeedEnd { ts: host::monotonic_now(), began }, &mut SilentObserver);
    let (mut missing, mut names) = (None, Vec::new());
    if let Some(options) = owners {
        missing = assign_owners(&sockets(), &mut tracker);
        let owners = tracker.sockets().filter_map(|(_, socket)| tracker.processes().get(socket.process?));
        let owners: BTreeMap<_, _> = owners.map(|owner| ((owner.pid, &owner.comm), owner)).collect();
        names = source::names::owner_records(&owners.into_values().cloned().collect::<Vec<_>>(), options);
        for record in &names {
            tracker.take(record, &mut SilentObserver);
        }
        // Processes get the names of their cgroups when time passes.
        tracker.take(&Record::Tick { ts: host::monotonic_now() }, &mut SilentObserver);
    }
    Ok(Gathered { round, tracker, missing: missing.into_iter().collect(), names })
}

/// Returns the snapshot of `aggregate`.
fn finish(mut aggregate: Aggregate, tracker: &Tracker, names: &HostNames, facts: &HostFacts) -> Snapshot {
    let context = Context { host: Arc::new(facts.clone()), source: Arc::from("live"), ..Context::default() };
    aggregate.snapshot(host::monotonic_now(), tracker, names, context)
}

/// Names of the namespaces, of the cgroups of the owners, and of peers.
fn host_names(
    round: &Listed,
    owners: &[Record],
    options: &NameOptions,
    peer_names: Arc<PeerNames>,
) -> HostNames {
    let mut names = HostNames::default().with_peers(peer_names);
    let ts = host::monotonic_now();
    let visited = round.visited.iter().map(|(netns, _)| netns);
    for (netns, name) in visited.filter_map(|netns| Some((netns.id, netns.name.clone()?))) {
        names.take(&Record::NetnsName { ts, netns, name });
    }
    for record in owners.iter().chain(&source::names::address_records(options)) {
        names.take(record);
    }
    names
}

/// Why some processes could not be inspected.
pub fn unreadable_reason() -> &'static str {
    if privileges::may_inspect_processes() {
        "the kernel refuses it, although this process has CAP_SYS_PTRACE"
    } else {
        "reading them needs CAP_SYS_PTRACE, which root has"
    }
}

/// Passes the owners of `sockets` to the tracker; returns why some may be unknown.
fn assign_owners<'a>(
    sockets: &(impl Iterator<Item = &'a SeedSocket> + Clone),
    tracker: &mut Tracker,
) -> Option<String> {
    let held = || sockets.clone().filter(|socket| socket.inode != 0);
    let wanted: FxHashSet<u32> = held().map(|socket| socket.inode).collect();
    let mut found = match owners::find(&wanted) {
        Ok(found) => found,
        Err(error) => return Some(format!("owners of sockets are unknown: {error}.")),
    };
    let missing = found.missing(&wanted);
    let ts = host::monotonic_now();
    for socket in held() {
        if let Some(holder) = found.by_inode.remove(&socket.inode) {
            tracker.take(
                &Record::Owner { ts, id: socket.id, process: holder.process, fd: None },
                &mut SilentObserver,
            );
        }
    }
    tracker.take(&Record::OwnersEnd { ts }, &mut SilentObserver);
    missing.map(|(missing, process)| {
        format!(
            "{} no known owner, {process} could not be read: {}.",
            plural(missing as u64, "socket has", "sockets have"),
            unreadable_reason()
        )
    })
}

/// Ignores events: only the final state of the tracker matters.
struct SilentObserver;

impl Observer for SilentObserver {
    fn appeared(&mut self, _: SocketId, _: &mut Socket, _: &Processes) {}
    fn changed(&mut self, _: &Event<'_>, _: &mut Socket, _: &Processes) {}
    fn corrected(&mut self, _: TcpState, _: &mut Socket, _: &Processes) {}
    fn identified(&mut self, _: &mut Socket, _: &Processes) {}
    fn orphaned(&mut self, _: &mut Socket) {}
}
