//! The contract between the eBPF program and user space: the record layout in the rings, the TCP states, the
//! configuration that the loader writes, and the record filter.

#![no_std]

pub mod config;
pub mod filter;
pub mod record;
pub mod state;
