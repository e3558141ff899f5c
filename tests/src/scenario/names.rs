//! Names of network namespaces that are added, changed and removed while the tracer runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use serde::Deserialize;

use crate::clock::{soon, wait_for};
use crate::lab::{Lab, Skip};
use crate::pair::{ConnectedPair, IpFamily};
use crate::process::StartChild as _;
use crate::scenario::recording::{RecorderProcess, TempFolder};

/// A name in `ip netns` for this thread's namespace, removed on drop.
struct NetnsName(PathBuf);

impl NetnsName {
    fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        std::fs::create_dir_all("/run/netns")?;
        let path = format!("/run/netns/tcptrace-{name}-{}-{number}", std::process::id());
        std::fs::write(&path, "")?;
        let named = Self(path.into());
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let netns = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
        let mount = Command::new("mount").args(["--bind", &netns]).arg(&named.0).finish()?;
        if !mount.status.success() {
            let why = String::from_utf8_lossy(&mount.stderr).into_owned();
            return Err(Skip(format!("can't mount: {}", why.trim())).into());
        }
        Ok(named)
    }

    fn name(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Drop for NetnsName {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).finish().ok();
        std::fs::remove_file(&self.0).ok();
    }
}

/// A row of the table of records.
#[derive(Deserialize)]
struct NamesRow {
    kind: String,
    netns: Option<u32>,
    name: Option<String>,
}

/// The names that this scenario's namespace has had in the recording so far.
fn names_of(lab: &Lab, file: &Path) -> Result<Vec<String>> {
    let file = file.to_string_lossy();
    let output = lab.run(&["export", &file, "--raw", "--format", "jsonl", "-o", "-"])?;
    let rows = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut names = Vec::new();
    for row in rows {
        let row: NamesRow = serde_json::from_slice(row)?;
        if row.kind == "netns_name" && row.netns == Some(lab.netns()) {
            names.push(row.name.unwrap_or_default());
        }
    }
    Ok(names)
}

/// A namespace that is named after its first socket, renamed, and then has no name.
pub fn added_renamed_deleted(lab: &Lab) -> Result<()> {
    let folder = TempFolder::new()?;
    let file = folder.file("names.tcptrace");
    let netns = lab.netns().to_string();
    let recorder = RecorderProcess::start(lab, &file, &["--netns", &netns])?;
    let connect = || ConnectedPair::open(IpFamily::V4).map(drop);
    let wait = |names: &[String]| {
        wait_for(&format!("the names {names:?}"), soon(), || {
            // A deleted name is withdrawn when its namespace makes a socket.
            connect()?;
            Ok((names_of(lab, &file)? == names).then_some(()))
        })
    };
    connect()?;
    wait(&[])?;
    let first = NetnsName::new("first")?;
    let mut names = vec![first.name()];
    wait(&names)?;
    drop(first);
    let second = NetnsName::new("second")?;
    names.push(second.name());
    // Between the two it may be seen to have none.
    let seen = wait_for("the second name", soon(), || {
        connect()?;
        let seen = names_of(lab, &file)?;
        Ok((seen.last() == names.last()).then_some(seen))
    })?;
    ensure!(seen.first() == names.first(), "the names are {seen:?}");
    drop(second);
    wait(&[seen, vec![String::new()]].concat())?;
    recorder.signal(Signal::TERM)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0), "it ended with {status:?}: {stderr}");
    Ok(())
}
