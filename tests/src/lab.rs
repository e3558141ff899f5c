//! The environment of a scenario: its network namespace and the binary under test.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::soon;
use crate::netns;
use crate::precision::Precision;
use crate::process::{KillOnDrop, StartChild as _};
use crate::tracer::{LiveTracer, TracerFormat};

/// Makes the tracer trace as on a kernel without the segment hook.
pub const WITHOUT_SEGMENTS: &str = "--without=segment";

/// The error of a scenario that can't run here, with the reason.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The purpose of the run.
#[derive(Clone, Debug)]
pub enum TestTarget {
    /// Compare the output of this binary with the traffic.
    Binary(PathBuf),
    /// Check the traffic with the kernel only; nothing is traced.
    Traffic,
}

/// The network namespace of a scenario, and what it tests.
pub struct Lab {
    target: TestTarget,
    netns: u32,
    /// Only a thread of this process is in the namespace otherwise, and tracers look at the first thread of each process:
    /// those of other scenarios would miss the sockets that precede them.
    _inhabitant: KillOnDrop,
}

impl Lab {
    /// Moves this thread into a namespace of its own.
    pub fn enter(target: TestTarget) -> Result<Self> {
        if let TestTarget::Binary(path) = &target {
            // Before the namespace: its self-test makes a connection, which must not be in the scenario's namespace.
            Precision::of(path)?;
        }
        let netns = netns::enter_new()?;
        let inhabitant = Command::new("sleep").arg("1200").stdin(Stdio::null()).start().context("sleep")?;
        Ok(Self { target, netns, _inhabitant: KillOnDrop(inhabitant) })
    }

    /// The inode number of the scenario's namespace.
    pub const fn netns(&self) -> u32 {
        self.netns
    }

    /// Starts `tcptrace events --format json` and waits until it traces.
    pub fn trace(&self) -> Result<LiveTracer> {
        self.trace_with(&["events", "--format", "json"], TracerFormat::Json)
    }

    /// Starts the tracer with these arguments and waits until it traces.
    pub fn trace_with(&self, args: &[&str], format: TracerFormat) -> Result<LiveTracer> {
        match &self.target {
            TestTarget::Traffic => Ok(LiveTracer::absent()),
            TestTarget::Binary(path) => {
                let mut command = Command::new(path);
                command.args(args);
                let precision =
                    if args.contains(&WITHOUT_SEGMENTS) { Precision::Timers } else { Precision::of(path)? };
                LiveTracer::start(command, format, self.netns, precision)
            }
        }
    }

    /// The binary under test; in a traffic-only run the scenario is skipped.
    pub fn binary(&self) -> Result<&Path> {
        match &self.target {
            TestTarget::Binary(path) => Ok(path),
            TestTarget::Traffic => Err(Skip("it makes no traffic".into()).into()),
        }
    }

    /// Runs the binary with these arguments to its end.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.binary()?);
        command.args(args);
        run_to_end(command)
    }

    /// A copy of the binary that every user can reach, removed on drop.
    pub fn public_copy(&self) -> Result<PublicCopy> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tcptrace-live-{}-{number}", std::process::id()));
        std::fs::copy(self.binary()?, &path).context("copy the binary")?;
        Ok(PublicCopy(path))
    }
}

/// See [`Lab::public_copy`].
pub struct PublicCopy(pub PathBuf);

impl Drop for PublicCopy {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// Runs a command to its end; kills it after a time-out, which is an error.
pub fn run_to_end(mut command: Command) -> Result<Output> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
    let child = child.with_context(|| format!("start {}", command.get_program().display()))?;
    let pid = Pid::from_child(&child);
    let (done, is_done) = channel();
    let waiting = std::thread::spawn(move || {
        let output = child.wait_with_output();
        done.send(()).ok();
        output
    });
    let in_time = is_done.recv_timeout(3 * soon()).is_ok();
    if !in_time {
        // Nobody has waited for it, so its id is not reused.
        kill_process(pid, Signal::KILL)?;
    }
    let output = waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let args = command.get_args().collect::<Vec<_>>();
    ensure!(in_time, "{args:?} did not end; stderr:\n    {stderr}");
    Ok(output)
}
