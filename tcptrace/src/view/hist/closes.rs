//! Who closed first, and which closes went past TIME_WAIT, by cause: a group in, numbers by name out.

use crate::{
    aggregate::Group,
    lifecycle::{Closer, EndReason},
};

/// Closes that leave no TIME_WAIT on either side, by cause: the name, and the reasons it stands for.
const SKIPPED: [(&str, &[EndReason]); 10] = [
    ("reset_received", &[EndReason::ResetReceived, EndReason::Reset]),
    ("reset_sent_unread", &[EndReason::ResetSentUnread]),
    ("reset_sent_linger", &[EndReason::ResetSentLinger]),
    ("disconnected", &[EndReason::Disconnected]),
    // Data came for a connection that nobody had open any more.
    ("aborted", &[EndReason::Aborted]),
    ("killed", &[EndReason::Killed]),
    ("timeout", &[EndReason::Timeout]),
    ("refused", &[EndReason::Refused]),
    // tcp_max_tw_buckets.
    ("overflow", &[EndReason::Overflow]),
    // An orphan FIN_WAIT2 ran into tcp_fin_timeout.
    ("fin_timeout", &[EndReason::Expired]),
];

/// How many connections were closed by whom.
pub fn closers(group: &Group) -> impl Iterator<Item = (&'static str, u64)> {
    Closer::ALL.into_iter().map(|closer| (closer.name(), group.closers[closer as usize]))
}

/// How many closes skipped TIME_WAIT, by cause.
pub fn skipped(group: &Group) -> impl Iterator<Item = (&'static str, u64)> {
    SKIPPED.into_iter().map(|(name, reasons)| {
        let count =
            |reason: &EndReason| group.ended[*reason as usize] + group.orphans_ended[*reason as usize];
        (name, reasons.iter().map(count).sum())
    })
}
