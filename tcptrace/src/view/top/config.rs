//! Screen configuration: parses and prints [`ScreenConfig`] as TOML.
//!
//! An unknown name is an error with its line: a misspelt key must not be ignored silently.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::Deserialize;

use super::{
    action::ACTIONS,
    columns::{ALL, GROUPS},
    key::KeyPress,
    keymap::Keymap,
    theme::{self, Theme},
    unknown_name::unknown,
};
use crate::{aggregate::Grouping, model::text::sanitise};

/// User settings that override the defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScreenConfig {
    /// Grouping.
    by: Option<By>,
    /// Time between two snapshots.
    interval: Option<Interval>,
    /// Whether the screen captures the mouse; otherwise the terminal's own selection works.
    mouse: Option<bool>,
    /// Columns of the groups, from left to right.
    columns: Option<Vec<ColumnName>>,
    /// Keys by action.
    keys: BTreeMap<ActionName, Keys>,
    /// Colours by style role.
    theme: BTreeMap<theme::RoleName, theme::Colour>,
}

/// An invalid configuration. The message has the line and the reason.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct By(Grouping);

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Interval(Duration);

/// Index of a column.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct ColumnName(usize);

/// Index of a row of [`ACTIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct ActionName(usize);

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct KeyName(KeyPress);

/// One key or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a key such as \"q\", or a list of keys such as [\"q\", \"ctrl-c\"]")]
enum Keys {
    One(KeyName),
    Several(Vec<KeyName>),
}

impl TryFrom<String> for By {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for Interval {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        crate::model::units::parse_duration(&text).map(Self)
    }
}

impl TryFrom<String> for ColumnName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let names = || GROUPS.iter().map(|column| column.name);
        let number = names().position(|name| name == text);
        number.map(Self).ok_or_else(|| unknown("column", &text, names()))
    }
}

impl TryFrom<String> for ActionName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let names = || ACTIONS.iter().map(|row| row.name);
        let number = names().position(|name| name == text);
        number.map(Self).ok_or_else(|| unknown("action", &text, names()))
    }
}

impl TryFrom<String> for KeyName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl ScreenConfig {
    /// Reads a configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|error| ConfigError(sanitise_lines(error.to_string().trim_end())))?;
        config.keymap().map_err(ConfigError)?;
        if config.columns.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError("columns: the list is empty; remove it to show every column".into()));
        }
        Ok(config)
    }

    /// Grouping, if set.
    pub fn by(&self) -> Option<Grouping> {
        self.by.map(|by| by.0)
    }

    /// Time between two snapshots, if set.
    pub fn interval(&self) -> Option<Duration> {
        self.interval.map(|interval| interval.0)
    }

    /// Whether the screen captures the mouse.
    pub(super) fn mouse(&self) -> bool {
        self.mouse.unwrap_or(true)
    }

    /// Columns of the groups: the key first, no duplicates.
    pub(super) fn columns(&self) -> Vec<usize> {
        let Some(names) = &self.columns else { return ALL.to_vec() };
        let mut columns = vec![0];
        for ColumnName(column) in names {
            if !columns.contains(column) {
                columns.push(*column);
            }
        }
        // `columns = ["key"]` leaves the key as the only column.
        columns
    }

    /// Key bindings; an error if a key is bound twice.
    pub(super) fn keymap(&self) -> Result<Keymap, String> {
        let changes = self.keys.iter().map(|(action, keys)| {
            let keys = match keys {
                Keys::One(key) => vec![key.0],
                Keys::Several(keys) => keys.iter().map(|key| key.0).collect(),
            };
            (action.0, keys)
        });
        Keymap::default().with(changes)
    }

    /// Colours, on a terminal with this look.
    pub(super) fn theme(&self, look: theme::TerminalStyle) -> Theme {
        Theme::new(look).with(self.theme.iter().map(|(role, colour)| (*role, *colour)))
    }

    /// The configuration as text that [`ScreenConfig::parse`] reads, with the possible values as comments.
    pub fn print(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "# tcptrace top: a setting that is missing here has its default.\n");
        let by = self.by().unwrap_or(Grouping::SERVICE);
        let _ = writeln!(out, "# {}\nby = \"{by}\"", Grouping::names().join(", "));
        let interval = self.interval().unwrap_or(Duration::from_secs(1));
        let _ = writeln!(out, "interval = \"{}ms\"", interval.as_millis());
        let _ = writeln!(out, "mouse = {}\n", self.mouse());
        let names: Vec<_> =
            self.columns().iter().map(|&column| format!("{:?}", GROUPS[column].name)).collect();
        let _ = writeln!(out, "columns = [\n    {},\n]\n\n[keys]", names.join(",\n    "));
        let keymap = self.keymap().unwrap_or_default();
        for (i, row) in ACTIONS.iter().enumerate() {
            let keys: Vec<_> = keymap.keys(i).iter().map(|key| format!("{:?}", key.to_string())).collect();
            let _ = writeln!(out, "{} = [{}]  # {}", row.name, keys.join(", "), row.help);
        }
        let _ = writeln!(
            out,
            "\n[theme]\n# black, red, green, yellow, blue, magenta, cyan, gray, light red, ..."
        );
        let _ = writeln!(out, "# or \"#ff6b6b\"; \"reset\" is the terminal's default colour");
        for role in theme::RoleName::all() {
            match self.theme.get(&role) {
                Some(colour) => writeln!(out, "{role} = \"{colour}\""),
                None => writeln!(out, "# {role} = \"{}\"", role.usual()),
            }
            .unwrap_or_default();
        }
        out
    }
}

/// Sanitises line by line: an excerpt of the file may contain control characters.
fn sanitise_lines(text: &str) -> String {
    text.lines().map(sanitise).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{
        glyphs::Glyphs,
        top::{
            action::Action,
            theme::{Colours, StyleRole, TerminalStyle},
        },
    };

    fn error(text: &str) -> String {
        ScreenConfig::parse(text).expect_err("an error").to_string()
    }

    #[test]
    fn printed_configuration_parses_back() {
        let printed = ScreenConfig::default().print();
        let read = ScreenConfig::parse(&printed).expect("a configuration");
        assert_eq!(read.print(), printed);
        assert_eq!(read.keymap(), Ok(Keymap::default()));
        assert_eq!(read.columns(), ALL);
        let text = "by = 'peer,state'\ninterval = '250ms'\nmouse = false\ncolumns = ['key', 'close_wait']\n\
                    [keys]\npause = 'o'\n[theme]\nalarm = '#ff0000'\n";
        let read = ScreenConfig::parse(text).expect("a configuration");
        assert_eq!(ScreenConfig::parse(&read.print()).expect("a configuration").print(), read.print());
        assert_eq!((read.by().map(|by| by.to_string()), read.mouse()), (Some("peer,state".into()), false));
        assert_eq!(read.interval(), Some(Duration::from_millis(250)));
        assert_eq!(
            read.columns().iter().map(|&column| GROUPS[column].name).collect::<Vec<_>>(),
            ["key", "close_wait"]
        );
        let keymap = read.keymap().expect("no key twice");
        assert_eq!(
            (keymap.action(KeyPress::typed('o')), keymap.action(KeyPress::typed(' '))),
            (Some(Action::Pause), None)
        );
        let look = TerminalStyle { colours: Colours::True, glyphs: Glyphs::Ascii };
        assert_ne!(read.theme(look).style(StyleRole::Alarm), Theme::new(look).style(StyleRole::Alarm));
    }

    #[test]
    fn errors_name_their_line() {
        let cases = [
            ("by = 'service'\ninterwal = '1s'", "line 2", "interwal"),
            ("by = 'services'", "line 1", "unknown key 'services'"),
            ("interval = '5x'", "line 1", "expected a length of time"),
            ("\n\ncolumns = ['key', 'tw']", "line 3", "unknown column 'tw'"),
            ("[keys]\nquit = 'q'\nquti = 'x'", "line 3", "unknown action 'quti'"),
            ("[theme]\nalarm = 'reddish'", "line 2", "reddish"),
            ("[theme]\nalram = 'red'", "line 2", "unknown style role 'alram'"),
            ("by = ", "line 1", ""),
        ];
        for (text, line, what) in cases {
            let error = error(text);
            assert!(error.contains(line) && error.contains(what), "{text}: {error}");
        }
        assert!(error("[keys]\nquit = 'nokey'").contains("line 2"));
        assert!(error("[keys]\npause = 'q'").contains("'q' is bound to both pause and quit"));
        assert!(error("columns = []").contains("empty"));
        assert!(!error("by = '\u{1b}[2J'").contains('\u{1b}'));
    }
}
