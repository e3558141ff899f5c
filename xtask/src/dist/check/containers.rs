//! The image: in, its archive; out, whether podman loads it, and the program runs in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::arch::Arch;
use crate::command;
use crate::dist::{Release, VERSION};
use crate::repo::Repo;

/// Limits of files and processes that need no privilege to be set.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
/// What the `DaemonSet` grants.
const HOST: [&str; 3] = ["--network=host", "--pid=host", "--user=0"];

pub fn check(repo: &Repo, release: &Release) -> Result<()> {
    // Below /tmp: the sockets of a container have short paths.
    let storage = std::env::temp_dir().join(format!("tcptrace-dist-{}", std::process::id()));
    fs::create_dir_all(&storage)?;
    let checked = check_in(&storage, repo, release);
    let _ = command::run(podman(&storage).args(["rmi", "--all", "--force"]));
    fs::remove_dir_all(&storage)?;
    checked
}

fn check_in(storage: &Path, repo: &Repo, release: &Release) -> Result<()> {
    let archive = release.file(&format!("{VERSION}-{}.oci.tar", Arch::native().debian()))?;
    command::run(podman(storage).args(["load", "--quiet", "--input"]).arg(archive))?;
    let image = format!("localhost/tcptrace:{VERSION}");
    let run = |options: &[&str], words: &[&str]| {
        let mut run = podman(storage);
        run.args(["run", "--rm", "--read-only"]).args(LIMITS).args(options).arg(&image).args(words);
        command::output(&mut run)
    };
    let user = command::output(podman(storage).args(["inspect", "--format", "{{.Config.User}}", &image]))?;
    ensure!(user == "65532:65532", "the image runs as {user}");
    let states = run(&["--network=none", "--cap-drop=ALL"], &["states"])?;
    ensure!(states.contains("TIME_WAIT"), "states in a container: {states}");
    println!("in a container, as user {user}, without capabilities:\n{states}");
    let fixtures = format!("{}/tests/fixtures:/fixtures:ro", repo.root.display());
    let report = run(&["--volume", &fixtures], &["hist", "--from", "/fixtures/session-v1.tcptrace"])?;
    ensure!(report.contains("TIME_WAIT"), "hist of a recording: {report}");
    let capabilities: Vec<_> = CAPABILITIES.iter().map(|name| format!("--cap-add={name}")).collect();
    let mut options = HOST.to_vec();
    options.push("--cap-drop=ALL");
    options.extend(capabilities.iter().map(String::as_str));
    let found = run(&options, &["check"])?;
    println!("in a container, as the DaemonSet runs it:\n{found}");
    Ok(())
}

/// Those of the `DaemonSet`.
const CAPABILITIES: [&str; 6] = ["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_ADMIN", "SYSLOG"];

/// podman with a storage of its own: the images of this machine do not change.
fn podman(storage: &Path) -> Command {
    let mut podman = Command::new("podman");
    podman.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
    podman.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
    podman
}
