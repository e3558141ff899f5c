//! Licences and sources of everything that is built: in, `cargo metadata` of each workspace and the lists of `deny.toml`;
//! out, the packages that have no licence of the list or come from elsewhere.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::command;
use crate::repo::Repo;

/// Every workspace of the repository.
const WORKSPACES: [&str; 3] = ["Cargo.toml", "tcptrace-ebpf/Cargo.toml", "fuzz/Cargo.toml"];
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The part of `deny.toml` that is checked here.
#[derive(Deserialize)]
struct Rules {
    graph: Graph,
    licenses: Licences,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licences {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

/// What one package may have beyond the list.
#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    package: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for what lies in the repository.
    source: Option<String>,
}

/// Fails with every package that may not be built in.
pub fn check(repo: &Repo) -> Result<()> {
    let rules: Rules = toml::from_str(&fs::read_to_string(repo.root.join("deny.toml"))?)?;
    let mut wrong = Vec::new();
    for workspace in WORKSPACES {
        let built = built(repo, workspace, &rules.graph.targets)?;
        let metadata: Metadata = serde_json::from_str(&command::output(repo.cargo().args([
            "metadata",
            "--locked",
            "--all-features",
            "--format-version",
            "1",
            "--manifest-path",
            workspace,
        ]))?)?;
        let packages: Vec<_> =
            metadata.packages.iter().filter(|package| built.contains(&package.id())).collect();
        ensure!(
            packages.len() == built.len(),
            "{workspace}: {} packages, {} known",
            built.len(),
            packages.len()
        );
        wrong.extend(packages.into_iter().filter_map(|package| objection(package, &rules.licenses)));
    }
    wrong.sort();
    wrong.dedup();
    ensure!(wrong.is_empty(), "see deny.toml:\n{}", wrong.join("\n"));
    Ok(())
}

/// The packages that are compiled, as [`Package::id`]: the metadata also has those of features that nobody asks for.
fn built(repo: &Repo, workspace: &str, targets: &[String]) -> Result<BTreeSet<String>> {
    let mut cargo = repo.cargo();
    cargo.args(["tree", "--locked", "--workspace", "--all-features", "--prefix", "none", "--format", "{p}"]);
    cargo.args(["--manifest-path", workspace]);
    for target in targets {
        cargo.args(["--target", target]);
    }
    let id = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let tree = command::output(&mut cargo)?;
    Ok(tree.lines().map(id).filter(|id| id.contains(" v")).collect())
}

/// What is wrong with a package.
fn objection(package: &Package, rules: &Licences) -> Option<String> {
    let Package { name, version, license, source } = package;
    if let Some(source) = source.as_deref().filter(|source| *source != CRATES_IO) {
        return Some(format!("{name} {version} comes from {source}"));
    }
    let allowed = |licence: &str| rules.allows(name, licence);
    match license.as_deref().context("no licence in its metadata").and_then(|text| is_met(text, allowed)) {
        Ok(true) => None,
        Ok(false) => {
            Some(format!("{name} {version} has the licence {}", license.as_deref().unwrap_or_default()))
        }
        Err(error) => Some(format!("{name} {version}: {error:#}")),
    }
}

impl Package {
    /// As `cargo tree` writes it.
    fn id(&self) -> String {
        format!("{} v{}", self.name, self.version)
    }
}

impl Licences {
    fn allows(&self, package: &str, licence: &str) -> bool {
        let mut beyond = self.exceptions.iter().filter(|exception| exception.package == package);
        self.allow.iter().any(|allowed| allowed == licence)
            || beyond.any(|exception| exception.allow.iter().any(|allowed| allowed == licence))
    }
}

/// Whether the licences that are `allowed` are enough for this SPDX expression, or the older spelling `MIT/Apache-2.0`.
fn is_met(text: &str, allowed: impl Fn(&str) -> bool) -> Result<bool> {
    let expression = Expression::parse_mode(text, ParseMode::LAX)
        .with_context(|| format!("{text:?} is no licence expression"))?;
    Ok(expression.evaluate(|requirement| allowed(&requirement.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Licences {
        let exceptions = vec![Exception { package: "odd".into(), allow: vec!["WTFPL".into()] }];
        let allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(String::from).into();
        Licences { allow, exceptions }
    }

    fn package(name: &str, license: Option<&str>, source: Option<&str>) -> Package {
        Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(Into::into),
            source: source.map(Into::into),
        }
    }

    #[test]
    fn an_expression_is_met_by_allowed_licences_only() {
        let of = |license| objection(&package("any", Some(license), Some(CRATES_IO)), &rules());
        for fine in ["MIT", "MIT/Apache-2.0", "GPL-2.0-only OR MIT", "Apache-2.0 WITH LLVM-exception"] {
            assert_eq!(of(fine), None, "{fine}");
        }
        for wrong in ["LGPL-2.1-or-later", "MIT AND GPL-2.0-only", "WTFPL", "Unheard-of", ""] {
            assert!(of(wrong).is_some(), "{wrong}");
        }
        assert_eq!(objection(&package("odd", Some("WTFPL"), None), &rules()), None);
    }

    #[test]
    fn a_package_without_a_licence_or_from_elsewhere_is_told() {
        assert!(objection(&package("any", None, None), &rules()).is_some());
        let elsewhere = package("any", Some("MIT"), Some("git+https://example.org/any"));
        assert_eq!(
            objection(&elsewhere, &rules()).as_deref(),
            Some("any 1.0.0 comes from git+https://example.org/any")
        );
    }
}
