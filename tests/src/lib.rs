//! Live tests of tcptrace: real sockets in network namespaces of their own.
//!
//! A scenario makes traffic and records the time of each state change, proves by the kernel (`sock_diag`,
//! `/proc/net/netstat`) that it happened, and compares the output of tcptrace. Nothing has to be installed: socket filters
//! drop segments, raw sockets forge them.

pub mod browser;
pub mod clock;
pub mod doctor;
pub mod documents;
pub mod event;
pub mod expect;
pub mod filter;
pub mod ftrace;
pub mod hidden_events;
pub mod hist;
pub mod icmp;
pub mod json_snapshots;
pub mod kernel;
pub mod lab;
pub mod load;
pub mod netlink;
pub mod netns;
pub mod option;
pub mod pair;
pub mod ports;
pub mod precision;
pub mod process;
pub mod ring;
pub mod runner;
pub mod scenario;
pub mod table;
pub mod terminal;
pub mod tracer;
pub mod wire;
