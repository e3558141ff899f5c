//! Colours: what a thing on the screen is in, and what the terminal can show out.

use ratatui::style::{Color, Modifier, Style};

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
    sixteen: Color,
    rich: Color,
    also: Modifier,
}

const fn row(role: Role, sixteen: Color, rich: Color, also: Modifier) -> Row {
    Row { role, sixteen, rich, also }
}

const ROLES: [Row; 9] = [
    row(Role::Strong, Color::Reset, Color::Reset, Modifier::BOLD),
    row(Role::Faint, Color::Reset, Color::Reset, Modifier::DIM),
    row(Role::Live, Color::Green, Color::Rgb(0x5f, 0xd7, 0x87), Modifier::BOLD),
    row(Role::Held, Color::Yellow, Color::Rgb(0xff, 0xc6, 0x5c), Modifier::BOLD),
    row(Role::Alarm, Color::Red, Color::Rgb(0xff, 0x6b, 0x6b), Modifier::BOLD),
    row(Role::Warning, Color::Yellow, Color::Rgb(0xff, 0xc6, 0x5c), Modifier::empty()),
    row(Role::Sorted, Color::Cyan, Color::Rgb(0x5f, 0xd7, 0xff), Modifier::BOLD),
    row(Role::History, Color::Cyan, Color::Rgb(0x5f, 0xaf, 0xd7), Modifier::empty()),
    row(Role::Selected, Color::Reset, Color::Reset, Modifier::REVERSED),
];

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
    fn without_colours_roles_still_differ_from_text() {
        let theme = Theme::new(Look { colours: Colours::None, glyphs: Glyphs::Ascii });
        assert!(ROLES.iter().all(|row| theme.style(row.role).fg.is_none()));
        assert_ne!(theme.style(Role::Alarm), Style::new());
        assert_ne!(theme.style(Role::Selected), Style::new());
    }
}
