//! The container image: in, the program and `contrib/container/Containerfile`; out, an OCI archive by buildah, which
//! `podman load` and `docker load` read.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::VERSION;
use super::staging::{Staging, put};
use crate::command;

pub fn build(staging: &Staging) -> Result<PathBuf> {
    let context = staging.empty("image")?;
    let doc = context.join("doc");
    put(&staging.binary, &context.join("tcptrace"), 0o755)?;
    put(staging.licences, &doc.join("THIRD-PARTY-LICENSES.txt"), 0o644)?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE", "tcptrace-ebpf/LICENSE-GPL2"] {
        let from = staging.repo.root.join(licence);
        put(&from, &doc.join(from.file_name().unwrap_or_default()), 0o644)?;
    }
    staging.normalise(&context)?;
    let (storage, layout) = (staging.empty("buildah")?, staging.empty("oci")?);
    let name = format!("tcptrace:{VERSION}");
    let mut build = buildah(&storage, "build");
    // A scratch image runs nothing of its own while it is built: no emulator is needed for another architecture.
    build.args(["--quiet", "--isolation", "chroot", "--format", "oci", "--layers=false"]);
    build.args(["--timestamp", &staging.epoch.to_string(), "--arch", staging.arch.debian(), "--tag", &name]);
    build.args(["--label", &format!("org.opencontainers.image.version={VERSION}"), "--identity-label=false"]);
    build.arg("--file").arg(staging.repo.root.join("contrib/container/Containerfile"));
    command::run(build.arg(&context))?;
    let to = format!("oci:{}:{name}", layout.display());
    command::run(buildah(&storage, "push").args(["--quiet", &name, &to]))?;
    let image = staging.folder.join(format!("tcptrace-{VERSION}-{}.oci.tar", staging.arch.debian()));
    staging.tar(&layout, &image, &["oci-layout", "index.json", "blobs"])?;
    // Its layers belong to other users, and are mounts on some machines.
    command::run(buildah(&storage, "rmi").args(["--all", "--force"]))?;
    Ok(image)
}

/// buildah with a storage of its own: the images of this machine do not change.
fn buildah(storage: &Path, subcommand: &str) -> Command {
    let mut buildah = Command::new("buildah");
    buildah.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
    buildah.args(["--storage-driver", "vfs", subcommand]);
    buildah
}
