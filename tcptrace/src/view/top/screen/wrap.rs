//! Word wrapping: breaks between words, cuts the end of the last line.

use unicode_width::UnicodeWidthStr;

use crate::view::top::table::{Cut, fit};

/// Wraps `text` between words at `width`; a longer word gets a line of its own.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Wraps into at most `height` lines; cuts lines that are too long, and the last one if text is left over.
pub fn wrap_into(text: &str, width: usize, height: usize) -> Vec<String> {
    let mut lines = wrap(text, width);
    if lines.len() > height {
        let rest = lines.split_off(height.saturating_sub(1)).join(" ");
        if height > 0 {
            lines.push(fit(&rest, width, true, Cut::End));
        }
    }
    lines.into_iter().map(|line| fit(&line, line.width().min(width), true, Cut::End)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_between_words_and_is_cut_at_the_end() {
        assert_eq!(wrap_into("one two three four", 9, 9), ["one two", "three", "four"]);
        assert_eq!(wrap_into("one two three four", 9, 2), ["one two", "three fo~"]);
        assert_eq!(wrap_into("one two three four", 9, 1), ["one two ~"]);
        assert_eq!(wrap_into("anything", 3, 1), ["an~"]);
        assert_eq!(wrap_into("anything", 0, 1), [""]);
        assert!(wrap_into("anything", 9, 0).is_empty());
    }
}
