//! Streams of records of several hosts, merged by time into one aggregate: each has its own tracker and tables.

use std::{collections::BTreeSet, sync::Arc};

use tcptrace_common::filter::KernelFilter;

use crate::{
    aggregate::{
        CleanupThrottle, HostNames, MergedOrigin, SocketOrigin, StreamTables, host_counters::Observed,
    },
    lifecycle::{Tracker, TrackerLimits},
    model::{
        incident::Incident,
        peer_names::PeerNames,
        record::{HostFacts, KernelLosses},
    },
};

/// What is known about the host that a stream of records comes from.
#[derive(Clone, Default)]
pub(super) struct StreamState {
    pub(super) host: Arc<HostFacts>,
    /// That of its sockets, of the same host.
    pub(super) origin: SocketOrigin,
    pub(super) losses: KernelLosses,
    pub(super) names: HostNames,
    pub(super) patience: CleanupThrottle,
    /// Records refused because a table was full.
    pub(super) refused: u64,
    pub(super) observed: Arc<Observed>,
    /// Whether the initial sockets and owners are complete.
    pub(super) seeded: bool,
}

/// A stream whose records are not processed now.
#[derive(Clone)]
struct ParkedStream {
    tracker: Box<Tracker>,
    stream: Box<StreamState>,
}

/// All merged streams; empty if there is only one.
#[derive(Clone, Default)]
pub(super) struct MergedStreams {
    /// By number. The current one is a placeholder.
    parked: Vec<ParkedStream>,
    current: usize,
    /// Names of remote addresses that every stream starts with.
    pub(super) peer_names: Arc<PeerNames>,
}

/// Names of hosts that are listed in the head of a view.
const LISTED_HOSTS: usize = 3;

impl MergedStreams {
    /// Whether records of several streams are merged. Then times are of the wall clock.
    pub(super) const fn are_merged(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Exchanges the current `tracker` and `stream` for those of stream `number`: new ones if it is unknown.
    pub(super) fn enter(
        &mut self,
        number: u16,
        scope: &KernelFilter,
        tracker: &mut Box<Tracker>,
        stream: &mut Box<StreamState>,
    ) {
        let number = usize::from(number);
        while self.parked.len() <= number {
            let names = HostNames::default().with_peers(Arc::clone(&self.peer_names));
            self.parked.push(ParkedStream {
                tracker: Box::new(Tracker::new(TrackerLimits::default()).scoped(*scope)),
                stream: Box::new(StreamState { names, ..StreamState::default() }),
            });
        }
        for number in [std::mem::replace(&mut self.current, number), number] {
            let parked = &mut self.parked[number];
            std::mem::swap(&mut parked.tracker, tracker);
            std::mem::swap(&mut parked.stream, stream);
        }
        if stream.origin.merged.is_none() {
            stream.origin = self.origin(&stream.host);
        }
    }

    /// Origin of the sockets of the current stream, whose host is `host`.
    pub(super) fn origin(&self, host: &HostFacts) -> SocketOrigin {
        let merged = MergedOrigin { stream: self.current as u16, own_netns: host.netns };
        SocketOrigin { host: host.host.as_str().into(), merged: self.are_merged().then_some(merged) }
    }

    /// The tables of all streams by number; `tracker` and `stream` are the current ones.
    pub(super) fn tables<'a>(
        &'a self,
        tracker: &'a Tracker,
        stream: &'a StreamState,
    ) -> Vec<StreamTables<'a>> {
        self.all(tracker, stream)
            .map(|(tracker, stream)| StreamTables { tracker, names: &stream.names, host: &stream.host })
            .collect()
    }

    /// Facts about the host; of several, what they have in common.
    pub(super) fn host_facts(&self, tracker: &Tracker, stream: &StreamState) -> Arc<HostFacts> {
        if !self.are_merged() {
            return Arc::clone(&stream.host);
        }
        let all: Vec<&HostFacts> = self.all(tracker, stream).map(|(_, stream)| &*stream.host).collect();
        let distinct =
            |of: fn(&HostFacts) -> &str| -> BTreeSet<&str> { all.iter().map(|host| of(host)).collect() };
        let hosts = distinct(|host| &host.host);
        let limits: BTreeSet<String> = all
            .iter()
            .flat_map(|host| host.limits.iter().map(|limit| format!("{}: {limit}", host.host)))
            .collect();
        let join = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
        let mut incidents = Vec::new();
        for host in &all {
            let of_host = |incident: &Incident| Incident {
                title: format!("{}: {}", host.host, incident.title),
                ..incident.clone()
            };
            Incident::merge(&mut incidents, &host.incidents.iter().map(of_host).collect::<Vec<_>>());
        }
        Arc::new(HostFacts {
            incidents,
            host: if hosts.len() > LISTED_HOSTS { format!("{} hosts", hosts.len()) } else { join(hosts) },
            kernel: join(distinct(|host| &host.kernel)),
            segments: all.iter().all(|host| host.segments),
            ends: all.iter().all(|host| host.ends),
            bound: all.iter().all(|host| host.bound),
            blind: all.iter().any(|host| host.blind),
            limits: limits.into_iter().collect(),
            ..HostFacts::default()
        })
    }

    /// Losses of all streams on the kernel side, and records refused by their tables.
    pub(super) fn losses(&self, tracker: &Tracker, stream: &StreamState) -> (KernelLosses, u64) {
        self.all(tracker, stream).fold((KernelLosses::default(), 0), |(losses, refused), (_, stream)| {
            (losses.plus(&stream.losses), refused + stream.refused)
        })
    }

    fn all<'a>(
        &'a self,
        tracker: &'a Tracker,
        stream: &'a StreamState,
    ) -> impl Iterator<Item = (&'a Tracker, &'a StreamState)> {
        (0..self.parked.len().max(1)).map(move |number| match self.parked.get(number) {
            Some(parked) if number != self.current => (&*parked.tracker, &*parked.stream),
            _ => (tracker, stream),
        })
    }
}
