//! The archive for hosts without a package manager, and for `cargo binstall`: in, the files; out, a .tar.gz.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::VERSION;
use super::staging::{Staging, put};
use crate::command;

const FILES: [&str; 6] = [
    "README.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "tcptrace-ebpf/LICENSE-GPL2",
    "contrib/systemd/tcptrace.service",
];

pub fn build(staging: &Staging) -> Result<PathBuf> {
    let name = format!("tcptrace-{VERSION}-{}", staging.arch.rust_target());
    let parent = staging.empty("archive")?;
    let root = parent.join(&name);
    put(&staging.binary, &root.join("tcptrace"), 0o755)?;
    for file in FILES {
        let from = staging.repo.root.join(file);
        put(&from, &root.join(from.file_name().unwrap_or_default()), 0o644)?;
    }
    put(staging.licences, &root.join("THIRD-PARTY-LICENSES.txt"), 0o644)?;
    for folder in ["man", "completions"] {
        for file in fs::read_dir(staging.generated.join(folder))? {
            let file = file?;
            put(&file.path(), &root.join(folder).join(file.file_name()), 0o644)?;
        }
    }
    let tar = staging.folder.join(format!("{name}.tar"));
    staging.tar(&parent, &tar, &[&name])?;
    command::run(Command::new("gzip").arg("-9nf").arg(&tar))?;
    Ok(staging.folder.join(format!("{name}.tar.gz")))
}
