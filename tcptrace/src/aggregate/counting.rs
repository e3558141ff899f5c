//! Updates an [`Aggregate`] from tracker events.

use super::{Aggregate, dwell_store::Scope, orphan::Orphan, packed_dwell::PackedDwell};
use crate::{
    lifecycle::{Counted, Event, Observer, Processes, Socket},
    model::{SocketId, TcpState},
};

impl Aggregate {
    pub(super) fn arrive(&mut self, socket: &Socket) {
        let total = &mut self.totals[socket.state.index()];
        total.now += 1;
        total.highest = total.highest.max(total.now);
        self.orphans += u64::from(socket.is_orphan_fin_wait2());
    }

    fn leave(&mut self, state: TcpState, orphan: Orphan) {
        let now = &mut self.totals[state.index()].now;
        *now = now.saturating_sub(1);
        self.orphans = self.orphans.saturating_sub(orphan.count());
    }
}

/// Counts a socket while it is shown: [`Socket::is_counted`] is the old value, [`Socket::is_shown`] the new one.
impl Observer for Aggregate {
    fn appeared(&mut self, _id: SocketId, socket: &mut Socket, processes: &Processes) {
        if self.scope == Scope::Nothing {
            return;
        }
        self.ports.appeared(socket, processes);
        if socket.is_shown() {
            self.arrive(socket);
            self.groups.join(socket, processes);
        }
    }

    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes) {
        if self.scope == Scope::Nothing {
            return;
        }
        self.ports.changed(event, socket, processes);
        if let Some(pools) = self.pools.as_mut().filter(|_| socket.is_counted() || socket.is_shown()) {
            pools.changed(event);
        }
        if socket.is_counted() || socket.is_shown() {
            self.stacks.changed(event, socket);
        }
        if socket.is_counted() {
            self.leave(event.from, Orphan::before(event));
            if let Some(dwells) = &mut self.dwells {
                for packed in PackedDwell::of(event, socket) {
                    dwells[socket.role as usize].take(packed, Scope::Every);
                }
            }
            self.groups.leave(event, socket);
        }
        if socket.is_shown() {
            self.arrive(socket);
            self.totals[event.to.index()].entered += 1;
            if let Some(over_time) = &mut self.over_time {
                over_time.enter(event.to);
            }
            self.groups.enter(socket, processes);
        } else {
            socket.counted.group = Counted::NO_GROUP;
        }
    }

    fn corrected(&mut self, from: TcpState, socket: &mut Socket, processes: &Processes) {
        if self.scope == Scope::Nothing {
            return;
        }
        self.ports.corrected(from, socket, processes);
        if socket.is_counted() {
            self.leave(from, Orphan::in_state(from, socket));
            self.groups.uncount_socket(from, socket);
        }
        if socket.is_shown() {
            self.arrive(socket);
            self.groups.join(socket, processes);
        }
    }

    fn identified(&mut self, socket: &mut Socket, processes: &Processes) {
        if self.scope == Scope::Nothing {
            return;
        }
        self.ports.identified(socket, processes);
        match (socket.is_counted(), socket.is_shown()) {
            (true, true) => self.groups.identify(socket, processes),
            (false, true) => {
                self.arrive(socket);
                self.groups.join(socket, processes);
            }
            (true, false) => {
                self.leave(socket.state, Orphan::in_state(socket.state, socket));
                self.groups.uncount_socket(socket.state, socket);
            }
            (false, false) => {}
        }
    }

    fn owner_moved(&mut self, socket: &mut Socket, processes: &Processes) {
        if self.scope == Scope::Nothing {
            return;
        }
        if socket.is_counted() && socket.is_shown() {
            self.ports.owner_moved(socket, processes);
            self.groups.owner_moved(socket, processes);
        } else {
            self.identified(socket, processes);
        }
    }

    fn accepted(&mut self, socket: &Socket, processes: &Processes) {
        if self.scope != Scope::Nothing && (socket.is_counted() || socket.is_shown()) {
            self.stacks.accepted(socket, processes);
        }
    }

    fn orphaned(&mut self, socket: &mut Socket) {
        if socket.is_counted() {
            self.orphans += 1;
            self.groups.orphaned(socket);
        }
    }

    fn forgotten(&mut self, socket: &mut Socket) {
        self.ports.forget(socket);
    }
}
