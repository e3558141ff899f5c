//! The screenshot of the Grafana dashboard: in, its JSON and the metrics of an incident, which `dashboard/incident.sh` makes; out,
//! `docs/screenshots/dashboard.png`, drawn in a browser by Grafana's own components (`dashboard/panels.jsx`).

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::repo::Repo;
use crate::{command, packages};

/// The files of the page, which draws `dashboard.json`, and the script that opens it.
const FILES: [(&str, &str); 4] = [
    ("package.json", include_str!("dashboard/package.json")),
    ("panels.jsx", include_str!("dashboard/panels.jsx")),
    ("index.html", include_str!("dashboard/index.html")),
    ("incident.sh", include_str!("dashboard/incident.sh")),
];

pub fn draw(repo: &Repo) -> Result<()> {
    ensure!(packages::is_root(), "the dashboard needs root: its incident is traced in a network namespace");
    packages::install(packages::BROWSER)?;
    packages::install_without_services(packages::DASHBOARD)?;
    if Command::new("npm").arg("--version").stdout(Stdio::null()).status().is_err() {
        packages::install(packages::NPM)?;
    }
    command::run(repo.cargo().args(["build", "--release", "--package", "tests", "--bin", "incident"]))?;

    let folder = repo.target.join("dashboard");
    fs::create_dir_all(&folder)?;
    for (name, text) in FILES {
        fs::write(folder.join(name), text)?;
    }
    fs::copy(repo.root.join("contrib/grafana/tcptrace.json"), folder.join("dashboard.json"))?;
    let npm = |args: &[&str]| command::run(Command::new("npm").args(args).current_dir(&folder));
    npm(&[
        "install",
        "--no-package-lock",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ])?;
    npm(&["run", "build"])?;

    let mut incident = Command::new("bash");
    incident.arg("incident.sh").env("programs", repo.target.join("release")).current_dir(&folder);
    command::run(&mut incident)?;
    fs::copy(folder.join("dashboard.png"), repo.root.join("docs/screenshots/dashboard.png"))?;
    Ok(())
}
