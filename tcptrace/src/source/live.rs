//! Traces the running kernel: reads the hooks' ring buffers, and adds the seed, polled data and the time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    bound_ports::{self, BoundPortPoller},
    conntrack::ConntrackPoller,
    host::{self, ClockWatch},
    host_poller::PollKind,
    names::NameResolver,
    poller::{LAST_POLL_TIMEOUT, LastPoll, PollerThread, receive},
    process_facts::NameOptions,
    seed::{self, Seed},
    settings::SettingsReader,
    stack_names::{StackNamer, StackRequest},
    sweep::{self, SweepCommand, Sweeper},
};
use crate::{
    kernel::{Options, Tracer, btf::KernelTypes},
    model::{
        Flow, Nanos, Record, Source,
        hooks::{ACCEPT, ERROR_REPORT, KFREE_SKB, SEND_RESET},
        record::{HostFacts, KernelLosses},
    },
    privileges::{self, Work},
};

/// Longest wait for records: bounds the age of a screen, and waking up is cheap.
const POLL: Duration = Duration::from_millis(10);
/// The same until the seed is complete: the first screen waits for it.
const POLL_SEEDING: Duration = Duration::from_millis(1);
/// Most records drained from the rings at once, so that ticks come in between.
const DRAIN: usize = 32 << 10;
/// Seed batches received at once.
const SEED_BATCHES: usize = 8;
/// Listings of a sweep received at once.
const LISTINGS: usize = 8;
/// Longer than the tracker waits for a record that explains an end (`lifecycle::pending::GRACE`).
const SETTLE_TIME: Duration = Duration::from_millis(260);
/// Time limit for naming the last stacks: the debug information of a large program takes seconds.
const NAMES_TIMEOUT: Duration = Duration::from_secs(30);
/// Stacks that wait for the thread that names them; more stay without names.
const MAX_UNNAMED: usize = 1 << 12;
const LOSS_INTERVAL: Nanos = Nanos(250_000_000);

/// A live trace.
pub struct Live {
    tracer: Tracer,
    facts: HostFacts,
    seed: Option<PollerThread<Seed>>,
    polls: PollKind,
    sweeps: PollerThread<Sweeper>,
    names: NameResolver,
    settings: SettingsReader,
    /// `None` if not requested.
    conntrack: Option<PollerThread<ConntrackPoller>>,
    /// `None` if not requested, or if the kernel lists none.
    bound_ports: Option<PollerThread<BoundPortPoller>>,
    /// `None` if no stacks are captured.
    stacks: Option<PollerThread<StackNamer>>,
    /// Stacks to be named.
    unnamed: VecDeque<StackRequest>,
    clock: ClockWatch,
    /// The seed's batches and the listings that wait for the records of the rings up to this time.
    held: (Nanos, Vec<Vec<Record>>),
    /// The last tick.
    ticked: Nanos,
    /// Listeners that precede the first records of the rings.
    listeners: Vec<Record>,
    begun: bool,
    is_seeding: bool,
    losses: KernelLosses,
    losses_reported_at: Nanos,
}

impl Live {
    /// Attaches the hooks with `options`, then starts to read the existing state. `filter` is the text of the
    /// filter.
    pub fn start(
        types: &KernelTypes,
        options: &Options,
        filter: String,
        polls: PollKind,
        names: &NameOptions,
    ) -> Result<Self> {
        let tracer = Tracer::start(types, options)?;
        privileges::keep_for(Work::Loaded);
        let mut facts = HostFacts { filter, ..host::facts() };
        facts.segments = tracer.is_attached(KFREE_SKB);
        facts.ends = tracer.is_attached(SEND_RESET);
        facts.accepts = tracer.is_attached(ACCEPT);
        if let Some(refusal) = tracer.accept_refused() {
            facts.limits.push(format!(
                "This kernel does not show accept() ({refusal}): sockets that were accepted have no stack that opened them."
            ));
        }
        if !facts.segments {
            facts.limits.push(
                "This kernel does not show segments that reach a TIME_WAIT socket (6.11 does): the step from an \
                 orphan FIN_WAIT2 to TIME_WAIT may be found a second late (~), and a TIME_WAIT ended by a RST reads \
                 'unexplained'."
                    .into(),
            );
        }
        if facts.ends && !tracer.is_attached(ERROR_REPORT) {
            facts.limits.push(
                "This kernel does not show errors that a socket reports (5.14 does): a listener that `ss -K` closes reads \
                 'listener_closed', and a close in TCP_REPAIR 'unexplained'."
                    .into(),
            );
        }
        let polls_ports = polls != PollKind::States;
        facts.bound = polls_ports && bound_ports::is_listed();
        if polls_ports && !facts.bound {
            facts.limits.push(bound_ports::NOT_LISTED.into());
        }
        if tracer.makes_ids() {
            facts.limits.push(
                "This kernel gives programs no socket cookies (5.12 does): the ids of sockets newer than the trace are \
                 tcptrace's own."
                    .into(),
            );
        }
        // An id that tcptrace makes comes from the first record of a socket, which may be in a ring.
        let listeners = if tracer.makes_ids() { Vec::new() } else { seed::listeners(&options.filter) };
        let seed = seed::start(facts.clone(), &options.filter, polls, tracer.makes_ids())
            .context("no thread for the seed")?;
        let sweeps = sweep::start(&options.filter, facts.segments).context("no thread for sweeps")?;
        let names = NameResolver::start(names).context("no thread for names")?;
        let settings = SettingsReader::start().context("no thread for settings")?;
        let conntrack = polls_ports
            .then(|| ConntrackPoller::start(&options.filter))
            .transpose()
            .context("no thread for connection tracking")?;
        let bound_ports = facts
            .bound
            .then(|| BoundPortPoller::start(&options.filter))
            .transpose()
            .context("no thread for bound sockets")?;
        let stacks = (options.stacks_per_second != 0)
            .then(StackNamer::start)
            .transpose()
            .context("no thread for stacks")?;
        Ok(Self {
            tracer,
            clock: ClockWatch::new(&facts),
            facts,
            seed: Some(seed),
            polls,
            sweeps,
            names,
            settings,
            conntrack,
            bound_ports,
            stacks,
            unnamed: VecDeque::new(),
            held: (Nanos(0), Vec::new()),
            ticked: Nanos(0),
            listeners,
            begun: false,
            is_seeding: true,
            losses: KernelLosses::default(),
            losses_reported_at: Nanos(0),
        })
    }

    /// Requests names for new stacks, and passes on those that were found.
    fn name_stacks(&mut self, take: &mut dyn FnMut(Record)) {
        // The last ones may come together with the end of the thread.
        for found in receive(&mut self.stacks, usize::MAX) {
            found.caller.into_iter().for_each(|caller| self.tracer.set_caller(caller));
            take(found.record);
        }
        let Some(stacks) = &self.stacks else { return };
        let new = self.tracer.new_stacks().into_iter();
        let room = MAX_UNNAMED.saturating_sub(self.unnamed.len());
        self.unnamed.extend(new.take(room).map(|new| StackRequest::Name(Box::new(new))));
        while let Some(request) = self.unnamed.pop_front() {
            if let Some(request) = stacks.request_or_return(request) {
                self.unnamed.push_front(request);
                break;
            }
        }
    }

    fn wait(&mut self) {
        self.tracer.wait(if self.is_seeding { POLL_SEEDING } else { POLL });
    }
}

impl Source for Live {
    fn work(&self) -> Work {
        Work::Counting
    }

    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> Result<Flow> {
        if self.begun {
            self.wait();
        } else {
            self.begun = true;
            privileges::keep_nothing_or_bpf(|| self.tracer.can_read_losses());
            take(Record::Host(Box::new(self.facts.clone())));
            self.ticked = host::monotonic_now();
            take(Record::Tick { ts: self.ticked });
            for record in std::mem::take(&mut self.listeners) {
                self.names.observe_record(&record);
                take(record);
            }
        }
        // Received before the rings are drained: the records of everything that a sweep saw must precede its
        // listing.
        let (mut seen_at, mut found) = std::mem::take(&mut self.held);
        if found.is_empty() {
            found = receive(&mut self.seed, SEED_BATCHES);
            found.push(self.sweeps.findings.try_iter().take(LISTINGS).collect());
            found.retain(|batch| !batch.is_empty());
            seen_at = host::monotonic_now();
        }
        // Polled before the rings are drained: later records need the new time of day.
        self.clock.poll().into_iter().for_each(&mut *take);
        let now = host::monotonic_now();
        let most = if found.is_empty() { DRAIN } else { usize::MAX };
        let Self { names, settings, .. } = self;
        let passed = self.tracer.drain(most, now, |seen| {
            names.observe_hook(&seen);
            settings.observe_hook(&seen);
            take(Record::Kernel(seen));
        });
        self.name_stacks(take);
        self.names.found().into_iter().for_each(&mut *take);
        self.settings.found().for_each(&mut *take);
        receive(&mut self.conntrack, usize::MAX).into_iter().for_each(&mut *take);
        receive(&mut self.bound_ports, usize::MAX).into_iter().for_each(&mut *take);
        if passed < seen_at {
            self.held = (seen_at, std::mem::take(&mut found));
        }
        for mut record in found.into_iter().flatten() {
            self.tracer.identify(&mut record);
            self.names.observe_record(&record);
            if matches!(record, Record::OwnersEnd { .. }) {
                self.is_seeding = false;
                self.sweeps.request(SweepCommand::Begin);
            }
            take(record);
        }
        if now.since(self.losses_reported_at) >= LOSS_INTERVAL {
            self.losses_reported_at = now;
            let losses = self.tracer.losses(&self.losses);
            let before = std::mem::replace(&mut self.losses, losses);
            // A sweep does not find stacks.
            if losses != (KernelLosses { stacks: losses.stacks, ..before }) {
                self.sweeps.request(SweepCommand::Lost);
            }
            take(Record::Loss { ts: now, losses });
        }
        // The rings may hold earlier records still: what has not come yet must not look late.
        self.ticked = self.ticked.max(passed);
        take(Record::Tick { ts: self.ticked });
        Ok(Flow::Running)
    }

    fn finish(&mut self, take: &mut dyn FnMut(Record)) {
        let began = Instant::now();
        let seed = self.seed.as_ref().filter(|_| self.polls == PollKind::Host);
        let polls_host = seed.map(|seed| seed.request(LastPoll)).is_some();
        if let Some(conntrack) = &self.conntrack {
            conntrack.request(LastPoll);
        }
        if let Some(bound_ports) = &self.bound_ports {
            bound_ports.request(LastPoll);
        }
        if self.stacks.is_some() {
            // The last one follows the stacks of all calls so far.
            self.tracer.drain(usize::MAX, host::monotonic_now(), |seen| take(Record::Kernel(seen)));
            self.name_stacks(take);
            self.unnamed.push_back(StackRequest::Last);
        }
        let is_polling = |live: &Self| {
            (polls_host && live.seed.is_some()) || live.conntrack.is_some() || live.bound_ports.is_some()
        };
        while (is_polling(self) && began.elapsed() < LAST_POLL_TIMEOUT)
            || (self.stacks.is_some() && began.elapsed() < NAMES_TIMEOUT)
        {
            let _ = self.fill(take);
        }
        self.losses_reported_at = Nanos(0);
        // Recent ends are settled once the kernel has reported nothing more for as long as the tracker waits.
        std::thread::sleep(SETTLE_TIME);
        // Drain completely: records left in the rings would not be counted as lost.
        self.tracer.drain(usize::MAX, host::monotonic_now(), |seen| take(Record::Kernel(seen)));
        // A bound on losses needs two readings to count.
        let _ = self.tracer.losses(&self.losses);
        let _ = self.fill(take);
    }
}
