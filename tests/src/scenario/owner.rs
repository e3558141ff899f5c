//! The owner of a socket: one passed to another process, and one of a process with a hostile name.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use tcptrace_common::state::TcpState::{CloseWait, Established, FinWait1, FinWait2, TimeWait};

use crate::clock::Span;
use crate::event::EventOwner;
use crate::expect::step;
use crate::lab::Lab;
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::process::StartChild as _;
use crate::tracer::TracerFormat;

/// A child inherits the connected socket and closes it by exiting: the child is its last owner.
pub fn handed_over_to_a_child(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    for family in IpFamily::BOTH {
        let mut pair = ConnectedPair::open(family)?;
        let socket = OwnedFd::from(pair.client.take()?);
        let mut child = Command::new("head")
            .args(["-c", "1"])
            .stdin(socket)
            .stdout(Stdio::null())
            .start()
            .context("start head")?;
        let child_pid = child.id();
        let start_ns = crate::clock::now_ns();
        pair.server.write()?;
        child.wait()?;
        let closed = Span::since(start_ns);
        let acknowledged = pair.client.reaches(FinWait2, closed)?;
        pair.server.wait(CloseWait)?;
        let answered = pair.server.close();
        let time_wait = pair.client.reaches(TimeWait, answered)?;
        let childs = [
            step(Established, FinWait1, closed),
            step(FinWait1, FinWait2, acknowledged).orphan(),
            step(FinWait2, TimeWait, time_wait).orphan().by_segment(),
        ]
        .map(|step| step.owner(EventOwner::Exact, child_pid));
        tracer.expect(&pair.client.expected, &pair.client_steps(&childs))?;
        let seen = tracer.events_of(&pair.client.expected, 1, |event| event.from == Established)?;
        let comms: Vec<_> = seen.iter().map(|event| event.comm.as_deref()).collect();
        ensure!(!tracer.is_present() || comms == [Some("head")], "the name of the child is {comms:?}");
    }
    tracer.finish()
}

/// A process whose name attacks the terminal.
pub fn hostile_name(lab: &Lab) -> Result<()> {
    let json = lab.trace()?;
    let text = lab.trace_with(&["events", "--format", "text"], TracerFormat::Text)?;
    let listener = TestSocket::listen((IpFamily::V4.loopback(), 0).into())?;
    let port = listener.local()?.port();
    let shell = Shell::named("\x1b[2Jevil\x07\n")?;
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; exec 3>&-");
    let mut client = shell.command(&script).start()?;
    let (server, _) = listener.socket()?.accept()?;
    client.wait()?;
    drop(server);
    let seen = json.events(5, |event| event.dport == port)?;
    if json.is_present() {
        let comm = seen.first().and_then(|event| event.comm.clone()).unwrap_or_default();
        ensure!(comm.contains("evil") && !comm.contains(char::is_control), "comm is {comm:?}");
        text.wait_line(&format!(":{port}"))?;
        let acting = text.lines().into_iter().find(|line| line.contains(char::is_control));
        ensure!(acting.is_none(), "control characters in {acting:?}");
    }
    text.finish()?;
    json.finish()
}

/// A shell under another name: the kernel calls a process by the file it was started from.
pub(super) struct Shell {
    folder: PathBuf,
    link: PathBuf,
}

impl Shell {
    pub(super) fn named(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tcptrace-shell-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let shell = Self { link: folder.join(name), folder };
        std::os::unix::fs::symlink("/bin/bash", &shell.link)?;
        Ok(shell)
    }

    pub(super) fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.link);
        command.args(["-c", script]);
        command
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
