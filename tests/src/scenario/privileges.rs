//! What tcptrace may do: the least it can trace with, and what it gives up. docs/privileges.md has the table.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, Skip, run_to_end};
use crate::pair::{Family, Pair};
use crate::precision::Precision;
use crate::process::Start as _;
use crate::tracer::{Format, Tracer};

/// `nobody`.
const NOBODY: u32 = 65_534;
/// What tracing takes, as `setpriv` and `setcap` call it.
const LEAST: [&str; 2] = ["bpf", "perfmon"];
/// Numbers of the capabilities that are for loading alone: `CAP_PERFMON`, `CAP_BPF`, `CAP_SYSLOG`.
const LOADING: u64 = 1 << 38 | 1 << 39 | 1 << 34;

/// A command of an ordinary user with these capabilities and no others.
fn with_capabilities(binary: &std::path::Path, names: &[&str]) -> Command {
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
fn needs(name: &str) -> Result<()> {
    Command::new(name).arg("--version").finish().map_err(|_| Skip(format!("no {name} here")))?;
    Ok(())
}

/// Traces one connection from beginning to end.
fn traces(lab: &Lab, mut command: Command) -> Result<()> {
    command.args(["events", "--format", "json"]);
    let tracer = Tracer::start(command, Format::Json, lab.netns(), Precision::of(lab.binary()?)?)?;
    let mut pair = Pair::open(Family::V4)?;
    let closing = pair.close_client_first()?;
    tracer.expect(&pair.client.subject, &pair.client_steps(&closing.steps()))?;
    tracer.finish()
}

/// `CAP_BPF` and `CAP_PERFMON` are enough to trace, and each of them is needed.
pub fn least_to_trace(lab: &Lab) -> Result<()> {
    needs("setpriv")?;
    let binary = lab.public_copy()?;
    traces(lab, with_capabilities(&binary.0, &LEAST))?;
    for missing in LEAST {
        let others: Vec<_> = LEAST.into_iter().filter(|name| *name != missing).collect();
        let mut command = with_capabilities(&binary.0, &others);
        command.args(["top", "--once"]);
        let output = run_to_end(command)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(3), "without {missing} it ended with {}: {said}", output.status);
        let name = format!("CAP_{}", missing.to_uppercase());
        ensure!(said.contains(&name), "it does not name {name}: {said}");
    }
    Ok(())
}

/// A binary with file capabilities serves an ordinary user.
pub fn file_capabilities(lab: &Lab) -> Result<()> {
    let binary = lab.public_copy()?;
    let names = LEAST.map(|name| format!("cap_{name}")).join(",");
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

/// While root traces, no thread can load a program any more, the one that takes in what others send can do nothing, and no
/// program it would start gets more.
pub fn given_up(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    let Some(pid) = tracer.pid() else { return Ok(()) };
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let name = field("Name:").context("a name")?.to_owned();
        let permitted = u64::from_str_radix(field("CapPrm:").context("capabilities")?, 16)?;
        ensure!(field("NoNewPrivs:") == Some("1"), "{name} may get new privileges");
        ensure!(permitted & LOADING == 0, "{name} may still do {permitted:x}");
        threads.push((name, permitted));
    }
    for needs_nothing in ["pipeline", "signals"] {
        let found = threads.iter().find(|(name, _)| name == needs_nothing);
        ensure!(found.is_some_and(|(_, permitted)| *permitted == 0), "{needs_nothing}: {threads:?}");
    }
    tracer.finish()
}
