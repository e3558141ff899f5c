//! The host without a trace: where nothing may be traced, its sockets at the start and a look from time to time.

use std::{
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tcptrace_common::filter::KernelFilter;

use super::{Flow, Look, Source, host, seed};
use crate::model::{Record, record::HostFacts};

const POLL: Duration = Duration::from_millis(50);
/// How long the last look may take.
const LAST_LOOK: Duration = Duration::from_secs(3);

/// Sockets and their surroundings, looked at.
pub struct Still {
    facts: HostFacts,
    seed: Option<seed::Reading>,
    begun: bool,
}

impl Still {
    /// Begins to look; `why` it is no trace.
    pub fn start(filter: &KernelFilter, shown_filter: String, why: &str) -> Result<Self> {
        let mut facts = HostFacts { filter: shown_filter, blind: true, ..host::facts() };
        facts.limits.push(format!(
            "Nothing is traced: {why}. States are those at the start, counters and queues are watched; how and why \
             connections end is not seen."
        ));
        let seed = seed::begin(facts.clone(), filter, Look::Host).context("no thread for the seed")?;
        Ok(Self { facts, seed: Some(seed), begun: false })
    }
}

impl Source for Still {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> Result<Flow> {
        if !self.begun {
            self.begun = true;
            take(Record::Host(Box::new(self.facts.clone())));
            take(Record::Tick { ts: host::monotonic_now() });
        }
        match self.seed.as_ref().map(|seed| seed.batches.recv_timeout(POLL)) {
            Some(Ok(batch)) => batch.into_iter().for_each(&mut *take),
            Some(Err(RecvTimeoutError::Disconnected)) => self.seed = None,
            Some(Err(RecvTimeoutError::Timeout)) => {}
            None => std::thread::sleep(POLL),
        }
        take(Record::Tick { ts: host::monotonic_now() });
        Ok(Flow::Running)
    }

    fn finish(&mut self, take: &mut dyn FnMut(Record)) {
        let began = Instant::now();
        if let Some(seed) = &self.seed {
            seed.end();
        }
        while self.seed.is_some() && began.elapsed() < LAST_LOOK {
            let _ = self.fill(take);
        }
    }
}
