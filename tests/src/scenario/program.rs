//! The program among other programs: in a pipe, and run by an ordinary user.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use crate::clock::{soon, wait_for};
use crate::lab::{Lab, run_to_end};
use crate::pair::{ConnectedPair, IpFamily};
use crate::process::StartChild as _;

/// `nobody`.
const NOBODY: u32 = 65_534;
/// Without these nothing can be traced.
const CAPABILITIES: [&str; 2] = ["CAP_BPF", "CAP_PERFMON"];

/// `tcptrace events --json | head -3`
pub fn closed_pipe(lab: &Lab) -> Result<()> {
    let mut child = Command::new(lab.binary()?)
        .args(["events", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .start()?;
    let traffic = || -> Result<()> {
        let mut pair = ConnectedPair::open(IpFamily::V4)?;
        pair.client.close();
        pair.server.close();
        Ok(())
    };
    let mut pipe = BufReader::new(child.stdout.take().context("its stdout")?);
    let head = std::thread::spawn(move || -> Result<()> {
        for _ in 0..3 {
            let mut line = String::new();
            pipe.read_line(&mut line)?;
            ensure!(line.ends_with("}\n"), "not a whole line: {line:?}");
        }
        Ok(())
    });
    let ended = wait_for("the end of the tracer", 3 * soon(), || {
        traffic()?;
        Ok(child.try_wait()?)
    });
    if ended.is_err() {
        child.kill()?;
    }
    let status = ended?;
    head.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let mut stderr = String::new();
    child.stderr.take().context("its stderr")?.read_to_string(&mut stderr)?;
    ensure!(status.code() == Some(0), "it ended with {status}: {stderr}");
    let loud = ["panic", "Broken pipe", "os error", "rror:"].into_iter().find(|word| stderr.contains(word));
    ensure!(loud.is_none(), "it complains: {stderr}");
    Ok(())
}

/// Without privilege `top` names the missing capabilities, and `states` works.
pub fn ordinary_user(lab: &Lab) -> Result<()> {
    let binary = lab.public_copy()?;
    let run = |args: &[&str]| -> Result<Output> {
        let mut command = Command::new(&binary.0);
        command.args(args).uid(NOBODY).gid(NOBODY);
        run_to_end(command).context("as nobody")
    };
    let top = run(&["top", "--once"])?;
    let message = String::from_utf8_lossy(&top.stderr);
    ensure!(top.status.code() == Some(3), "top ended with {}: {message}", top.status);
    for capability in CAPABILITIES {
        ensure!(message.contains(capability), "top does not name {capability}: {message}");
    }
    let _pair = ConnectedPair::open(IpFamily::V4)?;
    let states = run(&["states"])?;
    let text = String::from_utf8_lossy(&states.stdout);
    ensure!(states.status.success(), "states ended with {}", states.status);
    ensure!(text.contains("ESTABLISHED"), "states shows no ESTABLISHED: {text}");
    Ok(())
}
