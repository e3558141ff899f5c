//! Defines the domain types: addresses, sockets, processes, time, and the [`Record`] that every source emits. Nothing
//! here reads a file, a clock or the environment.

pub mod addr;
pub mod bound_ports;
pub mod cgroup;
pub mod checkpoint;
pub mod clock;
pub mod connection;
pub mod counts;
pub mod dwell;
pub mod hooks;
pub mod ids;
pub mod incident;
pub mod name_set;
pub mod nat;
pub mod own_cost;
pub mod peer_names;
pub mod process;
pub mod record;
pub mod source;
pub mod stack;
pub mod sysctls;
pub mod text;
pub mod units;
pub mod workload;

pub use addr::{Addr, Endpoint, Tuple};
pub use connection::{Closer, End, EndReason, OwnerKind, Phase, Role};
pub use counts::StateCounts;
pub use dwell::{Bound, Dwell, Since};
pub use ids::{IdKind, Nanos, NetnsId, SocketId};
pub use name_set::{Set, StateSet};
pub use record::{ClockStep, HookRecord, Record, SeedSocket};
pub use source::{Flow, Source};
pub use tcptrace_common::state::TcpState;

/// Unused names kept per kind, the most recently reported ones. The source of names remembers no more, so that it
/// reports a dropped name again when it is seen again.
pub const MAX_UNUSED_NAMES: usize = 1 << 12;
