//! The hooks, one file each.
//!
//! Since about 6.1 the kernel skips a tracing program that interrupts itself: a softirq's event during a task's event.
//! So hooks that fire in both contexts have their program attached twice: while one copy is active the other one runs.
//! Since 7.0 a task may lose its CPU inside a program: one task waits inside the first copy, another is interrupted
//! inside the second. There a third copy is attached. In the programs at functions it may lose its CPU on every kernel that
//! preempts its own code.
//! The copy that reports leaves a mark per CPU; the next ones find it and do not report. When a nested event has
//! overwritten the mark, a later copy reports a duplicate, which user space drops: a duplicate is better than a loss.

mod accept;
mod learn;
mod request;
mod reset;
mod segment;
mod set_state;
mod timer;
mod timewait;
