//! Counts of closes by the side that closed first, and of closes that skipped TIME_WAIT by cause.

use crate::{
    aggregate::Group,
    lifecycle::{Closer, EndReason},
};

/// Closes that leave no TIME_WAIT on either side, by cause: name, and the end reasons it covers.
const SKIPPED: [(&str, &[EndReason]); 15] = [
    ("reset_received", &[EndReason::ResetReceived, EndReason::Reset]),
    ("reset_sent_unread", &[EndReason::ResetSentUnread]),
    ("reset_sent_linger", &[EndReason::ResetSentLinger]),
    ("reset_sent_linger2", &[EndReason::ResetSentLinger2]),
    ("reset_sent_memory", &[EndReason::ResetSentMemory]),
    ("reset_sent", &[EndReason::ResetSent]),
    ("disconnected", &[EndReason::Disconnected]),
    // Data arrived for a connection that no process had open any more.
    ("aborted", &[EndReason::Aborted]),
    ("killed", &[EndReason::Killed]),
    ("timeout", &[EndReason::Timeout]),
    ("unreachable", &[EndReason::Unreachable]),
    ("silent", &[EndReason::Silent]),
    ("refused", &[EndReason::Refused]),
    // tcp_max_tw_buckets was reached.
    ("overflow", &[EndReason::Overflow]),
    // tcp_fin_timeout ended an orphan FIN_WAIT2.
    ("fin_timeout", &[EndReason::Expired]),
];

/// Number of connections by closer.
pub fn closers(group: &Group) -> impl Iterator<Item = (&'static str, u64)> {
    Closer::ALL.into_iter().map(|closer| (closer.name(), group.closers[closer as usize]))
}

/// Number of closes that skipped TIME_WAIT, by cause.
pub fn skipped(group: &Group) -> impl Iterator<Item = (&'static str, u64)> {
    SKIPPED.into_iter().map(|(name, reasons)| {
        let count =
            |reason: &EndReason| group.ended[*reason as usize] + group.orphans_ended[*reason as usize];
        (name, reasons.iter().map(count).sum())
    })
}
