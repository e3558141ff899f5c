//! Cost as a function of the number of sockets: a table on standard output, and a plot.
//!
//! `cargo bench -p tcptrace --bench scale [-- --svg docs/scale.svg]`; docs/benchmarks.md explains the output.

use std::{fmt::Write as _, fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tcptrace::{aggregate::Grouping, synthetic::Shape};

#[allow(dead_code)]
#[path = "hot/load.rs"]
mod load;

use load::{RecordRing, grown, traffic};

const SOCKETS: [u64; 7] = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000];
/// Records per measurement, and number of measurements.
const PORTION: usize = 32 << 10;
const PORTIONS: usize = 24;

/// Sockets that are copied to measure their memory.
const MAX_COPIED_SOCKETS: u64 = 300_000;

/// Costs at one number of sockets.
struct Cost {
    sockets: u64,
    record_ns: f64,
    resident_mib: f64,
    snapshot_ms: f64,
    copy_ms: f64,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    println!("sockets    ns/record    records/s    resident MiB    snapshot ms    copy ms");
    let costs = SOCKETS.map(|sockets| {
        let cost = measure(sockets);
        println!(
            "{:>7} {:>12.0} {:>12.0} {:>15.1} {:>13.2} {:>10.2}",
            cost.sockets,
            cost.record_ns,
            1e9 / cost.record_ns,
            cost.resident_mib,
            cost.snapshot_ms,
            cost.copy_ms
        );
        cost
    });
    if let Some(path) = args.iter().position(|arg| arg == "--svg").and_then(|at| args.get(at + 1)) {
        fs::write(path, plot(&costs)).expect("a file");
    }
}

fn measure(wanted: u64) -> Cost {
    let mut traffic = traffic(wanted, Shape::default());
    let mut engine = grown(Grouping::SERVICE, &mut traffic);
    let mut times: Vec<f64> = (0..PORTIONS)
        .map(|_| {
            let ring: RecordRing = traffic.by_ref().take(PORTION).collect();
            milliseconds(|| ring.each(|record| engine.take(record))) * 1e6 / ring.len() as f64
        })
        .collect();
    let mut snapshots: Vec<f64> = (0..8).map(|_| milliseconds(|| drop(engine.snapshot()))).collect();
    // Few sockets are copied many times: one copy would fit into memory that was already resident.
    let copies = (MAX_COPIED_SOCKETS / wanted).max(1) as usize;
    let before = resident_kib();
    let mut kept = Vec::new();
    let copy_ms = milliseconds(|| kept.extend((0..copies).map(|_| engine.clone()))) / copies as f64;
    let resident_mib = resident_kib().saturating_sub(before) as f64 / 1024.0 / copies as f64;
    drop(kept);
    Cost {
        sockets: engine.tracker().sockets().count() as u64,
        record_ns: quarter(&mut times),
        resident_mib,
        snapshot_ms: quarter(&mut snapshots),
        copy_ms,
    }
}

/// The first quartile: the value least affected by other load on the machine.
fn quarter(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 4]
}

/// CPU time of this thread in milliseconds, less affected by other load on the machine than wall time.
fn milliseconds(run: impl FnOnce()) -> f64 {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
    };
    let began = now();
    run();
    now().saturating_sub(began).as_secs_f64() * 1e3
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

/// Title of a curve, and its value for a cost.
type Curve = (&'static str, fn(&Cost) -> f64);

const CURVES: [Curve; 4] = [
    ("nanoseconds per record", |cost| cost.record_ns),
    ("resident memory, MiB", |cost| cost.resident_mib),
    ("a snapshot of all, milliseconds", |cost| cost.snapshot_ms),
    ("a copy of the state, milliseconds", |cost| cost.copy_ms),
];

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 240.0;
/// Left, right, top, bottom.
const MARGINS: [f64; 4] = [48.0, 16.0, 36.0, 32.0];

/// Plots each curve in its own field over the number of sockets; both axes are logarithmic.
fn plot(costs: &[Cost]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" role=\"img\" \
         aria-label=\"Costs by number of sockets\">\n<style>\nsvg{{font:11px sans-serif;fill:#333}}\
         .title{{font-weight:bold;font-size:12px}}.grid{{stroke:#ccc;stroke-width:.5}}\
         .curve{{fill:none;stroke:#0b6bcb;stroke-width:2}}.point{{fill:#0b6bcb}}\n\
         @media (prefers-color-scheme:dark){{svg{{fill:#ddd}}.grid{{stroke:#555}}.curve{{stroke:#6cb2ff}}\
         .point{{fill:#6cb2ff}}}}\n</style>\n",
        2.0 * WIDTH,
        2.0 * HEIGHT
    );
    for (n, curve) in CURVES.iter().enumerate() {
        let (x, y) = ((n % 2) as f64 * WIDTH, (n / 2) as f64 * HEIGHT);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        field(&mut svg, curve, costs);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn field(svg: &mut String, (title, value): &Curve, costs: &[Cost]) {
    let [left, right, top, bottom] = MARGINS;
    let values: Vec<f64> = costs.iter().map(value).map(|value| value.max(1e-3)).collect();
    let low = values.iter().copied().fold(f64::MAX, f64::min).log10().floor();
    let high = values.iter().copied().fold(f64::MIN, f64::max).log10().ceil().max(low + 1.0);
    let across = |sockets: f64| left + (sockets.log10() - 3.0) / 3.1 * (WIDTH - left - right);
    let up = |value: f64| HEIGHT - bottom - (value.log10() - low) / (high - low) * (HEIGHT - top - bottom);
    let _ = writeln!(svg, "<text class=\"title\" x=\"{left}\" y=\"20\">{title}</text>");
    for exponent in low as i32..=high as i32 {
        let value = 10f64.powi(exponent);
        let y = up(value);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - right,
            left - 6.0,
            y + 4.0
        );
    }
    for (sockets, label) in [(1e3, "1 k"), (1e4, "10 k"), (1e5, "100 k"), (1e6, "1 M sockets")] {
        let anchor = if sockets < 1e6 { "middle" } else { "end" };
        let x = if sockets < 1e6 { across(sockets) } else { WIDTH - right };
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{label}</text>",
            HEIGHT - 12.0
        );
    }
    let points: Vec<String> = costs
        .iter()
        .zip(&values)
        .map(|(cost, &value)| format!("{:.1},{:.1}", across(cost.sockets as f64), up(value)))
        .collect();
    let _ = writeln!(svg, "<polyline class=\"curve\" points=\"{}\"/>", points.join(" "));
    for (point, value) in points.iter().zip(&values) {
        let (x, y) = point.split_once(',').unwrap_or_default();
        let _ = writeln!(
            svg,
            "<circle class=\"point\" cx=\"{x}\" cy=\"{y}\" r=\"3\"><title>{value:.3}</title></circle>"
        );
    }
}
