//! Draws the screen of a program as an SVG screenshot: `screenshot OUT.svg --size 100x30 --wait TEXT [--keys KEYS] -- PROGRAM ARGS`.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use tests::terminal::{Size, TestTerminal};
use vt100::{Cell, Color, Screen};

#[derive(Parser)]
struct ScreenshotArgs {
    /// The screenshot
    out: PathBuf,
    /// Columns and lines of the terminal
    #[arg(long, value_parser = size)]
    size: Size,
    /// Wait for this text after each key, and before the first
    #[arg(long)]
    wait: Vec<String>,
    /// Keys to press, each after the text of its place
    #[arg(long)]
    key: Vec<String>,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Of a cell, in pixels.
const WIDTH: f32 = 8.4;
const HEIGHT: f32 = 17.0;
const MARGIN: f32 = 10.0;
const FOREGROUND: &str = "#e6edf3";
const BACKGROUND: &str = "#0d1117";
/// The sixteen colours.
const PALETTE: [&str; 16] = [
    "#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4", "#6e7681",
    "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#ffffff",
];

fn size(text: &str) -> Result<Size, String> {
    let size =
        text.split_once('x').and_then(|(columns, lines)| Some((columns.parse().ok()?, lines.parse().ok()?)));
    size.ok_or_else(|| "expected COLUMNSxLINES".into())
}

fn main() -> Result<()> {
    let ScreenshotArgs { out, size, wait, key, command } = ScreenshotArgs::parse();
    let (program, args) = command.split_first().context("a program")?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut terminal = TestTerminal::start(program.as_ref(), &args, size)?;
    let mut keys = key.iter();
    for text in &wait {
        terminal.wait_text(text)?;
        if let Some(key) = keys.next() {
            terminal.press(key)?;
        }
    }
    std::fs::write(&out, screenshot(terminal.screen()?))
        .with_context(|| format!("cannot write {}", out.display()))
}

/// How a run of cells looks.
#[derive(PartialEq)]
struct Look {
    foreground: String,
    background: Option<String>,
    bold: bool,
    faint: bool,
}

impl Look {
    fn of(cell: &Cell) -> Self {
        let (foreground, background) = (colour(cell.fgcolor()), colour(cell.bgcolor()));
        let (foreground, background) = if cell.inverse() {
            (
                background.unwrap_or_else(|| BACKGROUND.into()),
                Some(foreground.unwrap_or_else(|| FOREGROUND.into())),
            )
        } else {
            (foreground.unwrap_or_else(|| FOREGROUND.into()), background)
        };
        Self { foreground, background, bold: cell.bold(), faint: cell.dim() }
    }
}

fn colour(colour: Color) -> Option<String> {
    match colour {
        Color::Default => None,
        Color::Rgb(red, green, blue) => Some(format!("#{red:02x}{green:02x}{blue:02x}")),
        Color::Idx(index @ 0..16) => Some(PALETTE[usize::from(index)].into()),
        Color::Idx(index @ 16..232) => {
            let level = |digit: u8| if digit == 0 { 0 } else { 55 + 40 * digit };
            let cube = index - 16;
            Some(format!("#{:02x}{:02x}{:02x}", level(cube / 36), level(cube / 6 % 6), level(cube % 6)))
        }
        Color::Idx(index) => {
            let grey = 8 + 10 * (index - 232);
            Some(format!("#{grey:02x}{grey:02x}{grey:02x}"))
        }
    }
}

fn screenshot(screen: &Screen) -> String {
    let (lines, columns) = screen.size();
    let (lines, columns) = (lines.get(), columns.get());
    let (width, height) =
        (f32::from(columns) * WIDTH + 2.0 * MARGIN, f32::from(lines) * HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n"
    );
    for line in 0..lines {
        let mut runs: Vec<(u16, Look, String)> = Vec::new();
        for column in 0..columns {
            let Some(cell) = screen.cell(line, column) else { continue };
            let text = if cell.has_contents() { cell.contents() } else { " " };
            let look = Look::of(cell);
            match runs.last_mut() {
                Some((_, last, run)) if *last == look => run.push_str(text),
                _ => runs.push((column, look, text.to_owned())),
            }
        }
        for (column, look, text) in runs {
            draw(&mut svg, line, column, &look, &text);
        }
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, line: u16, column: u16, look: &Look, text: &str) {
    let (x, y) = (MARGIN + f32::from(column) * WIDTH, MARGIN + f32::from(line) * HEIGHT);
    let width = text.chars().count() as f32 * WIDTH;
    if let Some(background) = &look.background {
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{background}\"/>"
        );
    }
    if text.trim().is_empty() {
        return;
    }
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
    let faint = if look.faint { " opacity=\"0.6\"" } else { "" };
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\" fill=\"{}\"{weight}{faint} xml:space=\"preserve\">{text}</text>",
        y + 13.0,
        look.foreground,
    );
}
