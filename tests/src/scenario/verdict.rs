//! The bottom lines of `top` in six situations, each at both sizes of terminal: what is wrong, which process and peer, and the first
//! step of the fix. With `TCPTRACE_CAPTURES=FOLDER` the screens are written there as text.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::RecvFlags;

use super::faults::{make_room, too_many_for_the_ring};
use super::nat::{self, Gateway};
use super::ports::{ClosingServer, self_test_elsewhere};
use super::privileges;
use super::screen::{FORGETFUL, LEAKS, ScreenSockets};
use super::storm::make_connections;
use crate::clock::is_emulated;
use crate::lab::Lab;
use crate::pair::{IpFamily, TestSocket};
use crate::terminal::{Size, TestTerminal};
use crate::{netns, process};

/// A folder for the screens.
const CAPTURES: &str = "TCPTRACE_CAPTURES";
const SIZES: [Size; 2] = [(80, 24), (160, 50)];
const PORT: u16 = 7_000;
const RANGE: &str = "41000 41099";
/// Failed calls in a row after which no port is left.
const IN_VAIN: usize = 40;

/// A server closes first, and some hundred of its connections are in TIME_WAIT.
pub fn healthy(lab: &Lab) -> Result<()> {
    let connections = if is_emulated() { 40 } else { 300 };
    let listener = TestSocket::listen((IpFamily::V4.loopback(), PORT).into())?;
    for _ in 0..connections {
        let client = IpFamily::V4.socket()?;
        client.connect(&listener.local()?.into())?;
        process::close(listener.socket()?.accept().context("accept")?.0);
        let (length, _) = rustix::net::recv(&client, &mut [0], RecvFlags::empty())?;
        ensure!(length == 0, "no end of the stream");
        process::close(client);
    }
    let all = format!("{connections} TIME_WAIT on the accepting side");
    at_both_sizes(lab, "healthy", &["top"], |_| Ok(()), &[&all, "no local port held. Nothing to do."])
}

/// A program connects to one destination until `connect()` finds no local port.
pub fn no_port_left(lab: &Lab) -> Result<()> {
    self_test_elsewhere(lab)?;
    netns::sysctl("ip_local_port_range", RANGE)?;
    netns::keep_time_wait()?;
    let server = ClosingServer::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT))?;
    let connect = |_: &mut TestTerminal| {
        let mut in_vain = 0;
        while in_vain < IN_VAIN {
            match IpFamily::V4.socket()?.connect(&server.address.into()) {
                Ok(()) => in_vain = 0,
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => in_vain += 1,
                Err(error) => return Err(error).context("connect"),
            }
        }
        Ok(())
    };
    let found =
        ["CRITICAL", "connects found no local port to 127.0.0.1:7000: ", "keep and reuse connections"];
    at_both_sizes(lab, "ports", &["top"], connect, &found)?;
    server.stop()
}

/// A process keeps sockets that its peer has closed.
pub fn leak(lab: &Lab) -> Result<()> {
    let sockets = ScreenSockets::make()?;
    let named = format!("{FORGETFUL} (pid {})", sockets.pid());
    let found = format!("WARNING {LEAKS} connections not closed by the process (CLOSE_WAIT): {named}");
    at_both_sizes(lab, "close-wait", &["top"], |_| Ok(()), &[&found, "the oldest for"])
}

/// A gateway has no port left to translate to.
pub fn gateway(lab: &Lab) -> Result<()> {
    let gateway = Gateway::start()?;
    let _held = gateway.hold_all_ports(Duration::ZERO)?;
    let found = ["CRITICAL", "NAT ", "from 10.72.0.1 to 10.72.0.2:7001", "most by 10.71.0.2"];
    at_both_sizes(lab, "nat", &["top"], |_| nat::connect_in_vain(&gateway), &found)
}

/// The tracer is stopped while connections overflow the smallest ring.
pub fn losses(lab: &Lab) -> Result<()> {
    make_room()?;
    let overflow = |terminal: &mut TestTerminal| {
        // Ctrl-Z and `fg`.
        terminal.press("\x1a")?;
        terminal.wait_shell()?;
        make_connections(IpFamily::V4, too_many_for_the_ring())?;
        terminal.press("\n")
    };
    let found = ["WARNING counts may be off: tcptrace lost records."];
    at_both_sizes(lab, "losses", &["top", "--ring-size", "1"], overflow, &found)
}

/// A user without capabilities gets one listing with a verdict, the missing capabilities, and exit status 3.
pub fn no_privilege(lab: &Lab) -> Result<()> {
    privileges::needs("setpriv")?;
    let binary = lab.public_copy()?;
    let _sockets = ScreenSockets::make()?;
    for size in SIZES {
        let command = privileges::with_capabilities(&binary.0, &[]);
        let args: Vec<String> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["top"]).collect();
        let terminal = TestTerminal::start(Path::new("setpriv"), &args, size)?;
        let (status, screen) = terminal.wait_end()?;
        let lines: Vec<String> = screen.lines().map(str::to_owned).collect();
        capture("no-root", size, &lines)?;
        ensure!(status.code() == Some(3), "it ended with {status}:\n{screen}");
        for words in ["3 CLOSE_WAIT, most of them", "a leak if they stay", "CAP_BPF", "CAP_PERFMON"] {
            ensure!(flowing(&lines).contains(words), "no {words:?} in\n{screen}");
        }
    }
    Ok(())
}

/// Starts `args` on terminals of both sizes, one after the other, calls `provoke` once each traces, and waits until the screen has
/// all these words.
fn at_both_sizes(
    lab: &Lab,
    name: &str,
    args: &[&str],
    provoke: impl Fn(&mut TestTerminal) -> Result<()>,
    words: &[&str],
) -> Result<()> {
    let netns = lab.netns().to_string();
    for size in SIZES {
        let mut terminal = TestTerminal::start(lab.binary()?, &[args, &["--netns", &netns]].concat(), size)?;
        terminal.wait_text("LIVE")?;
        provoke(&mut terminal)?;
        let screen = terminal.wait(words[0], |lines| {
            let text = flowing(lines);
            Ok(words.iter().all(|words| text.contains(words)).then(|| lines.to_vec()))
        })?;
        capture(name, size, &screen)?;
        terminal.press("q")?;
        let (status, left) = terminal.wait_end()?;
        ensure!(status.code() == Some(0), "it ended with {status}:\n{left}");
    }
    Ok(())
}

/// The lines as one, with single blanks: sentences are broken at the width.
fn flowing(lines: &[String]) -> String {
    lines.iter().flat_map(|line| line.split_whitespace()).collect::<Vec<_>>().join(" ")
}

fn capture(name: &str, (columns, rows): Size, lines: &[String]) -> Result<()> {
    let Some(folder) = std::env::var_os(CAPTURES) else { return Ok(()) };
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    // A test starts in the folder of its package.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}-{columns}x{rows}.txt"));
    fs::write(&path, lines.join("\n") + "\n").with_context(|| path.display().to_string())
}
