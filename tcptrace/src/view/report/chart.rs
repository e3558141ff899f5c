//! SVG charts that work without a script; the script makes them interactive.
//!
//! Curves and bars are drawn on a square that the browser stretches to the available space. Labels are outside of it,
//! at percentages of its width, so that they are not stretched.

use std::fmt::{self, Write};

use super::{
    Report,
    axis::{self, SIDE, Tick},
    bins::{BinScale, Bins},
    cell::Text,
    incidents,
};
use crate::{
    aggregate::{Distribution, Point},
    model::{Nanos, TcpState, units},
    view::top::summary::STATES,
};

/// Minimum interval of a rate.
const MIN_RATE_INTERVAL: Nanos = Nanos::SECOND;

/// One curve: the values of a state over time.
struct Curve {
    state: TcpState,
    /// Time since the start, and the value.
    points: Vec<(Nanos, f64)>,
}

/// Chart of the peak number of sockets in every state, over time.
pub fn highest(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let timeline = &report.snapshot.timeline;
    let curve = |state: TcpState| Curve {
        state,
        points: timeline
            .points
            .iter()
            .map(|point| (point.ts.since(report.snapshot.began), point.highest[state.index()] as f64))
            .collect(),
    };
    over_time(out, report, "highest", "Sockets in each state over time", curve)
}

/// Sparkline of one state, scaled to its own peak, without axes; empty if there were no sockets.
pub fn spark(out: &mut String, report: &Report<'_>, state: TcpState) -> fmt::Result {
    let timeline = &report.snapshot.timeline;
    let Some((top, _)) = timeline.peak(state) else { return Ok(()) };
    let point = |point: &Point| (point.ts.since(report.snapshot.began), point.highest[state.index()] as f64);
    let points: Vec<(Nanos, f64)> = timeline.points.iter().map(point).collect();
    write!(
        out,
        "<svg viewBox=\"0 -20 1000 1040\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><path class=\"curve s-{}\" d=\"",
        state.name()
    )?;
    path(out, &points, report.span(), top as f64)?;
    out.write_str("\"/></svg>")
}

/// Chart of the sockets that entered every state per second, over time.
pub fn entered(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let timeline = &report.snapshot.timeline;
    let curve = |state: TcpState| {
        let (mut from, mut sum, mut points) = (report.snapshot.began, 0, Vec::new());
        for point in &timeline.points {
            sum += point.entered[state.index()];
            let length = point.ts.since(from);
            if length >= MIN_RATE_INTERVAL {
                points.push((point.ts.since(report.snapshot.began), sum as f64 / length.as_secs_f64()));
                (from, sum) = (point.ts, 0);
            }
        }
        Curve { state, points }
    };
    over_time(out, report, "entered", "Sockets entering each state per second, over time", curve)
}

fn over_time(
    out: &mut String,
    report: &Report<'_>,
    name: &str,
    label: &str,
    curve: impl Fn(TcpState) -> Curve,
) -> fmt::Result {
    let states = STATES.into_iter().filter(|&state| state != TcpState::Listen);
    let is_something = |curve: &Curve| curve.points.iter().any(|&(_, value)| value > 0.0);
    let curves: Vec<Curve> = states.map(curve).filter(is_something).collect();
    let highest =
        curves.iter().flat_map(|curve| &curve.points).fold(0.0, |most: f64, point| most.max(point.1));
    let (top, marks) = axis::counts(highest.ceil() as u64);
    let span = report.span();
    let times = axis::clock(&report.local(report.snapshot.began), span.0);
    write!(out, "<figure class=\"chart\" data-chart=\"{name}\">")?;
    frame(out, label, &marks, &times, |out| {
        for curve in &curves {
            write!(out, "<path class=\"curve s-{}\" d=\"", curve.state.name())?;
            path(out, &curve.points, span, top as f64)?;
            out.write_str("\"/>")?;
        }
        incidents::lines(out, report)
    })?;
    legend(out, &curves)?;
    incidents::captions(out, report)?;
    out.write_str("</figure>\n")
}

/// Writes a curve, without the inner points of a level stretch.
fn path(out: &mut String, points: &[(Nanos, f64)], span: Nanos, top: f64) -> fmt::Result {
    for (index, &(ts, value)) in points.iter().enumerate() {
        let is_level =
            |other: usize| points.get(other).is_some_and(|(_, other)| other.total_cmp(&value).is_eq());
        if index > 0 && is_level(index - 1) && is_level(index + 1) {
            continue;
        }
        let x = ts.0 as f64 / span.0.max(1) as f64 * SIDE;
        let y = (1.0 - value / top) * SIDE;
        write!(out, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' })?;
    }
    Ok(())
}

fn legend(out: &mut String, curves: &[Curve]) -> fmt::Result {
    out.write_str("<ul class=\"legend\">")?;
    for Curve { state, .. } in curves {
        let name = state.name();
        write!(
            out,
            "<li><button type=\"button\" aria-pressed=\"true\" data-state=\"{name}\"><svg class=\"key\" viewBox=\"0 0 28 8\" \
             aria-hidden=\"true\"><path class=\"curve s-{name}\" d=\"M0 4H28\"/></svg>{name}</button></li>"
        )?;
    }
    out.write_str("</ul>")
}

/// Dwell histogram of one state. `index` is its index in the document.
pub fn histogram(
    out: &mut String,
    state: TcpState,
    distribution: &Distribution,
    index: usize,
) -> fmt::Result {
    let Bins { scale, bins } = Bins::of(distribution);
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else { return Ok(()) };
    let range = (first.lowest.0 as f64, last.highest.0 as f64 + 1.0);
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0);
    let (top, marks) = axis::counts(most);
    let label = format!("How long sockets stayed in {}", state.name());
    write!(out, "<figure class=\"chart histogram\" data-chart=\"histogram\" data-index=\"{index}\">")?;
    frame(out, &label, &marks, &axis::lengths(range, scale), |out| {
        write!(out, "<path class=\"bars s-{}\" d=\"", state.name())?;
        for bin in &bins {
            let place = |length: f64| axis::place(length, range, scale) * SIDE;
            let (x, end) = (place(bin.lowest.0 as f64), place(bin.highest.0 as f64 + 1.0));
            let y = (1.0 - bin.count as f64 / top as f64) * SIDE;
            write!(out, "M{x:.1} {SIDE}V{y:.1}H{end:.1}V{SIDE}")?;
        }
        out.write_str("\"/>")?;
        for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
            let x = axis::place(distribution.quantile(q).0 as f64, range, scale) * SIDE;
            write!(out, "<path class=\"quantile {name}\" d=\"M{x:.1} 0V{SIDE}\"/>")?;
        }
        Ok(())
    })?;
    write!(
        out,
        "<figcaption>{} on a {} axis; dashed: p50 {}, dotted: p99 {}</figcaption></figure>",
        units::plural(distribution.count, "dwell", "dwells"),
        if scale == BinScale::Linear { "linear" } else { "logarithmic" },
        units::duration(distribution.quantile(0.5)),
        units::duration(distribution.quantile(0.99)),
    )
}

/// Writes both axes with their ticks, and the content from `draw` between them.
fn frame(
    out: &mut String,
    label: &str,
    up: &[Tick],
    along: &[Tick],
    draw: impl FnOnce(&mut String) -> fmt::Result,
) -> fmt::Result {
    out.write_str("<div class=\"frame\"><svg class=\"y\" aria-hidden=\"true\">")?;
    for Tick { at, label } in up {
        write!(out, "<text x=\"100%\" y=\"{:.2}%\">{}</text>", (1.0 - at) * 100.0, Text(label))?;
    }
    write!(
        out,
        "</svg><div class=\"plot\" tabindex=\"0\" role=\"img\" aria-label=\"{}; the numbers are in the table beside it\">\
         <svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><g class=\"grid\">",
        Text(label)
    )?;
    for Tick { at, .. } in up {
        write!(out, "<path d=\"M0 {:.1}H1000\"/>", (1.0 - at) * SIDE)?;
    }
    for Tick { at, .. } in along {
        write!(out, "<path d=\"M{:.1} 0V1000\"/>", at * SIDE)?;
    }
    out.write_str("</g><g class=\"drawn\">")?;
    draw(out)?;
    out.write_str("</g></svg></div><svg class=\"x\" aria-hidden=\"true\">")?;
    for Tick { at, label } in along {
        write!(out, "<text x=\"{:.2}%\" y=\"1em\">{}</text>", at * 100.0, Text(label))?;
    }
    out.write_str("</svg></div>")
}
