//! Live tests of tcptrace: real sockets in network namespaces of their own.
//!
//! A scenario makes traffic whose every state change it can date itself, proves with the kernel's own word (`sock_diag`,
//! `/proc/net/netstat`) that it happened, and then compares what tcptrace said about it. Nothing has to be installed:
//! segments are lost through socket filters and forged through raw sockets.

pub mod browser;
pub mod clock;
pub mod doctor;
pub mod documents;
pub mod event;
pub mod expect;
pub mod filter;
pub mod hist;
pub mod kernel;
pub mod lab;
pub mod load;
pub mod netlink;
pub mod netns;
pub mod pair;
pub mod pictures;
pub mod ports;
pub mod precision;
pub mod process;
pub mod runner;
pub mod scenario;
pub mod table;
pub mod terminal;
pub mod tracer;
pub mod wire;
