//! The archive for hosts without a package manager, and for `cargo binstall`: in, the files; out, a .tar.gz.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::VERSION;
use super::staging::{Staging, put};
use crate::arch::Arch;
use crate::command;

const FILES: [&str; 7] = [
    "README.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "tcptrace-ebpf/LICENSE-GPL2",
    "contrib/systemd/tcptrace.service",
    "contrib/systemd/tcptrace-recorder.service",
];

/// The folder in the archive, and the archive without its ending.
fn name(arch: Arch) -> String {
    format!("tcptrace-{VERSION}-{}", arch.rust_target())
}

pub fn build(staging: &Staging) -> Result<PathBuf> {
    let name = name(staging.arch);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::Repo;

    #[test]
    fn binstall_finds_the_archive_and_the_program_in_it() {
        let manifest = Repo::find().unwrap().root.join("tcptrace/Cargo.toml");
        let manifest: toml::Table = toml::from_str(&fs::read_to_string(manifest).unwrap()).unwrap();
        let binstall = &manifest["package"]["metadata"]["binstall"];
        for arch in [Arch::Amd64, Arch::Arm64] {
            let filled = |field: &str| {
                let template = binstall[field].as_str().unwrap().replace("{ target }", arch.rust_target());
                template
                    .replace("{ version }", VERSION)
                    .replace("{ name }", "tcptrace")
                    .replace("{ bin }", "tcptrace")
            };
            let name = name(arch);
            assert_eq!(filled("pkg-url"), format!("{{ repo }}/releases/download/v{VERSION}/{name}.tar.gz"));
            assert_eq!(filled("bin-dir"), format!("{name}/tcptrace"));
        }
    }
}
