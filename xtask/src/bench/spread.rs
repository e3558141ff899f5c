//! Repeated measurements of one value: median, minimum and maximum.

/// Sorted values.
pub struct Spread(Vec<f64>);

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn median(&self) -> Option<f64> {
        let middle = self.0.len() / 2;
        let upper = *self.0.get(middle)?;
        Some(if self.0.len() % 2 == 1 { upper } else { f64::midpoint(self.0[middle - 1], upper) })
    }

    /// `0.97 (0.95 .. 0.99)`
    pub fn decimals(&self, decimals: usize) -> String {
        let (Some(median), Some(least), Some(most)) = (self.median(), self.0.first(), self.0.last()) else {
            return "-".into();
        };
        if decimals == 0 {
            format!("{} ({} .. {})", grouped(median), grouped(*least), grouped(*most))
        } else {
            format!("{median:.decimals$} ({least:.decimals$} .. {most:.decimals$})")
        }
    }

    /// `12,345`
    pub fn median_text(&self) -> String {
        self.median().map_or_else(|| "-".into(), grouped)
    }

    /// `12,345 (12,000 .. 13,000)`
    pub fn rounded(&self) -> String {
        self.decimals(0)
    }
}

/// With thousands separators.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_extremes() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]).decimals(1), "2.0 (1.0 .. 3.0)");
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!(Spread::of(&[]).decimals(1), "-");
        assert_eq!(Spread::of(&[1_234_567.0]).rounded(), "1,234,567 (1,234,567 .. 1,234,567)");
    }
}
