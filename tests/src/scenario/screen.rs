//! The screen: `top` on a terminal, its numbers against the kernel's, its keys, and its exit.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use socket2::Socket;
use tcptrace_common::state::TcpState::{CloseWait, TimeWait};

use super::owner::Shell;
use super::seed::counts_by_kernel;
use super::storm::{SERVER_PORT, make_connections};
use crate::clock::{is_emulated, soon, wait_for};
use crate::kernel;
use crate::lab::Lab;
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::process::{self, StartChild as _};
use crate::terminal::{Size, TestTerminal};

const LARGE: Size = (160, 50);
const SMALL: Size = (80, 24);

/// The name of the process that forgets `close()`.
pub(super) const FORGETFUL: &str = "forgets-close";
/// The sockets that it forgets.
pub(super) const LEAKS: usize = 3;

/// Sockets for the screen to show.
pub(super) struct ScreenSockets {
    _open: ConnectedPair,
    _listener: TestSocket,
    _shell: Shell,
    forgetful: Child,
}

impl ScreenSockets {
    /// Some hundred TIME_WAIT, an open connection over IPv6, and a process that keeps sockets that its peer has closed.
    pub(super) fn make() -> Result<Self> {
        make_connections(IpFamily::V4, if is_emulated() { 40 } else { 300 })?;
        let open = ConnectedPair::open(IpFamily::V6)?;
        let listener = TestSocket::listen((IpFamily::V4.loopback(), 0).into())?;
        let port = listener.local()?.port();
        let shell = Shell::named(FORGETFUL)?;
        let connect = format!("exec {{fd}}<>/dev/tcp/127.0.0.1/{port}; ").repeat(LEAKS);
        let forgetful = shell.command(&format!("{connect} read -r")).stdin(Stdio::piped()).start()?;
        let mut servers: Vec<Socket> = Vec::new();
        for _ in 0..LEAKS {
            servers.push(listener.socket()?.accept().context("accept")?.0);
        }
        process::close(servers);
        wait_for("sockets in CLOSE_WAIT", soon(), || Ok((kernel::count(CloseWait)? == LEAKS).then_some(())))?;
        Ok(Self { _open: open, _listener: listener, _shell: shell, forgetful })
    }

    /// The process that keeps them.
    pub(super) fn pid(&self) -> u32 {
        self.forgetful.id()
    }
}

impl Drop for ScreenSockets {
    fn drop(&mut self) {
        self.forgetful.kill().ok();
        self.forgetful.wait().ok();
    }
}

fn top(lab: &Lab, size: Size) -> Result<TestTerminal> {
    TestTerminal::start(lab.binary()?, &["top", "--netns", &lab.netns().to_string()], size)
}

/// The numbers of the states on the screen: the cell of the row `now` where a head ends. So they are there only if they
/// are aligned.
fn states_on(lines: &[String]) -> Option<BTreeMap<String, usize>> {
    let now = lines.iter().position(|line| line.starts_with("now "))?;
    let (heads, numbers) = (fields(lines.get(now.checked_sub(1)?)?), fields(&lines[now]));
    let number = |end| numbers.iter().find(|(_, at)| *at == end).map(|(number, _)| number.replace(',', ""));
    let mut counts = BTreeMap::new();
    for (head, end) in heads {
        match head.as_str() {
            // It shows the format of FIN_WAIT2.
            "FIN_WAIT2" => {}
            "o/h" => {
                let both = number(end)?;
                let (orphan, held) = both.split_once('/')?;
                counts
                    .insert("FIN_WAIT2".into(), orphan.parse::<usize>().ok()? + held.parse::<usize>().ok()?);
            }
            _ => drop(counts.insert(head, number(end)?.parse().ok()?)),
        }
    }
    Some(counts)
}

/// The words of a line, each with where it ends.
fn fields(line: &str) -> Vec<(String, usize)> {
    let chars: Vec<char> = line.chars().collect();
    let mut fields = Vec::new();
    let mut word = String::new();
    for (at, &c) in chars.iter().chain(&[' ']).enumerate() {
        if c != ' ' {
            word.push(c);
        } else if !word.is_empty() {
            fields.push((std::mem::take(&mut word), at));
        }
    }
    fields
}

/// Waits until the screen shows what the kernel has, in every state that there is a column for.
fn wait_equal(terminal: &mut TestTerminal) -> Result<BTreeMap<String, usize>> {
    terminal.wait("the kernel's numbers", |lines| {
        let Some(shown) = states_on(lines) else { return Ok(None) };
        let kernel = counts_by_kernel()?;
        let is_equal = ["TIME_WAIT", "CLOSE_WAIT", "ESTABLISHED"]
            .iter()
            .all(|state| shown.contains_key(*state))
            && shown.iter().all(|(state, count)| *count == kernel.get(state).copied().unwrap_or_default());
        Ok(is_equal.then_some(shown))
    })
}

/// Numbers equal to the kernel's in both sizes; drill-down to the leaking process; restored terminal.
pub fn numbers_and_keys(lab: &Lab) -> Result<()> {
    lab.binary()?;
    let mut traffic = ScreenSockets::make()?;
    let mut terminal = top(lab, LARGE)?;
    let shown = wait_equal(&mut terminal)?;
    ensure!(shown.len() > 9, "few states on a wide screen: {shown:?}");
    ensure!(shown["TIME_WAIT"] > 0 && shown["CLOSE_WAIT"] == LEAKS, "{shown:?}");
    ensure!(terminal.screen()?.alternate_screen(), "it draws on the shell's screen");

    drill_down(&mut terminal, traffic.forgetful.id())?;
    resize(&mut terminal)?;
    hold_and_go_on(&mut terminal, lab, &mut traffic)?;
    suspend(&mut terminal)?;

    terminal.press("q")?;
    let (status, left) = terminal.wait_end()?;
    ensure!(status.code() == Some(0), "it ended with {status}:\n{left}");
    ensure!(left.contains(" records in "), "no last line:\n{left}");
    Ok(())
}

/// From the groups to the life of a socket that is leaked, and back.
fn drill_down(terminal: &mut TestTerminal, pid: u32) -> Result<()> {
    let wait_group = |terminal: &mut TestTerminal| {
        terminal.wait("one group", |lines| {
            let table = lines.iter().position(|line| line.contains("CLOSER")).map(|head| &lines[head + 1..]);
            Ok(table.filter(|rows| rows[0].contains(FORGETFUL) && !rows[1].contains("127.0.0.1")).map(drop))
        })
    };
    let wait_sockets = |terminal: &mut TestTerminal| {
        terminal.wait("its sockets", |lines| {
            // The bottom line names the state and the process, too.
            let is_row = |line: &&String| {
                line.starts_with("127.0.0.1:") && line.contains("CLOSE_WAIT") && line.contains(FORGETFUL)
            };
            Ok((lines.iter().filter(is_row).count() == LEAKS).then_some(()))
        })
    };
    terminal.press("/state close-wait\r")?;
    wait_group(terminal)?;
    terminal.press("\r")?;
    wait_sockets(terminal)?;
    terminal.press("\r")?;
    let owner = terminal.wait_text(&format!("owner: {FORGETFUL} (pid {pid})"))?;
    ensure!(!owner.contains("unknown"), "{owner}");
    // Out of the life, the sockets and the filter. An escape with a byte right behind it is another key, so each must
    // have been read before the next is sent.
    terminal.press("\x1b")?;
    wait_sockets(terminal)?;
    terminal.press("\x1b")?;
    wait_group(terminal)?;
    terminal.press("\x1b")?;
    terminal.wait_text(&format!(":{SERVER_PORT}"))?;
    wait_equal(terminal).map(drop)
}

/// Small, and large again: everything is redrawn, within the lines of the terminal.
fn resize(terminal: &mut TestTerminal) -> Result<()> {
    terminal.resize(SMALL)?;
    wait_equal(terminal)?;
    terminal.wait_text("? help")?;
    terminal.press("?")?;
    terminal.wait_text("this help")?;
    terminal.press("?")?;
    wait_equal(terminal)?;
    terminal.resize(LARGE)?;
    // The small screen has no room for it.
    terminal.wait_text("CLOSING")?;
    wait_equal(terminal).map(drop)
}

/// A paused screen does not change; after the pause it shows the present.
fn hold_and_go_on(terminal: &mut TestTerminal, lab: &Lab, traffic: &mut ScreenSockets) -> Result<()> {
    let before = wait_equal(terminal)?;
    terminal.press(" ")?;
    terminal.wait_text("PAUSED")?;
    traffic.forgetful.kill()?;
    traffic.forgetful.wait()?;
    // Another view shows it: so this one could.
    wait_for("the end of CLOSE_WAIT", soon(), || {
        Ok((super::seed::SocketCounts::query(lab, &["states"])?.of(CloseWait) == 0).then_some(()))
    })?;
    let held = states_on(&terminal.lines()?).context("the states")?;
    ensure!(held == before, "held {held:?}, before {before:?}");
    terminal.press(" ")?;
    let after = wait_equal(terminal)?;
    ensure!(after["CLOSE_WAIT"] == 0 && kernel::count(TimeWait)? > 0, "{after:?}");
    Ok(())
}

/// Ctrl-Z and `fg`: meanwhile the shell has its terminal.
fn suspend(terminal: &mut TestTerminal) -> Result<()> {
    terminal.press("\x1a")?;
    terminal.wait_shell()?;
    terminal.press("\n")?;
    wait_equal(terminal)?;
    ensure!(terminal.screen()?.alternate_screen(), "it draws on the shell's screen");
    Ok(())
}

/// A terminal that can't place its cursor gets text, one snapshot below the other; pasted text is no command on one that can.
pub fn dumb_and_pasted(lab: &Lab) -> Result<()> {
    let _traffic = ScreenSockets::make()?;
    let netns = lab.netns().to_string();
    let mut dumb = TestTerminal::start_as("dumb", lab.binary()?, &["top", "--netns", &netns], SMALL)?;
    dumb.wait_text("SERVICE")?;
    ensure!(!dumb.screen()?.alternate_screen(), "a screen on a dumb terminal");
    drop(dumb);

    let mut terminal = top(lab, SMALL)?;
    terminal.wait_text("SERVICE")?;
    ensure!(terminal.screen()?.bracketed_paste(), "what is pasted would be keys");
    // The help shows that what follows the pasted q was read.
    terminal.press("\x1b[200~q\x1b[201~?")?;
    terminal.wait_text("help: Esc closes")?;
    ensure!(terminal.screen()?.alternate_screen(), "a pasted q quits");
    Ok(())
}
