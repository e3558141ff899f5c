//! User stacks of the system calls that open and close connections, as names: no address leaves the tracer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tcptrace_common::record::stack::{INTERVAL, IS_SAMPLE};

use super::text::sanitise;

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
    /// Bytes from the start of the function, 0 where its line is known; if the function is unknown, from the start of the
    /// module's file.
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

    /// The function and the end of the path of its source line: `release_to_pool shop/pool.c:12`. Sanitised.
    pub fn with_source(&self) -> String {
        let name = sanitise(&self.name()).into_owned();
        let Some(source) = self.source() else { return name };
        let parts: Vec<&str> = source.rsplitn(3, '/').take(2).collect();
        let tail = parts.into_iter().rev().collect::<Vec<_>>().join("/");
        format!("{name} {}", sanitise(&tail))
    }

    fn is_of_c_library(&self) -> bool {
        C_LIBRARIES.iter().any(|name| self.module.starts_with(name))
    }

    /// Whether it belongs to the C library, or to what comes with the language.
    pub fn is_of_language(&self) -> bool {
        self.is_of_c_library()
            || self.file.starts_with("/rustc/")
            || OF_LANGUAGES.iter().any(|prefix| self.function.starts_with(prefix))
            // Of Node.js, and of Python.
            || self.function.contains(" node:")
            || (self.function.starts_with("py::") && self.function.contains("/lib/python"))
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
    /// The caller and the functions that call it, on one line: `release_to_pool shop/pool.c:12 < handle_request < main`.
    /// Sanitised.
    pub fn summary(&self) -> String {
        const MOST: usize = 4;
        let Some(caller) = self.caller() else { return "unknown code".into() };
        let first = self.frames.iter().position(|frame| std::ptr::eq(frame, caller)).unwrap_or(0);
        let mut names = vec![caller.with_source()];
        let outer = self.frames[first + 1..].iter().filter(|frame| !frame.is_of_language());
        names.extend(outer.take(MOST - 1).map(|frame| sanitise(&frame.name()).into_owned()));
        names.join(" < ")
    }

    /// Memory of its frames, about.
    pub fn size_bytes(&self) -> usize {
        let texts = |frame: &StackFrame| frame.function.len() + frame.module.len() + frame.file.len();
        self.frames.iter().map(|frame| size_of::<StackFrame>() + texts(frame)).sum()
    }

    /// The frame that a reader looks for: the innermost one that belongs neither to the C library nor to what comes with the
    /// language.
    pub fn caller(&self) -> Option<&StackFrame> {
        let first =
            |is_left_out: fn(&StackFrame) -> bool| self.frames.iter().find(|frame| !is_left_out(frame));
        first(StackFrame::is_of_language)
            .or_else(|| first(StackFrame::is_of_c_library))
            .or(self.frames.first())
    }
}

/// Files of the C library and the dynamic linker.
const C_LIBRARIES: [&str; 5] = ["libc.", "libc-", "libpthread", "ld-linux", "ld-musl"];
/// Functions of the standard libraries of Rust, Go and Java, and of the programs that run JavaScript and Python.
const OF_LANGUAGES: [&str; 23] = [
    "std::",
    "core::",
    "alloc::",
    "<std::",
    "<core::",
    "<alloc::",
    "syscall.",
    "internal/",
    "net.",
    "net/http.",
    "crypto/tls.",
    "runtime.",
    "runtime/",
    "java.",
    "sun.",
    "jdk.",
    "uv_",
    "node::",
    "v8::",
    "Builtins_",
    "sock_",
    "_Py",
    "Py",
];

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
        assert_eq!(stack.summary(), "release < main");
        for functions in [
            ["std::os::fd::close", "core::mem::drop", "pool::release"],
            ["syscall.Close", "net.(*conn).Close", "main.release"],
            ["runtime/internal/syscall.Syscall6", "syscall.Syscall", "main.release"],
            ["uv__close", "JS:destroy node:internal/streams/destroy:48:17", "JS:release /srv/pool.js:9:25"],
            ["sock_close", "py::socket.close:/usr/lib/python3.12/socket.py", "py::release:/srv/pool.py"],
        ] {
            let frames = functions.map(|function| frame(function, "app")).to_vec();
            let stack = UserStack { frames, is_cut: false };
            assert_eq!(stack.caller().map(StackFrame::name).as_deref(), Some(functions[2]));
        }
        let stack =
            UserStack { frames: vec![frame("close", "libc.so.6"), frame("sock_close", "app")], is_cut: true };
        assert_eq!(stack.caller().map(StackFrame::name).as_deref(), Some("sock_close"));
    }

    #[test]
    fn a_sample_stands_for_several_calls() {
        assert_eq!((StackUse::of(7).number(), StackUse::of(7).calls()), (Some(7), 1));
        let sample = StackUse::of(7 | IS_SAMPLE);
        assert_eq!((sample.number(), sample.calls()), (Some(7), u64::from(INTERVAL)));
        assert!(StackUse::NONE.is_none());
    }
}
