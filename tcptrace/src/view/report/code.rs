//! The code that closes, opens, accepts or forgets connections: a flame graph and a table for each kind of call. In, the user stacks
//! of the recording; out, HTML that needs no script.

use std::fmt::{self, Write};

use super::{
    Report,
    cell::{Number, Text},
    code_stacks::{CodeStacks, frames},
    summary::percent,
    table::{TABLE_END, table},
};
use crate::{
    model::{stack::StackFrame, text::sanitise, units},
    view::stacks::{StackSubject, comm, mark, name},
};

/// Most functions of a stack, from the outermost one.
const MOST_ROWS: usize = 40;
const ROW_PX: usize = 19;
/// Narrower functions are not drawn: percent of the graph.
const LEAST_WIDTH: f64 = 0.1;
/// The entry for everything that is not listed.
const OTHER: &str = "other stacks";

/// A link to the code that a sentence is about, if the recording has its stacks.
pub fn link(out: &mut String, report: &Report<'_>, on: StackSubject) -> fmt::Result {
    if report.code.iter().any(|code| code.on == on) {
        write!(out, " (<a href=\"#code-{}\">the code</a>)", on.name())?;
    }
    Ok(())
}

/// Writes a graph and a table for each kind of call.
pub fn code(out: &mut String, report: &Report<'_>) -> fmt::Result {
    if report.code.is_empty() {
        return out.write_str(
            "<p>The recording has no user stacks: <code>tcptrace record --stacks</code> records them.</p>",
        );
    }
    out.write_str(
        "<p>Each function is as wide as its share of the calls, below the function that calls it. \
         <span class=\"scripted\">A click on one shows it over the full width, a click on the first row shows all.</span></p>",
    )?;
    if report.code.iter().any(|code| code.is_estimate) {
        writeln!(out, "<p>~ marks an estimate: of many calls in one second a sample was captured.</p>")?;
    }
    for (index, code) in report.code.iter().enumerate() {
        write!(
            out,
            "<h3 id=\"code-{}\">{}: {}</h3>",
            code.on.name(),
            code.title(),
            Number::count(code.total, format_args!("/stacks/{index}/total")).marked(mark(code.is_estimate))
        )?;
        flame_graph(out, code)?;
        stacks_table(out, index, code)?;
    }
    Ok(())
}

fn stacks_table(out: &mut String, index: usize, code: &CodeStacks<'_>) -> fmt::Result {
    table(out, code.title(), &["#Count", "#Share", "Program", "Function", "Called by"])?;
    for (n, listed) in code.listed.iter().enumerate() {
        let summary = listed.stack.map(|stack| stack.summary()).unwrap_or_default();
        let (function, callers) = summary.split_once(" < ").unwrap_or((&summary, ""));
        writeln!(
            out,
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><th scope=\"row\" class=\"key\">{}</th><td class=\"meaning\">{}</td></tr>",
            Number::count(listed.count, format_args!("/stacks/{index}/stacks/{n}/count"))
                .marked(mark(listed.is_estimate)),
            percent(listed.count as f64 / code.total as f64),
            Text(&comm(listed.process)),
            Text(function),
            Text(callers)
        )?;
    }
    if code.other() > 0 {
        writeln!(
            out,
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td></td><th scope=\"row\">{OTHER}</th><td></td></tr>",
            Number::count(code.other(), format_args!("/stacks/{index}/other")).marked(mark(code.is_estimate)),
            percent(code.other() as f64 / code.total as f64),
        )?;
    }
    out.write_str(TABLE_END)
}

/// A function with those that it calls.
struct FlameNode {
    name: String,
    /// Module and source line.
    place: String,
    class: &'static str,
    count: u64,
    callees: Vec<Self>,
}

impl FlameNode {
    fn new(name: String, place: String, class: &'static str) -> Self {
        Self { name, place, class, count: 0, callees: Vec::new() }
    }

    fn of(frame: &StackFrame) -> Self {
        let source = frame.source().unwrap_or_default();
        let place = [&*frame.module, &source].join(" ");
        let class = if frame.is_of_language() { "f-lang" } else { "f-own" };
        Self::new(name(frame), sanitise(place.trim()).into_owned(), class)
    }

    /// Counts a call of `callee` below this function.
    fn call(&mut self, callee: Self, count: u64) -> &mut Self {
        let known =
            self.callees.iter().position(|known| (&known.name, known.class) == (&callee.name, callee.class));
        let at = known.unwrap_or_else(|| {
            self.callees.push(callee);
            self.callees.len() - 1
        });
        self.callees[at].count += count;
        &mut self.callees[at]
    }

    fn rows(&self) -> usize {
        1 + self.callees.iter().map(Self::rows).max().unwrap_or(0)
    }

    /// Draws it with its left edge at `x`, in percent, and those that it calls below.
    fn draw(&self, out: &mut String, code: &CodeStacks<'_>, x: f64, row: usize) -> fmt::Result {
        let share = self.count as f64 / code.total as f64;
        let width = share * 100.0;
        if width < LEAST_WIDTH {
            return Ok(());
        }
        let (name, place) = (Text(&self.name), Text(&self.place));
        write!(
            out,
            "<svg class=\"{}\" x=\"{x:.3}%\" y=\"{}\" width=\"{width:.3}%\" height=\"{}\"><title>{name}\n{place}\n{}{} ({})</title>\
             <rect width=\"100%\" height=\"100%\"/><text x=\"5\" y=\"13\">{name}</text></svg>",
            self.class,
            row * ROW_PX,
            ROW_PX - 1,
            mark(code.is_estimate),
            units::count(self.count),
            percent(share)
        )?;
        let mut left = x;
        let mut callees: Vec<&Self> = self.callees.iter().collect();
        callees.sort_by_key(|callee| std::cmp::Reverse(callee.count));
        for callee in callees {
            callee.draw(out, code, left, row + 1)?;
            left += callee.count as f64 * 100.0 / code.total as f64;
        }
        Ok(())
    }
}

fn flame_graph(out: &mut String, code: &CodeStacks<'_>) -> fmt::Result {
    let mut root = FlameNode::new("all".into(), String::new(), "f-root");
    root.count = code.total;
    for listed in &code.listed {
        let program = FlameNode::new(comm(listed.process).into_owned(), String::new(), "f-program");
        let mut node = root.call(program, listed.count);
        for frame in frames(listed).take(MOST_ROWS) {
            node = node.call(FlameNode::of(frame), listed.count);
        }
    }
    if code.other() > 0 {
        root.call(FlameNode::new(OTHER.into(), String::new(), "f-root"), code.other());
    }
    write!(
        out,
        "<div class=\"card\"><svg class=\"flame\" height=\"{}\" role=\"img\" aria-label=\"{}; the numbers are in the table below\">",
        root.rows() * ROW_PX,
        code.title()
    )?;
    root.draw(out, code, 0.0, 0)?;
    out.write_str("</svg></div>")
}
