//! Bars and lines made of characters: numbers in, as many terminal columns as asked for out.

/// Which characters the terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glyphs {
    /// Those of UTF-8.
    Unicode,
    /// ASCII only.
    Ascii,
}

/// What a column of a sparkline is filled with, from nothing to everything.
const RISING: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const RISING_ASCII: [char; 9] = [' ', '.', ':', '-', '=', '+', '*', '%', '#'];
/// The last column of a bar, by eighths.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

impl Glyphs {
    /// Those of a terminal whose locale is the first that is set of `LC_ALL`, `LC_CTYPE` and `LANG`.
    pub fn of_locale(locale: Option<&str>) -> Self {
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { Self::Unicode } else { Self::Ascii }
    }

    /// A horizontal bar of at most `width` columns for `n` of at most `most`; something is always more
    /// than nothing.
    pub fn bar(self, n: u64, most: u64, width: usize) -> String {
        if n == 0 || most == 0 || width == 0 {
            return String::new();
        }
        let part = n as f64 / most as f64;
        match self {
            Self::Unicode => {
                let eighths = ((part * (width * 8) as f64).round() as usize).clamp(1, width * 8);
                "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
            }
            Self::Ascii => {
                let columns = (part * width as f64).round() as usize;
                if columns == 0 { ".".into() } else { "#".repeat(columns.min(width)) }
            }
        }
    }

    /// What a bar stands on.
    pub const fn axis(self) -> char {
        match self {
            Self::Unicode => '│',
            Self::Ascii => '|',
        }
    }

    /// One column for each of `values`, the largest of them highest; something is always more than
    /// nothing.
    pub fn sparkline(self, values: impl IntoIterator<Item = u64> + Clone) -> String {
        let levels = if self == Self::Unicode { RISING } else { RISING_ASCII };
        let most = values.clone().into_iter().max().unwrap_or(0).max(1);
        let highest = levels.len() - 1;
        let level = |value: u64| match value {
            0 => 0,
            _ => ((value as f64 / most as f64 * highest as f64).round() as usize).clamp(1, highest),
        };
        values.into_iter().map(|value| levels[level(value)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_never_too_long_and_never_nothing() {
        assert_eq!(Glyphs::Unicode.bar(50, 100, 5), "██▌");
        assert_eq!(Glyphs::Ascii.bar(50, 100, 5), "###");
        for glyphs in [Glyphs::Unicode, Glyphs::Ascii] {
            assert_eq!(glyphs.bar(100, 100, 7).chars().count(), 7);
            assert_eq!(glyphs.bar(1, 1_000_000, 7).chars().count(), 1);
            assert_eq!(glyphs.bar(0, 100, 7), "");
            assert_eq!(glyphs.bar(u64::MAX, u64::MAX, 3).chars().count(), 3);
        }
    }

    #[test]
    fn a_line_rises_with_its_values() {
        assert_eq!(Glyphs::Unicode.sparkline([0, 1, 50, 100]), " ▁▄█");
        assert_eq!(Glyphs::Ascii.sparkline([0, 1, 50, 100]), " .=#");
        assert_eq!(Glyphs::Unicode.sparkline([0, 0]), "  ");
        assert_eq!(Glyphs::Unicode.sparkline([7, 7]), "██");
    }
}
