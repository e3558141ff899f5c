//! The page of a recording in a browser: its numbers against the kernel and against `--json`, and hovering and zooming of its
//! charts.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tcptrace_common::state::TcpState::TimeWait;

use super::recording::{RecorderProcess, TempFolder};
use crate::browser::Browser;
use crate::clock::{hold, soon, wait_for};
use crate::lab::Lab;
use crate::{kernel, netns, process};

/// Connections, closed by the client.
const CONNECTIONS: u64 = 120;
/// Minimum length of the recording: some intervals of the timeline.
const LENGTH: Duration = Duration::from_millis(2_500);

/// A service in another namespace, and its process.
const LONG_KEY: &str = "[2001:db8:85a3::8a2e:370:7334]:5432 @payments / postgres-worker (1234567)";

/// Numbers of the page: the path of each in the document, its value, and its text.
const NUMBERS: &str =
    "[...document.querySelectorAll('data[data-at]')].map(e => [e.dataset.at, e.value, e.textContent])";
/// The first chart: its place on the screen, its marks, its curve of TIME_WAIT.
const CHART: &str = "(() => {
    const figure = document.querySelector('figure[data-chart=highest]');
    const plot = figure.querySelector('.plot');
    plot.scrollIntoView({block: 'center'});
    const {x, y, width, height} = plot.getBoundingClientRect();
    return {
        x, y, width, height,
        marks: [...figure.querySelectorAll('svg.x text')].map(e => e.textContent),
        curve: figure.querySelector('.drawn .s-TIME_WAIT').getAttribute('d'),
        tip: figure.querySelector('.tip').hidden ? null : figure.querySelector('.tip').innerText,
        all: figure.querySelector('[data-act=all]').disabled,
    };
})()";

/// A page is made, opened, hovered and zoomed, without network requests, errors or warnings.
pub fn in_a_browser(lab: &Lab) -> Result<()> {
    let folder = TempFolder::new()?;
    // First, so that a host without one skips this at once.
    let mut browser = Browser::start(&folder.file("profile"))?;
    let page = folder.file("report.html");
    same_marks(lab, &mut browser, &page)?;
    let (recording, shown) = (folder.file("a.tcpt"), page.to_string_lossy().into_owned());
    record(lab, &recording)?;
    let recording = recording.to_string_lossy();
    let netns = lab.netns().to_string();
    let made = lab.run(&["report", &recording, "-o", &shown, "--force", "--netns", &netns])?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let json = lab.run(&["report", &recording, "--json", "--netns", &netns])?;
    let document: Value = serde_json::from_slice(&json.stdout)?;
    let time_wait = &document["states"][0];
    ensure!(
        [&time_wait["highest"], &time_wait["entered"]].iter().all(|n| **n == CONNECTIONS),
        "TIME_WAIT is {time_wait}, {CONNECTIONS} connections were closed"
    );

    browser.open(&page)?;
    numbers(&mut browser, &document)?;
    hover_and_zoom(&mut browser, &document)?;
    flame_graph(&mut browser, &document)?;
    switches(&mut browser)?;
    fits(&mut browser)?;
    ensure!(browser.complaints().is_empty(), "the page complains: {:?}", browser.complaints());
    let foreign = browser.fetched().iter().find(|url| !url.ends_with("/report.html"));
    ensure!(foreign.is_none(), "the page fetches {foreign:?}");
    Ok(())
}

/// tcptrace draws the first charts, the script draws those after a click: 0.3 ms after a round time both begin with the next one.
fn same_marks(lab: &Lab, browser: &mut Browser, page: &Path) -> Result<()> {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs/samples/ports.tcptrace");
    let (sample, shown) = (sample.to_string_lossy(), page.to_string_lossy());
    let since = "2026-11-30T21:01:50.0003Z";
    let made = lab.run(&["report", &sample, "--since", since, "-o", &shown])?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    browser.open(page)?;
    let first = browser.evaluate(CHART)?;
    browser.evaluate("document.querySelector('figure[data-chart=highest] [data-act=in]').click()")?;
    browser.evaluate("document.querySelector('figure[data-chart=highest] [data-act=all]').click()")?;
    let again = browser.evaluate(CHART)?;
    ensure!(again["all"] == true && again["marks"] == first["marks"], "{again}, at first {first}");
    Ok(())
}

/// Tables fit the width of a small laptop, with any group names.
fn fits(browser: &mut Browser) -> Result<()> {
    let size = serde_json::json!({"width": 1200, "height": 800, "deviceScaleFactor": 1, "mobile": false});
    browser.call("Emulation.setDeviceMetricsOverride", &size)?;
    let wide = browser.evaluate(&format!(
        "(() => {{ document.querySelectorAll('th.key').forEach(key => key.textContent = '{LONG_KEY}'); \
         const cut = [...document.querySelectorAll('.scroll')].filter(table => table.scrollWidth > table.clientWidth); \
         return cut.map(table => table.querySelector('caption').textContent); }})()"
    ))?;
    ensure!(wide == serde_json::json!([]), "wider than the page: {wide}");
    Ok(())
}

/// Connections that the kernel counts as well.
fn record(lab: &Lab, file: &Path) -> Result<()> {
    let recorder = RecorderProcess::start(lab, file, &["--stacks"])?;
    netns::keep_time_wait()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let target = listener.local_addr()?;
    kernel::counts("TW", CONNECTIONS, || {
        for _ in 0..CONNECTIONS {
            let client = TcpStream::connect(target)?;
            let (server, _) = listener.accept()?;
            process::close((client, server));
        }
        wait_for("every TIME_WAIT", soon(), || {
            Ok((kernel::count(TimeWait)? as u64 == CONNECTIONS).then_some(()))
        })
    })?;
    hold(LENGTH);
    recorder.signal(Signal::INT)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0), "the recorder ended with {status:?}: {stderr}");
    Ok(())
}

/// Every number of the page is in the document as well, and counts are shown in full.
fn numbers(browser: &mut Browser, document: &Value) -> Result<()> {
    let inside = browser.evaluate("document.getElementById('document').textContent")?;
    let inside: Value = serde_json::from_str(inside.as_str().context("no document in the page")?)?;
    ensure!(inside == *document, "the page holds another document than --json prints");
    let shown = browser.evaluate(NUMBERS)?;
    let shown = shown.as_array().context("no numbers")?;
    ensure!(shown.len() > 50, "only {} numbers", shown.len());
    for number in shown {
        let [at, value, text] = [0, 1, 2].map(|n| number[n].as_str().unwrap_or_default());
        let value: Value = serde_json::from_str(value)?;
        ensure!(
            document.pointer(at) == Some(&value),
            "{at} is {value} in the page, {:?} in the document",
            document.pointer(at)
        );
        let digits = text.replace(',', "");
        if value.is_u64() && digits.bytes().all(|digit| digit.is_ascii_digit()) && !at.ends_with("_ns") {
            ensure!(digits.parse().ok() == value.as_u64(), "{at} is {value} and shown as {text}");
        }
    }
    Ok(())
}

fn hover_and_zoom(browser: &mut Browser, document: &Value) -> Result<()> {
    let number =
        |chart: &Value, name: &str| chart[name].as_f64().with_context(|| format!("no {name} in {chart}"));
    let unzoomed = browser.evaluate(CHART)?;
    let (x, width) = (number(&unzoomed, "x")?, number(&unzoomed, "width")?);
    let y = number(&unzoomed, "y")? + number(&unzoomed, "height")? / 2.0;
    ensure!(unzoomed["tip"].is_null() && unzoomed["all"] == true, "at first: {unzoomed}");

    browser.mouse("mouseMoved", (x + width * 0.9, y))?;
    let hovered = browser.evaluate(CHART)?;
    let tip: Vec<&str> =
        hovered["tip"].as_str().context("no tip under the mouse")?.split_whitespace().collect();
    let reported = tip.iter().position(|word| *word == "TIME_WAIT").and_then(|n| tip.get(n + 1));
    let last = document["timeline"]["highest"]["TIME_WAIT"]
        .as_array()
        .and_then(|all| all.last())
        .context("no timeline")?;
    ensure!(
        reported.is_some_and(|n| n.parse().ok() == last.as_u64()),
        "the tip says {tip:?}, the timeline ends with {last}"
    );

    browser.mouse("mousePressed", (x + width * 0.2, y))?;
    browser.mouse("mouseMoved", (x + width * 0.4, y))?;
    browser.mouse("mouseReleased", (x + width * 0.4, y))?;
    let zoomed = browser.evaluate(CHART)?;
    ensure!(zoomed["all"] == false && zoomed["curve"] != unzoomed["curve"], "zoomed: {zoomed}");
    ensure!(zoomed["marks"] != unzoomed["marks"], "the marks stay when zoomed: {zoomed}");
    browser.evaluate("document.querySelector('figure[data-chart=highest] [data-act=all]').click()")?;
    let again = browser.evaluate(CHART)?;
    // tcptrace drew the first charts, the script draws these.
    ensure!(
        again["all"] == true && again["marks"] == unzoomed["marks"],
        "all again: {again}, at first {unzoomed}"
    );
    Ok(())
}

/// The flame graph of closes: a click on a function shows it over the full width, a click on the first row shows all again.
fn flame_graph(browser: &mut Browser, document: &Value) -> Result<()> {
    let closes = &document["stacks"][0];
    // An estimate: the first 100 closes of a process in a second are captured, those of other scenarios included, then a sample.
    let counts =
        closes["stacks"].as_array().context("no stacks")?.iter().map(|stack| stack["count"].as_u64());
    let sum: u64 = counts.chain([closes["other"].as_u64()]).sum::<Option<_>>().context("no counts")?;
    ensure!(closes["on"] == "close" && sum > 0 && closes["total"] == sum, "{closes}");
    let widths = browser.evaluate(
        "(() => { const cells = [...document.querySelectorAll('svg.flame')][0].children; \
         const widths = () => [...cells].map(cell => Math.round(cell.getBoundingClientRect().width)); \
         const click = (cell) => cell.dispatchEvent(new MouseEvent('click')); \
         const before = widths(); click(cells[cells.length - 1]); const zoomed = widths(); click(cells[0]); \
         return [before, zoomed, widths()]; })()",
    )?;
    let [before, zoomed, after] = [0, 1, 2].map(|n| widths[n].as_array().cloned().unwrap_or_default());
    ensure!(before.len() > 2 && before == after, "{widths}");
    ensure!(zoomed.first() == before.first() && zoomed.last() == before.first(), "{widths}");
    Ok(())
}

/// Curves are hidden and shown, the theme changes, and the page prints.
fn switches(browser: &mut Browser) -> Result<()> {
    let click = "const button = document.querySelector('figure[data-chart=highest] button[data-state=TIME_WAIT]'); button.click(); \
                 [button.getAttribute('aria-pressed'), document.querySelector('figure[data-chart=highest] .drawn .s-TIME_WAIT').getAttribute('d')]";
    let hidden = browser
        .evaluate(&format!("(() => {{ {} }})()", click.replace("[button.get", "return [button.get")))?;
    ensure!(hidden[0] == "false" && hidden[1] == "", "a click on TIME_WAIT: {hidden}");
    let grounds = browser.evaluate(
        "(() => { const ground = () => getComputedStyle(document.documentElement).backgroundColor; const before = ground(); \
         document.getElementById('theme').click(); return [before, ground()]; })()",
    )?;
    ensure!(grounds[0] != grounds[1], "the theme stays: {grounds}");
    let printed = browser.call("Page.printToPDF", &serde_json::json!({}))?;
    ensure!(printed["data"].as_str().is_some_and(|pdf| pdf.starts_with("JVBERi")), "no PDF");
    Ok(())
}
