//! Sections about the recording itself: its limits and losses, and its host.

use std::fmt::{self, Write};

use super::{
    Report,
    cell::{Number, Text},
    table::{TABLE_END, table},
};
use crate::view::losses::CAUSES;

/// Writes the limits and the losses by cause.
pub fn missing(out: &mut String, report: &Report<'_>) -> fmt::Result {
    limits(out, report)?;
    table(out, "Losses by cause", &["Cause", "#Lost"])?;
    for cause in &CAUSES {
        let count = Number::count((cause.of)(&report.snapshot.losses), format_args!("/loss/{}", cause.name));
        writeln!(out, "<tr><th scope=\"row\">{}</th><td class=\"n\">{count}</td></tr>", cause.label)?;
    }
    out.write_str(TABLE_END)
}

/// Writes the limits of the recording, one sentence each.
pub fn limits(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let limits = &report.snapshot.host.limits;
    if limits.is_empty() {
        return out.write_str("<p>The recording is whole, and its kernel shows everything.</p>");
    }
    out.write_str("<ul>")?;
    for limit in limits {
        write!(out, "<li>{}</li>", Text(limit))?;
    }
    out.write_str("</ul>")
}

/// Writes the host and its settings.
pub fn host(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let host = &report.snapshot.host;
    let records = Number::count(report.snapshot.records, "/records").to_string();
    let text = |text: &str| if text.is_empty() { "-".into() } else { Text(text).to_string() };
    let facts = [
        ("Host", text(&host.host)),
        ("Kernel", text(&host.kernel)),
        ("Boot id", text(&host.boot_id)),
        ("Recording", text(&report.snapshot.source)),
        ("Records", records),
        ("Recorded with the filter", text(&host.filter)),
        ("Report made with the filter", text(report.filter)),
    ];
    table(out, "Host and recording", &["", ""])?;
    for (name, value) in facts {
        writeln!(out, "<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>")?;
    }
    out.write_str(TABLE_END)?;
    if host.sysctls.is_empty() {
        return out.write_str("<p>The recording holds no kernel settings.</p>");
    }
    out.write_str("<p>Settings in the network namespace of the recorder, when it began.</p>")?;
    table(out, "Kernel settings", &["Setting", "#Value"])?;
    for (name, value) in &host.sysctls {
        writeln!(
            out,
            "<tr><th scope=\"row\" class=\"key\">{}</th><td class=\"n\">{}</td></tr>",
            Text(name),
            Text(value)
        )?;
    }
    out.write_str(TABLE_END)
}
