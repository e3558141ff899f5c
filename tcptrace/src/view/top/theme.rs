//! Colours: what a thing on the screen is in, and what the terminal can show out.

use std::{fmt, str::FromStr as _};

use ratatui::style::{Color, Modifier, Style};
use serde::Deserialize;

use super::config::unknown;
use crate::view::glyphs::Glyphs;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Which colours. They never tell anything alone.
    pub colours: Colours,
    /// Which characters.
    pub glyphs: Glyphs,
}

/// Which colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Only bold, dim and reversed.
    None,
    /// The terminal's sixteen.
    Sixteen,
    /// Every one.
    True,
}

/// What the environment says of the terminal, each as its variable is set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Environment<'a> {
    /// `NO_COLOR`.
    pub no_color: Option<&'a str>,
    /// `TERM`.
    pub term: Option<&'a str>,
    /// `COLORTERM`.
    pub colorterm: Option<&'a str>,
    /// The first that is set of `LC_ALL`, `LC_CTYPE` and `LANG`.
    pub locale: Option<&'a str>,
}

impl Look {
    /// A look for the terminal of `environment`.
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

/// What a thing on the screen is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The name of the program, heads.
    Strong,
    /// What tells nothing: zeros, hints.
    Faint,
    /// The picture moves.
    Live,
    /// The picture is held, or has ended.
    Held,
    /// Losses, and what breaks.
    Alarm,
    /// What gets worse.
    Warning,
    /// The head of the column that is sorted by.
    Sorted,
    /// Lines made of history.
    History,
    /// The selected row.
    Selected,
}

/// One kind of thing: its name in the configuration, its colours, and what it has without any.
struct Row {
    role: Role,
    name: &'static str,
    sixteen: Color,
    rich: Color,
    also: Modifier,
}

const fn row(role: Role, name: &'static str, sixteen: Color, rich: Color, also: Modifier) -> Row {
    Row { role, name, sixteen, rich, also }
}

const ROLES: [Row; 9] = [
    row(Role::Strong, "strong", Color::Reset, Color::Reset, Modifier::BOLD),
    row(Role::Faint, "faint", Color::Reset, Color::Reset, Modifier::DIM),
    row(Role::Live, "live", Color::Green, Color::Rgb(0x5f, 0xd7, 0x87), Modifier::BOLD),
    row(Role::Held, "held", Color::Yellow, Color::Rgb(0xff, 0xc6, 0x5c), Modifier::BOLD),
    row(Role::Alarm, "alarm", Color::Red, Color::Rgb(0xff, 0x6b, 0x6b), Modifier::BOLD),
    row(Role::Warning, "warning", Color::Yellow, Color::Rgb(0xff, 0xc6, 0x5c), Modifier::empty()),
    row(Role::Sorted, "sorted", Color::Cyan, Color::Rgb(0x5f, 0xd7, 0xff), Modifier::BOLD),
    row(Role::History, "history", Color::Cyan, Color::Rgb(0x5f, 0xaf, 0xd7), Modifier::empty()),
    row(Role::Selected, "selected", Color::Reset, Color::Reset, Modifier::REVERSED),
];

/// The number of a row of [`ROLES`], by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct RoleName(usize);

impl RoleName {
    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..ROLES.len()).map(Self)
    }

    /// The colour it has unless it is said otherwise, on a terminal with sixteen.
    pub const fn usual(self) -> Color {
        ROLES[self.0].sixteen
    }
}

impl TryFrom<String> for RoleName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let names = || ROLES.iter().map(|row| row.name);
        names().position(|known| known == name).map(Self).ok_or_else(|| unknown("thing", &name, names()))
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
        let expected =
            || format!("'{text}' is no colour; expected a name such as red, light blue or reset, or #rrggbb");
        Color::from_str(&text).map(Self).map_err(|_| expected())
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Colour {
    /// The colour on a terminal that has `colours`.
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

/// How things are shown on one terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Theme {
    look: Look,
    styles: [Style; ROLES.len()],
}

impl Theme {
    /// The colours for a terminal with this look.
    pub fn new(look: Look) -> Self {
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

    /// The same with other colours for some things.
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

    /// How a thing of this kind is shown.
    pub fn style(&self, role: Role) -> Style {
        let index = ROLES.iter().position(|row| row.role == role);
        index.map_or(Style::new(), |index| self.styles[index])
    }

    /// Which characters there are.
    pub const fn glyphs(&self) -> Glyphs {
        self.look.glyphs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_makes_the_look() {
        let look = |environment| Look::new(environment);
        let utf8 = Environment { term: Some("xterm"), locale: Some("en_US.UTF-8"), ..Environment::default() };
        assert_eq!(look(utf8), Look { colours: Colours::Sixteen, glyphs: Glyphs::Unicode });
        let rich = Environment { colorterm: Some("truecolor"), ..utf8 };
        assert_eq!(look(rich).colours, Colours::True);
        assert_eq!(look(Environment { no_color: Some("1"), ..rich }).colours, Colours::None);
        assert_eq!(look(Environment { no_color: Some(""), ..rich }).colours, Colours::True);
        assert_eq!(look(Environment { term: Some("dumb"), ..rich }).colours, Colours::None);
        assert_eq!(look(Environment { locale: Some("C"), ..utf8 }).glyphs, Glyphs::Ascii);
    }

    #[test]
    fn other_colours_are_shown_as_far_as_the_terminal_can() {
        let style = |colours, name: &str| {
            let colour = Colour::try_from(name.to_owned()).expect("a colour");
            let role = RoleName::try_from("live".to_owned()).expect("a role");
            let theme =
                Theme::new(Look { colours, glyphs: Glyphs::Ascii }).with([(role, colour)].into_iter());
            theme.style(Role::Live).fg
        };
        assert_eq!(style(Colours::True, "#fe0102"), Some(Color::Rgb(0xfe, 1, 2)));
        assert_eq!(style(Colours::Sixteen, "#fe0102"), Some(Color::LightRed));
        assert_eq!(style(Colours::Sixteen, "light blue"), Some(Color::LightBlue));
        assert_eq!(style(Colours::None, "red"), None);
        assert_eq!(style(Colours::True, "reset"), None);
    }

    #[test]
    fn without_colours_roles_still_differ_from_text() {
        let theme = Theme::new(Look { colours: Colours::None, glyphs: Glyphs::Ascii });
        assert!(ROLES.iter().all(|row| theme.style(row.role).fg.is_none()));
        assert_ne!(theme.style(Role::Alarm), Style::new());
        assert_ne!(theme.style(Role::Selected), Style::new());
    }
}
