//! Counts of joined connections.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::connection::{ClosedFirst, JoinStatus, JoinedConnection, UnmatchedReason};
use crate::model::Endpoint;

/// Most services counted on their own.
const MAX_SERVICES: usize = 1 << 16;

/// Connections by who closed first.
pub type FirstCounts = [u64; ClosedFirst::ALL.len()];

/// Counts of joined connections.
#[derive(Clone, Debug, Default)]
pub struct JoinSummary {
    /// Connections with both ends, by status name.
    pub matched: BTreeMap<&'static str, u64>,
    /// Those, by who closed first, in the order of [`ClosedFirst::ALL`].
    pub closed_first: FirstCounts,
    /// Those of each service: the address and port of the server.
    services: HashMap<Endpoint, FirstCounts>,
    /// Those of services beyond the limit.
    pub other_services: FirstCounts,
    /// Ends without the other one.
    pub unmatched: BTreeMap<UnmatchedReason, u64>,
    /// Ends of new connections that were not followed, because there were too many.
    pub refused: u64,
}

impl JoinSummary {
    /// Counts one connection.
    pub(super) fn add(&mut self, connection: &JoinedConnection) {
        if let JoinStatus::Unmatched(reason) = connection.status {
            *self.unmatched.entry(reason).or_default() += 1;
            return;
        }
        *self.matched.entry(connection.status.name()).or_default() += 1;
        let first = connection.closed_first() as usize;
        self.closed_first[first] += 1;
        let Some(server) = &connection.server else { return };
        let service = server.tuple.local();
        let counts = if self.services.len() < MAX_SERVICES || self.services.contains_key(&service) {
            self.services.entry(service).or_default()
        } else {
            &mut self.other_services
        };
        counts[first] += 1;
    }

    /// Connections with both ends.
    pub fn matched_count(&self) -> u64 {
        self.matched.values().sum()
    }

    /// Ends without the other one.
    pub fn unmatched_count(&self) -> u64 {
        self.unmatched.values().sum()
    }

    /// Services with their counts, those with the most connections first.
    pub fn services(&self) -> Vec<(Endpoint, FirstCounts)> {
        let mut services: Vec<(Endpoint, FirstCounts)> =
            self.services.iter().map(|(service, counts)| (*service, *counts)).collect();
        services.sort_by_key(|(service, counts)| (std::cmp::Reverse(counts.iter().sum::<u64>()), *service));
        services
    }
}
