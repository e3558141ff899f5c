//! The crates in the program: in, `cargo tree`, `cargo metadata` and `Cargo.lock`; out, their versions, sources, licences and
//! licence texts.
//!
//! Not with cargo-about and cargo-cyclonedx: each takes minutes to install, and both read what cargo prints in a second.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::arch::Arch;
use crate::command;
use crate::repo::Repo;

/// A crate that is linked into the program.
pub struct Dependency {
    pub name: String,
    pub version: String,
    /// An SPDX expression.
    pub licence: String,
    /// SHA-256 of the package in the registry; crates of this repository have none.
    pub checksum: Option<String>,
    /// Names and versions of the crates that it uses.
    pub uses: Vec<(String, String)>,
    folder: PathBuf,
}

/// The parts of other packages that a static program contains, and Debian's files with their licences.
const LINKED: [(&str, &[&str]); 3] = [
    ("The GNU C library", &["doc/libc6-dev/copyright", "common-licenses/LGPL-2.1"]),
    ("libgcc", &["doc/gcc-12-base/copyright", "common-licenses/GPL-3"]),
    ("The standard library of Rust", &["doc/libstd-rust-web-dev/copyright"]),
];
/// Beginnings of the names of licence files, in capitals.
const LICENCE_FILES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<LockedPackage>,
}

#[derive(Deserialize)]
struct LockedPackage {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The crates in the program for any architecture, without those that only run in the build, sorted by name.
pub fn list(repo: &Repo) -> Result<Vec<Dependency>> {
    let mut tree = repo.cargo();
    tree.args(["tree", "--locked", "--package", "tcptrace", "--edges", "normal,no-proc-macro"]);
    tree.args(["--no-dedupe", "--prefix", "none", "--format", "{p}"]);
    tree.args([Arch::Amd64, Arch::Arm64].iter().flat_map(|arch| ["--target", arch.rust_target()]));
    let tree = command::output(&mut tree)?;
    let linked: BTreeSet<_> = tree.lines().filter_map(name_and_version).collect();
    let mut metadata = repo.cargo();
    metadata.args(["metadata", "--locked", "--format-version", "1"]);
    let metadata: Metadata = serde_json::from_str(&command::output(&mut metadata)?)?;
    let lock: Lock = toml::from_str(&fs::read_to_string(repo.root.join("Cargo.lock"))?)?;

    let of_id: BTreeMap<_, _> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, (package.name.clone(), package.version.clone())))
        .collect();
    let mut all = Vec::new();
    for package in metadata.packages.iter().filter(|package| linked.contains(&of_id[&package.id])) {
        let node = metadata.resolve.nodes.iter().find(|node| node.id == package.id);
        let uses = node.context("no node")?.dependencies.iter().map(|id| of_id[id].clone());
        let locked =
            lock.package.iter().find(|one| (&one.name, &one.version) == (&package.name, &package.version));
        let licence = package.license.as_ref().with_context(|| format!("{} has no licence", package.name))?;
        all.push(Dependency {
            name: package.name.clone(),
            version: package.version.clone(),
            // The older spelling.
            licence: licence.replace('/', " OR "),
            checksum: locked.and_then(|locked| locked.checksum.clone()),
            uses: uses.filter(|one| linked.contains(one)).collect(),
            folder: package.manifest_path.parent().context("no folder")?.to_owned(),
        });
    }
    ensure!(all.len() == linked.len(), "cargo metadata lists {} of {} crates", all.len(), linked.len());
    all.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(all)
}

/// From `NAME vVERSION ...`.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    Some((name.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
}

/// The licences of all dependencies, equal texts once.
pub fn licence_texts(dependencies: &[Dependency]) -> Result<String> {
    let mut holders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut page =
        "tcptrace contains these crates, and the libraries at the end. Their licence texts follow.\n\n"
            .to_owned();
    for dependency in dependencies.iter().filter(|dependency| dependency.checksum.is_some()) {
        let name = format!("{} {}", dependency.name, dependency.version);
        writeln!(page, "{name}: {}", dependency.licence)?;
        let mut texts = files(&dependency.folder)?;
        if texts.is_empty() {
            texts = standard_texts(&dependency.licence)
                .with_context(|| format!("{name} has no licence text of its own"))?;
        }
        for text in texts {
            holders.entry(text.trim_end().to_owned()).or_default().insert(name.clone());
        }
    }
    // In the order of the first holder.
    let mut texts: Vec<_> = holders.into_iter().collect();
    texts.sort_by(|(_, a), (_, b)| a.cmp(b));
    for (text, holders) in texts {
        let names: Vec<_> = holders.into_iter().collect();
        write!(page, "\n{}\n{}\n\n{text}\n", "=".repeat(80), names.join(", "))?;
    }
    for (name, files) in LINKED {
        for file in files {
            let path = Path::new("/usr/share").join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            write!(page, "\n{}\n{name}\n\n{}\n", "=".repeat(80), text.trim_end())?;
        }
    }
    Ok(page)
}

/// The licence files of a crate and of the sources in it, such as zstd's in `zstd-sys`.
fn files(folder: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    for inner in
        entries.iter().filter(|entry| entry.path().is_dir()).map(fs::DirEntry::path).collect::<Vec<_>>()
    {
        entries.extend(fs::read_dir(inner)?.collect::<Result<Vec<_>, _>>()?);
    }
    entries.retain(|entry| {
        let name = entry.file_name().to_string_lossy().to_uppercase();
        LICENCE_FILES.iter().any(|start| name.starts_with(start)) && entry.path().is_file()
    });
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        texts.push(String::from_utf8_lossy(&fs::read(entry.path())?).into_owned());
    }
    Ok(texts)
}

/// The standard text of each licence in an expression.
fn standard_texts(licence: &str) -> Result<Vec<String>> {
    let expression = Expression::parse_mode(licence, ParseMode::LAX)?;
    let ids = expression.requirements().filter_map(|one| one.req.license.id());
    Ok(ids.map(|id| id.text().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dependency_has_a_source_and_a_licence_text() {
        let dependencies = list(&Repo::find().unwrap()).unwrap();
        let names: Vec<_> = dependencies.iter().map(|one| one.name.as_str()).collect();
        assert!(names.contains(&"aya") && names.contains(&"tcptrace-common"), "{names:?}");
        // It writes code in the build, and a tool of the tests.
        assert!(!names.contains(&"serde_derive") && !names.contains(&"insta"), "{names:?}");
        for one in &dependencies {
            let is_own = one.name.starts_with("tcptrace");
            assert_eq!(one.checksum.is_none(), is_own, "{}", one.name);
            let has_text = is_own
                || !files(&one.folder).unwrap().is_empty()
                || !standard_texts(&one.licence).unwrap().is_empty();
            assert!(has_text, "{}", one.name);
        }
    }
}
