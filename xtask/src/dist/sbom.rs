//! The bill of materials: in, the dependencies; out, a document of `CycloneDX` 1.5.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::VERSION;
use super::dependencies::Dependency;
use crate::command;

/// `time` is in seconds since 1970.
pub fn document(dependencies: &[Dependency], time: u64) -> Result<String> {
    let timestamp = command::output(std::process::Command::new("date").args([
        "--utc",
        "--date",
        &format!("@{time}"),
        "+%FT%TZ",
    ]))?;
    let program = dependencies.iter().find(|one| one.name == "tcptrace").context("no tcptrace")?;
    let others = dependencies.iter().filter(|one| one.name != "tcptrace");
    let graph = dependencies.iter().map(|one| {
        let mut uses: Vec<_> = one.uses.iter().map(|(name, version)| purl(name, version)).collect();
        uses.sort();
        json!({ "ref": purl(&one.name, &one.version), "dependsOn": uses })
    });
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": timestamp,
            "tools": { "components": [{ "type": "application", "name": "cargo xtask dist", "version": VERSION }] },
            "component": component(program, "application"),
        },
        "components": others.map(|one| component(one, "library")).collect::<Vec<_>>(),
        "dependencies": graph.collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn component(dependency: &Dependency, kind: &str) -> Value {
    let purl = purl(&dependency.name, &dependency.version);
    let mut component = json!({
        "type": kind,
        "bom-ref": purl,
        "name": dependency.name,
        "version": dependency.version,
        "licenses": [{ "expression": dependency.licence }],
        "purl": purl,
    });
    if let Some(checksum) = &dependency.checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

fn purl(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{version}")
}
