//! Stacks of programs that close first in two functions, and forget connections that a third one opened: their functions with
//! the counts that the programs made, live, in a recording and in a profile.

use std::io::{BufRead, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tcptrace_common::state::TcpState::CloseWait;

use super::recording::{RecorderProcess, TempFolder};
use super::workloads::Podman;
use crate::clock::{soon, wait_for};
use crate::kernel;
use crate::lab::{Lab, Skip};
use crate::process::{KillOnDrop, StartChild as _};

/// What `tcptrace stacks` lists.
const SUBJECTS: [&str; 3] = ["close", "connect", "leak"];
/// Connections that the programs close in `release_to_pool`, in `expire_session`, and forget in `forget_session`.
const RELEASED: u64 = 20;
const EXPIRED: u64 = 5;
const FORGOTTEN: u64 = 3;

/// `tcptrace stacks --json`.
#[derive(Debug, Deserialize)]
pub(super) struct StacksDocument {
    schema: String,
    pub(super) loss: LossRow,
    pub(super) calls: Option<u64>,
    pub(super) missed: u64,
    pub(super) evicted_calls: u64,
    pub(super) stacks: Vec<StackRow>,
}

/// Losses of the trace.
#[derive(Debug, Deserialize)]
pub(super) struct LossRow {
    pub(super) recursion_missed: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct StackRow {
    #[serde(default)]
    calls: u64,
    #[serde(default)]
    close_wait: u64,
    /// With `leak`: the call that has the stack.
    pub(super) stack_of: Option<String>,
    #[serde(default)]
    cut: bool,
    #[serde(default)]
    pub(super) frames: Vec<FrameRow>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct FrameRow {
    function: Option<String>,
    file: Option<String>,
    line: Option<u32>,
}

impl StacksDocument {
    /// One that misses nothing.
    fn parse(output: &Output) -> Result<Self> {
        let document = Self::parse_with_misses(output)?;
        ensure!(document.missed == 0, "{document:#?}");
        Ok(document)
    }

    fn parse_with_misses(output: &Output) -> Result<Self> {
        ensure!(output.status.success(), "it ended with {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        let mut document: Self =
            serde_json::from_str(&text).with_context(|| format!("a document: {text}"))?;
        ensure!(document.schema == "tcptrace.stacks.v1", "{document:#?}");
        document.stacks.sort();
        Ok(document)
    }

    /// That of a recording.
    pub(super) fn recorded(lab: &Lab, file: &Path, on: &str) -> Result<Self> {
        let (file, netns) = (file.to_string_lossy(), lab.netns().to_string());
        let args = ["stacks", "--from", &file, "--json", "--older", "1ms", "--netns", &netns, "--on", on];
        Self::parse(&lab.run(&args)?)
    }

    /// How many calls or sockets the stacks have in which one of these functions calls the one before it, perhaps through others.
    pub(super) fn count(&self, functions: &[&str]) -> u64 {
        let rows = self.stacks.iter().filter(|row| row.has(functions));
        rows.map(|row| row.calls + row.close_wait).sum()
    }
}

impl StackRow {
    fn has(&self, functions: &[&str]) -> bool {
        let is = |frame: &FrameRow, name: &str| {
            // Languages put a package before the name, and a hash or a file after it.
            frame.function.as_deref().is_some_and(|function| {
                function.split([':', '.', ' ', '*', '~', '^']).any(|part| part == name)
            })
        };
        let mut frames = self.frames.iter();
        functions.iter().all(|name| frames.any(|frame| is(frame, name)))
    }
}

/// A running `tcptrace stacks` that prints its document when it stops.
pub(super) struct StacksRun(Option<Child>);

impl StacksRun {
    pub(super) fn start(lab: &Lab, on: &str) -> Result<Self> {
        let netns = lab.netns().to_string();
        let mut child = Command::new(lab.binary()?)
            .args([
                "stacks",
                "--json",
                "--every-call",
                "--duration",
                "10m",
                "--older",
                "1ms",
                "--netns",
                &netns,
            ])
            .args(["--on", on])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .start()
            .context("start stacks")?;
        let mut stderr = BufReader::new(child.stderr.take().context("its stderr")?);
        let mut all = String::new();
        while !all.contains("tcptrace: tracing") {
            let read = stderr.read_line(&mut all)?;
            ensure!(read > 0, "stacks does not start: {all}");
        }
        // Its summary goes nowhere.
        std::thread::spawn(move || stderr.read_to_string(&mut String::new()));
        Ok(Self(Some(child)))
    }

    pub(super) fn finish(self) -> Result<StacksDocument> {
        StacksDocument::parse(&self.stop()?)
    }

    /// With a document that may miss calls.
    pub(super) fn finish_with_misses(self) -> Result<StacksDocument> {
        StacksDocument::parse_with_misses(&self.stop()?)
    }

    fn stop(mut self) -> Result<Output> {
        let child = self.0.take().context("it runs")?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        Ok(child.wait_with_output()?)
    }
}

impl Drop for StacksRun {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A program that has closed and forgotten its connections, and still runs.
struct PoolProgram(KillOnDrop);

impl PoolProgram {
    /// Runs a program with two servers.
    fn run(mut program: Command) -> Result<Self> {
        let (patient, hasty) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let ports = [patient.local_addr()?.port(), hasty.local_addr()?.port()].map(|port| port.to_string());
        let servers = std::thread::spawn(move || -> Result<()> {
            for _ in 0..RELEASED + EXPIRED {
                // Until the program closes.
                patient.accept()?.0.read_to_end(&mut Vec::new())?;
            }
            for _ in 0..FORGOTTEN {
                drop(hasty.accept()?);
            }
            Ok(())
        });
        let mut child = KillOnDrop(
            program.args(&ports).stdin(Stdio::piped()).stdout(Stdio::piped()).start().context("start it")?,
        );
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its stdout")?).read_line(&mut line)?;
        ensure!(line == "done\n", "the program: {line:?}");
        servers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        wait_for("the forgotten connections", soon(), || {
            Ok((kernel::count(CloseWait)? as u64 == FORGOTTEN).then_some(()))
        })?;
        Ok(Self(child))
    }
}

/// The stacks of one program.
struct ProgramStacks {
    pid: u32,
    close: StacksDocument,
    connect: StacksDocument,
    leak: StacksDocument,
}

impl ProgramStacks {
    /// Runs a program, and traces it. Calls `at_end` before the program ends, which closes what it forgets.
    fn until(lab: &Lab, program: Command, at_end: impl FnOnce() -> Result<()>) -> Result<Self> {
        let [close, connect, leak] = SUBJECTS.map(|on| StacksRun::start(lab, on));
        let (close, connect, leak) = (close?, connect?, leak?);
        let program = PoolProgram::run(program)?;
        let stacks = Self {
            pid: program.0.id(),
            close: close.finish()?,
            connect: connect.finish()?,
            leak: leak.finish()?,
        };
        stacks.check_totals()?;
        at_end()?;
        Ok(stacks)
    }

    fn of(lab: &Lab, program: Command) -> Result<Self> {
        Self::until(lab, program, || Ok(()))
    }

    /// The stacks in a recording.
    fn recorded(lab: &Lab, pid: u32, file: &Path) -> Result<Self> {
        let [close, connect, leak] = SUBJECTS.map(|on| StacksDocument::recorded(lab, file, on));
        let stacks = Self { pid, close: close?, connect: connect?, leak: leak? };
        stacks.check_totals()?;
        Ok(stacks)
    }

    fn check_totals(&self) -> Result<()> {
        // The server closes first those that the program forgets.
        ensure!(self.close.calls == Some(RELEASED + EXPIRED + FORGOTTEN), "{:#?}", self.close);
        ensure!(self.connect.calls == Some(RELEASED + EXPIRED + FORGOTTEN), "{:#?}", self.connect);
        Ok(())
    }

    /// Checks each function with its caller.
    fn check_callers(&self) -> Result<()> {
        let close = |functions: &[&str]| self.close.count(functions);
        ensure!(close(&["release_to_pool", "handle_request"]) == RELEASED, "{:#?}", self.close);
        ensure!(close(&["expire_session"]) == EXPIRED, "{:#?}", self.close);
        let connect = |caller| self.connect.count(&["open_connection", caller]);
        let opened = ["handle_request", "expire_session", "forget_session"].map(connect);
        ensure!(opened == [RELEASED, EXPIRED, FORGOTTEN], "{opened:?}: {:#?}", self.connect);
        let forgotten = self.leak.count(&["open_connection", "forget_session"]);
        ensure!(forgotten == FORGOTTEN, "{:#?}", self.leak);
        Ok(())
    }
}

/// The source of a program.
pub(super) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// Skips where the caller behind a wrapper of the C library is not known.
pub(super) fn needs_callers() -> Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if !cfg!(target_arch = "x86_64") || version < (5, 15) {
        bail!(Skip(format!("the user's registers are not read on {} {release}", std::env::consts::ARCH)));
    }
    Ok(())
}

/// Builds a program with `compiler`, from `package`.
pub(super) fn built(
    compiler: &str,
    package: &str,
    args: &[&str],
    source: &Path,
    to: &Path,
) -> Result<Command> {
    let done = Command::new(compiler).args(args).arg("-o").arg(to).arg(source).finish();
    let done = done.map_err(|_| Skip(format!("needs {compiler}: package {package}")))?;
    ensure!(done.status.success(), "{compiler}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(Command::new(to))
}

fn c_program(folder: &TempFolder, frame_pointers: &str) -> Result<Command> {
    let to = folder.path.join(format!("pool{frame_pointers}"));
    built("cc", "gcc", &["-O2", "-g", frame_pointers], &source("pool.c"), &to)
}

/// A C program with frame pointers: functions, callers, source lines.
pub fn c_with_frame_pointers(lab: &Lab) -> Result<()> {
    needs_callers()?;
    let folder = TempFolder::new()?;
    let stacks = ProgramStacks::of(lab, c_program(&folder, "-fno-omit-frame-pointer")?)?;
    stacks.check_callers()?;
    ensure!(stacks.close.count(&["handle_request", "main"]) == RELEASED, "{:#?}", stacks.close);
    let text = std::fs::read_to_string(source("pool.c"))?;
    let close = text.lines().position(|line| line.contains("close(fd)")).context("it closes")?;
    let mut frames = stacks.close.stacks.iter().flat_map(|row| &row.frames);
    let frame = frames.find(|frame| frame.function.as_deref() == Some("release_to_pool"));
    let frame = frame.context("a frame")?;
    let is_source = frame.file.as_deref().is_some_and(|file| file.ends_with("programs/pool.c"));
    ensure!(is_source && frame.line == Some(close as u32 + 1), "{frame:?}, not line {}", close + 1);
    Ok(())
}

/// A recording has the stacks that a live trace shows, with the same counts. `go tool pprof` reads its profile.
pub fn recorded(lab: &Lab) -> Result<()> {
    needs_callers()?;
    let folder = TempFolder::new()?;
    let program = c_program(&folder, "-fno-omit-frame-pointer")?;
    let file = folder.file("a.tcptrace");
    let recorder = RecorderProcess::start(lab, &file, &["--stacks"])?;
    let live = ProgramStacks::until(lab, program, || {
        recorder.signal(Signal::INT)?;
        let (status, stderr) = recorder.wait()?;
        ensure!(status == Some(0), "the recorder ended with {status:?}: {stderr}");
        Ok(())
    })?;
    let replayed = ProgramStacks::recorded(lab, live.pid, &file)?;
    replayed.check_callers()?;
    for (live, replayed) in
        [(&live.close, &replayed.close), (&live.connect, &replayed.connect), (&live.leak, &replayed.leak)]
    {
        ensure!(live.stacks == replayed.stacks, "live {live:#?}, replayed {replayed:#?}");
    }
    profile(lab, &folder, &file)
}

/// `go tool pprof` finds the functions with the counts of the program.
fn profile(lab: &Lab, folder: &TempFolder, file: &Path) -> Result<()> {
    let (file, netns) = (file.to_string_lossy(), lab.netns().to_string());
    let written = lab.run(&["stacks", "--from", &file, "--netns", &netns, "--format", "pprof"])?;
    let profile = folder.file("closes.pb");
    std::fs::write(&profile, written.stdout)?;
    let mut pprof = Command::new("go");
    // It must not write into the user's folders.
    pprof.env("HOME", &folder.path).env("PPROF_TMPDIR", &folder.path).args(["tool", "pprof", "-top"]);
    let done = pprof.arg(&profile).finish().map_err(|_| Skip("needs go: package golang-go".into()))?;
    let text = String::from_utf8_lossy(&done.stdout);
    ensure!(done.status.success(), "pprof: {}", String::from_utf8_lossy(&done.stderr));
    ensure!(text.contains("Type: closes\n"), "{text}");
    // `flat flat% sum% cum cum% function`, the highest count first.
    let rows = text.lines().skip_while(|line| !line.contains("flat%")).skip(1);
    let rows = rows.map(|row| row.split_whitespace().collect::<Vec<_>>()).filter(|row| row.len() > 5);
    let rows: Vec<(u64, u64, &str)> = rows
        .map(|row| Ok((row[0].parse()?, row[3].parse()?, row[5])))
        .collect::<Result<_>>()
        .with_context(|| format!("counts in {text}"))?;
    let all = RELEASED + EXPIRED + FORGOTTEN;
    ensure!(rows.first().is_some_and(|row| row.0 == all && row.2.contains("close")), "{text}");
    for (function, count) in [("release_to_pool", RELEASED), ("expire_session", EXPIRED)] {
        ensure!(rows.iter().any(|row| (row.1, row.2) == (count, function)), "{function}: {text}");
    }
    Ok(())
}

/// The same without frame pointers: the innermost function is right, and the rest is said to be missing.
pub fn c_without_frame_pointers(lab: &Lab) -> Result<()> {
    needs_callers()?;
    let folder = TempFolder::new()?;
    let stacks = ProgramStacks::of(lab, c_program(&folder, "-fomit-frame-pointer")?)?;
    for (document, function, count) in [
        (&stacks.close, "release_to_pool", RELEASED),
        (&stacks.close, "expire_session", EXPIRED),
        (&stacks.connect, "open_connection", RELEASED + EXPIRED + FORGOTTEN),
        (&stacks.leak, "open_connection", FORGOTTEN),
    ] {
        ensure!(document.count(&[function]) == count, "{function}: {document:#?}");
        for row in document.stacks.iter().filter(|row| row.has(&[function])) {
            let outer = row.frames.iter().position(|frame| frame.function.as_deref() == Some(function));
            ensure!(row.cut && outer == Some(row.frames.len() - 1), "{row:#?}");
        }
    }
    Ok(())
}

/// Rust with frame pointers: names without hashes, also of inlined functions.
pub fn rust(lab: &Lab) -> Result<()> {
    needs_callers()?;
    let folder = TempFolder::new()?;
    let args = ["-O", "-g", "-C", "force-frame-pointers=yes"];
    let program = built("rustc", "rustc", &args, &source("pool.rs"), &folder.path.join("pool-rs"))?;
    ProgramStacks::of(lab, program)?.check_callers()
}

/// Go, which has frame pointers and makes system calls itself.
pub fn go(lab: &Lab) -> Result<()> {
    let folder = TempFolder::new()?;
    let to = folder.path.join("pool-go");
    let mut compiler = Command::new("go");
    compiler.env("GOCACHE", folder.path.join("cache")).env("GO111MODULE", "off");
    let done = compiler.args(["build", "-o"]).arg(&to).arg(source("pool.go")).finish();
    let done = done.map_err(|_| Skip("needs go: package golang-go".into()))?;
    ensure!(done.status.success(), "go: {}", String::from_utf8_lossy(&done.stderr));
    ProgramStacks::of(lab, Command::new(to))?.check_callers()
}

/// Python, whose functions are in a perf map.
pub fn python(lab: &Lab) -> Result<()> {
    let mut program = Command::new(python_with_frame_pointers()?);
    program.args(["-X", "perf"]).arg(source("pool.py"));
    let stacks = ProgramStacks::of(lab, program)?;
    std::fs::remove_file(format!("/tmp/perf-{}.map", stacks.pid)).ok();
    stacks.check_callers()
}

/// Python 3.12 or later with frame pointers: that of the host, or what `cargo xtask setup --python` has built.
fn python_with_frame_pointers() -> Result<PathBuf> {
    const QUESTION: &str = "import sys, sysconfig, _socket; \
         print(sys.version_info >= (3, 12), sysconfig.get_config_var('PY_CORE_CFLAGS'))";
    let is_one = |program: &PathBuf| {
        let done = Command::new(program).args(["-c", QUESTION]).finish();
        done.is_ok_and(|done| {
            let text = String::from_utf8_lossy(&done.stdout);
            text.starts_with("True") && text.contains("-fno-omit-frame-pointer")
        })
    };
    // This program is in the folder `target/PROFILE/deps`.
    let test = std::env::current_exe()?;
    let built = test.ancestors().nth(3).map(|target| target.join("python/python"));
    let mut programs = std::iter::once("python3".into()).chain(built);
    let reason = "needs Python 3.12 or later with frame pointers: `cargo xtask setup --python` builds one";
    Ok(programs.find(is_one).ok_or_else(|| Skip(reason.into()))?)
}

/// Node.js, whose functions are in a perf map. Its connects come from a later turn of its loop.
pub fn node(lab: &Lab) -> Result<()> {
    let version = Command::new("node").arg("--version").finish();
    version.map_err(|_| Skip("needs node: package nodejs".into()))?;
    // It writes a log where it starts, and its perf map to /tmp.
    let folder = TempFolder::new()?;
    let mut program = Command::new("node");
    program.current_dir(&folder.path);
    program.args(["--perf-basic-prof", "--interpreted-frames-native-stack"]).arg(source("pool.js"));
    let stacks = ProgramStacks::of(lab, program)?;
    std::fs::remove_file(format!("/tmp/perf-{}.map", stacks.pid)).ok();
    let close = |function| stacks.close.count(&[function]);
    if close("release_to_pool") == 0 && stacks.close.stacks.iter().any(|row| row.cut) {
        bail!(Skip("this Node.js was built without frame pointers".into()));
    }
    ensure!(
        (close("release_to_pool"), close("expire_session")) == (RELEASED, EXPIRED),
        "{:#?}",
        stacks.close
    );
    Ok(())
}

/// A C program in a container, whose file is in another mount namespace.
pub fn podman(lab: &Lab) -> Result<()> {
    needs_callers()?;
    let folder = TempFolder::new()?;
    let program = c_program(&folder, "-fno-omit-frame-pointer")?;
    let podman = Podman::with_image(&folder)?;
    let program = format!("{}:/srv/pool:ro", Path::new(program.get_program()).display());
    let run = ["run", "--rm", "--interactive", "--network", "host", "--ulimit", "nofile=1024:1024"];
    let rest =
        ["--ulimit", "nproc=1000:1000", "--volume", "/usr:/usr:ro", "--volume", &program, Podman::IMAGE];
    let stacks = ProgramStacks::of(lab, podman.command(&[&run[..], &rest, &["/srv/pool"]].concat()))?;
    stacks.check_callers()?;
    let mut frames = stacks.leak.stacks.iter().flat_map(|row| &row.frames);
    let is_forgetful = |frame: &FrameRow| {
        frame.function.as_deref() == Some("forget_session") && frame.file.is_some() && frame.line.is_some()
    };
    ensure!(frames.any(is_forgetful), "{:#?}", stacks.leak);
    Ok(())
}
