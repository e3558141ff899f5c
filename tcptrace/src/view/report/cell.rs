//! Text and numbers as HTML: what has a meaning there is escaped, and a number says where in the document it stands.

use std::fmt;

use crate::model::{Nanos, text, units};

/// Text from anywhere, for the inside of an element or of a quoted attribute.
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

/// JSON for the inside of a script element: no character in it can end that or begin a comment.
pub fn for_script(json: &str) -> String {
    json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// A number: its value, how people read it, and its JSON pointer in the document.
pub struct Number {
    value: String,
    shown: String,
    at: String,
    /// Nothing to tell is shown as a dash.
    is_nothing: bool,
}

impl Number {
    /// A number of things.
    pub fn count(n: u64, at: impl fmt::Display) -> Self {
        Self { value: n.to_string(), shown: units::count(n), at: at.to_string(), is_nothing: n == 0 }
    }

    /// A length of time.
    pub fn length(ns: u64, at: impl fmt::Display) -> Self {
        Self {
            value: ns.to_string(),
            shown: units::duration(Nanos(ns)),
            at: at.to_string(),
            is_nothing: false,
        }
    }

    /// A number per second.
    pub fn rate(per_s: f64, at: impl fmt::Display) -> Self {
        // As in the document: the shortest digits that give the number back.
        let value = serde_json::to_string(&per_s).unwrap_or_default();
        Self { value, shown: units::rate(per_s), at: at.to_string(), is_nothing: per_s == 0.0 }
    }

    /// With `before` ahead of it: `>= `.
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
    fn nothing_gets_out_of_its_element() {
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
    fn a_number_says_where_it_stands() {
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
