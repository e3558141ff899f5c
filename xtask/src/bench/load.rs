//! The load: in, its kind and duration; out, the number of operations.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Bench;
use crate::command;

/// Loads that run while something traces.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LoadKind {
    /// Connections over loopback, opened and closed as fast as possible
    Loopback,
    /// The same; each thread changes to a new network namespace after 2,000
    Namespaces,
    /// Messages over 5,000 permanent connections
    Long,
}

impl LoadKind {
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Loopback => &["churn"],
            Self::Namespaces => &["churn", "--per-namespace", "2000"],
            Self::Long => &["talk", "5000"],
        }
    }

    /// The name of its operations.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Loopback | Self::Namespaces => "connections",
            Self::Long => "messages",
        }
    }
}

/// The result of a run.
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
        if let (Some(rate), LoadKind::Loopback | LoadKind::Namespaces) = (bench.rate, bench.kind) {
            load.args(["--rate", &rate.to_string()]);
        }
        let done = serde_json::from_str(&command::output(&mut load)?)?;
        settle()?;
        Ok(done)
    }

    /// Operations per second.
    pub fn rate(&self) -> f64 {
        self.done as f64 * 1e9 / self.elapsed_ns as f64
    }
}

/// Sockets without traffic, closed on drop.
pub struct IdleSockets {
    child: Child,
    /// Closing it closes them.
    _stdin: Option<ChildStdin>,
}

impl IdleSockets {
    /// Opens sockets in another namespace: `rest N` in TIME_WAIT, `hold N` connected.
    pub fn start(bench: &Bench, arguments: [&str; 2]) -> Result<Self> {
        let mut command = Command::new(&bench.load);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start the load")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("its stdout")?;
        let idle = Self { child, _stdin: stdin };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "the load made no sockets");
        Ok(idle)
    }

    /// A command in its namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.child.id().to_string(), program]);
        command
    }
}

impl Drop for IdleSockets {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        settle().ok();
    }
}

/// Maximum wait for the kernel to clean up, in steps of [`STEP`].
const STEPS: u32 = 100;
const STEP: Duration = Duration::from_millis(150);

/// Waits until the kernel has cleaned up an ended namespace, which takes a CPU for a while.
fn settle() -> Result<()> {
    let timewait_sockets = || -> Result<u64> {
        let slabs = std::fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
        let line = slabs.lines().find(|line| line.starts_with("tw_sock_TCP "));
        Ok(line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0))
    };
    let mut before = timewait_sockets()?;
    for _ in 0..STEPS {
        std::thread::sleep(STEP);
        let now = timewait_sockets()?;
        if now >= before {
            break;
        }
        before = now;
    }
    Ok(())
}
