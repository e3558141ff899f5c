//! The code that accepts connections, and forgets them: the stacks of `accept()`, IPv4 and IPv6.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tcptrace_common::state::TcpState::CloseWait;

use super::recording::{RecorderProcess, TempFolder};
use super::stacks::{StacksDocument, StacksRun, built, needs_callers, source};
use crate::clock::{soon, wait_for};
use crate::lab::{Lab, Skip};
use crate::pair::{ConnectedPair, IpFamily};
use crate::process::{KillOnDrop, StartChild as _};
use crate::{kernel, process};

/// Connections that the server closes, and those that it forgets.
const SERVED: u64 = 20;
const FORGOTTEN: u64 = 3;

/// Skips, with the error of tcptrace, where the kernel refuses a program at the end of `accept()`. Then leaks say so.
fn needs_accept(lab: &Lab) -> Result<()> {
    let done = lab.run(&["stacks", "--on", "accept", "--duration", "1ms"])?;
    if done.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    ensure!(done.status.code() == Some(3) && error.contains("inet_csk_accept"), "{error}");
    let leak = lab.run(&["stacks", "--on", "leak", "--older", "1ms", "--duration", "1ms"])?;
    let text = String::from_utf8_lossy(&leak.stdout);
    ensure!(leak.status.success() && text.contains("does not show accept()"), "{text}");
    bail!(Skip(error))
}

/// `accept()` calls of this program, and its forgotten connections, IPv4 and IPv6.
pub fn in_this_program(lab: &Lab) -> Result<()> {
    const EACH: usize = 5;
    needs_accept(lab)?;
    let (accept, leak) = (StacksRun::start(lab, "accept")?, StacksRun::start(lab, "leak")?);
    let mut pairs = Vec::new();
    for family in IpFamily::BOTH {
        for _ in 0..EACH {
            let mut pair = ConnectedPair::open(family)?;
            pair.client.close();
            pairs.push(pair);
        }
    }
    wait_for("the forgotten connections", soon(), || {
        Ok((kernel::count(CloseWait)? == pairs.len()).then_some(()))
    })?;
    let (accept, leak) = (accept.finish()?, leak.finish()?);
    let all = pairs.len() as u64;
    ensure!((accept.calls, accept.count(&[])) == (Some(all), all), "{accept:#?}");
    ensure!(accept.stacks.iter().all(|row| !row.frames.is_empty()), "{accept:#?}");
    ensure!(leak.count(&[]) == all, "{leak:#?}");
    ensure!(leak.stacks.iter().all(|row| row.stack_of.as_deref() == Some("accept")), "{leak:#?}");
    Ok(())
}

/// Many threads accept at once, and lose their CPU inside of a program: the others' calls are seen all the same, or counted as
/// missed, as are stacks.
pub fn by_many_threads(lab: &Lab) -> Result<()> {
    const THREADS: u64 = 8;
    const EACH: u64 = 200;
    /// `recursion_missed` may be too low by some, see docs/json.md.
    const HIDDEN: u64 = 3;
    needs_accept(lab)?;
    let run = StacksRun::start(lab, "accept")?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| accept_each(EACH))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let accept = run.finish_with_misses()?;
    let seen = accept.calls.context("a number of calls")?;
    let missed = accept.loss.recursion_missed;
    let is_counted = seen + missed + HIDDEN >= THREADS * EACH;
    ensure!(seen <= THREADS * EACH && is_counted, "{accept:#?}");
    ensure!(missed <= THREADS * EACH / 20, "copies of the program report most of them: {accept:#?}");
    let stacks = accept.count(&[]);
    let not_listed = accept.missed + accept.evicted_calls;
    ensure!(stacks <= seen && stacks + not_listed >= seen, "{accept:#?}");
    Ok(())
}

/// Accepts so many connections of this thread, which RSTs end.
fn accept_each(connections: u64) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    for _ in 0..connections {
        let client = socket2::Socket::from(TcpStream::connect(listener.local_addr()?)?);
        let server = listener.accept()?;
        client.set_linger(Some(Duration::ZERO))?;
        drop((client, server));
    }
    Ok(())
}

/// A server in C that forgets connections: its functions, live and in a recording, IPv4 and IPv6.
pub fn server_in_c(lab: &Lab) -> Result<()> {
    needs_callers()?;
    needs_accept(lab)?;
    let folder = TempFolder::new()?;
    let program = folder.file("server");
    built("cc", "gcc", &["-O2", "-g", "-fno-omit-frame-pointer"], &source("server.c"), &program)?;
    for version in ["4", "6"] {
        let file = folder.file(&format!("v{version}.tcptrace"));
        let recorder = RecorderProcess::start(lab, &file, &["--stacks"])?;
        let (accept, leak) = (StacksRun::start(lab, "accept")?, StacksRun::start(lab, "leak")?);
        let server = forgetful_server(&program, version)?;
        let (accept, leak) = (accept.finish()?, leak.finish()?);
        recorder.signal(Signal::INT)?;
        let (status, stderr) = recorder.wait()?;
        ensure!(status == Some(0), "the recorder ended with {status:?}: {stderr}");
        drop(server);
        let counts = [&["serve_request", "main"], &["forget_request", "main"]]
            .map(|[caller, main]| accept.count(&["accept_connection", caller, main]));
        ensure!(counts == [SERVED, FORGOTTEN], "IPv{version}: {accept:#?}");
        ensure!(leak.count(&["accept_connection", "forget_request"]) == FORGOTTEN, "{leak:#?}");
        let accept_again = StacksDocument::recorded(lab, &file, "accept")?;
        let leak_again = StacksDocument::recorded(lab, &file, "leak")?;
        ensure!(accept.stacks == accept_again.stacks, "live {accept:#?}, replayed {accept_again:#?}");
        ensure!(leak.stacks == leak_again.stacks, "live {leak:#?}, replayed {leak_again:#?}");
    }
    Ok(())
}

/// The server once it has accepted every connection, and forgotten some that their clients closed.
fn forgetful_server(program: &Path, version: &str) -> Result<KillOnDrop> {
    let mut server = Command::new(program);
    let server = server.arg(version).stdin(Stdio::piped()).stdout(Stdio::piped()).start();
    let mut server = KillOnDrop(server.context("start it")?);
    let mut lines = BufReader::new(server.stdout.take().context("its stdout")?).lines();
    let mut line = || lines.next().context("it ended")?.context("its output");
    let port: u16 = line()?.parse()?;
    let family = if version == "6" { IpFamily::V6 } else { IpFamily::V4 };
    for _ in 0..SERVED + FORGOTTEN {
        process::close(TcpStream::connect((family.loopback(), port))?);
    }
    let done = line()?;
    ensure!(done == "done", "the server: {done:?}");
    wait_for("the forgotten connections", soon(), || {
        Ok((kernel::count(CloseWait)? as u64 == FORGOTTEN).then_some(()))
    })?;
    Ok(server)
}
