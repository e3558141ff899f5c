//! Snapshot of local ports: level, rates and prediction per destination.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    BindPorts, NatSnapshot, PortFlow, PortSettings, Ports, SearchTimes,
    destination::Destination,
    predict::{EXHAUSTION_HORIZON, MIN_HELD_SHARE, PortReturn},
    rate::Rate,
};
use crate::{
    aggregate::{HostNames, table::OTHER},
    model::{Endpoint, Nanos, NetnsId, TcpState, Tuple, nat::Backend, record::Process},
};

/// Maximum number of destinations in a snapshot, besides the sticky top N.
const MAX_DESTINATIONS_SHOWN: usize = 1_000;
/// A failure this recent means that `connect()` finds no port now.
const RECENT_FAILURE: Nanos = Nanos(2 * Nanos::SECOND.0);
/// Duration of TIME_WAIT (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT: Nanos = Nanos(60 * Nanos::SECOND.0);
/// Maximum delay of a TIME_WAIT timer.
const MAX_TIMER_DELAY: Nanos = Nanos(2 * Nanos::SECOND.0);

/// Local ports at one moment.
#[derive(Clone, Debug, Default)]
pub struct PortsSnapshot {
    /// Namespaces of the destinations and of the local addresses, ascending.
    pub netns: Vec<NetnsPorts>,
    /// Destinations that connections from this host have or had, the earliest exhaustion first.
    pub destinations: Vec<DestinationPorts>,
    /// Destinations omitted by the limits of the snapshot or of the table.
    pub others: u64,
    /// Local addresses whose ports `bind()` holds, those with the most ports first.
    pub binds: Vec<BindPorts>,
    /// Addresses and ports that `binds` omits because of its limits.
    pub other_binds: u64,
    /// Ports of translated source addresses.
    pub nat: NatSnapshot,
}

impl PortsSnapshot {
    /// The ports of namespace `netns`.
    pub fn netns(&self, netns: NetnsId) -> Option<&NetnsPorts> {
        self.netns.iter().find(|of| of.netns == netns)
    }
}

/// The ports of one network namespace.
#[derive(Clone, Debug)]
pub struct NetnsPorts {
    /// Namespace id.
    pub netns: NetnsId,
    /// Its name in `ip netns`. Untrusted.
    pub name: Option<Arc<str>>,
    /// Port settings, if known.
    pub settings: Option<PortSettings>,
    /// Ports of the range that `bind()`, with or without a connection, and `listen()` make unavailable to every destination.
    pub taken: u64,
}

impl NetnsPorts {
    /// Maximum number of ports for one destination.
    pub fn available(&self) -> Option<u64> {
        self.settings.as_ref().map(|settings| settings.size().saturating_sub(self.taken))
    }
}

/// Whether `connect()` may reuse a TIME_WAIT port for the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwReuse {
    /// The settings of the namespace are unknown.
    Unknown,
    /// `tcp_tw_reuse` is 0.
    Off,
    /// It is 2, and the destination is not on loopback.
    NotLoopback,
    /// It is on, but `tcp_timestamps` is 0.
    NoTimestamps,
    /// It is on, but `connect()` skipped TIME_WAIT sockets that were old enough and reused none: the peer may not use
    /// timestamps.
    Failing,
    /// A TIME_WAIT port is reused when it is old enough.
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
    /// Where NAT sends its connections instead (DNAT), those with the most connections first.
    pub backends: Vec<Backend>,
    /// Whether it is one of the sticky top N, see [`crate::aggregate::Aggregate::with_places`].
    pub has_place: bool,
    /// Connections whose port `connect()` chose, indexed by [`TcpState::index`].
    pub counts: [u64; TcpState::COUNT],
    /// Ports in use: the sum of `counts`. Never more than `available`.
    pub used: u64,
    /// Budget of the destination, see [`NetnsPorts::available`]; includes the ports that it holds, even if `bind()`
    /// took one of them again later. `None` if the settings of the namespace are unknown.
    pub available: Option<u64>,
    /// Number of unavailable ports from which on `connect()` searches long: those of the parity that it tries first
    /// (`__inet_hash_connect()`). If all of them are held, it has tried half of the range before it finds a free one.
    /// `None` like `available`.
    pub slow_above: Option<u64>,
    /// Time that `connect()` searches for a port, over the last seconds. `None` without a connect.
    pub search: Option<SearchTimes>,
    /// Connections whose port came from `bind()` before `connect()`, which makes it unavailable to every destination.
    pub bound: u64,
    /// Connections whose port is outside the range, or reserved.
    pub outside: u64,
    /// Ports per second taken by `connect()`, over the last seconds.
    pub entered_per_s: f64,
    /// Ports per second returned, over the last seconds.
    pub left_per_s: f64,
    /// Steady-state level of ports unavailable to new connections at the current rates.
    pub predicted: u64,
    /// The same level if TIME_WAIT ports were reused after [`PortSettings::reuse_delay`].
    pub predicted_with_reuse: u64,
    /// Time until no port is left; 0: none is left now; `None`: never at these rates, or the budget is unknown.
    pub exhausted_in: Option<Nanos>,
    /// `connect()` calls that found no port.
    pub connect_failures: u64,
    /// Ports of the budget that no connection held at the latest of them.
    pub free_at_failure: Option<u64>,
    /// Whether TIME_WAIT ports can be reused.
    pub reuse: TwReuse,
    /// TIME_WAIT ports that `connect()` may reuse now.
    pub reusable: u64,
    /// TIME_WAIT ports that `connect()` has reused.
    pub reused: u64,
    /// Processes that opened the connections, most connections first.
    pub processes: Vec<Process>,
    /// Number of further processes.
    pub other_processes: u64,
}

impl DestinationPorts {
    /// Connections now in `state`, a part of `used`.
    pub const fn count(&self, state: TcpState) -> u64 {
        self.counts[state.index()]
    }

    /// Free ports at the latest failure of `connect()`, if they are too many to be a race or the port that one call leaves out.
    pub fn unexplained_free_ports(&self) -> Option<u64> {
        self.free_at_failure.filter(|&free| free > 1 && free * 10 >= self.available.unwrap_or_default())
    }

    /// Ports unavailable to new connections.
    pub const fn held(&self) -> u64 {
        self.used.saturating_sub(self.reusable)
    }

    /// Share of the available ports in use, in `0.0..=1.0`; `None` if the budget is unknown.
    pub fn share(&self) -> Option<f64> {
        self.available.map(|available| self.used as f64 / available.max(1) as f64)
    }

    /// Share of the available ports unavailable to new connections, in `0.0..=1.0`.
    fn held_share(&self) -> f64 {
        self.available.map_or(0.0, |available| self.held() as f64 / available.max(1) as f64)
    }

    /// Time until no port is left, if that is soon and a good part of the ports is held.
    pub fn runs_out_soon(&self) -> Option<Nanos> {
        let is_near = |left: &Nanos| {
            left.0 == 0 || (*left <= EXHAUSTION_HORIZON && self.held_share() >= MIN_HELD_SHARE)
        };
        self.exhausted_in.filter(is_near)
    }

    /// Whether TIME_WAIT holds enough of the ports for `tcp_tw_reuse` to matter.
    pub fn is_held_by_time_wait(&self) -> bool {
        self.count(TcpState::TimeWait) as f64 >= MIN_HELD_SHARE * self.used as f64 && self.used > 0
    }

    /// Whether `connect()` has a long search for a free port.
    pub fn searches_long(&self) -> bool {
        self.slow_above.is_some_and(|slow_above| self.held() >= slow_above)
    }

    /// Share of one CPU that `connect()` spends in long searches: median search x rate.
    pub fn search_cpu_share(&self) -> Option<f64> {
        self.search
            .filter(|_| self.searches_long())
            .map(|search| search.p50.as_secs_f64() * self.entered_per_s)
    }

    /// The state that holds the most ports.
    pub fn main_state(&self) -> Option<(TcpState, u64)> {
        let counts = TcpState::ALL.iter().map(|&state| (state, self.count(state)));
        counts.max_by_key(|&(_, count)| count).filter(|&(_, count)| count > 0)
    }

    /// Identity of the destination.
    const fn id(&self) -> (NetnsId, Endpoint, Endpoint) {
        (self.netns, self.local, self.remote)
    }

    /// Weight for the sticky top N: the held share in millionths. A destination that runs out outweighs all others, and
    /// more so the sooner it does.
    fn weight(&self) -> u64 {
        const MILLION: u64 = 1_000_000;
        const HOUR: Nanos = Nanos(3_600 * Nanos::SECOND.0);
        self.exhausted_in.map_or_else(
            || (self.held_share() * MILLION as f64) as u64,
            |left| 3 * MILLION + HOUR.0 / left.max(Nanos::SECOND).0.div_ceil(MILLION),
        )
    }

    /// Sort key: earliest exhaustion first, then the highest held share.
    fn urgency(&self) -> (bool, Option<Nanos>, Reverse<u64>, Reverse<u64>, Endpoint, Endpoint) {
        let share = Reverse((self.held_share() * 1e6) as u64);
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
    /// Snapshot of the destinations that matched the filter, at `now`.
    pub(in crate::aggregate) fn snapshot(&mut self, now: Nanos, names: &HostNames) -> PortsSnapshot {
        let taken = self.unavailable_in_range();
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
        let used = destinations.iter().map(|row| (row.netns, row.local.addr, row.used));
        let (binds, other_binds) = self.binds.snapshot(&self.settings, self.taken.keys().copied(), used);
        self.places.give(now, destinations.iter().map(|row| (row.id(), row.weight())));
        for row in &mut destinations {
            row.has_place = self.places.has(&row.id());
        }
        let all = destinations.len();
        let mut first = 0..MAX_DESTINATIONS_SHOWN;
        self.set_backends(&mut destinations);
        destinations.retain(|row| first.next().is_some() || row.has_place);
        let hidden = (all - destinations.len()) as u64;
        let there = destinations.iter().map(|row| row.netns).chain(binds.iter().map(|row| row.netns));
        let there: BTreeSet<NetnsId> = there.collect();
        let netns = there.into_iter().map(|netns| NetnsPorts {
            netns,
            name: names.netns(netns).cloned(),
            settings: self.settings.get(&netns).cloned(),
            taken: taken.get(&netns).copied().unwrap_or_default().all,
        });
        PortsSnapshot {
            netns: netns.collect(),
            destinations,
            others: hidden + self.destinations.evicted_rows(),
            binds,
            other_binds,
            nat: self.nat.snapshot(now, names),
        }
    }

    /// Joins the backends of translated destinations, by the ends that the client knows.
    fn set_backends(&self, destinations: &mut [DestinationPorts]) {
        let mut by_ends = BTreeMap::<_, Vec<Backend>>::new();
        for backend in self.nat.backends() {
            let ends = (backend.saddr, backend.daddr, backend.dport);
            by_ends.entry(ends).or_default().push(*backend);
        }
        for row in destinations {
            let ends = (row.local.addr, row.remote.addr, row.remote.port);
            if let Some(backends) = by_ends.get(&ends) {
                row.backends.clone_from(backends);
                row.backends.sort_by_key(|backend| Reverse(backend.used));
            }
        }
    }

    /// Per namespace, the ports of its range that are unavailable to every destination.
    fn unavailable_in_range(&self) -> BTreeMap<NetnsId, TakenPorts> {
        let mut taken = BTreeMap::<NetnsId, TakenPorts>::new();
        let only_idle: BTreeSet<_> =
            self.binds.idle().filter(|port| !self.taken.contains_key(port)).collect();
        for (netns, port) in self.taken.keys().copied().chain(only_idle) {
            if let Some(settings) = self.settings.get(&netns).filter(|settings| settings.offers(port)) {
                let taken = taken.entry(netns).or_default();
                taken.all += 1;
                taken.tried_first += u64::from(settings.is_tried_first(port));
            }
        }
        taken
    }
}

/// Number of ports of a range that are unavailable to every destination.
#[derive(Clone, Copy, Default)]
struct TakenPorts {
    all: u64,
    /// See [`PortSettings::is_tried_first`].
    tried_first: u64,
}

/// Whether the destination matched the filter and has any activity.
fn is_shown(row: &Destination) -> bool {
    row.is_wanted
        && (row.held() + u64::from(row.bound) + u64::from(row.outside) + row.failures + row.reused > 0)
}

impl Destination {
    fn snapshot(
        &mut self,
        now: Nanos,
        settings: Option<&PortSettings>,
        taken: TakenPorts,
    ) -> DestinationPorts {
        let available = settings.map(|settings| settings.size().saturating_sub(taken.all));
        // With none to try first every search is long; a destination that holds no port has no search.
        let slow_above =
            settings.map(|settings| settings.size_tried_first().saturating_sub(taken.tried_first).max(1));
        let (used, available) = self.level(available);
        let mut counts = self.counts.map(u64::from);
        // A SYN_SENT socket beyond the budget searches in vain and holds no port.
        let syn_sent = &mut counts[TcpState::SynSent.index()];
        *syn_sent = syn_sent.saturating_sub(self.held() - used);
        let in_time_wait = self.in_time_wait();
        let reuse = TwReuse::of(settings, self);
        let delay = settings.map_or(Nanos::SECOND, |settings| settings.reuse_delay);
        let young = self.time_wait.endings(now, delay);
        let old_enough = in_time_wait.saturating_sub(young.iter().map(|ending| ending.ports).sum());
        let is_failing = self.last_failure.is_some_and(|ts| now.since(ts) < RECENT_FAILURE);
        let reuse = if reuse == TwReuse::On && is_failing && self.skips_reusable(now) {
            TwReuse::Failing
        } else {
            reuse
        };
        let [entered, closed, time_wait_entries] =
            Rate::compared([&mut self.opened, &mut self.closed, &mut self.time_wait_entries], now);
        let is_reused = reuse == TwReuse::On;
        let flow = PortFlow {
            available: available.unwrap_or(u64::MAX),
            open: used - in_time_wait.min(used),
            time_wait: if is_reused { young } else { self.endings(now, in_time_wait) },
            time_wait_for: if is_reused { delay } else { TIME_WAIT },
            opened_per_s: entered.per_s,
            closed_per_s: closed.per_s,
            time_wait_per_s: time_wait_entries.per_s,
            spread_per_s: entered.spread.hypot(closed.spread).hypot(time_wait_entries.spread),
        };
        DestinationPorts {
            netns: self.key.netns,
            local: Endpoint { addr: self.key.saddr, port: 0, ifindex: self.key.ifindex },
            remote: Endpoint { addr: self.key.daddr, port: self.key.dport, ifindex: self.key.ifindex },
            backends: Vec::new(),
            has_place: false,
            counts,
            used,
            available,
            slow_above,
            search: self.searches.times(now),
            bound: self.bound.into(),
            outside: self.outside.into(),
            entered_per_s: entered.per_s,
            left_per_s: self.returned.per_second(now).per_s,
            predicted: flow.predicted(),
            predicted_with_reuse: PortFlow { time_wait_for: delay, ..flow.clone() }.predicted(),
            exhausted_in: if is_failing {
                Some(Nanos(0))
            } else {
                available.and_then(|_| flow.exhausted_in())
            },
            connect_failures: self.failures,
            free_at_failure: available
                .filter(|_| self.failures > 0)
                .map(|available| available.saturating_sub(self.held_at_failure)),
            reuse,
            reusable: if is_reused { old_enough } else { 0 },
            reused: self.reused,
            processes: self.owners.most(),
            other_processes: self.owners.beyond(),
        }
    }

    /// Ports in use and budget. A connection whose port is still unknown counts while ports are left; a port that
    /// `bind()` took while it was in use here counts for this destination.
    fn level(&self, available: Option<u64>) -> (u64, Option<u64>) {
        let held = self.held();
        let known = held.saturating_sub(self.choosing.into());
        let available = available.map(|available| available.max(known));
        (available.map_or(held, |available| held.min(available)), available)
    }

    /// Whether `connect()` failed despite old enough TIME_WAIT sockets, and reused none for the duration of one.
    fn skips_reusable(&self, now: Nanos) -> bool {
        self.skipped_reusable > 0 && self.last_reused.is_none_or(|ts| now.since(ts) >= TIME_WAIT)
    }

    /// Predicted ends of the sockets in TIME_WAIT. Those past their minute wait for a late timer.
    fn endings(&mut self, now: Nanos, in_time_wait: u64) -> Vec<PortReturn> {
        let known = self.time_wait.endings(now, TIME_WAIT);
        let ports = in_time_wait.saturating_sub(known.iter().map(|ending| ending.ports).sum());
        let late = PortReturn { from: Nanos(0), until: MAX_TIMER_DELAY, ports };
        std::iter::once(late).filter(|late| late.ports > 0).chain(known).collect()
    }
}
