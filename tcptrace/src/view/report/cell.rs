//! HTML of text and numbers: escapes special characters; each number has its JSON pointer in the document.

use std::fmt;

use crate::model::{Nanos, text, units};

/// Untrusted text, escaped for the content of an element or of a quoted attribute.
pub struct Text<'a>(pub &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in text::sanitise(self.0).chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => fmt::Write::write_char(f, c)?,
            }
        }
        Ok(())
    }
}

/// JSON for the content of a script element, escaped so that it cannot end the element or begin a comment.
pub fn for_script(json: &str) -> String {
    json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// A number: its value, its text for people, and its JSON pointer in the document.
pub struct Number {
    value: String,
    shown: String,
    at: String,
    /// The number is 0 and gets the class `zero`.
    is_nothing: bool,
}

impl Number {
    /// A count.
    pub fn count(n: u64, at: impl fmt::Display) -> Self {
        Self { value: n.to_string(), shown: units::count(n), at: at.to_string(), is_nothing: n == 0 }
    }

    /// A duration.
    pub fn length(ns: u64, at: impl fmt::Display) -> Self {
        Self {
            value: ns.to_string(),
            shown: units::duration(Nanos(ns)),
            at: at.to_string(),
            is_nothing: false,
        }
    }

    /// A rate per second.
    pub fn rate(per_s: f64, at: impl fmt::Display) -> Self {
        // As in the document: the shortest digits that parse back to the number.
        let value = serde_json::to_string(&per_s).unwrap_or_default();
        Self { value, shown: units::rate(per_s), at: at.to_string(), is_nothing: per_s == 0.0 }
    }

    /// Puts `before` ahead of the text: `>= `.
    #[must_use]
    pub fn marked(mut self, before: &str) -> Self {
        self.shown.insert_str(0, before);
        self
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = if self.is_nothing { " class=\"zero\"" } else { "" };
        write!(
            f,
            "<data{class} value=\"{}\" data-at=\"{}\">{}</data>",
            self.value,
            self.at,
            Text(&self.shown)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_inside_its_element() {
        let name = "</script><img src=x onerror=alert(1)>'\"&\u{1b}[2J<!--";
        assert_eq!(
            Text(name).to_string(),
            "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&#39;&quot;&amp;?[2J&lt;!--"
        );
        let json = serde_json::to_string(name).expect("a string");
        let escaped = for_script(&json);
        assert!(!escaped.contains(['<', '>', '&']), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).expect("JSON"), name);
    }

    #[test]
    fn numbers_have_their_json_pointer() {
        assert_eq!(
            Number::count(18_122, format_args!("/states/{}/count", 0)).to_string(),
            "<data value=\"18122\" data-at=\"/states/0/count\">18,122</data>"
        );
        assert_eq!(
            Number::length(60_844_000_000, format_args!("/a")).marked(">= ").to_string(),
            "<data value=\"60844000000\" data-at=\"/a\">&gt;= 60.8s</data>"
        );
        assert_eq!(
            Number::rate(0.0, format_args!("/b")).to_string(),
            "<data class=\"zero\" value=\"0.0\" data-at=\"/b\">0</data>"
        );
    }
}
