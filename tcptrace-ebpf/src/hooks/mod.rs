//! The hooks, one file each.
//!
//! Since about 6.1 a tracing program is skipped when it interrupts itself: a softirq's event on top of a
//! task's one. So the hooks that fire in both contexts have their program attached twice: where one copy
//! is active the other runs. The first copy leaves a mark per CPU; the second finds it and stays silent.
//! A mark that a nested event has overwritten makes a double, which user space drops: rather a double
//! than a hole.

mod learn;
mod request;
mod segment;
mod set_state;
mod timer;
mod timewait;
