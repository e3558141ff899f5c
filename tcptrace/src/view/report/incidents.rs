//! Incidents on the charts over time: a vertical line where each finding began, and their titles below.

use std::fmt::{self, Write};

use serde::Serialize;

use super::{Report, axis::SIDE, cell::Text};
use crate::model::Nanos;

/// A finding that the recording was written for.
#[derive(Serialize)]
pub struct ReportIncident<'a> {
    finding: &'a str,
    title: &'a str,
    /// Since the start of the recording.
    ts_ns: u64,
    /// Time of day, as shown.
    #[serde(skip)]
    clock: String,
}

/// The incidents within the recording, oldest first.
pub fn all<'a>(report: &Report<'a>) -> Vec<ReportIncident<'a>> {
    let snapshot = report.snapshot;
    let within = snapshot.host.incidents.iter().filter_map(|incident| {
        let ts: Nanos = snapshot.host.monotonic(incident.ts_ns);
        (snapshot.began..=snapshot.ts).contains(&ts).then(|| ReportIncident {
            finding: &incident.finding,
            title: &incident.title,
            ts_ns: ts.since(snapshot.began).0,
            clock: report.clock(ts),
        })
    });
    within.collect()
}

/// Draws the lines.
pub fn lines(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let span = report.span().0.max(1) as f64;
    for ReportIncident { ts_ns, title, clock, .. } in all(report) {
        let x = ts_ns as f64 / span * SIDE;
        write!(
            out,
            "<path class=\"incident\" data-ts=\"{ts_ns}\" d=\"M{x:.1} 0V{SIDE}\"><title>{clock} {}</title></path>",
            Text(title)
        )?;
    }
    Ok(())
}

/// Writes the titles.
pub fn captions(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let all = all(report);
    if all.is_empty() {
        return Ok(());
    }
    out.write_str("<figcaption><ul class=\"incidents\">")?;
    for ReportIncident { finding, title, clock, .. } in all {
        write!(
            out,
            "<li><svg class=\"key\" viewBox=\"0 0 28 8\" aria-hidden=\"true\"><path class=\"incident\" d=\"M14 0V8\"/></svg>\
             {clock} {} <small>{}</small></li>",
            Text(title),
            Text(finding)
        )?;
    }
    out.write_str("</ul></figcaption>")
}
