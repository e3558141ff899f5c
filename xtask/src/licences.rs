//! Licences and sources of everything that is built: in, `cargo tree` and `Cargo.lock` of each workspace and the lists of
//! `deny.toml`; out, the packages that have another licence or source.
//!
//! Not cargo-deny, which gives the same result: installing it takes 344 s of CPU time (0.20.2), this takes 2 s.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::command;
use crate::repo::Repo;

/// The folder of every workspace of the repository.
const WORKSPACES: [&str; 3] = [".", "tcptrace-ebpf", "fuzz"];
/// In a `Cargo.lock`.
const CRATES_IO: &str = "\"registry+https://github.com/rust-lang/crates.io-index\"";

/// The part of `deny.toml` that is checked here.
#[derive(Deserialize)]
struct DenyToml {
    graph: DenyGraph,
    licenses: LicenceRules,
}

#[derive(Deserialize)]
struct DenyGraph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct LicenceRules {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<LicenceException>,
}

/// Licences that one package may have beyond the list.
#[derive(Deserialize)]
struct LicenceException {
    #[serde(rename = "crate")]
    package: String,
    allow: Vec<String>,
}

/// Fails with every package that may not be built in.
pub fn check(repo: &Repo) -> Result<()> {
    let rules: DenyToml = toml::from_str(&fs::read_to_string(repo.root.join("deny.toml"))?)?;
    let mut wrong = BTreeSet::new();
    for workspace in WORKSPACES.map(|folder| repo.root.join(folder)) {
        wrong.extend(foreign_sources(&fs::read_to_string(workspace.join("Cargo.lock"))?));
        let mut tree = repo.cargo();
        tree.args(["tree", "--locked", "--workspace", "--all-features", "--no-dedupe", "--prefix", "none"]);
        tree.args(["--format", "{p}|{l}", "--manifest-path"]).arg(workspace.join("Cargo.toml"));
        tree.args(rules.graph.targets.iter().flat_map(|target| ["--target", target]));
        let packages = command::output(&mut tree)?;
        ensure!(packages.contains('|'), "{}: cargo tree lists no package", workspace.display());
        wrong.extend(packages.lines().filter_map(|line| objection(line, &rules.licenses)));
    }
    ensure!(wrong.is_empty(), "see deny.toml:\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
    Ok(())
}

/// Sources in a lock file other than crates.io; packages of the repository have none.
fn foreign_sources(lock: &str) -> impl Iterator<Item = String> {
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = "));
    sources.filter(|source| *source != CRATES_IO).map(|source| format!("a package comes from {source}"))
}

/// The defect of a package, from a line `NAME vVERSION ...|LICENCE`.
fn objection(line: &str, rules: &LicenceRules) -> Option<String> {
    let (package, licence) = line.split_once('|')?;
    let name = package.split(' ').next()?;
    let beyond = || rules.exceptions.iter().filter(|exception| exception.package == name);
    let is_allowed = |licence: &String| {
        rules.allow.contains(licence) || beyond().any(|exception| exception.allow.contains(licence))
    };
    // The lax mode also reads the older spelling `MIT/Apache-2.0`.
    match Expression::parse_mode(licence, ParseMode::LAX).context("no licence expression") {
        Ok(expression) if expression.evaluate(|one| is_allowed(&one.to_string())) => None,
        Ok(_) => Some(format!("{package} has the licence {licence}")),
        Err(error) => Some(format!("{package}: {licence:?}: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_met_by_allowed_licences_only() {
        let exceptions = vec![LicenceException { package: "odd".into(), allow: vec!["WTFPL".into()] }];
        let allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(String::from).into();
        let rules = LicenceRules { allow, exceptions };
        let of = |licence| objection(&format!("any v1.0.0 (proc-macro)|{licence}"), &rules);
        for fine in ["MIT", "MIT/Apache-2.0", "GPL-2.0-only OR MIT", "Apache-2.0 WITH LLVM-exception"] {
            assert_eq!(of(fine), None, "{fine}");
        }
        for wrong in ["LGPL-2.1-or-later", "MIT AND GPL-2.0-only", "WTFPL", "Unheard-of", ""] {
            assert!(of(wrong).is_some(), "{wrong}");
        }
        assert_eq!(objection("odd v1.0.0|WTFPL", &rules), None);
    }

    #[test]
    fn a_source_beside_crates_io_is_an_objection() {
        let lock = format!(
            "name = \"a\"\nsource = {CRATES_IO}\nname = \"b\"\nsource = \"git+https://example.org/b\"\n"
        );
        assert_eq!(
            foreign_sources(&lock).collect::<Vec<_>>(),
            ["a package comes from \"git+https://example.org/b\""]
        );
    }
}
