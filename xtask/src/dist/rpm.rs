//! The package of Fedora, RHEL and their relatives: in, the installed files; out, an .rpm by rpmbuild.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::VERSION;
use super::staging::{PACKAGE, Staging};
use crate::command;

/// `%install` copies the installed files; nothing is compiled. Neither requirements nor debug packages: the program is static
/// and stripped.
const SPEC: &str = r#"Name: tcptrace-bpf
Version: @VERSION@
Release: 1
Summary: How long TCP sockets really stay in every state
License: (MIT OR Apache-2.0) AND (MIT OR GPL-2.0-only)
Conflicts: tcptrace
AutoReqProv: no

%description
How long TCP sockets stay in every state, TIME_WAIT and FIN_WAIT2 included, and
which services, peers, ports and processes produce them. By eBPF, on Linux 5.10
or later with BTF.

%install
cp -a '@ROOT@/.' %{buildroot}

# The units are neither enabled nor started: the administrator chooses address and findings.
%post
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

%preun
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then systemctl --no-reload disable --now tcptrace.service tcptrace-recorder.service; fi

%postun
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

%files
%defattr(-,root,root)
"#;

/// Macros that keep this machine and the time of the build out of the package, and a compression that old releases read.
const MACROS: [(&str, &str); 7] = [
    ("_buildhost", "localhost"),
    ("use_source_date_epoch_as_buildtime", "1"),
    ("clamp_mtime_to_source_date_epoch", "1"),
    ("_binary_payload", "w7.xzdio"),
    ("__os_install_post", "%{nil}"),
    ("debug_package", "%{nil}"),
    ("_build_id_links", "none"),
];

pub fn build(staging: &Staging) -> Result<PathBuf> {
    let root = staging.installed("rpm", "usr/share/zsh/site-functions")?;
    staging.normalise(&root)?;
    let top = staging.empty("rpmbuild")?;
    let spec = top.join("tcptrace-bpf.spec");
    // Folders of the documents are the package's own.
    let mut find = Command::new("find");
    find.arg(&root).args(["-type", "f", "-printf", "/%P\n", "-o"]);
    find.args(["-type", "d", "-path", &format!("*/doc/{PACKAGE}*"), "-printf", "%%dir /%P\n"]);
    let files = command::output(&mut find)?;
    let mut files: Vec<&str> = files.lines().collect();
    files.sort_unstable();
    let text = SPEC.replace("@VERSION@", VERSION).replace("@ROOT@", &root.display().to_string());
    fs::write(&spec, text + &files.join("\n") + "\n")?;
    let mut rpmbuild = Command::new("rpmbuild");
    rpmbuild.args(["-bb", "--quiet", "--target", &format!("{}-linux", staging.arch.machine())]);
    rpmbuild.arg("--define").arg(format!("_topdir {}", top.display()));
    for (name, value) in MACROS {
        rpmbuild.arg("--define").arg(format!("{name} {value}"));
    }
    command::run(rpmbuild.arg(&spec).env("SOURCE_DATE_EPOCH", staging.epoch.to_string()))?;
    let name = format!("{PACKAGE}-{VERSION}-1.{}.rpm", staging.arch.machine());
    let package = staging.folder.join(&name);
    fs::copy(top.join("RPMS").join(staging.arch.machine()).join(&name), &package)
        .with_context(|| format!("rpmbuild made no {name}"))?;
    Ok(package)
}
