//! User stacks of the system calls that open and close connections, as names: no address leaves the tracer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tcptrace_common::record::stack::{INTERVAL, IS_SAMPLE};

/// Most frames of a stack, inlined functions included.
pub const MAX_FRAMES: usize = 128;

/// A stack, innermost frame first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UserStack {
    /// The frames; none if the process had ended before they could be named.
    pub frames: Vec<StackFrame>,
    /// The outer frames are unknown: the program was built without frame pointers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
}

/// A function in a stack. All texts are sanitised and bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StackFrame {
    /// The function, demangled; empty if unknown.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub function: Arc<str>,
    /// Bytes from the start of the function; if that is unknown, from the start of the module's file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// File name of the program or library; empty for code made at run time.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub module: Arc<str>,
    /// Source file; empty if unknown.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub file: Arc<str>,
    /// Line in the source file, 0 if unknown.
    #[serde(default, skip_serializing_if = "is_zero_line")]
    pub line: u32,
    /// The compiler inlined it into the next frame.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_inlined: bool,
}

impl StackFrame {
    /// `function`, or `libfoo.so+0x1234`.
    pub fn name(&self) -> String {
        match (self.function.is_empty(), self.module.is_empty()) {
            (false, _) => self.function.to_string(),
            (true, false) => format!("{}+{:#x}", self.module, self.offset),
            (true, true) => "[unknown]".into(),
        }
    }

    /// `src/pool.c:12`, if known.
    pub fn source(&self) -> Option<String> {
        match (self.file.is_empty(), self.line) {
            (true, _) => None,
            (false, 0) => Some(self.file.to_string()),
            (false, line) => Some(format!("{}:{line}", self.file)),
        }
    }
}

impl UserStack {
    /// Memory of its frames, about.
    pub fn size_bytes(&self) -> usize {
        let texts = |frame: &StackFrame| frame.function.len() + frame.module.len() + frame.file.len();
        self.frames.iter().map(|frame| size_of::<StackFrame>() + texts(frame)).sum()
    }

    /// The frame that a reader looks for: the innermost one that does not belong to the C library.
    pub fn caller(&self) -> Option<&StackFrame> {
        self.frames.iter().find(|frame| !is_c_library(&frame.module)).or_else(|| self.frames.first())
    }
}

/// Whether a file is the C library or the dynamic linker.
fn is_c_library(module: &str) -> bool {
    ["libc.", "libc-", "libpthread", "ld-linux", "ld-musl"].iter().any(|name| module.starts_with(name))
}

/// The stack of a call that changed a socket: its number, and how many calls it stands for. The number is that in the
/// transition's `arg0`; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StackUse(u32);

impl StackUse {
    /// No stack was captured.
    pub const NONE: Self = Self(0);

    /// That of a transition with this `arg0`.
    pub const fn of(arg0: u64) -> Self {
        Self(arg0 as u32)
    }

    /// The number of the stack.
    pub const fn number(self) -> Option<u32> {
        match self.0 & !(IS_SAMPLE as u32) {
            0 => None,
            number => Some(number),
        }
    }

    /// The number of calls that it stands for.
    pub const fn calls(self) -> u64 {
        if self.0 as u64 & IS_SAMPLE == 0 { 1 } else { INTERVAL as u64 }
    }

    /// Whether no stack was captured.
    pub const fn is_none(&self) -> bool {
        self.number().is_none()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero_line(value: &u32) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, module: &str) -> StackFrame {
        StackFrame { function: function.into(), module: module.into(), offset: 0x12, ..StackFrame::default() }
    }

    #[test]
    fn the_caller_is_outside_of_the_c_library() {
        let frames = vec![frame("close", "libc.so.6"), frame("release", "app"), frame("main", "app")];
        let stack = UserStack { frames, is_cut: false };
        assert_eq!(stack.caller().map(StackFrame::name).as_deref(), Some("release"));
        assert_eq!(frame("", "app").name(), "app+0x12");
    }

    #[test]
    fn a_sample_stands_for_several_calls() {
        assert_eq!((StackUse::of(7).number(), StackUse::of(7).calls()), (Some(7), 1));
        let sample = StackUse::of(7 | IS_SAMPLE);
        assert_eq!((sample.number(), sample.calls()), (Some(7), u64::from(INTERVAL)));
        assert!(StackUse::NONE.is_none());
    }
}
