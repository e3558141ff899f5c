//! HTML page of a report: style, script and numbers are inline, and the page fetches nothing.
//!
//! A Content-Security-Policy allows only this style and this script, by their hashes: a script injected through the
//! name of a process or a cgroup would not run.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

use super::{
    Report, bound,
    cell::{Number, Text, for_script},
    code,
    document::ReportDocument,
    facts,
    sections::SECTIONS,
    summary,
};
use crate::{
    model::{TcpState, units},
    view::losses::losses,
};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// Writes the page.
pub fn write(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    let json = serde_json::to_string(&ReportDocument::of(report))?;
    let mut page = String::with_capacity(json.len() + (256 << 10));
    compose(&mut page, report, &json).map_err(io::Error::other)?;
    out.write_all(page.as_bytes())
}

fn compose(page: &mut String, report: &Report<'_>, json: &str) -> fmt::Result {
    head(page, report)?;
    page.push_str("<body>\n");
    header(page, report)?;
    page.push_str("<main>\n");
    summary(page, report)?;
    for section in &SECTIONS {
        let (id, title) = (section.id, section.title);
        writeln!(
            page,
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{title}</h2>"
        )?;
        (section.write)(page, report)?;
        page.push_str("</section>\n");
    }
    page.push_str("</main>\n");
    footer(page)?;
    let offset = report.local(report.snapshot.began).offset().seconds();
    writeln!(
        page,
        "<script type=\"application/json\" id=\"document\" data-utc-offset-s=\"{offset}\">{}</script>",
        for_script(json)
    )?;
    writeln!(page, "<script>{SCRIPT}</script>\n</body>\n</html>")
}

fn head(page: &mut String, report: &Report<'_>) -> fmt::Result {
    let began = report.local(report.snapshot.began).strftime("%Y-%m-%d %H:%M").to_string();
    writeln!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src {}; script-src {}; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <meta name=\"generator\" content=\"tcptrace {}\">\n<title>{} {began}: TCP states</title>\n\
         <style>{STYLE}</style>\n</head>",
        hash(STYLE),
        hash(SCRIPT),
        env!("CARGO_PKG_VERSION"),
        Text(&report.snapshot.host.host),
    )
}

/// Hash of a style or a script in the Content-Security-Policy.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
}

fn header(page: &mut String, report: &Report<'_>) -> fmt::Result {
    let began = report.local(report.snapshot.began);
    let ended = report.local(report.snapshot.ts);
    let until = if began.date() == ended.date() { "%H:%M:%S %Z" } else { "%Y-%m-%d %H:%M:%S %Z" };
    write!(
        page,
        "<header><div><p class=\"eyebrow\">tcptrace report</p><h1>{}</h1><p class=\"when\"><time datetime=\"{}\">{}</time> \
         to <time datetime=\"{}\">{}</time>, {}</p></div>\
         <div class=\"tools\"><button type=\"button\" id=\"theme\">Dark</button></div></header>\n<nav aria-label=\"Sections\">",
        Text(&report.snapshot.host.host),
        report.wall(report.snapshot.began),
        began.strftime("%Y-%m-%d %H:%M:%S"),
        report.wall(report.snapshot.ts),
        ended.strftime(until),
        Number::length(report.span().0, "/traced_ns"),
    )?;
    for section in &SECTIONS {
        write!(page, "<a href=\"#{}\">{}</a>", section.id, section.title)?;
    }
    page.write_str("</nav>\n")
}

fn summary(page: &mut String, report: &Report<'_>) -> fmt::Result {
    if let Some(lost) = losses(&report.snapshot.losses) {
        write!(
            page,
            "<p class=\"alarm\" role=\"alert\"><b>Counts may be off.</b> This recording {}. \
             <a href=\"#missing\">What is missing</a></p>",
            Text(&lost)
        )?;
    }
    page.push_str("<section class=\"summary\" aria-label=\"Summary\">");
    for sentence in summary::sentences(report) {
        page.push_str("<p>");
        for part in sentence.0 {
            write!(page, "{}", Text(&part.text))?;
            part.code.map_or(Ok(()), |on| code::link(page, report, on))?;
        }
        page.push_str("</p>");
    }
    tiles(page, report)?;
    if !report.snapshot.host.limits.is_empty() {
        page.push_str("<div class=\"note\"><h2>Mind that</h2>");
        facts::limits(page, report)?;
        page.push_str("</div>");
    }
    page.write_str("</section>\n")
}

/// One number in large figures: its label and the number.
type Tile = (&'static str, String);

fn tiles(page: &mut String, report: &Report<'_>) -> fmt::Result {
    let snapshot = report.snapshot;
    let peak = |state| snapshot.timeline.peak(state).map_or(0, |(highest, _)| highest);
    let oldest = report.listed.all.oldest_close_wait.and_then(|since| since.age(snapshot.ts)).map_or_else(
        || "-".into(),
        |age| {
            let length = Number::length(age.length.0, "/all/oldest_close_wait_ns");
            length.marked(bound(age)).to_string()
        },
    );
    let time_wait = report.entered(TcpState::TimeWait);
    let tiles: [Tile; 6] = [
        ("TIME_WAIT at most", Number::count(peak(TcpState::TimeWait), "/states/0/highest").to_string()),
        ("TIME_WAIT entered/s", Number::rate(report.per_s(time_wait), "/states/0/entered_per_s").to_string()),
        ("ESTABLISHED at most", Number::count(peak(TcpState::Established), "/states/3/highest").to_string()),
        ("FIN_WAIT2 held", Number::count(report.listed.all.fin_wait2_held(), "/fin_wait2/held").to_string()),
        ("oldest CLOSE_WAIT", oldest),
        ("lost", units::count(snapshot.losses.total())),
    ];
    page.push_str("<dl class=\"tiles\">");
    for (name, number) in tiles {
        write!(page, "<div><dt>{name}</dt><dd>{number}</dd></div>")?;
    }
    page.write_str("</dl>")
}

fn footer(page: &mut String) -> fmt::Result {
    writeln!(
        page,
        "<footer><p>Made by tcptrace {}. This page fetches nothing; its numbers are inside it as one JSON document, the one \
         that <code>tcptrace report --json</code> prints.</p></footer>",
        env!("CARGO_PKG_VERSION")
    )
}
