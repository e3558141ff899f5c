//! What made a recorder write a file.

use serde::{Deserialize, Serialize};

/// A finding that began while a recorder ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Id of the finding: `close_wait_leak`.
    pub finding: String,
    /// Its title at that time. Untrusted.
    pub title: String,
    /// When it was first seen, by the wall clock, nanoseconds since the epoch.
    pub ts_ns: u64,
}
