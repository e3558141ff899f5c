//! The hooks, one file each.
//!
//! Since about 6.1 the kernel skips a tracing program that interrupts itself: a softirq's event during a task's event.
//! So hooks that fire in both contexts have their program attached twice: while one copy is active the other one runs.
//! The first copy leaves a mark per CPU; the second one finds it and does not report. When a nested event has
//! overwritten the mark, the second copy reports a duplicate, which user space drops: a duplicate is better than a
//! loss.

mod learn;
mod request;
mod reset;
mod segment;
mod set_state;
mod timer;
mod timewait;
