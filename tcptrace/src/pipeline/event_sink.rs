//! Receiver of single events.

use crate::{lifecycle::Event, model::record::HostFacts};

/// Receives every event as it happens; must not block.
pub trait EventSink: Send {
    /// Handles one state change.
    fn event(&mut self, event: &Event<'_>, host: &HostFacts);
    /// Called after each batch of events.
    fn flush(&mut self);
    /// Output lines dropped because the reader was too slow.
    fn dropped(&self) -> u64;
}
