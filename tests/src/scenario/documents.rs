//! Runs every command of the documents as written there.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use super::recording::TempFolder;
use crate::clock::{hold, is_emulated, soon, wait_for};
use crate::documents::{ShownCommand, commands, pages};
use crate::lab::{Lab, Skip};
use crate::netns;
use crate::process::{self, StartChild as _};

/// Extensions of recordings in the documents.
const RECORDINGS: [&str; 2] = [".tcptrace", ".tcpt"];
/// Placeholders of recordings.
const RECORDING_PLACEHOLDERS: [&str; 3] = ["FILE", "BEFORE", "AFTER"];
/// The option before a file of names, and its content.
const NAMED: (&str, &str) = ("--names", "10.0.0.0/8 office\n");
/// Options before a path of an output.
const WRITTEN: [&str; 2] = ["-o", "--hlog"];
/// Commands that need arguments: the name alone is no command line.
const NAMES: [&str; 5] = ["record", "export", "report", "diff", "replay"];
/// These need a terminal.
const ON_A_TERMINAL: [&str; 1] = ["tcptrace replay "];
/// These may print and write nothing: their subject is absent, or they serve a port.
const QUIET: [&str; 4] =
    ["tcptrace serve", "tcptrace events --lport", "tcptrace events --filter", "tcptrace record -o incidents"];
/// An address of the pages that `serve` listens on.
const ADDRESS: &str = "10.0.0.7/32";
/// A network namespace of the pages.
const NETNS: &str = "blue";
/// Commands of these are run as themselves; `ssh host` is this host.
const OTHERS: [(&str, &str); 2] = [("sudo", "exec \"$@\""), ("ssh", "shift; exec \"$@\"")];
/// A command without an end gets Ctrl-C so long after its first output.
const RUN_TIME: Duration = Duration::from_millis(700);
/// Commands at a time, each in a namespace of its own.
const AT_A_TIME: usize = 3;
/// Minimum number of commands: fewer mean that the parser misses some.
const AT_LEAST: usize = 45;

/// Each ends with exit status 0 and a result.
pub fn commands_run(lab: &Lab) -> Result<()> {
    if is_emulated() {
        return Err(Skip("the documents are not in the guest, and are equal on every kernel".into()).into());
    }
    let binary = fs::canonicalize(lab.binary()?)?;
    let folder = TempFolder::new()?;
    let programs = programs(&folder, &binary)?;
    let _named = NamedNetns::new()?;
    let queue = Mutex::new(shown()?.into_iter().enumerate().collect::<VecDeque<_>>());
    let count = queue.lock().map(|queue| queue.len()).unwrap_or_default();
    ensure!(count >= AT_LEAST, "only {count} commands found");
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME)
            .map(|_| scope.spawn(|| CommandNetns::new(&programs, &folder)?.work(&queue, &faults)))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let faults = faults.into_inner().unwrap_or_default();
    ensure!(faults.is_empty(), "{} of {count}:\n    {}", faults.len(), faults.join("\n    "));
    Ok(())
}

/// Every command once, with its first place.
fn shown() -> Result<Vec<(String, ShownCommand)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeMap::new();
    for page in pages(&root)? {
        let text = fs::read_to_string(root.join(&page)).with_context(|| page.clone())?;
        for shown in commands(&text, "tcptrace") {
            found.entry(shown.text.clone()).or_insert((page.clone(), shown));
        }
    }
    Ok(found.into_values().collect())
}

/// A folder with what the commands are made of.
fn programs(folder: &TempFolder, binary: &Path) -> Result<PathBuf> {
    let programs = folder.file("bin");
    fs::create_dir(&programs)?;
    symlink(binary, programs.join("tcptrace"))?;
    for (name, script) in OTHERS {
        fs::write(programs.join(name), format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755))?;
    }
    Ok(programs)
}

fn ip(args: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(args).finish();
    let done = done.map_err(|error| Skip(format!("needs ip of iproute2: {error}")))?;
    ensure!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A network namespace with a name, deleted on drop; one that was there already stays.
struct NamedNetns {
    is_own: bool,
}

impl NamedNetns {
    fn new() -> Result<Self> {
        let is_own = !Path::new("/run/netns").join(NETNS).exists();
        if is_own {
            ip(&["netns", "add", NETNS])?;
        }
        Ok(Self { is_own })
    }
}

impl Drop for NamedNetns {
    fn drop(&mut self) {
        if self.is_own {
            ip(&["netns", "delete", NETNS]).ok();
        }
    }
}

/// A namespace in which commands run one after the other, with a little traffic.
struct CommandNetns<'a> {
    path: String,
    folder: &'a TempFolder,
    listener: TcpListener,
}

impl<'a> CommandNetns<'a> {
    fn new(programs: &Path, folder: &'a TempFolder) -> Result<Self> {
        netns::enter_new()?;
        ip(&["address", "add", ADDRESS, "dev", "lo"])?;
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        Ok(Self { path, folder, listener: TcpListener::bind("127.0.0.1:8080")? })
    }

    fn work(
        &self,
        queue: &Mutex<VecDeque<(usize, (String, ShownCommand))>>,
        faults: &Mutex<Vec<String>>,
    ) -> Result<()> {
        let next = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
        while let Some((number, (page, shown))) = next() {
            match self.run(number, &shown) {
                Err(error) if error.is::<Skip>() => return Err(error),
                Err(error) => {
                    let fault = format!("{page}:{}: {}: {error:#}", shown.line, shown.text);
                    faults.lock().map(|mut faults| faults.push(fault)).ok();
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Runs one in a folder of its own that has the files it reads.
    fn run(&self, number: usize, shown: &ShownCommand) -> Result<()> {
        let here = self.folder.file(&number.to_string());
        fs::create_dir(&here)?;
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let inputs = inputs(shown);
        for input in &inputs {
            if !is_recording(input) {
                fs::write(here.join(input), NAMED.1)?;
                continue;
            }
            // One of the repository, or a name of the document.
            let of_repository = tests.join("..").join(input);
            let fixture = || tests.join("fixtures/session-v1.tcptrace");
            let recording = if of_repository.is_file() { of_repository } else { fixture() };
            let to = here.join(input);
            fs::create_dir_all(to.parent().context("a folder")?)?;
            fs::copy(recording, to)?;
        }

        let (out, err) = (here.with_extension("out"), here.with_extension("err"));
        let mut started = self.start(shown, &here, &out, &err)?;
        let ended = self.end(shown, &mut started, &[&out, &err]);
        if ended.is_err() {
            kill_process_group(Pid::from_child(&started), Signal::KILL).ok();
            started.wait()?;
        }
        let stderr = fs::read_to_string(&err)?;
        let status = ended.with_context(|| stderr.clone())?;
        ensure!(status.success(), "it ended with {status}: {stderr}");
        let is_loud = ["panicked", "error:"].iter().any(|word| stderr.contains(word));
        ensure!(!is_loud, "it complains: {stderr}");
        let is_quiet = QUIET.iter().any(|quiet| shown.text.starts_with(quiet));
        ensure!(is_quiet || has_result(&here, &out, &inputs)?, "it printed and wrote nothing: {stderr}");
        Ok(())
    }

    fn start(&self, shown: &ShownCommand, here: &Path, out: &Path, err: &Path) -> Result<Child> {
        let is_name = shown.runs().iter().all(|run| run.len() == 1 && NAMES.contains(&run[0].as_str()));
        let line = if is_name { format!("{} --help", shown.text) } else { shown.text.clone() };
        let mut command = if is_on_a_terminal(&line) {
            let mut script = Command::new("script");
            script.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
            script.env("TERM", "xterm-256color");
            script
        } else {
            let mut shell = Command::new("bash");
            shell.args(["-o", "pipefail", "-c", &line]);
            shell
        };
        command.env("PATH", &self.path).current_dir(here).process_group(0);
        command.stdin(Stdio::piped()).stdout(File::create(out)?).stderr(File::create(err)?);
        command.start().with_context(|| format!("start {}", command.get_program().display()))
    }

    /// Waits for its end; sends Ctrl-C to a command that does not end itself.
    fn end(&self, shown: &ShownCommand, started: &mut Child, outputs: &[&Path]) -> Result<ExitStatus> {
        let is_alive = || -> Result<bool> {
            Ok(outputs
                .iter()
                .map(fs::metadata)
                .collect::<Result<Vec<_>, _>>()?
                .iter()
                .any(|file| file.len() > 0))
        };
        let ended = wait_for("a sign of life", 3 * soon(), || {
            self.connect()?;
            let ended = started.try_wait()?;
            Ok((ended.is_some() || is_alive()?).then_some(ended))
        })?;
        if let Some(status) = ended {
            return Ok(status);
        }
        hold(RUN_TIME);
        self.connect()?;
        if let Some(mut keys) = started.stdin.take().filter(|_| is_on_a_terminal(&shown.text)) {
            keys.write_all(b"\x03")?;
        } else if started.try_wait()?.is_none() {
            kill_process_group(Pid::from_child(started), Signal::INT)?;
        }
        wait_for("the end after Ctrl-C", 3 * soon(), || Ok(started.try_wait()?))
    }

    /// A connection, closed by the client.
    fn connect(&self) -> Result<()> {
        let client = TcpStream::connect(self.listener.local_addr()?)?;
        let (mut server, _) = self.listener.accept()?;
        process::close(client);
        ensure!(server.read(&mut [0])? == 0, "no end of the stream");
        Ok(())
    }
}

fn is_on_a_terminal(line: &str) -> bool {
    ON_A_TERMINAL.iter().any(|begin| line.starts_with(begin))
}

/// The recordings and files of names that a command reads.
fn inputs(shown: &ShownCommand) -> Vec<String> {
    let runs = shown.runs();
    let words = runs.iter().flat_map(|run| {
        let before = std::iter::once("").chain(run.iter().map(String::as_str));
        run.iter().zip(before).filter(|(_, before)| !WRITTEN.contains(before))
    });
    let is_input = |(word, before): &(&String, &str)| is_recording(word) || *before == NAMED.0;
    words.filter(is_input).map(|(word, _)| word.clone()).collect()
}

fn is_recording(word: &str) -> bool {
    RECORDINGS.iter().any(|end| word.ends_with(end)) || RECORDING_PLACEHOLDERS.contains(&word)
}

/// Whether it printed something or wrote a file, or one in a folder.
fn has_result(here: &Path, out: &Path, inputs: &[String]) -> Result<bool> {
    let mut files = vec![out.to_owned()];
    let mut folders = vec![here.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let is_input = inputs.iter().any(|input| entry.file_name() == input.as_str());
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_type()?.is_file() && !is_input {
                files.push(entry.path());
            }
        }
    }
    Ok(files.iter().map(fs::metadata).collect::<Result<Vec<_>, _>>()?.iter().any(|file| file.len() > 0))
}
