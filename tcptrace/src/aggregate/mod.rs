//! Events in, a [`Snapshot`] out: sockets per state and group, rates, dwell quantiles, closers.
//!
//! Pure, like the tracker: the time is in the events and in the call that asks for a snapshot.

mod group;
mod keys;
mod snapshot;

use std::sync::Arc;

use crate::{
    lifecycle::{Closer, Event, Observer, Processes, Socket, Tracker},
    model::{
        Nanos, SocketId, TcpState,
        record::{HostFacts, KernelLosses},
    },
};

use group::Groups;
pub use keys::{Key, Names};
pub use snapshot::{DwellQuantiles, Group, Losses, Minisockets, Snapshot, StateTotal, TimeWaitEnds};

/// Counts what the tracker tells.
#[derive(Debug)]
pub struct Aggregate {
    groups: Groups,
    totals: [Total; TcpState::COUNT],
    began: Option<Nanos>,
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    now: u64,
    entered: u64,
    entered_at_last: u64,
}

/// What the rates of the next snapshot are measured against.
#[derive(Clone, Copy, Debug)]
struct Last {
    ts: Nanos,
    records: u64,
}

/// What a snapshot holds beyond the counts.
#[derive(Clone, Debug)]
pub struct Context {
    /// Facts about the host.
    pub host: Arc<HostFacts>,
    /// Where the records come from.
    pub source: Arc<str>,
    /// Records taken in so far.
    pub records: u64,
    /// Losses on the kernel side.
    pub kernel_losses: KernelLosses,
    /// Lines that a slow reader of the output did not take in time.
    pub output_dropped: u64,
}

impl Aggregate {
    /// Nothing counted yet; groups by `key`.
    pub fn new(key: Key) -> Self {
        Self { groups: Groups::new(key), totals: Default::default(), began: None, last: None }
    }

    /// Tracing had begun by `ts`; the first call counts.
    pub fn begin(&mut self, ts: Nanos) {
        self.began.get_or_insert(ts);
    }

    /// Sockets in `state` now.
    pub const fn now(&self, state: TcpState) -> u64 {
        self.totals[state.index()].now
    }

    /// Everything the views show, at `ts`. Rates are over the time since the snapshot before.
    pub fn snapshot(&mut self, ts: Nanos, tracker: &Tracker, names: &Names, context: Context) -> Snapshot {
        let interval = self.last.map_or(Nanos(0), |last| ts.since(last.ts));
        let per_s = |count: u64| if interval.0 == 0 { 0.0 } else { count as f64 / interval.as_secs_f64() };
        let mut states = [StateTotal::default(); TcpState::COUNT];
        for (total, state) in self.totals.iter_mut().zip(&mut states) {
            let entered_per_s = per_s(total.entered - total.entered_at_last);
            *state = StateTotal { now: total.now, entered: total.entered, entered_per_s };
            total.entered_at_last = total.entered;
        }
        let records_before = self.last.map_or(0, |last| last.records);
        let counters = tracker.counters();
        let losses = Losses {
            ring_full: context.kernel_losses.ring_full,
            recursion_missed: context.kernel_losses.recursion_missed,
            healed: counters.healed,
            evicted: counters.evicted + self.groups.evicted(),
            decode_errors: context.kernel_losses.decode_errors + counters.undecodable,
            read_faults: context.kernel_losses.read_faults,
            output_dropped: context.output_dropped,
        };
        self.find_oldest_close_wait(tracker);
        let own_netns = context.host.netns;
        let snapshot = Snapshot {
            ts,
            began: self.began.unwrap_or(ts),
            interval,
            host: context.host,
            source: context.source,
            records: context.records,
            records_per_s: per_s(context.records - records_before),
            losses,
            states,
            key: self.groups.key().head(),
            groups: self.groups.snapshot(per_s, names, own_netns),
        };
        self.last = Some(Last { ts, records: context.records });
        snapshot
    }

    fn find_oldest_close_wait(&mut self, tracker: &Tracker) {
        self.groups.forget_oldest();
        if self.now(TcpState::CloseWait) == 0 {
            return;
        }
        for (_, socket) in tracker.sockets() {
            if socket.state == TcpState::CloseWait
                && socket.is_counted()
                && let Some(since) = socket.since.time()
            {
                self.groups.note_close_wait(socket, since);
            }
        }
    }

    fn arrive(&mut self, state: TcpState) {
        self.totals[state.index()].now += 1;
    }

    fn leave(&mut self, state: TcpState) {
        let now = &mut self.totals[state.index()].now;
        *now = now.saturating_sub(1);
    }
}

/// A socket is counted while it is shown: [`Socket::is_counted`] says whether it was up to now,
/// [`Socket::is_shown`] whether it is from now on.
impl Observer for Aggregate {
    fn appeared(&mut self, _id: SocketId, socket: &mut Socket, processes: &Processes) {
        if socket.is_shown() {
            self.arrive(socket.state);
            self.groups.join(socket, processes);
        }
    }

    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes) {
        if socket.is_counted() {
            self.leave(event.from);
            self.groups.leave(event, socket);
        }
        if socket.is_shown() {
            self.arrive(event.to);
            self.totals[event.to.index()].entered += 1;
            self.groups.enter(event, socket, processes);
        } else {
            socket.group = Socket::NO_GROUP;
        }
    }

    fn corrected(&mut self, from: TcpState, socket: &mut Socket, processes: &Processes) {
        if socket.is_counted() {
            self.leave(from);
            self.groups.withdraw(from, socket);
        }
        if socket.is_shown() {
            self.arrive(socket.state);
            self.groups.join(socket, processes);
        }
    }

    fn identified(&mut self, socket: &mut Socket, processes: &Processes) {
        match (socket.is_counted(), socket.is_shown()) {
            (true, true) => self.groups.identify(socket, processes),
            (false, true) => {
                self.arrive(socket.state);
                self.groups.join(socket, processes);
            }
            (true, false) => {
                self.leave(socket.state);
                self.groups.withdraw(socket.state, socket);
            }
            (false, false) => {}
        }
    }

    fn orphaned(&mut self, socket: &mut Socket) {
        if socket.is_counted() {
            self.groups.orphaned(socket);
        }
    }
}

/// Number of entries in a table indexed by `Closer as usize`.
const CLOSERS: usize = Closer::ALL.len() + 1;
