//! The words of the program as types: addresses, sockets, processes, time, and the [`Record`] that
//! flows from every source. Nothing here reads a file, a clock or the environment.

pub mod addr;
pub mod counts;
pub mod ids;
pub mod record;
pub mod text;
pub mod units;

pub use addr::{Addr, Endpoint, Tuple};
pub use counts::StateCounts;
pub use ids::{Nanos, NetnsId, SocketId};
pub use record::{Observation, Record, SeedSocket};
pub use tcptrace_common::state::TcpState;
