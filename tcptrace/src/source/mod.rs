//! Sources of records: the live kernel, and `/proc` for what it does not report. All reading from the host
//! happens here; the modules below are pure.

mod address_names;
pub mod bound_ports;
pub mod conntrack;
mod counters;
pub mod host;
mod host_files;
mod host_poller;
pub mod live;
pub mod names;
mod netlink;
pub mod netns;
pub mod own_cost;
pub mod owners;
mod poller;
pub mod polling_source;
mod process_facts;
mod procfs;
mod seed;
mod settings;
pub mod sock_diag;
mod stack_names;
mod sweep;
mod sysctl_files;
pub(crate) mod users;
pub(crate) mod workload_names;

pub use host_poller::PollKind;
pub use process_facts::NameOptions;
pub use seed::may_be_in;
