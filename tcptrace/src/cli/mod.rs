//! The commands: the arguments of each, and what runs them.

pub mod states;
