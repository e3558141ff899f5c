//! The hooks, one file each.

mod learn;
mod request;
mod segment;
mod set_state;
mod timer;
mod timewait;
