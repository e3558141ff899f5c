//! A running `tcptrace COMMAND --json --interval`: its documents.

use std::marker::PhantomData;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use crate::clock::{soon, wait_for};
use crate::lab::Lab;
use crate::tracer::{Format, Tracer, nothing_is_lost};

/// A command that prints one document after the other.
pub struct Pictures<D> {
    tracer: Tracer,
    of: PhantomData<D>,
}

impl<D: DeserializeOwned> Pictures<D> {
    /// Starts it and waits until it traces.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        Ok(Self { tracer: lab.trace_with(args, Format::Text)?, of: PhantomData })
    }

    /// Whether there is a tracer at all.
    pub const fn is_present(&self) -> bool {
        self.tracer.is_present()
    }

    /// Every document so far.
    pub fn documents(&self) -> Result<Vec<D>> {
        self.tracer.lines().iter().map(|line| decode(line)).collect()
    }

    /// Waits for a document for which `is_complete` holds. Gives the newest one when none comes, and none when
    /// nothing is traced.
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

    /// The next document of which all was made after this call.
    pub fn next(&self) -> Result<Option<D>> {
        if !self.is_present() {
            return Ok(None);
        }
        let there = self.tracer.lines().len();
        let second = || Ok(self.tracer.lines().get(there + 1).cloned());
        decode(&wait_for("two more documents", soon(), second)?).map(Some)
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.tracer.pid()
    }

    /// Ends it and checks that nothing was lost.
    pub fn finish(self) -> Result<()> {
        let summary = self.tracer.stop()?;
        ensure!(summary.is_empty() || nothing_is_lost(&summary), "losses: {summary}");
        Ok(())
    }
}

/// Reads a document.
pub fn decode<D: DeserializeOwned>(line: &str) -> Result<D> {
    serde_json::from_str(line).with_context(|| format!("a document: {line}"))
}
