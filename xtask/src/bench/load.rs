//! The load: in, which and how long; out, how much was done.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Bench;
use crate::command;

/// Loads that go on while something traces.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Connections as fast as they can be made and closed, over loopback
    Loopback,
    /// The same, and each thread goes on in a new network namespace after 2,000
    Namespaces,
    /// 5,000 connections that stay, and messages over them
    Long,
}

impl Kind {
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Loopback => &["churn"],
            Self::Namespaces => &["churn", "--per-namespace", "2000"],
            Self::Long => &["talk", "5000"],
        }
    }

    /// What it does so and so often.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Loopback | Self::Namespaces => "connections",
            Self::Long => "messages",
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Load {
    /// Connections, or messages.
    pub done: u64,
    pub elapsed_ns: u64,
    pub transitions: u64,
}

impl Load {
    pub fn run(bench: &Bench, seconds: f64) -> Result<Self> {
        let mut load = Command::new(&bench.load);
        load.args(bench.kind.arguments());
        load.args(["--threads", &bench.threads.to_string(), "--seconds", &seconds.to_string()]);
        if let (Some(rate), Kind::Loopback | Kind::Namespaces) = (bench.rate, bench.kind) {
            load.args(["--rate", &rate.to_string()]);
        }
        let done = serde_json::from_str(&command::output(&mut load)?)?;
        settle()?;
        Ok(done)
    }

    /// So much was done in a second.
    pub fn rate(&self) -> f64 {
        self.done as f64 * 1e9 / self.elapsed_ns as f64
    }
}

/// Sockets that stay until this is dropped.
pub struct Resting {
    child: Child,
    /// Ends them when it is closed.
    _stdin: Option<ChildStdin>,
}

impl Resting {
    /// Sockets in a namespace of their own: `rest N` in TIME_WAIT, `hold N` connected.
    pub fn start(bench: &Bench, arguments: [&str; 2]) -> Result<Self> {
        let mut command = Command::new(&bench.load);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start the load")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("its stdout")?;
        let resting = Self { child, _stdin: stdin };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "the load made no sockets");
        Ok(resting)
    }

    /// A command in its namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.child.id().to_string(), program]);
        command
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        settle().ok();
    }
}

/// How long the kernel may take to clean up, in steps of [`STEP`].
const STEPS: u32 = 100;
const STEP: Duration = Duration::from_millis(150);

/// Waits until the kernel has cleaned up behind a namespace that ended: that takes a CPU for a while.
fn settle() -> Result<()> {
    let minisockets = || -> Result<u64> {
        let slabs = std::fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
        let line = slabs.lines().find(|line| line.starts_with("tw_sock_TCP "));
        Ok(line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0))
    };
    let mut before = minisockets()?;
    for _ in 0..STEPS {
        std::thread::sleep(STEP);
        let now = minisockets()?;
        if now >= before {
            break;
        }
        before = now;
    }
    Ok(())
}
