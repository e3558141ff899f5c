//! Colour theme: maps style roles to styles that the terminal can show.

use std::{fmt, str::FromStr as _};

use ratatui::style::{Color, Modifier, Style};
use serde::Deserialize;

use super::unknown_name::unknown;
use crate::view::glyphs::Glyphs;

/// Colours and characters that the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalStyle {
    /// Colour support. No information is in the colour alone.
    pub colours: Colours,
    /// Character support.
    pub glyphs: Glyphs,
}

/// Colour support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// No colours, only bold, dim and reversed.
    None,
    /// The terminal's sixteen.
    Sixteen,
    /// All 24-bit colours.
    True,
}

/// Environment variables that describe the terminal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Environment<'a> {
    /// `NO_COLOR`.
    pub no_color: Option<&'a str>,
    /// `TERM`.
    pub term: Option<&'a str>,
    /// `COLORTERM`.
    pub colorterm: Option<&'a str>,
    /// The first of `LC_ALL`, `LC_CTYPE` and `LANG` that is set.
    pub locale: Option<&'a str>,
}

impl TerminalStyle {
    /// Derives the look from `environment`.
    pub fn new(environment: Environment<'_>) -> Self {
        let plain = environment.no_color.is_some_and(|value| !value.is_empty());
        let colours = match (environment.term, environment.colorterm) {
            _ if plain => Colours::None,
            (Some("dumb"), _) => Colours::None,
            (_, Some("truecolor" | "24bit")) => Colours::True,
            _ => Colours::Sixteen,
        };
        Self { colours, glyphs: Glyphs::of_locale(environment.locale) }
    }
}

/// Style role of a screen element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StyleRole {
    /// Program name, heads.
    Strong,
    /// Unimportant text: zeros, hints.
    Faint,
    /// The screen is live.
    Live,
    /// The screen is paused, or the source has ended.
    Held,
    /// Losses and failures.
    Alarm,
    /// Problems that get worse.
    Warning,
    /// Head of the sort column.
    Sorted,
    /// Sparklines and charts.
    History,
    /// The selected row.
    Selected,
}

/// One style role: its name in the configuration, its colours, and its modifier.
struct StyleRow {
    role: StyleRole,
    name: &'static str,
    sixteen: Color,
    rich: Color,
    also: Modifier,
}

const fn row(role: StyleRole, name: &'static str, sixteen: Color, rich: Color, also: Modifier) -> StyleRow {
    StyleRow { role, name, sixteen, rich, also }
}

const ROLES: [StyleRow; 9] = [
    row(StyleRole::Strong, "strong", Color::Reset, Color::Reset, Modifier::BOLD),
    row(StyleRole::Faint, "faint", Color::Reset, Color::Reset, Modifier::DIM),
    row(StyleRole::Live, "live", Color::Green, Color::Rgb(0x5f, 0xd7, 0x87), Modifier::BOLD),
    row(StyleRole::Held, "held", Color::Yellow, Color::Rgb(0xff, 0xc6, 0x5c), Modifier::BOLD),
    row(StyleRole::Alarm, "alarm", Color::Red, Color::Rgb(0xff, 0x6b, 0x6b), Modifier::BOLD),
    row(StyleRole::Warning, "warning", Color::Yellow, Color::Rgb(0xff, 0xc6, 0x5c), Modifier::empty()),
    row(StyleRole::Sorted, "sorted", Color::Cyan, Color::Rgb(0x5f, 0xd7, 0xff), Modifier::BOLD),
    row(StyleRole::History, "history", Color::Cyan, Color::Rgb(0x5f, 0xaf, 0xd7), Modifier::empty()),
    row(StyleRole::Selected, "selected", Color::Reset, Color::Reset, Modifier::REVERSED),
];

/// Index of a row of [`ROLES`], parsed from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct RoleName(usize);

impl RoleName {
    /// All roles.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..ROLES.len()).map(Self)
    }

    /// Default colour on a terminal with sixteen colours.
    pub const fn usual(self) -> Color {
        ROLES[self.0].sixteen
    }
}

impl TryFrom<String> for RoleName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let names = || ROLES.iter().map(|row| row.name);
        names().position(|known| known == name).map(Self).ok_or_else(|| unknown("style role", &name, names()))
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ROLES[self.0].name)
    }
}

/// A colour by its name or as `#rrggbb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Colour(Color);

impl TryFrom<String> for Colour {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let expected = || {
            format!("'{text}' is not a colour; expected a name such as red, light blue or reset, or #rrggbb")
        };
        Color::from_str(&text).map(Self).map_err(|_| expected())
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Colour {
    /// The colour on a terminal with `colours`: the nearest one if it has only sixteen.
    fn on(self, colours: Colours) -> Color {
        match (colours, self.0) {
            (Colours::None, _) => Color::Reset,
            (Colours::Sixteen, Color::Rgb(r, g, b)) => nearest([r, g, b]),
            (_, colour) => colour,
        }
    }
}

/// The sixteen colours, as terminals commonly show them.
const SIXTEEN: [(Color, [u8; 3]); 16] = [
    (Color::Black, [0, 0, 0]),
    (Color::Red, [205, 0, 0]),
    (Color::Green, [0, 205, 0]),
    (Color::Yellow, [205, 205, 0]),
    (Color::Blue, [0, 0, 238]),
    (Color::Magenta, [205, 0, 205]),
    (Color::Cyan, [0, 205, 205]),
    (Color::Gray, [229, 229, 229]),
    (Color::DarkGray, [127, 127, 127]),
    (Color::LightRed, [255, 0, 0]),
    (Color::LightGreen, [0, 255, 0]),
    (Color::LightYellow, [255, 255, 0]),
    (Color::LightBlue, [92, 92, 255]),
    (Color::LightMagenta, [255, 0, 255]),
    (Color::LightCyan, [0, 255, 255]),
    (Color::White, [255, 255, 255]),
];

fn nearest(rgb: [u8; 3]) -> Color {
    let distance =
        |of: &[u8; 3]| -> u32 { rgb.iter().zip(of).map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum() };
    SIXTEEN.iter().min_by_key(|(_, of)| distance(of)).map_or(Color::Reset, |(colour, _)| *colour)
}

/// Styles for one terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Theme {
    look: TerminalStyle,
    styles: [Style; ROLES.len()],
}

impl Theme {
    /// The colours for a terminal with this look.
    pub fn new(look: TerminalStyle) -> Self {
        let styles = ROLES.each_ref().map(|row| {
            let colour = match look.colours {
                Colours::None => Color::Reset,
                Colours::Sixteen => row.sixteen,
                Colours::True => row.rich,
            };
            let style = Style::new().add_modifier(row.also);
            if colour == Color::Reset { style } else { style.fg(colour) }
        });
        Self { look, styles }
    }

    /// Overrides the colours of some roles.
    pub fn with(mut self, changes: impl Iterator<Item = (RoleName, Colour)>) -> Self {
        for (RoleName(role), colour) in changes {
            let style = Style::new().add_modifier(ROLES[role].also);
            self.styles[role] = match colour.on(self.look.colours) {
                Color::Reset => style,
                colour => style.fg(colour),
            };
        }
        self
    }

    /// Style of a role.
    pub fn style(&self, role: StyleRole) -> Style {
        let index = ROLES.iter().position(|row| row.role == role);
        index.map_or(Style::new(), |index| self.styles[index])
    }

    /// Character support of the terminal.
    pub const fn glyphs(&self) -> Glyphs {
        self.look.glyphs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_sets_colours_and_glyphs() {
        let look = |environment| TerminalStyle::new(environment);
        let utf8 = Environment { term: Some("xterm"), locale: Some("en_US.UTF-8"), ..Environment::default() };
        assert_eq!(look(utf8), TerminalStyle { colours: Colours::Sixteen, glyphs: Glyphs::Unicode });
        let rich = Environment { colorterm: Some("truecolor"), ..utf8 };
        assert_eq!(look(rich).colours, Colours::True);
        assert_eq!(look(Environment { no_color: Some("1"), ..rich }).colours, Colours::None);
        assert_eq!(look(Environment { no_color: Some(""), ..rich }).colours, Colours::True);
        assert_eq!(look(Environment { term: Some("dumb"), ..rich }).colours, Colours::None);
        assert_eq!(look(Environment { locale: Some("C"), ..utf8 }).glyphs, Glyphs::Ascii);
    }

    #[test]
    fn custom_colours_fall_back_to_terminal_support() {
        let style = |colours, name: &str| {
            let colour = Colour::try_from(name.to_owned()).expect("a colour");
            let role = RoleName::try_from("live".to_owned()).expect("a role");
            let theme = Theme::new(TerminalStyle { colours, glyphs: Glyphs::Ascii })
                .with([(role, colour)].into_iter());
            theme.style(StyleRole::Live).fg
        };
        assert_eq!(style(Colours::True, "#fe0102"), Some(Color::Rgb(0xfe, 1, 2)));
        assert_eq!(style(Colours::Sixteen, "#fe0102"), Some(Color::LightRed));
        assert_eq!(style(Colours::Sixteen, "light blue"), Some(Color::LightBlue));
        assert_eq!(style(Colours::None, "red"), None);
        assert_eq!(style(Colours::True, "reset"), None);
    }

    #[test]
    fn roles_differ_from_text_without_colours() {
        let theme = Theme::new(TerminalStyle { colours: Colours::None, glyphs: Glyphs::Ascii });
        assert!(ROLES.iter().all(|row| theme.style(row.role).fg.is_none()));
        assert_ne!(theme.style(StyleRole::Alarm), Style::new());
        assert_ne!(theme.style(StyleRole::Selected), Style::new());
    }
}
