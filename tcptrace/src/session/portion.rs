//! Portions of records and progress counters, shared by the recorder and its writer thread.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use crate::model::{Nanos, Record, incident::Incident, record::KernelLosses};

/// Progress counters, shared between threads.
#[derive(Debug, Default)]
pub struct RecorderStatus {
    /// Hook records written.
    pub records: AtomicU64,
    /// Bytes written, or held.
    pub bytes: AtomicU64,
    /// Records dropped because the writer was behind.
    pub missed: AtomicU64,
    pub(super) wants_head: AtomicBool,
    pub(super) wants_dump: AtomicUsize,
    /// What the next dump is about.
    incidents: Mutex<Vec<Incident>>,
    /// Portions in the queue.
    pub(super) queued: AtomicUsize,
}

/// A message to the writer thread.
pub enum Portion {
    /// Records in order of arrival.
    Records(Vec<Record>),
    /// Opens a new piece.
    Head { losses_before: KernelLosses, ts: Nanos, records: HeadRecords },
}

/// Makes the records of the state known when a piece begins; the writer calls it.
pub type HeadRecords = Box<dyn FnOnce() -> Box<dyn Iterator<Item = Record>> + Send>;

impl RecorderStatus {
    /// Whether the writer has processed everything it received.
    pub fn is_idle(&self) -> bool {
        self.queued.load(Relaxed) == 0
    }

    /// Requests a dump about `incidents`.
    pub fn dump_incidents(&self, incidents: Vec<Incident>) {
        self.incidents.lock().unwrap_or_else(PoisonError::into_inner).extend(incidents);
        self.dump();
    }

    /// The incidents that the next dump is about, which are no longer waiting then.
    pub(super) fn take_incidents(&self) -> Vec<Incident> {
        std::mem::take(&mut *self.incidents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Requests a dump of the records held in memory.
    pub fn dump(&self) {
        self.wants_dump.fetch_add(1, Relaxed);
    }
}
