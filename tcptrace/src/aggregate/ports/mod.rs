//! Local ports: sockets in, and per destination how many ports its connections hold, how fast that changes and
//! when there will be none left.
//!
//! `connect()` chooses a port such that local address, remote address and remote port together with it are not in
//! use: so there is a budget for each of these destinations. A port that `bind()` or `listen()` took is passed over for
//! all of them (`__inet_hash_connect()` skips a bucket with `fastreuse >= 0`).

mod destination;
mod expiries;
mod predict;
mod rate;
mod settings;
mod snapshot;

use rustc_hash::FxHashMap;

use super::{
    places::Places,
    table::{OTHER, Table},
};
use crate::{
    lifecycle::{EndReason, Event, Phase, PortUse, Processes, Role, Socket},
    model::{Endpoint, NetnsId, Record, TcpState},
};
use destination::{Destination, Key};
use predict::Flow;
pub use settings::PortSettings;
pub use snapshot::{DestinationPorts, NetnsPorts, PortsSnapshot, TwReuse};

/// Destinations kept one by one.
const DESTINATIONS: usize = 1 << 14;
/// Namespaces whose settings are kept.
const NAMESPACES: usize = 1 << 14;

/// Counts local ports.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    settings: FxHashMap<NetnsId, PortSettings>,
    /// Sockets by a port that they keep from every destination.
    taken: FxHashMap<(NetnsId, u16), u32>,
    destinations: Table<Destination>,
    pub(super) places: Places<(NetnsId, Endpoint, Endpoint)>,
}

impl Default for Ports {
    fn default() -> Self {
        Self::with_room(DESTINATIONS)
    }
}

impl Ports {
    fn with_room(most: usize) -> Self {
        Self {
            settings: FxHashMap::default(),
            taken: FxHashMap::default(),
            destinations: Table::new(Destination::new(Key::OTHER), most),
            places: Places::new(0),
        }
    }

    /// Takes in what `record` tells of a namespace. Returns the namespace when its sockets may count otherwise
    /// from now on.
    pub(super) fn take(&mut self, record: &Record) -> Option<NetnsId> {
        let (netns, settings) = match record {
            Record::NetnsSettings { netns, sysctls, .. } => (*netns, PortSettings::of(sysctls)?),
            // A recording may know no more than this.
            Record::Host(facts) if !self.settings.contains_key(&NetnsId(facts.netns)) => {
                (NetnsId(facts.netns), PortSettings::of(&facts.sysctls)?)
            }
            _ => return None,
        };
        if self.settings.len() >= NAMESPACES && !self.settings.contains_key(&netns) {
            return None;
        }
        let before = self.settings.get(&netns);
        let is_other = before.is_none_or(|before| !before.offers_the_same(&settings));
        self.settings.insert(netns, settings);
        is_other.then_some(netns)
    }

    /// Another filter is in use: no destination is wanted, until [`Self::identified`] has told of a socket that is.
    pub(super) fn choose_anew(&mut self) {
        for (_, destination) in self.destinations.iter_mut() {
            destination.is_wanted = false;
        }
    }

    /// A socket is there, in its state.
    pub(super) fn appeared(&mut self, socket: &mut Socket, processes: &Processes) {
        if socket.port_use == PortUse::None {
            self.join(socket, processes);
        }
    }

    /// A socket changed its state.
    pub(super) fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes) {
        let is_new = socket.port_use == PortUse::None;
        if is_new {
            self.join(socket, processes);
        }
        if socket.port_use == PortUse::Chosen
            && let Some(destination) = self.destinations.of(&mut socket.destination)
        {
            if is_new {
                destination.opened(event, socket.state);
            } else {
                destination.changed(event, socket);
            }
        }
        if socket.state == TcpState::Close {
            self.forget(socket);
        }
    }

    /// A socket was counted in `from` and is in its state.
    pub(super) fn corrected(&mut self, from: TcpState, socket: &mut Socket, processes: &Processes) {
        self.leave(from, socket);
        self.join(socket, processes);
    }

    /// More is known of a socket.
    pub(super) fn identified(&mut self, socket: &mut Socket, processes: &Processes) {
        let port_use = self.use_of(socket);
        let is_there = port_use == socket.port_use
            && (!has_destination(port_use)
                || self.destinations.of(&mut socket.destination).is_some_and(|destination| {
                    destination.note(socket, processes);
                    destination.key == Key::of(socket) || destination.key == Key::OTHER
                }));
        if is_there {
            return;
        }
        if socket.port_use == PortUse::Chosen
            && socket.state == TcpState::SynSent
            && let Some(destination) = self.destinations.of(&mut socket.destination)
        {
            destination.did_not_open();
        }
        self.leave(socket.state, socket);
        self.join(socket, processes);
    }

    /// A socket is gone.
    pub(super) fn forget(&mut self, socket: &mut Socket) {
        self.leave(socket.state, socket);
    }

    /// Counts a socket in its state.
    fn join(&mut self, socket: &mut Socket, processes: &Processes) {
        socket.port_use = self.use_of(socket);
        if matches!(socket.port_use, PortUse::Bound | PortUse::Served) {
            *self.taken.entry((socket.netns, socket.tuple.sport)).or_default() += 1;
        }
        if has_destination(socket.port_use) {
            socket.destination = self.place(Key::of(socket));
            if let Some(destination) = self.destinations.of(&mut socket.destination) {
                destination.add(socket);
                destination.note(socket, processes);
            }
        }
    }

    /// Takes back that a socket was counted, in `state`.
    fn leave(&mut self, state: TcpState, socket: &mut Socket) {
        let port_use = std::mem::take(&mut socket.port_use);
        if matches!(port_use, PortUse::Bound | PortUse::Served) {
            let key = (socket.netns, socket.tuple.sport);
            if let Some(sockets) = self.taken.get_mut(&key) {
                *sockets -= 1;
                if *sockets == 0 {
                    self.taken.remove(&key);
                }
            }
        }
        if has_destination(port_use)
            && let Some(destination) = self.destinations.of(&mut socket.destination)
        {
            destination.sub(port_use, state, socket);
        }
    }

    /// What the port of `socket` means, as far as it is known.
    fn use_of(&self, socket: &Socket) -> PortUse {
        if socket.state == TcpState::Close || socket.phase == Phase::Request {
            return PortUse::None;
        }
        let port = socket.tuple.sport;
        let is_offered = self.settings.get(&socket.netns).is_none_or(|settings| settings.offers(port));
        match (socket.role, is_offered) {
            (Role::Listener | Role::Inbound, true) => PortUse::Served,
            (Role::Listener | Role::Inbound, false) | (Role::Unknown, _) => PortUse::None,
            // Not chosen yet.
            (Role::Outbound, _) if port == 0 => PortUse::Chosen,
            (Role::Outbound, false) => PortUse::Outside,
            (Role::Outbound, true) if socket.bound => PortUse::Bound,
            (Role::Outbound, true) => PortUse::Chosen,
        }
    }

    fn place(&mut self, key: Key) -> u32 {
        if let Some(index) = self.destinations.find(&key) {
            return index;
        }
        if self.destinations.is_full() {
            for destination in self.destinations.take_smallest() {
                if let Some(other) = self.destinations.get_mut(OTHER) {
                    other.fold(&destination);
                }
            }
        }
        self.destinations.insert(|_| Destination::new(key))
    }
}

const fn has_destination(port_use: PortUse) -> bool {
    matches!(port_use, PortUse::Chosen | PortUse::Bound | PortUse::Outside)
}

/// Whether a connection that ended by `reason` never had a port.
const fn is_no_port(reason: Option<EndReason>) -> bool {
    matches!(reason, Some(EndReason::NoPort))
}

#[cfg(test)]
mod tests;
