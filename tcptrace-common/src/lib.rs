//! The contract between the eBPF program and the user side: what a record looks like in the ring
//! buffer, what the TCP states are called, what the loader tells the program before it runs, and
//! which records are wanted.

#![no_std]

pub mod config;
pub mod filter;
pub mod record;
pub mod state;
