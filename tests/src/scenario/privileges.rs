//! The capabilities that tracing needs. docs/privileges.md has the table.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::kernel;
use crate::lab::{Lab, Skip, run_to_end};
use crate::pair::{ConnectedPair, IpFamily};
use crate::precision::Precision;
use crate::process::StartChild as _;
use crate::tracer::{LiveTracer, TracerFormat};

/// `nobody`.
const NOBODY: u32 = 65_534;
/// The capabilities that tracing needs, as `setpriv` and `setcap` name them. Before 5.11 eBPF programs count as locked memory.
fn least() -> Vec<&'static str> {
    let all = ["bpf", "perfmon", "sys_resource"];
    if kernel::version() < (5, 11) { all.to_vec() } else { all[..2].to_vec() }
}

/// A command of an ordinary user with these capabilities and no others.
pub(super) fn with_capabilities(binary: &std::path::Path, names: &[&str]) -> Command {
    let set = names.iter().fold("-all".to_owned(), |set, name| format!("{set},+{name}"));
    let user = NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    for kind in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
        command.arg(format!("{kind}={set}"));
    }
    command.arg(binary);
    command
}

/// Whether `name` can be started here.
pub(super) fn needs(name: &str) -> Result<()> {
    Command::new(name).arg("--version").finish().map_err(|_| Skip(format!("no {name} here")))?;
    Ok(())
}

/// Traces one connection from beginning to end.
fn traces(lab: &Lab, mut command: Command) -> Result<()> {
    command.args(["events", "--format", "json"]);
    let tracer = LiveTracer::start(command, TracerFormat::Json, lab.netns(), Precision::of(lab.binary()?)?)?;
    let mut pair = ConnectedPair::open(IpFamily::V4)?;
    let closing = pair.close_client_first()?;
    tracer.expect(&pair.client.expected, &pair.client_steps(&closing.steps()))?;
    tracer.finish()
}

/// These capabilities are enough to trace, and each of them is needed.
pub fn least_to_trace(lab: &Lab) -> Result<()> {
    needs("setpriv")?;
    let binary = lab.public_copy()?;
    traces(lab, with_capabilities(&binary.0, &least()))?;
    for missing in least() {
        let others: Vec<_> = least().into_iter().filter(|name| *name != missing).collect();
        let mut command = with_capabilities(&binary.0, &others);
        command.args(["top", "--once"]);
        let output = run_to_end(command)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(3),
            "without {missing} it ended with {}: {stderr}",
            output.status
        );
        let name = format!("CAP_{}", missing.to_uppercase());
        ensure!(stderr.contains(&name), "it does not name {name}: {stderr}");
    }
    Ok(())
}

/// A binary with file capabilities serves an ordinary user.
pub fn file_capabilities(lab: &Lab) -> Result<()> {
    let binary = lab.public_copy()?;
    let names = least().iter().map(|name| format!("cap_{name}")).collect::<Vec<_>>().join(",");
    let set = Command::new("setcap").arg(format!("{names}=ep")).arg(&binary.0).finish();
    let set = set.map_err(|_| Skip("no setcap here".into()))?;
    if !set.status.success() {
        let why = String::from_utf8_lossy(&set.stderr).trim().to_owned();
        return Err(Skip(format!("files have no capabilities here: {why}")).into());
    }
    let mut command = Command::new(&binary.0);
    command.uid(NOBODY).gid(NOBODY);
    traces(lab, command)
}
