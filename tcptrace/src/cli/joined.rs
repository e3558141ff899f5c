//! Receivers of events that join both ends of connections.

use std::sync::{Arc, Mutex, PoisonError};

use super::output::LineQueue;
use crate::{
    join::{JoinSummary, Joiner},
    lifecycle::{Event, Processes, Socket},
    model::{Record, SocketId, record::HostFacts, units},
    pipeline::EventSink,
    view::joined::JoinedWriter,
};

/// Counts of joined connections, complete once the pipeline has ended.
pub type SharedJoinSummary = Arc<Mutex<JoinSummary>>;

/// Joins connections and queues a line for each, if there is an output.
pub struct JoinSink {
    joiner: Joiner,
    output: Option<(JoinedWriter, LineQueue)>,
    summary: SharedJoinSummary,
}

impl JoinSink {
    /// A sink that only counts.
    pub fn counting(joiner: Joiner) -> (Self, SharedJoinSummary) {
        let summary = SharedJoinSummary::default();
        (Self { joiner, output: None, summary: Arc::clone(&summary) }, summary)
    }

    /// A sink that also writes lines.
    pub fn writing(joiner: Joiner, writer: JoinedWriter, mut lines: LineQueue) -> (Self, SharedJoinSummary) {
        if let Some(line) = lines.next() {
            // Writing to memory can't fail.
            let _ = writer.write_header(line);
        }
        let (mut sink, summary) = Self::counting(joiner);
        sink.output = Some((writer, lines));
        (sink, summary)
    }

    fn write(&mut self) {
        let connections: Vec<_> = self.joiner.drain().collect();
        let Some((writer, lines)) = &mut self.output else { return };
        for connection in connections {
            if let Some(line) = lines.next() {
                let _ = writer.write(line, &connection, |host| self.joiner.host_name(host));
            }
        }
    }
}

impl EventSink for JoinSink {
    fn event(&mut self, event: &Event<'_>, host: &HostFacts) {
        self.joiner.event(event, host);
        self.write();
    }

    fn appeared(&mut self, id: SocketId, socket: &Socket, processes: &Processes, host: &HostFacts) {
        self.joiner.appeared(id, socket, processes, host);
    }

    fn record(&mut self, record: &Record, host: &HostFacts) {
        self.joiner.record(record, host);
        self.write();
    }

    fn flush(&mut self) {
        if let Some((_, lines)) = &mut self.output {
            lines.flush();
        }
    }

    fn dropped(&self) -> u64 {
        self.output.as_ref().map_or(0, |(_, lines)| lines.dropped())
    }
}

/// The source has ended: connections that are still open follow.
impl Drop for JoinSink {
    fn drop(&mut self) {
        self.joiner.finish();
        self.write();
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = self.joiner.summary().clone();
    }
}

/// The counts once the pipeline has ended.
pub fn summary(shared: &SharedJoinSummary) -> JoinSummary {
    shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// One line with the counts.
pub fn sentence(summary: &JoinSummary) -> String {
    let mut parts = vec![format!(
        "{} with both ends",
        units::plural(summary.matched_count(), "connection", "connections")
    )];
    if summary.unmatched_count() > 0 {
        let reasons = summary.unmatched.iter();
        let reasons = reasons.map(|(reason, count)| format!("{} {}", units::count(*count), reason.text()));
        parts.push(format!(
            "{} without the other: {}",
            units::plural(summary.unmatched_count(), "end", "ends"),
            reasons.collect::<Vec<_>>().join(", ")
        ));
    }
    if summary.refused > 0 {
        let refused = units::plural(summary.refused, "end", "ends");
        parts.push(format!("{refused} not followed: too many at once"));
    }
    parts.join("; ")
}
