//! Receiver of single events.

use crate::{
    lifecycle::{Event, Processes, Socket},
    model::{Record, SocketId, record::HostFacts},
};

/// Receives every event as it happens; must not block.
pub trait EventSink: Send {
    /// Handles one state change.
    fn event(&mut self, event: &Event<'_>, host: &HostFacts);
    /// Handles a socket that no state change announced: it is older than the trace.
    fn appeared(&mut self, _id: SocketId, _socket: &Socket, _processes: &Processes, _host: &HostFacts) {}
    /// Handles a record that no hook reported: facts, and the passing of time.
    fn record(&mut self, _record: &Record, _host: &HostFacts) {}
    /// Called after each batch of events.
    fn flush(&mut self);
    /// Output lines dropped because the reader was too slow.
    fn dropped(&self) -> u64;
}
