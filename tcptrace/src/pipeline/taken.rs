//! What records have told so far, beside the tracker: a [`Record`] in, events and snapshots out, through the filter.

use std::sync::Arc;

use tcptrace_common::{
    filter::{Ends, KernelFilter},
    record::Kind,
};

use super::{
    EventSink,
    asked::{Asked, Change},
};
use crate::{
    aggregate::{Aggregate, Context, History, Names, Snapshot, observed::Observed},
    filter::{Filter, Subject},
    inspect::{Answer, Query},
    lifecycle::{Event, Observer, Processes, Socket, Tracker},
    model::{
        Nanos, Record, SocketId, TcpState,
        record::{HostFacts, KernelLosses},
    },
    source::may_be_in,
};

/// What records have told so far, beside the tracker.
pub(super) struct Taken {
    pub(super) filter: Filter,
    /// Its part that the kernel side tests, too.
    pub(super) scope: KernelFilter,
    pub(super) aggregate: Aggregate,
    pub(super) events: Option<Box<dyn EventSink>>,
    pub(super) host: Arc<HostFacts>,
    pub(super) losses: KernelLosses,
    /// Records that the recorder beside missed.
    pub(super) not_recorded: u64,
    pub(super) names: Names,
    pub(super) observed: Arc<Observed>,
    pub(super) records: u64,
    pub(super) now: Nanos,
    pub(super) seeded: bool,
    /// What a view has asked for, where it can ask.
    pub(super) asked: Option<Asked>,
}

impl Taken {
    pub(super) fn new(
        aggregate: Aggregate,
        events: Option<Box<dyn EventSink>>,
        asked: Option<Asked>,
        filter: Filter,
    ) -> Self {
        Self {
            scope: filter.kernel_part(),
            filter,
            aggregate,
            events,
            host: Arc::default(),
            losses: KernelLosses::default(),
            not_recorded: 0,
            names: Names::default(),
            observed: Arc::default(),
            records: 0,
            now: Nanos(0),
            seeded: false,
            asked,
        }
    }

    /// What was looked at beside the sockets.
    fn observed(&mut self) -> Arc<Observed> {
        Arc::make_mut(&mut self.observed).complete(&self.names);
        Arc::clone(&self.observed)
    }

    /// Keeps what `record` tells of the surroundings of the sockets, where the filter lets them pass.
    fn observe(&mut self, record: &Record) {
        let scope = &self.scope;
        let is_wanted = match record {
            Record::NetnsCounters { netns, .. } => may_be_in(scope, *netns),
            Record::Seed(socket) => {
                let waits = matches!(socket.state, TcpState::CloseWait | TcpState::FinWait2);
                (socket.state == TcpState::Listen || (waits && self.host.blind))
                    && scope.passes(&socket.tuple.ends(socket.netns))
            }
            Record::Owner { fd, .. } => fd.is_some(),
            Record::Kernel(seen) => {
                seen.raw.kind == Kind::RequestArmed as u8
                    && seen.raw.arg1 > 0
                    && scope.passes(&Ends::of(&seen.raw))
            }
            _ => false,
        };
        if is_wanted {
            Arc::make_mut(&mut self.observed).take(record);
        }
    }

    pub(super) fn snapshot(&mut self, tracker: &Tracker, source: &Arc<str>) -> Snapshot {
        let context = Context { answer: self.answer(tracker), ..self.context(source) };
        self.aggregate.snapshot(self.now, tracker, &self.names, context)
    }

    pub(super) fn context(&mut self, source: &Arc<str>) -> Context {
        Context {
            host: Arc::clone(&self.host),
            source: Arc::clone(source),
            filter: self.filter.to_string().into(),
            records: self.records,
            // A recording that is read tells of what it misses itself.
            kernel_losses: KernelLosses {
                not_recorded: self.losses.not_recorded + self.not_recorded,
                ..self.losses
            },
            output_dropped: self.events.as_ref().map_or(0, |events| events.dropped()),
            observed: self.observed(),
            answer: None,
        }
    }

    /// Takes a new question in, and counts as it asks for.
    pub(super) fn ask(&mut self, query: Query, tracker: &mut Tracker) -> Change {
        let Self { asked: Some(asked), filter, aggregate, names, now, .. } = self else {
            return Change::None;
        };
        let change = asked.take(query);
        if change == Change::Filter
            && let Some(wanted) = asked.filter(names)
        {
            *filter = wanted;
        }
        let history = match change {
            Change::None | Change::Focus | Change::Over => return change,
            Change::Count => History::Goes,
            Change::Filter => History::Ends,
        };
        aggregate.restart(asked.query().grouping, history, tracker, |socket, processes| {
            socket.shown = filter.states(&Subject::of(socket, processes));
        });
        asked.recounted(*now);
        change
    }

    pub(super) fn answer(&mut self, tracker: &Tracker) -> Option<Arc<Answer>> {
        let asked = self.asked.as_mut()?;
        Some(asked.answer(self.now, tracker, &self.aggregate))
    }

    /// Everything known now, as the records that a recording which begins here begins with.
    pub(super) fn head(&self, tracker: &Tracker) -> Vec<Record> {
        let ts = self.now;
        let mut records = vec![Record::Host(Box::new(HostFacts::clone(&self.host))), Record::Tick { ts }];
        let netns = self.names.netns.iter();
        records.extend(netns.map(|(&netns, name)| Record::NetnsName { ts, netns, name: Arc::clone(name) }));
        let cgroups = self.names.cgroup.iter();
        records.extend(cgroups.map(|(&cgroup, path)| Record::CgroupPath {
            ts,
            cgroup,
            path: Arc::clone(path),
        }));
        let settings = self.names.settings.iter();
        records.extend(settings.map(|(&netns, sysctls)| Record::NetnsSettings {
            ts,
            netns,
            sysctls: sysctls.clone(),
        }));
        records.extend(self.observed.records(ts));
        // What is carried over is no seed: the seed is complete before it.
        records.extend([Record::SeedEnd { ts, began: ts }, Record::OwnersEnd { ts }]);
        let (sockets, rest) = tracker.carry(ts);
        records.extend(sockets.into_iter().map(|carried| Record::Carried(Box::new(carried))));
        records.push(Record::Continuation(Box::new(rest)));
        records
    }

    pub(super) fn take(&mut self, record: &Record, tracker: &mut Tracker) {
        match record {
            Record::Kernel(_) => self.records += 1,
            Record::Host(facts) => self.host = Arc::new(HostFacts::clone(facts)),
            Record::Loss { losses, .. } => self.losses = *losses,
            Record::NetnsName { .. } | Record::CgroupPath { .. } | Record::NetnsSettings { .. } => {
                self.names.take(record);
            }
            Record::OwnersEnd { .. } => self.seeded = true,
            Record::Tick { ts } => {
                self.now = self.now.max(*ts);
                self.aggregate.begin(*ts);
            }
            Record::Seed(_)
            | Record::SeedEnd { .. }
            | Record::Listing(_)
            | Record::Found(_)
            | Record::Missing { .. }
            | Record::Owner { .. }
            | Record::NetnsCounters { .. }
            | Record::Carried(_)
            | Record::Continuation(_) => {}
        }
        self.observe(record);
        tracker.take(record, self);
        if let Some(netns) = self.aggregate.take(record) {
            tracker.look_again(netns, self);
        }
        if self.seeded && matches!(record, Record::Tick { .. }) {
            self.aggregate.mark(self.now);
        }
    }

    /// Notes in which states `socket` matches the filter, as far as it is known now.
    fn judge(&self, socket: &mut Socket, processes: &Processes) {
        if !self.filter.is_everything() {
            socket.shown = self.filter.states(&Subject::of(socket, processes));
        }
    }
}

/// Everybody who listens to the tracker, behind the filter: a change is told when the state before or the one
/// after is shown, and a socket counts while it is in one that is.
impl Observer for Taken {
    fn appeared(&mut self, id: SocketId, socket: &mut Socket, processes: &Processes) {
        self.judge(socket, processes);
        self.aggregate.appeared(id, socket, processes);
    }

    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes) {
        self.judge(socket, processes);
        if let Some(asked) = &mut self.asked {
            asked.journal.take(event);
        }
        // A connection that comes in is told to come from LISTEN, where it never was itself.
        let from = if event.begins { TcpState::Close } else { event.from };
        if let Some(events) = &mut self.events
            && (socket.shown.contains(from) || socket.shown.contains(event.to))
        {
            events.event(event, &self.host);
        }
        self.aggregate.changed(event, socket, processes);
    }

    fn corrected(&mut self, from: TcpState, socket: &mut Socket, processes: &Processes) {
        self.aggregate.corrected(from, socket, processes);
    }

    fn identified(&mut self, socket: &mut Socket, processes: &Processes) {
        self.judge(socket, processes);
        self.aggregate.identified(socket, processes);
    }

    fn orphaned(&mut self, socket: &mut Socket) {
        self.aggregate.orphaned(socket);
    }

    fn forgotten(&mut self, socket: &mut Socket) {
        self.aggregate.forgotten(socket);
    }
}
