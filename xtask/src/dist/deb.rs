//! The Debian package: in, the installed files; out, a .deb by dpkg-deb.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::VERSION;
use super::staging::{PACKAGE, Staging};
use crate::command;

const COPYRIGHT: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: tcptrace

Files: *
Copyright: the tcptrace authors
License: MIT or Apache-2.0
 The texts are beside this file, as are those of all dependencies (THIRD-PARTY-LICENSES.txt). The eBPF program inside is
 Dual MIT/GPL.
";

/// The units are neither enabled nor started: the administrator chooses address and findings.
const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", "if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi\n"),
    (
        "prerm",
        "if [ -d /run/systemd/system ] && [ \"$1\" = remove ]; then systemctl --no-reload disable --now tcptrace.service tcptrace-recorder.service; fi\n",
    ),
    ("postrm", "if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi\n"),
];

/// Sizes and hashes of the installed files, as dpkg expects them.
const SUMS: &str = r#"cd "$0" && find usr -type f -printf '%s\n' | awk '{ kib += int(($1 + 1023) / 1024) }
     END { print "Installed-Size: " kib }' >> DEBIAN/control \
     && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum > DEBIAN/md5sums"#;

pub fn build(staging: &Staging) -> Result<PathBuf> {
    let root = staging.installed("deb", "usr/share/zsh/vendor-completions")?;
    fs::write(root.join("usr/share/doc").join(PACKAGE).join("copyright"), COPYRIGHT)?;
    let debian = root.join("DEBIAN");
    fs::create_dir_all(&debian)?;
    fs::write(debian.join("control"), control(staging.arch.debian()))?;
    for (name, script) in SCRIPTS {
        let path = debian.join(name);
        fs::write(&path, format!("#!/bin/sh\nset -e\n{script}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    command::run(Command::new("sh").args(["-c", SUMS]).arg(&root))?;
    staging.normalise(&root)?;
    let package = staging.folder.join(format!("{PACKAGE}_{VERSION}_{}.deb", staging.arch.debian()));
    // xz, as dpkg of Debian 11 reads no zstd; one thread, as their number changes the bytes.
    let mut dpkg_deb = Command::new("dpkg-deb");
    dpkg_deb.args(["-Zxz", "--threads-max=1", "--root-owner-group", "--build"]).arg(&root).arg(&package);
    command::run(dpkg_deb.env("SOURCE_DATE_EPOCH", staging.epoch.to_string()))?;
    Ok(package)
}

/// No `Depends`: the program is static. `Conflicts`, as both packages have `/usr/bin/tcptrace`; no `Replaces`, or dpkg would
/// silently remove the other; no `Provides`, as neither can substitute the other (Debian Policy 7.4 to 7.6).
fn control(architecture: &str) -> String {
    format!(
        "Package: {PACKAGE}\nVersion: {VERSION}\nArchitecture: {architecture}\nMaintainer: the tcptrace authors <tcptrace@localhost>\n\
         Conflicts: tcptrace\nSection: net\nPriority: optional\n\
         Description: how long TCP sockets really stay in every state\n \
         TIME_WAIT and FIN_WAIT2 included, and which services, peers, ports and processes\n \
         produce them. By eBPF, on Linux 5.10 or later with BTF.\n",
    )
}
