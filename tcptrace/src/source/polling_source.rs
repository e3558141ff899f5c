//! Observes a host where tracing is impossible: lists the sockets at the start, and polls the host afterwards.

use std::{
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tcptrace_common::filter::KernelFilter;

use super::{
    PollKind,
    bound_ports::{self, BoundPortPoller},
    conntrack::ConntrackPoller,
    host::{self, ClockWatch},
    names::NameResolver,
    poller::{LAST_POLL_TIMEOUT, LastPoll, PollerThread, receive},
    process_facts::NameOptions,
    seed::{self, Seed},
};
use crate::model::{Flow, Record, Source, record::HostFacts};

const POLL: Duration = Duration::from_millis(50);

/// A source that polls instead of tracing.
pub struct PollingSource {
    facts: HostFacts,
    seed: Option<PollerThread<Seed>>,
    names: NameResolver,
    conntrack: Option<PollerThread<ConntrackPoller>>,
    /// `None` if the kernel lists none.
    bound_ports: Option<PollerThread<BoundPortPoller>>,
    clock: ClockWatch,
    begun: bool,
}

impl PollingSource {
    /// Starts polling; `why` is the reason why nothing is traced.
    pub fn start(
        filter: &KernelFilter,
        shown_filter: String,
        why: &str,
        names: &NameOptions,
    ) -> Result<Self> {
        let mut facts = HostFacts { filter: shown_filter, blind: true, ..host::facts() };
        facts.limits.push(format!(
            "Nothing is traced: {why}. States are those at the start, counters and queues are watched; how and why \
             connections end is not seen."
        ));
        facts.bound = bound_ports::is_listed();
        if !facts.bound {
            facts.limits.push(bound_ports::NOT_LISTED.into());
        }
        let seed = seed::start(facts.clone(), filter, PollKind::Host, facts.blind)
            .context("no thread for the seed")?;
        let names = NameResolver::start(names).context("no thread for names")?;
        let conntrack = ConntrackPoller::start(filter).context("no thread for connection tracking")?;
        let bound_ports = facts
            .bound
            .then(|| BoundPortPoller::start(filter))
            .transpose()
            .context("no thread for bound sockets")?;
        Ok(Self {
            clock: ClockWatch::new(&facts),
            facts,
            seed: Some(seed),
            names,
            conntrack: Some(conntrack),
            bound_ports,
            begun: false,
        })
    }
}

impl Source for PollingSource {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> Result<Flow> {
        if !self.begun {
            self.begun = true;
            take(Record::Host(Box::new(self.facts.clone())));
            take(Record::Tick { ts: host::monotonic_now() });
        }
        match self.seed.as_ref().map(|seed| seed.findings.recv_timeout(POLL)) {
            Some(Ok(batch)) => {
                for record in batch {
                    self.names.observe_record(&record);
                    take(record);
                }
            }
            Some(Err(RecvTimeoutError::Disconnected)) => self.seed = None,
            Some(Err(RecvTimeoutError::Timeout)) => {}
            None => std::thread::sleep(POLL),
        }
        self.names.found().into_iter().for_each(&mut *take);
        receive(&mut self.conntrack, usize::MAX).into_iter().for_each(&mut *take);
        receive(&mut self.bound_ports, usize::MAX).into_iter().for_each(&mut *take);
        self.clock.poll().into_iter().for_each(&mut *take);
        take(Record::Tick { ts: host::monotonic_now() });
        Ok(Flow::Running)
    }

    fn finish(&mut self, take: &mut dyn FnMut(Record)) {
        let began = Instant::now();
        if let Some(seed) = &self.seed {
            seed.request(LastPoll);
        }
        if let Some(conntrack) = &self.conntrack {
            conntrack.request(LastPoll);
        }
        if let Some(bound_ports) = &self.bound_ports {
            bound_ports.request(LastPoll);
        }
        while (self.seed.is_some() || self.conntrack.is_some() || self.bound_ports.is_some())
            && began.elapsed() < LAST_POLL_TIMEOUT
        {
            let _ = self.fill(take);
        }
    }
}
