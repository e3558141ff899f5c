//! The running kernel as a source: the hooks' ring buffers, the seed beside it, and the time.

use std::{
    sync::mpsc::TryRecvError,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Flow, Source, host, looks::Look, names::Names, seed, settings::Settings, sweep::Sweeps};
use crate::{
    kernel::{Options, Tracer, btf::KernelTypes},
    model::{
        Nanos, Record,
        record::{HostFacts, KernelLosses},
    },
    privileges::{self, Work},
};

/// How long to wait for records: what a screen shows is never older, and waking up costs little.
const POLL: Duration = Duration::from_millis(10);
/// The same until all that was there before is known: the first picture waits for it.
const POLL_SEEDING: Duration = Duration::from_millis(1);
/// Records taken from the rings in one go, so that time goes on in between.
const DRAIN: usize = 32 << 10;
/// Batches of the seed taken in one go.
const SEED_BATCHES: usize = 8;
/// How long the last look may take.
const LAST_LOOK: Duration = Duration::from_secs(3);
const LOSS_INTERVAL: Nanos = Nanos(250_000_000);

/// A live trace.
pub struct Live {
    tracer: Tracer,
    facts: HostFacts,
    seed: Option<seed::Reading>,
    look: Look,
    sweeps: Sweeps,
    names: Names,
    settings: Settings,
    begun: bool,
    is_seeding: bool,
    losses: KernelLosses,
    losses_told: Nanos,
}

impl Live {
    /// Attaches the hooks, which let pass what `options` say of `filter`, then begins to read what exists already.
    pub fn start(types: &KernelTypes, options: &Options, filter: String, look: Look) -> Result<Self> {
        let tracer = Tracer::start(types, options)?;
        privileges::keep_for(Work::Loaded);
        let mut facts = HostFacts { filter, ..host::facts() };
        let hooks = tracer.hooks();
        facts.segments = hooks.segments;
        if !hooks.segments {
            facts.limits.push(format!(
                "This kernel does not show segments that reach a TIME_WAIT socket (6.11 does): the step from an \
                 orphan FIN_WAIT2 to TIME_WAIT is {}, and a TIME_WAIT ended by a RST reads 'unexplained'.",
                if hooks.entry_stamp {
                    "known to a millisecond, when the socket ends"
                } else {
                    "a bound, known when the socket ends"
                }
            ));
        }
        let seed = seed::begin(facts.clone(), &options.filter, look).context("no thread for the seed")?;
        let sweeps = Sweeps::start(&options.filter, facts.segments).context("no thread for sweeps")?;
        let names = Names::start().context("no thread for names")?;
        let settings = Settings::start().context("no thread for settings")?;
        Ok(Self {
            tracer,
            facts,
            seed: Some(seed),
            look,
            sweeps,
            names,
            settings,
            begun: false,
            is_seeding: true,
            losses: KernelLosses::default(),
            losses_told: Nanos(0),
        })
    }

    fn wait(&self) {
        self.tracer.wait(if self.is_seeding { POLL_SEEDING } else { POLL });
    }

    /// What has come of the seed.
    fn receive_seed(&mut self) -> Vec<Vec<Record>> {
        let mut batches = Vec::new();
        while batches.len() < SEED_BATCHES {
            let Some(seed) = &self.seed else { break };
            match seed.batches.try_recv() {
                Ok(batch) => batches.push(batch),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.seed = None,
            }
        }
        batches
    }
}

impl Source for Live {
    fn begin(&mut self) {
        privileges::keep_nothing_or_bpf(|| self.tracer.can_count());
    }

    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> Result<Flow> {
        if self.begun {
            self.wait();
        } else {
            self.begun = true;
            take(Record::Host(Box::new(self.facts.clone())));
            take(Record::Tick { ts: host::monotonic_now() });
        }
        // What a sweep found is told after everything that had happened by then: the rings are read up
        // to this moment.
        let mut found = self.receive_seed();
        found.push(self.sweeps.found());
        // Read first: whatever had happened by then comes before the tick.
        let now = host::monotonic_now();
        let most = if found.iter().all(Vec::is_empty) { DRAIN } else { usize::MAX };
        let Self { names, settings, .. } = self;
        self.tracer.drain(most, now, |seen| {
            names.look_at(&seen);
            settings.look_at(&seen);
            take(Record::Kernel(seen));
        });
        self.names.found().for_each(&mut *take);
        self.settings.found().for_each(&mut *take);
        for record in found.into_iter().flatten() {
            self.names.look_at_record(&record);
            if matches!(record, Record::OwnersEnd { .. }) {
                self.is_seeding = false;
                self.sweeps.begin();
            }
            take(record);
        }
        if now.since(self.losses_told) >= LOSS_INTERVAL {
            self.losses_told = now;
            let losses = self.tracer.losses(&self.losses);
            if losses != std::mem::replace(&mut self.losses, losses) {
                self.sweeps.hurry();
            }
            take(Record::Loss { ts: now, losses });
        }
        take(Record::Tick { ts: now });
        Ok(Flow::Running)
    }

    fn finish(&mut self, take: &mut dyn FnMut(Record)) {
        let began = Instant::now();
        if let (Some(seed), Look::Host) = (&self.seed, self.look) {
            seed.end();
            while self.seed.is_some() && began.elapsed() < LAST_LOOK {
                let _ = self.fill(take);
            }
        }
        self.losses_told = Nanos(0);
        // All that had happened by now, however much it is: what stays in the rings is counted nowhere.
        self.tracer.drain(usize::MAX, host::monotonic_now(), |seen| take(Record::Kernel(seen)));
        let _ = self.fill(take);
    }
}
