//! The documents of a running `tcptrace COMMAND --json --interval`.

use std::marker::PhantomData;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use crate::clock::{soon, wait_for};
use crate::hidden_events;
use crate::lab::Lab;
use crate::tracer::{LiveTracer, TracerFormat, nothing_is_lost};

/// A command that prints one document after the other.
pub struct JsonSnapshots<D> {
    tracer: LiveTracer,
    hidden: hidden_events::HiddenEvents,
    of: PhantomData<D>,
}

impl<D: DeserializeOwned> JsonSnapshots<D> {
    /// Starts it and waits until it traces.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let hidden = hidden_events::HiddenEvents::now();
        Ok(Self { tracer: lab.trace_with(args, TracerFormat::Text)?, hidden, of: PhantomData })
    }

    /// Whether there is a tracer at all.
    pub const fn is_present(&self) -> bool {
        self.tracer.is_present()
    }

    /// Every document so far.
    pub fn documents(&self) -> Result<Vec<D>> {
        self.tracer.lines().iter().map(|line| decode(line)).collect()
    }

    /// Waits for a document that `is_complete` accepts. Returns the newest one after a time-out, and `None` if nothing is
    /// traced.
    pub fn wait(&self, is_complete: impl Fn(&D) -> bool) -> Result<Option<D>> {
        if !self.is_present() {
            return Ok(None);
        }
        let newest = || self.tracer.lines().last().map(|line| decode(line)).transpose();
        let complete = wait_for("the documents to be complete", soon(), || {
            Ok(newest()?.filter(|document| is_complete(document)))
        });
        match complete {
            Ok(document) => Ok(Some(document)),
            Err(_) => newest(),
        }
    }

    /// The next document that began after this call.
    pub fn next(&self) -> Result<Option<D>> {
        if !self.is_present() {
            return Ok(None);
        }
        let present = self.tracer.lines().len();
        let second = || Ok(self.tracer.lines().get(present + 1).cloned());
        decode(&wait_for("two more documents", soon(), second)?).map(Some)
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.tracer.pid()
    }

    /// Ends it and checks that nothing was lost.
    pub fn finish(self) -> Result<()> {
        let summary = self.tracer.stop()?;
        let hidden = self.hidden.count();
        ensure!(
            summary.is_empty() || nothing_is_lost(&summary, hidden),
            "losses, with {hidden} events hidden by the kernel: {summary}"
        );
        Ok(())
    }
}

/// Reads a document.
pub fn decode<D: DeserializeOwned>(line: &str) -> Result<D> {
    serde_json::from_str(line).with_context(|| format!("a document: {line}"))
}
