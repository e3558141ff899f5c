//! Replaces `eprintln!` in this crate: a failed write to stderr (a full disk, for example) is ignored, while
//! the standard macro panics.

macro_rules! eprintln {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}
