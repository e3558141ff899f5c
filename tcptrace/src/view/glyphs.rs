//! Renders bars and sparklines as characters.

/// Character set of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glyphs {
    /// UTF-8.
    Unicode,
    /// ASCII only.
    Ascii,
}

/// Levels of a sparkline column, from empty to full.
const RISING: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const RISING_ASCII: [char; 9] = [' ', '.', ':', '-', '=', '+', '*', '%', '#'];
/// Last column of a bar, in eighths.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

impl Glyphs {
    /// Character set for a locale: the first of `LC_ALL`, `LC_CTYPE` and `LANG` that is set.
    pub fn of_locale(locale: Option<&str>) -> Self {
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { Self::Unicode } else { Self::Ascii }
    }

    /// A horizontal bar of at most `width` columns for `n` out of `most`. A nonzero `n` is always visible.
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

    /// The axis to the left of a bar.
    pub const fn axis(self) -> char {
        match self {
            Self::Unicode => '│',
            Self::Ascii => '|',
        }
    }

    /// One column per value, scaled to the largest. A nonzero value is always visible.
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
    fn bars_fit_their_width_and_are_never_empty() {
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
    fn sparklines_rise_with_their_values() {
        assert_eq!(Glyphs::Unicode.sparkline([0, 1, 50, 100]), " ▁▄█");
        assert_eq!(Glyphs::Ascii.sparkline([0, 1, 50, 100]), " .=#");
        assert_eq!(Glyphs::Unicode.sparkline([0, 0]), "  ");
        assert_eq!(Glyphs::Unicode.sparkline([7, 7]), "██");
    }
}
