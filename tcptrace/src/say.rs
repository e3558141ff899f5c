//! `eprintln!` for this crate: a note that stderr does not take (a full disk, say) is lost, and the command goes on. The
//! standard library's panics.

macro_rules! eprintln {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}
