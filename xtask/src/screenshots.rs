//! `cargo xtask screenshots`: in, the recordings of `docs/samples`; out, the files of `docs/screenshots`: screens, drawn from a
//! terminal by `tests/src/bin/screenshot.rs`, and the page of a report and the dashboard, by a browser.

mod dashboard;

use std::fs;
use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::repo::Repo;
use crate::{command, packages};

#[derive(Args)]
pub struct ScreenshotsArgs {
    /// Draw these only
    #[arg(long, value_enum)]
    only: Option<ScreenshotKind>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScreenshotKind {
    /// `tcptrace top` over the samples
    Screens,
    /// The page of a report on a sample
    Report,
    /// The Grafana dashboard, over four minutes of an incident on this host (needs root)
    Dashboard,
}

/// One screenshot of `tcptrace top` over a sample.
struct Screen {
    name: &'static str,
    sample: &'static str,
    size: &'static str,
    /// Text to wait for, and the key to press then; the last has none.
    steps: &'static [(&'static str, &'static str)],
    last: &'static str,
}

const SCREENS: [Screen; 4] = [
    Screen { name: "ports", sample: "ports", size: "112x22", steps: &[], last: "ENDED" },
    Screen { name: "finding", sample: "ports", size: "112x30", steps: &[("ENDED", "i")], last: "verify" },
    Screen { name: "close-wait", sample: "close-wait", size: "112x22", steps: &[], last: "ENDED" },
    Screen {
        name: "life",
        sample: "close-wait",
        size: "112x24",
        steps: &[("ENDED", "\r"), ("LOCAL", "\r")],
        last: "in CLOSE_WAIT for",
    },
];

pub fn run(repo: &Repo, args: &ScreenshotsArgs) -> Result<()> {
    command::run(repo.cargo().args(["build", "--release", "--package", "tcptrace"]))?;
    fs::create_dir_all(repo.root.join("docs/screenshots"))?;
    let wants = |kind| args.only.is_none_or(|only| only == kind);
    if wants(ScreenshotKind::Screens) {
        screens(repo)?;
    }
    if wants(ScreenshotKind::Report) {
        report(repo)?;
    }
    if wants(ScreenshotKind::Dashboard) {
        dashboard::draw(repo)?;
    }
    Ok(())
}

fn screens(repo: &Repo) -> Result<()> {
    command::run(repo.cargo().args(["build", "--release", "--package", "tests", "--bin", "screenshot"]))?;
    let program = repo.release_binary();
    for screen in SCREENS {
        let mut screenshot = Command::new(program.with_file_name("screenshot"));
        screenshot.current_dir(&repo.root).env("COLORTERM", "truecolor");
        screenshot.arg(format!("docs/screenshots/{}.svg", screen.name)).args(["--size", screen.size]);
        for (wait, key) in screen.steps {
            screenshot.args(["--wait", wait, "--key", key]);
        }
        screenshot.args(["--wait", screen.last, "--"]).arg(&program);
        screenshot.args(["top", "--from", &format!("docs/samples/{}.tcptrace", screen.sample)]);
        command::run(&mut screenshot)?;
    }
    Ok(())
}

/// The beginning of the report on the sample `ports`.
fn report(repo: &Repo) -> Result<()> {
    packages::install(packages::BROWSER)?;
    let page = repo.root.join("target/report.html");
    let mut report = Command::new(repo.release_binary());
    report.args(["report", "docs/samples/ports.tcptrace", "--force", "-o"]).arg(&page);
    command::run(report.current_dir(&repo.root))?;
    let mut browser = Command::new("chromium");
    browser.args(["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1100,860"]);
    browser.arg("--screenshot=docs/screenshots/report.png").arg(format!("file://{}", page.display()));
    command::run(browser.current_dir(&repo.root))
}
