//! Build and test tasks: `cargo xtask`.

fn main() {}
