//! The command line: one file per command's arguments, and the filters that all of them share.

pub mod filter;
