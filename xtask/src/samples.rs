//! `cargo xtask samples`: in, the scripts of two incidents; out, their recordings in `docs/samples`, made on a Debian kernel in an
//! emulator by real connections of `tests/src/bin/incident.rs`.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::repo::Repo;
use crate::vm;

/// Names of the recordings; each is an incident of the script.
const SAMPLES: [&str; 2] = ["ports", "close-wait"];
const KERNEL: &str = "6.12";
const SCRIPT: &str = include_str!("samples.sh");
/// Numbers of the recordings that are committed elsewhere.
const SHOWN_IN: &str = "Next: `cargo xtask screenshots` draws their screens, `cargo xtask test --only queries` names the rows of \
                        docs/fleet.md that changed";
/// The lines of the script around the recording, which is in base64.
const BEGIN: &str = "sample: begin";
const END: &str = "sample: end";

pub fn run(repo: &Repo) -> Result<()> {
    command::run(repo.cargo().args(["build", "--release", "--package", "tcptrace"]))?;
    command::run(repo.cargo().args(["build", "--release", "--package", "tests", "--bin", "incident"]))?;
    let incident = repo.release_binary().with_file_name("incident");
    let folder = repo.root.join("docs/samples");
    fs::create_dir_all(&folder)?;
    for name in SAMPLES {
        let script = format!("incident={name}\n{SCRIPT}");
        let lines = vm::run_script(repo, KERNEL, ("incident", incident.clone()), &script)?;
        let mut lines = lines.iter().skip_while(|line| *line != BEGIN).skip(1);
        let text: String = lines.by_ref().take_while(|line| *line != END).cloned().collect();
        ensure!(!text.is_empty(), "{name}: the guest printed no recording");
        let path = folder.join(format!("{name}.tcptrace"));
        fs::write(&path, decoded(&text)?)?;
        println!("{}: {} bytes", path.display(), fs::metadata(&path)?.len());
    }
    println!("{SHOWN_IN}");
    Ok(())
}

fn decoded(text: &str) -> Result<Vec<u8>> {
    let mut base64 = Command::new("base64")
        .arg("--decode")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start base64")?;
    let mut input = base64.stdin.take().context("base64 has no stdin")?;
    let text = text.to_owned();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = base64.wait_with_output()?;
    writer.join().expect("a panic is a bug")?;
    ensure!(output.status.success(), "base64 failed: {}", output.status);
    Ok(output.stdout)
}
