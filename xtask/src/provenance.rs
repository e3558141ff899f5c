//! Where the committed eBPF object comes from: in, sources, tools and its bytes; out, `provenance.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::repo::Repo;
use crate::toolchain::{FLAGS, TARGET, Tools};

const HEADING: &str = "# Written by `cargo xtask ebpf`, checked by `cargo xtask ebpf --check`.\n";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Of the sources and the flags, see [`source_sha256`].
    pub source_sha256: String,
    /// SHA-256 of each object, by file name.
    pub objects: BTreeMap<String, String>,
    pub tools: Tools,
}

impl Provenance {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read {}: run `cargo xtask ebpf`", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a provenance", path.display()))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.to_toml()?).with_context(|| format!("cannot write {}", path.display()))
    }

    fn to_toml(&self) -> Result<String> {
        Ok(format!("{HEADING}{}", toml::to_string(self)?))
    }
}

/// Hash of everything in this repository that the object is made from. The `Cargo.toml` of the workspace is not:
/// the eBPF crate is another workspace and takes neither profiles nor versions from there.
pub fn source_sha256(repo: &Repo) -> Result<String> {
    let mut files = Vec::new();
    for folder in ["tcptrace-common", "tcptrace-ebpf"] {
        collect(&repo.root, folder, &mut files)?;
    }
    Ok(tree_sha256(files))
}

/// In hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The path from the root, with slashes, and the content.
type SourceFile = (String, Vec<u8>);

/// Adds the sources below `folder`, manifests and lock file included.
fn collect(root: &Path, folder: &str, files: &mut Vec<SourceFile>) -> Result<()> {
    let entries = root.join(folder).read_dir().with_context(|| format!("cannot list {folder}"))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().with_context(|| format!("a name in {folder} is not UTF-8"))?;
        let path = format!("{folder}/{name}");
        if entry.file_type()?.is_dir() {
            if !matches!(name, "target" | "tests" | "benches" | "examples") {
                collect(root, &path, files)?;
            }
        } else if is_source(name) {
            let content = fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
            files.push((path, content));
        }
    }
    Ok(())
}

fn is_source(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("rs" | "toml" | "lock"))
}

/// Independent of the listing order of the file system. Each text is preceded by its length, so that no byte can move
/// to the next file, or from a name to the content, without changing the hash.
fn tree_sha256(mut files: Vec<SourceFile>) -> String {
    files.sort();
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(TARGET.as_bytes());
    for flag in FLAGS {
        add(flag.as_bytes());
    }
    for (path, content) in &files {
        add(path.as_bytes());
        add(content);
    }
    format!("{:x}", hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> SourceFile {
        (path.to_owned(), content.as_bytes().to_vec())
    }

    #[test]
    fn the_order_of_listing_does_not_matter() {
        let (a, b) = (file("src/a.rs", "a"), file("src/b.rs", "b"));
        assert_eq!(tree_sha256(vec![a.clone(), b.clone()]), tree_sha256(vec![b, a]));
    }

    #[test]
    fn a_byte_that_moves_changes_the_hash() {
        let trees = [
            vec![file("a.rs", "xy"), file("b.rs", "")],
            vec![file("a.rs", "x"), file("b.rs", "y")],
            vec![file("a.rsx", "y"), file("b.rs", "")],
            vec![file("a.rs", "xy")],
        ];
        let mut hashes = trees.map(tree_sha256);
        hashes.sort();
        assert!(hashes.windows(2).all(|pair| pair[0] != pair[1]), "{hashes:?}");
    }

    #[test]
    fn licences_and_notes_do_not_make_the_object_stale() {
        assert!(is_source("main.rs") && is_source("Cargo.toml") && is_source("Cargo.lock"));
        assert!(!is_source("LICENSE-GPL2") && !is_source("README.md") && !is_source(".main.rs.swp"));
    }

    #[test]
    fn sha256_is_the_one_sha256sum_prints() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_provenance_reads_back_the_same() {
        let provenance = Provenance {
            source_sha256: sha256(b"sources"),
            objects: [("tcptrace.bpf.o".into(), sha256(b"object"))].into(),
            tools: Tools {
                rustc: "rustc 1.96.0 (ac68faa20 2026-05-25)".into(),
                cargo: "cargo 1.96.0".into(),
                libcore: "libstd-rust-web-dev-bpf 1.96.0+dfsg1-1".into(),
                bpf_linker: "0.13.0".into(),
                llvm_strip: "22.1.8".into(),
            },
        };
        let text = provenance.to_toml().unwrap();
        assert!(
            text.starts_with('#') && text.contains("\n[tools]\n") && text.contains("\nbpf-linker = "),
            "{text}"
        );
        assert_eq!(toml::from_str::<Provenance>(&text).unwrap(), provenance);
    }
}
