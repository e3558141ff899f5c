//! A process that owns sockets.

use std::sync::Arc;

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id in the initial pid namespace (tgid).
    pub pid: u32,
    /// Its kernel name (`/proc/PID/comm`), at most 15 bytes. Untrusted.
    pub comm: Arc<str>,
    /// cgroup v2 id, 0 when unknown.
    pub cgroup: u64,
}
