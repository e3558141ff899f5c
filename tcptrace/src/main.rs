//! The `tcptrace` command.

fn main() {}
