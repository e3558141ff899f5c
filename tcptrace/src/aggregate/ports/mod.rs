//! Tracks local ports: per destination the ports held, their rates of change, and when none will be left.
//!
//! `connect()` chooses a port such that local address, local port, remote address and remote port together are unused,
//! so each destination has its own budget. A port taken by `bind()` or `listen()` is unavailable to all of them
//! (`__inet_hash_connect()` skips a bucket with `fastreuse >= 0`).

mod binds;
mod destination;
mod expiries;
mod nat;
mod predict;
mod rate;
mod search;
mod settings;
mod snapshot;

use hashbrown::HashMap;

use super::{
    sticky_top_n::StickyTopN,
    table::{GroupTable, OTHER},
};
use crate::{
    lifecycle::{Event, Phase, PortUse, Processes, Role, Socket},
    model::{Endpoint, Nanos, NetnsId, Record, TcpState},
};
pub use binds::BindPorts;
use binds::Binds;
use destination::{Destination, DestinationKey};
use nat::NatTables;
pub use nat::{ConntrackTable, NatPorts, NatSnapshot};
use predict::PortFlow;
pub use search::SearchTimes;
pub use settings::PortSettings;
pub use snapshot::{DestinationPorts, NetnsPorts, PortsSnapshot, TwReuse};

/// Destinations kept individually.
const DESTINATIONS: usize = 1 << 14;
/// Namespaces with settings.
const NAMESPACES: usize = 1 << 14;

/// Reserved ranges of all namespaces: one namespace may have half as many ranges as there are ports.
const RESERVED_RANGES: usize = 1 << 20;

/// Local ports in use, per destination.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    /// Whether they are counted.
    pub(super) are_counted: bool,
    /// Randomly seeded, like `taken`: the author of a recording chooses its namespaces and ports.
    settings: HashMap<NetnsId, PortSettings>,
    reserved_ranges: usize,
    /// Settings refused because the table was full.
    refused: u64,
    /// Socket count per port that is unavailable to every destination.
    taken: HashMap<(NetnsId, u16), u32>,
    binds: Binds,
    destinations: GroupTable<Destination>,
    nat: NatTables,
    pub(super) places: StickyTopN<(NetnsId, Endpoint, Endpoint)>,
}

impl Default for Ports {
    fn default() -> Self {
        Self::with_room(DESTINATIONS)
    }
}

impl Ports {
    fn with_room(most: usize) -> Self {
        Self {
            are_counted: true,
            settings: HashMap::default(),
            reserved_ranges: 0,
            refused: 0,
            taken: HashMap::default(),
            binds: Binds::default(),
            destinations: GroupTable::new(Destination::new(DestinationKey::OTHER), most),
            nat: NatTables::default(),
            places: StickyTopN::new(0),
        }
    }

    /// Updates the settings from `record`. Returns the namespace if its sockets may be counted differently from now on.
    pub(super) fn take(&mut self, record: &Record) -> Option<NetnsId> {
        if !self.are_counted {
            return None;
        }
        self.nat.take(record);
        self.binds.take(record);
        let (netns, settings) = match record {
            // The namespace no longer exists.
            Record::NetnsSettings { netns, sysctls, .. } if sysctls.is_empty() => {
                let removed = self.settings.remove(netns);
                self.reserved_ranges -= removed.map_or(0, |removed| removed.reserved_ranges());
                return None;
            }
            Record::NetnsSettings { netns, sysctls, .. } => (*netns, PortSettings::of(sysctls)?),
            // A recording may contain only these settings.
            Record::Host(facts) if !self.settings.contains_key(&NetnsId(facts.netns)) => {
                (NetnsId(facts.netns), PortSettings::of(&facts.sysctls)?)
            }
            _ => return None,
        };
        let before = self.settings.get(&netns);
        let is_other = before.is_none_or(|before| !before.has_same_ports(&settings));
        let ranges_before = before.map_or(0, PortSettings::reserved_ranges);
        let reserved_ranges = self.reserved_ranges - ranges_before + settings.reserved_ranges();
        let is_full = before.is_none() && self.settings.len() >= NAMESPACES;
        if is_full || reserved_ranges > RESERVED_RANGES {
            self.refused += 1;
            return None;
        }
        self.reserved_ranges = reserved_ranges;
        self.settings.insert(netns, settings);
        is_other.then_some(netns)
    }

    /// Number of destinations kept individually.
    pub(super) fn destinations(&self) -> usize {
        self.destinations.iter().count() - 1
    }

    /// Number of translations by NAT.
    pub(super) const fn translations(&self) -> usize {
        self.nat.rows()
    }

    /// Connection tracking tables and bound ports as records for the start of a recording that begins at `ts`.
    pub(super) fn holder_records(&self, ts: Nanos) -> impl Iterator<Item = Record> {
        self.nat.records(ts).chain(self.binds.records(ts))
    }

    /// Settings, connection tracking tables and bound ports refused because the table was full.
    pub(super) const fn refused(&self) -> u64 {
        self.refused + self.nat.refused + self.binds.refused
    }

    /// Hides every destination after a filter change, until [`Self::identified`] finds a socket that matches.
    pub(super) fn hide_all(&mut self) {
        for (_, destination) in self.destinations.iter_mut() {
            destination.is_wanted = false;
        }
    }

    /// Counts a new socket in its current state.
    pub(super) fn appeared(&mut self, socket: &mut Socket, processes: &Processes) {
        if self.are_counted && socket.counted.port_use == PortUse::None {
            self.join(socket, processes);
        }
    }

    /// Records a state change of a socket.
    pub(super) fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes) {
        if !self.are_counted {
            return;
        }
        let is_new = socket.counted.port_use == PortUse::None;
        if is_new {
            self.join(socket, processes);
        }
        let delay = self.settings.get(&socket.netns).map(|settings| settings.reuse_delay);
        if is_chosen(socket.counted.port_use)
            && let Some(destination) = self.destinations.of(&mut socket.counted.destination)
        {
            if is_new {
                destination.opened(event, socket.state);
            } else {
                destination.changed(event, socket, delay.unwrap_or(Nanos::SECOND));
            }
        }
        if socket.state == TcpState::Close {
            self.forget(socket);
        }
    }

    /// Recounts a socket that was wrongly counted in `from`.
    pub(super) fn corrected(&mut self, from: TcpState, socket: &mut Socket, processes: &Processes) {
        if !self.are_counted {
            return;
        }
        self.leave(from, socket);
        self.join(socket, processes);
    }

    /// Recounts a socket whose role, owner or port became known.
    pub(super) fn identified(&mut self, socket: &mut Socket, processes: &Processes) {
        if !self.are_counted {
            return;
        }
        let port_use = self.classify_port(socket);
        let has_chosen = (socket.counted.port_use, port_use) == (PortUse::Choosing, PortUse::Chosen);
        let is_there = (port_use == socket.counted.port_use || has_chosen)
            && (!has_destination(port_use)
                || self.destinations.of(&mut socket.counted.destination).is_some_and(|destination| {
                    destination.note(socket, processes);
                    let is_it = destination.key == DestinationKey::of(socket)
                        || destination.key == DestinationKey::OTHER;
                    if is_it && has_chosen {
                        destination.has_chosen();
                    }
                    is_it
                }));
        if is_there {
            socket.counted.port_use = port_use;
            return;
        }
        if is_chosen(socket.counted.port_use)
            && socket.state == TcpState::SynSent
            && let Some(destination) = self.destinations.of(&mut socket.counted.destination)
        {
            destination.revert_opened();
        }
        self.leave(socket.state, socket);
        self.join(socket, processes);
    }

    /// Updates the owner of a socket after a move to another cgroup.
    pub(super) fn owner_moved(&mut self, socket: &mut Socket, processes: &Processes) {
        if has_destination(socket.counted.port_use)
            && let Some(destination) = self.destinations.of(&mut socket.counted.destination)
        {
            destination.owners.renew(socket, processes);
        }
    }

    /// Removes a socket that ended.
    pub(super) fn forget(&mut self, socket: &mut Socket) {
        self.leave(socket.state, socket);
    }

    /// Counts a socket in its current state.
    fn join(&mut self, socket: &mut Socket, processes: &Processes) {
        socket.counted.port_use = self.classify_port(socket);
        if matches!(socket.counted.port_use, PortUse::Bound | PortUse::Served) {
            *self.taken.entry((socket.netns, socket.tuple.sport)).or_default() += 1;
        }
        if socket.counted.port_use == PortUse::Bound {
            self.binds.add(socket, processes);
        }
        if has_destination(socket.counted.port_use) {
            socket.counted.destination = self.place(DestinationKey::of(socket));
            if let Some(destination) = self.destinations.of(&mut socket.counted.destination) {
                destination.add(socket);
                destination.note(socket, processes);
            }
        }
    }

    /// Reverts the count of a socket in `state`.
    fn leave(&mut self, state: TcpState, socket: &mut Socket) {
        let port_use = std::mem::take(&mut socket.counted.port_use);
        if matches!(port_use, PortUse::Bound | PortUse::Served) {
            let key = (socket.netns, socket.tuple.sport);
            if let Some(sockets) = self.taken.get_mut(&key) {
                *sockets -= 1;
                if *sockets == 0 {
                    self.taken.remove(&key);
                }
            }
        }
        if port_use == PortUse::Bound {
            self.binds.sub(socket);
        }
        if has_destination(port_use)
            && let Some(destination) = self.destinations.of(&mut socket.counted.destination)
        {
            destination.sub(port_use, state, socket);
        }
    }

    /// Meaning of the socket's local port, as far as known.
    fn classify_port(&self, socket: &Socket) -> PortUse {
        if socket.state == TcpState::Close || socket.phase == Phase::Request {
            return PortUse::None;
        }
        let port = socket.tuple.sport;
        let is_offered = self.settings.get(&socket.netns).is_none_or(|settings| settings.offers(port));
        match (socket.role, is_offered) {
            (Role::Listener | Role::Inbound, true) => PortUse::Served,
            (Role::Listener | Role::Inbound, false) | (Role::Unknown, _) => PortUse::None,
            (Role::Outbound, _) if port == 0 => PortUse::Choosing,
            (Role::Outbound, false) => PortUse::Outside,
            (Role::Outbound, true) if socket.bound => PortUse::Bound,
            (Role::Outbound, true) => PortUse::Chosen,
        }
    }

    fn place(&mut self, key: DestinationKey) -> u32 {
        if let Some(index) = self.destinations.find(&key) {
            return index;
        }
        if self.destinations.is_full() {
            for destination in self.destinations.evict_smallest() {
                if let Some(other) = self.destinations.get_mut(OTHER) {
                    other.fold(&destination);
                }
            }
        }
        self.destinations.insert(|_| Destination::new(key))
    }
}

const fn has_destination(port_use: PortUse) -> bool {
    is_chosen(port_use) || matches!(port_use, PortUse::Bound | PortUse::Outside)
}

/// Whether `connect()` chooses or chose the port.
const fn is_chosen(port_use: PortUse) -> bool {
    matches!(port_use, PortUse::Choosing | PortUse::Chosen)
}

#[cfg(test)]
mod tests;
