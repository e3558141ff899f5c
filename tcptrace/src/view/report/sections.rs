//! Sections of the page, with their tables and charts.

use std::fmt::{self, Write};

use super::{
    Report,
    cell::Number,
    chart, code, ends, facts, groups, joined,
    table::{TABLE_END, table},
};
use crate::{
    aggregate::{Split, StateDwells},
    model::{TcpState, units},
    view::top::summary::STATES,
};

/// One section of the page.
pub struct Section {
    /// Its anchor.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// Writes the content below the heading.
    pub write: fn(&mut String, &Report<'_>) -> fmt::Result,
}

/// All sections, in the order of the page.
pub const SECTIONS: [Section; 9] = [
    Section { id: "states", title: "Sockets per state", write: states },
    Section { id: "dwells", title: "How long they stayed", write: dwells },
    Section { id: "producers", title: "Who produces them", write: groups::producers },
    Section { id: "closers", title: "Who closes first", write: groups::closers },
    Section { id: "code", title: "Which code", write: code::code },
    Section { id: "joined", title: "Both ends of connections", write: joined::joined },
    Section { id: "ends", title: "How they ended", write: ends::ends },
    Section { id: "missing", title: "What is missing", write: facts::missing },
    Section { id: "host", title: "Host settings", write: facts::host },
];

fn states(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let interval = units::duration(report.snapshot.timeline.interval);
    write!(out, "<h3>The most at once, in every {interval}</h3>")?;
    chart::highest(out, report)?;
    out.write_str("<h3>Entered per second</h3>")?;
    chart::entered(out, report)?;
    table(
        out,
        "Sockets per state",
        &[
            "State",
            "#Highest",
            "When",
            "Over time, each to its own height",
            "#At the end",
            "#Entered",
            "#Entered/s",
        ],
    )?;
    for (n, state) in STATES.into_iter().enumerate() {
        let peak = report.snapshot.timeline.peak(state);
        let when = peak.map(|(_, ts)| report.clock(ts)).unwrap_or_default();
        let entered = report.entered(state);
        write!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td>{when}</td><td class=\"spark\">",
            state.name(),
            Number::count(peak.map_or(0, |(highest, _)| highest), format_args!("/states/{n}/highest")),
        )?;
        chart::spark(out, report, state)?;
        writeln!(
            out,
            "</td><td class=\"n\">{}{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Number::count(report.now(state), format_args!("/states/{n}/count")),
            orphans(report, state),
            Number::count(entered, format_args!("/states/{n}/entered")),
            Number::rate(report.per_s(entered), format_args!("/states/{n}/entered_per_s")),
        )?;
    }
    out.write_str(TABLE_END)
}

/// Orphan and held counts of FIN_WAIT2 at the end; empty for other states.
fn orphans(report: &Report<'_>, state: TcpState) -> String {
    let all = &report.listed.all;
    if state != TcpState::FinWait2 || report.now(state) == 0 {
        return String::new();
    }
    format!(
        " <small>{} orphan, {} held</small>",
        Number::count(all.fin_wait2_orphan, "/fin_wait2/orphan"),
        Number::count(all.fin_wait2_held(), "/fin_wait2/held")
    )
}

fn dwells(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let dwells = &report.snapshot.dwells;
    if dwells.is_empty() {
        return out.write_str("<p>No socket was in any state.</p>");
    }
    out.write_str(
        "<p>From the moment a socket entered a state to the moment it left it. Only dwells whose both ends were seen are in \
         the charts and the quantiles; the others are counted beside them: <b>&gt;=</b> began before the recording and \
         lasted at least as long as was seen, <b>~</b> was inferred from a timer or a sweep, <b>?</b> had a beginning that was missed.</p>\
         <div class=\"cards\">",
    )?;
    for state in STATES {
        let of_state = dwells.iter().enumerate().filter(|(_, of)| of.state == state);
        let rows: Vec<(usize, &StateDwells)> = of_state.collect();
        let Some(&(index, whole)) = rows.first().filter(|(_, whole)| !whole.distribution.is_empty()) else {
            continue;
        };
        write!(out, "<div class=\"card\"><h3>{}</h3>", state.name())?;
        if whole.distribution.count > 0 {
            chart::histogram(out, state, &whole.distribution, index)?;
        }
        table(
            out,
            &format!("Dwells in {}", state.name()),
            &["Which", "#Dwells", "#p50", "#p90", "#p99", "#Longest", "#>=", "#~", "#?"],
        )?;
        for (index, of) in rows {
            dwell_row(out, index, of)?;
        }
        out.write_str(TABLE_END)?;
        out.write_str("</div>\n")?;
    }
    out.write_str("</div>")
}

fn dwell_row(out: &mut String, index: usize, of: &StateDwells) -> fmt::Result {
    let distribution = &of.distribution;
    let length = |q: f64, name: &str| match distribution.count {
        0 => "-".to_owned(),
        _ => {
            Number::length(distribution.quantile(q).0, format_args!("/histograms/{index}/{name}")).to_string()
        }
    };
    let count = |n: u64, name: &str| Number::count(n, format_args!("/histograms/{index}/{name}")).to_string();
    write!(out, "<tr><th scope=\"row\">{}</th>", of.split.map_or("all", Split::name))?;
    for cell in [
        count(distribution.count, "count"),
        length(0.5, "p50_ns"),
        length(0.9, "p90_ns"),
        length(0.99, "p99_ns"),
        length(1.0, "max_ns"),
        count(distribution.at_least, "at_least_count"),
        count(distribution.inferred, "inferred_count"),
        count(distribution.unknown, "unknown_count"),
    ] {
        write!(out, "<td class=\"n\">{cell}</td>")?;
    }
    out.write_str("</tr>\n")
}
