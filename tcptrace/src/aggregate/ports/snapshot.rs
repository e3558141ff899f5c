//! What is shown of local ports: every destination with its level, its rates and its outlook.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Flow, PortSettings, Ports, destination::Destination, predict::Ending};
use crate::{
    aggregate::{Names, table::OTHER},
    model::{Endpoint, Nanos, NetnsId, TcpState, Tuple, record::Process},
};

/// Destinations in one snapshot.
const MOST_SHOWN: usize = 1_000;
/// `connect()` finds no port now when it found none such a short time ago.
const JUST_NOW: Nanos = Nanos(2 * Nanos::SECOND.0);
/// How long a TIME_WAIT lasts (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT: Nanos = Nanos(60 * Nanos::SECOND.0);
/// How late its timer may be.
const LATEST: Nanos = Nanos(2 * Nanos::SECOND.0);

/// Local ports at one moment.
#[derive(Clone, Debug, Default)]
pub struct PortsSnapshot {
    /// The namespaces that the destinations are in, by number.
    pub netns: Vec<NetnsPorts>,
    /// Every destination that connections from here have or had, the one that runs out first at the top.
    pub destinations: Vec<DestinationPorts>,
    /// Destinations that are left out for want of room, and those counted together.
    pub others: u64,
}

impl PortsSnapshot {
    /// The namespace that `destination` is in.
    pub fn netns_of(&self, destination: &DestinationPorts) -> Option<&NetnsPorts> {
        self.netns.iter().find(|netns| netns.netns == destination.netns)
    }
}

/// The ports of one network namespace.
#[derive(Clone, Debug)]
pub struct NetnsPorts {
    /// Which one.
    pub netns: NetnsId,
    /// Its name in `ip netns`. Untrusted.
    pub name: Option<Arc<str>>,
    /// Its settings, where they are known.
    pub settings: Option<PortSettings>,
    /// Ports of the range that `bind()` and `listen()` keep from every destination.
    pub taken: u64,
}

impl NetnsPorts {
    /// Ports that a destination may have at the most.
    pub fn available(&self) -> Option<u64> {
        self.settings.as_ref().map(|settings| settings.size().saturating_sub(self.taken))
    }
}

/// Whether TIME_WAIT keeps its port from new connections to the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwReuse {
    /// The settings of the namespace are not known.
    Unknown,
    /// `tcp_tw_reuse` is 0.
    Off,
    /// It is 2, and the destination is not on loopback.
    NotLoopback,
    /// It is on, but `tcp_timestamps` is 0.
    NoTimestamps,
    /// It is on, and yet no port was found: the peer may not use timestamps.
    Failing,
    /// A port in TIME_WAIT is taken over when it is old enough.
    On,
}

impl TwReuse {
    /// As written in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Off => "off",
            Self::NotLoopback => "not_loopback",
            Self::NoTimestamps => "no_timestamps",
            Self::Failing => "failing",
            Self::On => "on",
        }
    }

    fn of(settings: Option<&PortSettings>, destination: &Destination) -> Self {
        let Some(settings) = settings else { return Self::Unknown };
        let key = destination.key;
        let tuple =
            Tuple { saddr: key.saddr, daddr: key.daddr, sport: 0, dport: key.dport, ifindex: key.ifindex };
        match settings.tw_reuse {
            None => Self::Unknown,
            Some(0) => Self::Off,
            Some(_) if !settings.timestamps => Self::NoTimestamps,
            Some(_) if settings.reuses(&tuple) => Self::On,
            Some(_) => Self::NotLoopback,
        }
    }
}

/// The ports of one destination.
#[derive(Clone, Debug)]
pub struct DestinationPorts {
    /// Network namespace.
    pub netns: NetnsId,
    /// The local address.
    pub local: Endpoint,
    /// The remote end.
    pub remote: Endpoint,
    /// Whether it keeps a place among those shown, see [`crate::aggregate::Aggregate::with_places`].
    pub has_place: bool,
    /// Connections whose port `connect()` chose, indexed by [`TcpState::index`].
    pub counts: [u64; TcpState::COUNT],
    /// All of them: the ports in use.
    pub used: u64,
    /// Ports that it may have in all; `None` where the settings of the namespace are not known.
    pub available: Option<u64>,
    /// Connections whose port `bind()` took before `connect()`, which takes it from every destination.
    pub bound: u64,
    /// Connections whose port lies outside the range, or is reserved.
    pub outside: u64,
    /// Ports taken by `connect()`, per second, over the last seconds.
    pub entered_per_s: f64,
    /// Ports given back, likewise.
    pub left_per_s: f64,
    /// Ports held that new connections can't have, when the rates have been as they are for long.
    pub predicted: u64,
    /// The same, were a TIME_WAIT's port reused after [`PortSettings::reuse_delay`].
    pub predicted_with_reuse: u64,
    /// In how long there will be no port left; 0: there is none now; `None`: there will always be one.
    pub exhausted_in: Option<Nanos>,
    /// `connect()` calls that found no port.
    pub connect_failures: u64,
    /// Whether TIME_WAIT keeps its port.
    pub reuse: TwReuse,
    /// Ports in TIME_WAIT that `connect()` may take over now.
    pub reusable: u64,
    /// Ports in TIME_WAIT that `connect()` has taken over.
    pub reused: u64,
    /// The processes that opened them, those with the most first.
    pub processes: Vec<Process>,
    /// How many more there are.
    pub other_processes: u64,
}

impl DestinationPorts {
    /// Connections now in `state`, of those in `used`.
    pub const fn count(&self, state: TcpState) -> u64 {
        self.counts[state.index()]
    }

    /// Ports that new connections can't have.
    pub const fn held(&self) -> u64 {
        self.used.saturating_sub(self.reusable)
    }

    /// How much of what is available is held, in `0.0..`.
    pub fn share(&self) -> f64 {
        self.available.map_or(0.0, |available| self.held() as f64 / available.max(1) as f64)
    }

    /// What makes it this destination.
    const fn id(&self) -> (NetnsId, Endpoint, Endpoint) {
        (self.netns, self.local, self.remote)
    }

    /// Its claim to a place: how much is held of what is available, in millionths; of those that run out, which
    /// weigh more than all others, it is the sooner the more.
    fn weight(&self) -> u64 {
        const MILLION: u64 = 1_000_000;
        const HOUR: Nanos = Nanos(3_600 * Nanos::SECOND.0);
        self.exhausted_in.map_or_else(
            || (self.share().min(1.0) * MILLION as f64) as u64,
            |left| 3 * MILLION + HOUR.0 / left.max(Nanos::SECOND).0.div_ceil(MILLION),
        )
    }

    /// What comes first: whoever runs out first, then whoever has the least left.
    fn urgency(&self) -> (bool, Option<Nanos>, Reverse<u64>, Reverse<u64>, Endpoint, Endpoint) {
        let share = Reverse((self.share() * 1e6) as u64);
        (
            self.exhausted_in.is_none(),
            self.exhausted_in,
            share,
            Reverse(self.used + self.bound),
            self.remote,
            self.local,
        )
    }
}

impl Ports {
    /// The destinations that matched the filter, at `now`.
    pub(in crate::aggregate) fn snapshot(&mut self, now: Nanos, names: &Names) -> PortsSnapshot {
        let taken = self.taken_in_range();
        let Self { settings, destinations, .. } = self;
        let wanted = destinations.iter_mut().filter(|(index, row)| *index != OTHER && is_shown(row));
        let mut destinations: Vec<DestinationPorts> = wanted
            .map(|(_, row)| {
                let settings = settings.get(&row.key.netns);
                let taken = taken.get(&row.key.netns).copied().unwrap_or_default();
                row.snapshot(now, settings, taken)
            })
            .collect();
        destinations.sort_by_cached_key(DestinationPorts::urgency);
        self.places.give(now, destinations.iter().map(|row| (row.id(), row.weight())));
        for row in &mut destinations {
            row.has_place = self.places.has(&row.id());
        }
        let all = destinations.len();
        let mut first = 0..MOST_SHOWN;
        destinations.retain(|row| first.next().is_some() || row.has_place);
        let hidden = (all - destinations.len()) as u64;
        let there: BTreeSet<NetnsId> = destinations.iter().map(|row| row.netns).collect();
        let netns = there.into_iter().map(|netns| NetnsPorts {
            netns,
            name: names.netns.get(&netns).cloned(),
            settings: self.settings.get(&netns).cloned(),
            taken: taken.get(&netns).copied().unwrap_or_default(),
        });
        PortsSnapshot { netns: netns.collect(), destinations, others: hidden + self.destinations.taken_out() }
    }

    /// By namespace, how many ports of its range are kept from every destination.
    fn taken_in_range(&self) -> BTreeMap<NetnsId, u64> {
        let mut taken = BTreeMap::new();
        for &(netns, port) in self.taken.keys() {
            if self.settings.get(&netns).is_some_and(|settings| settings.offers(port)) {
                *taken.entry(netns).or_default() += 1;
            }
        }
        taken
    }
}

/// Whether there is something to tell.
fn is_shown(row: &Destination) -> bool {
    row.is_wanted
        && (row.held() + u64::from(row.bound) + u64::from(row.outside) + row.failures + row.reused > 0)
}

impl Destination {
    fn snapshot(&mut self, now: Nanos, settings: Option<&PortSettings>, taken: u64) -> DestinationPorts {
        let used = self.held();
        let in_time_wait = self.in_time_wait();
        let reuse = TwReuse::of(settings, self);
        let delay = settings.map_or(Nanos::SECOND, |settings| settings.reuse_delay);
        let young = self.time_wait.endings(now, delay);
        let old_enough = in_time_wait.saturating_sub(young.iter().map(|ending| ending.ports).sum());
        let is_failing = self.last_failure.is_some_and(|ts| now.since(ts) < JUST_NOW);
        let reuse =
            if reuse == TwReuse::On && is_failing && old_enough > 0 { TwReuse::Failing } else { reuse };
        let (entered, closed) = (self.opened.per_second(now), self.closed.per_second(now));
        let lingered = self.lingered.per_second(now);
        let is_reused = reuse == TwReuse::On;
        let available = settings.map(|settings| settings.size().saturating_sub(taken));
        let flow = Flow {
            available: available.unwrap_or(u64::MAX),
            open: used - in_time_wait.min(used),
            time_wait: if is_reused { young } else { self.endings(now, in_time_wait) },
            time_wait_for: if is_reused { delay } else { TIME_WAIT },
            opened_per_s: entered.per_s,
            closed_per_s: closed.per_s,
            time_wait_per_s: lingered.per_s,
            spread_per_s: entered.spread.hypot(closed.spread).hypot(lingered.spread),
        };
        DestinationPorts {
            netns: self.key.netns,
            local: Endpoint { addr: self.key.saddr, port: 0, ifindex: self.key.ifindex },
            remote: Endpoint { addr: self.key.daddr, port: self.key.dport, ifindex: self.key.ifindex },
            has_place: false,
            counts: self.counts.map(u64::from),
            used,
            available,
            bound: self.bound.into(),
            outside: self.outside.into(),
            entered_per_s: entered.per_s,
            left_per_s: self.returned.per_second(now).per_s,
            predicted: flow.predicted(),
            predicted_with_reuse: Flow { time_wait_for: delay, ..flow.clone() }.predicted(),
            exhausted_in: if is_failing { Some(Nanos(0)) } else { flow.exhausted_in() },
            connect_failures: self.failures,
            reuse,
            reusable: if is_reused { old_enough } else { 0 },
            reused: self.reused,
            processes: self.owners.most(),
            other_processes: self.owners.beyond(),
        }
    }

    /// When the sockets in TIME_WAIT will end. Those whose minute is over wait for a late timer.
    fn endings(&mut self, now: Nanos, in_time_wait: u64) -> Vec<Ending> {
        let known = self.time_wait.endings(now, TIME_WAIT);
        let ports = in_time_wait.saturating_sub(known.iter().map(|ending| ending.ports).sum());
        let late = Ending { from: Nanos(0), until: LATEST, ports };
        std::iter::once(late).filter(|late| late.ports > 0).chain(known).collect()
    }
}
