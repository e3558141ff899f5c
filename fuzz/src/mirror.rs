//! Counts sockets only from tracker events, as every view does, and compares the counts with the tracker's table.

use tcptrace::{
    aggregate::{Aggregate, Context, Grouping, HostNames, Scope},
    lifecycle::{Event, Observer, Processes, Socket, Tracker},
    model::{Nanos, SocketId, TcpState},
};

/// Counts from the events so far.
pub struct Mirror {
    counts: [i64; TcpState::COUNT],
    orphans: i64,
    aggregate: Aggregate,
}

impl Default for Mirror {
    fn default() -> Self {
        let aggregate = Aggregate::new(Grouping::SERVICE, Scope::Every);
        Self { counts: [0; TcpState::COUNT], orphans: 0, aggregate }
    }
}

impl Mirror {
    fn add(&mut self, state: TcpState, by: i64) {
        if state != TcpState::Close {
            self.counts[state.index()] += by;
        }
    }

    /// Panics unless the tracker's table, the counts from events, the totals and the groups agree.
    pub fn compare(&mut self, tracker: &Tracker, now: Nanos) {
        let mut counts = [0; TcpState::COUNT];
        let mut orphans = 0;
        for (_, socket) in tracker.sockets() {
            assert_ne!(socket.state, TcpState::Close, "a socket in CLOSE must be removed");
            counts[socket.state.index()] += 1;
            orphans += i64::from(socket.is_orphan_fin_wait2());
        }
        assert_eq!(self.counts, counts, "counts from events, and of the table");
        assert_eq!(self.orphans, orphans, "orphans from events, and of the table");
        let snapshot = self.aggregate.snapshot(now, tracker, &HostNames::default(), Context::default());
        for (state, count) in TcpState::ALL.into_iter().zip(counts) {
            let in_groups: u64 = snapshot.groups.iter().map(|group| group.counts[state.index()]).sum();
            let total = snapshot.states[state.index()].now;
            assert_eq!((total, in_groups), (count as u64, count as u64), "{}", state.name());
        }
    }
}

impl Observer for Mirror {
    fn appeared(&mut self, id: SocketId, socket: &mut Socket, processes: &Processes) {
        self.add(socket.state, 1);
        self.orphans += i64::from(socket.is_orphan_fin_wait2());
        self.aggregate.appeared(id, socket, processes);
    }

    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes) {
        assert_eq!(socket.state, event.to);
        if !event.begins {
            self.add(event.from, -1);
            self.orphans -= i64::from(event.from == TcpState::FinWait2 && event.orphan == Some(true));
        }
        self.add(event.to, 1);
        self.orphans += i64::from(socket.is_orphan_fin_wait2());
        self.aggregate.changed(event, socket, processes);
    }

    fn corrected(&mut self, from: TcpState, socket: &mut Socket, processes: &Processes) {
        self.add(from, -1);
        self.orphans -= i64::from(from == TcpState::FinWait2 && socket.orphan_since.is_some());
        self.add(socket.state, 1);
        self.orphans += i64::from(socket.is_orphan_fin_wait2());
        self.aggregate.corrected(from, socket, processes);
    }

    fn identified(&mut self, socket: &mut Socket, processes: &Processes) {
        self.aggregate.identified(socket, processes);
    }

    fn orphaned(&mut self, socket: &mut Socket) {
        self.orphans += 1;
        self.aggregate.orphaned(socket);
    }
}
