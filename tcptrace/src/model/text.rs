//! Sanitises untrusted names from the kernel: a process may call itself `"\e[2Jevil"`.

use std::{borrow::Cow, sync::Arc};

/// `name` with everything that could act on a terminal, a log or a page replaced by `?`:
/// control characters (C0, DEL, C1), line and paragraph separators, and the marks that reorder text.
pub fn sanitise(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        Cow::Borrowed(name)
    } else if name.chars().any(is_unsafe) {
        Cow::Owned(name.chars().map(|c| if is_unsafe(c) { '?' } else { c }).collect())
    } else {
        Cow::Borrowed(name)
    }
}

/// Longest name of a workload, a program or a user, in bytes.
pub const MAX_NAME_BYTES: usize = 512;

/// `name` sanitised, and cut to [`MAX_NAME_BYTES`].
pub fn bounded(name: &str) -> Arc<str> {
    let most = name.len().min(MAX_NAME_BYTES);
    let end = (0..=most).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    // A replacement is never longer than the character.
    sanitise(&name[..end]).into()
}

/// A CSV cell: quoted where RFC 4180 requires it, and with an apostrophe before a text that a spreadsheet would treat
/// as a formula.
///
/// Not by the crate csv: it would replace only the quoting, and its lines take 5 % longer.
pub fn csv_cell(text: &str) -> Cow<'_, str> {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) };
    if text.contains([',', '"', '\r', '\n']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        text
    }
}

/// The text of a NUL-padded kernel string (`comm`), sanitised; bytes that are not UTF-8 become `U+FFFD`.
pub fn from_kernel(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    sanitise(&String::from_utf8_lossy(&bytes[..end])).into_owned()
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bidi_characters_are_replaced() {
        assert_eq!(sanitise("\u{1b}[2Jevil\u{9b}1m\n\u{202e}"), "?[2Jevil?1m??");
        assert_eq!(sanitise("nginx: wörker"), "nginx: wörker");
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let long = bounded(&"ü\n".repeat(1_000));
        assert!(long.len() <= MAX_NAME_BYTES && long.len() > MAX_NAME_BYTES - 4, "{}", long.len());
        assert_eq!(&long[..6], "ü?ü?");
    }

    #[test]
    fn csv_cells_are_quoted_and_never_formulas() {
        for (text, cell) in [
            ("nginx", "nginx"),
            ("nginx: =1", "nginx: =1"),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("=HYPERLINK(\"http://a\",\"b\")", "\"'=HYPERLINK(\"\"http://a\"\",\"\"b\"\")\""),
            ("a,b", "\"a,b\""),
        ] {
            assert_eq!(csv_cell(text), cell);
        }
    }

    #[test]
    fn a_comm_ends_at_its_first_nul() {
        assert_eq!(from_kernel(b"redis-server\0\0\0\0"), "redis-server");
        assert_eq!(from_kernel(b"0123456789abcdef"), "0123456789abcdef");
        assert_eq!(from_kernel(b"\xff\0"), "\u{fffd}");
    }
}
