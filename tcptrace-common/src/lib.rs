//! The contract between the eBPF program and the user side: what a record looks like in the ring
//! buffer, what the TCP states are called, and what the loader tells the program before it runs.

#![no_std]

pub mod config;
pub mod record;
pub mod state;
