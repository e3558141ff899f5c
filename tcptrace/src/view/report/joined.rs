//! Section about connections with both ends: who closed first, by service, and ends without the other one.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use serde::Serialize;

use super::{
    Report,
    cell::{Number, Text},
    table::{TABLE_END, table},
};
use crate::{
    join::{ClosedFirst, FirstCounts, JoinSummary},
    model::units,
};

/// Services that are listed on their own.
const LISTED: usize = 20;

/// Connections with both ends, in the document.
#[derive(Serialize)]
pub struct JoinedDocument {
    matched: u64,
    half_open: u64,
    closed_first: BTreeMap<&'static str, u64>,
    services: Vec<JoinedService>,
    unmatched: BTreeMap<&'static str, u64>,
    refused: u64,
}

/// Connections to one service, by who closed first.
#[derive(Serialize)]
struct JoinedService {
    service: String,
    closed_first: BTreeMap<&'static str, u64>,
}

impl JoinedDocument {
    /// The counts of `summary`; the services with the most connections, and the others together.
    pub fn of(summary: &JoinSummary) -> Self {
        let all = summary.services();
        let mut others = summary.other_services;
        for (_, counts) in all.iter().skip(LISTED) {
            others.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let listed = all.iter().take(LISTED).map(|(service, counts)| (service.to_string(), *counts));
        let others = (others.iter().sum::<u64>() > 0).then(|| ("other".to_owned(), others));
        let services = listed.chain(others);
        Self {
            matched: summary.matched_count(),
            half_open: summary.matched.get("half_open").copied().unwrap_or_default(),
            closed_first: by_name(&summary.closed_first),
            services: services
                .map(|(service, counts)| JoinedService { service, closed_first: by_name(&counts) })
                .collect(),
            unmatched: summary.unmatched.iter().map(|(reason, count)| (reason.name(), *count)).collect(),
            refused: summary.refused,
        }
    }
}

fn by_name(counts: &FirstCounts) -> BTreeMap<&'static str, u64> {
    ClosedFirst::ALL.map(ClosedFirst::name).into_iter().zip(counts.iter().copied()).collect()
}

/// Writes the section.
pub fn joined(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let Some(summary) = report.joined else {
        return out.write_str("<p>With a filter, both ends of a connection are not compared.</p>");
    };
    let document = JoinedDocument::of(summary);
    write!(
        out,
        "<p>{} connections have both ends in the recording, {} of them half-open: one end ended, the other still waits. {} \
         without the other one.</p>",
        Number::count(document.matched, "/joined/matched"),
        Number::count(document.half_open, "/joined/half_open"),
        units::plural(summary.unmatched_count(), "end is", "ends are"),
    )?;
    if document.matched > 0 {
        let heads = ["Service", "#client", "#server", "#both", "#reset", "#timeout", "#unknown or open"];
        table(out, "Who closed first, by service", &heads)?;
        for (n, of) in document.services.iter().enumerate() {
            write!(out, "<tr><th scope=\"row\">{}</th>", Text(&of.service))?;
            for first in ClosedFirst::ALL.map(ClosedFirst::name) {
                let count = of.closed_first[first];
                let at = format!("/joined/services/{n}/closed_first/{first}");
                write!(out, "<td class=\"n\">{}</td>", Number::count(count, at))?;
            }
            out.write_str("</tr>\n")?;
        }
        out.write_str(TABLE_END)?;
    }
    if !summary.unmatched.is_empty() {
        table(out, "Ends without the other one", &["Likely reason", "#Ends"])?;
        for (reason, count) in &summary.unmatched {
            let count = Number::count(*count, format_args!("/joined/unmatched/{}", reason.name()));
            writeln!(out, "<tr><th scope=\"row\">{}</th><td class=\"n\">{count}</td></tr>", reason.text())?;
        }
        out.write_str(TABLE_END)?;
    }
    Ok(())
}
