//! A terminal for a program: a pty with a job-control shell, and an emulator that interprets the output.

use std::io;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::clock::{soon, wait_for};
use crate::lab::Skip;
use crate::process::{KillOnDrop, StartChild as _};

/// Runs `"$0" "$@"` in the foreground; each time it is stopped it waits for a line and continues it.
const SHELL: &str = r#"set -m
"$0" "$@"
status=$?
while [ $status -eq 148 ]; do
    echo 'the shell has the terminal'
    read -r
    fg >/dev/null
    status=$?
done
exit $status"#;

/// Written to the terminal after the end of the program.
const END_OF_OUTPUT: &str = "\r\nthe program has ended\r\n";

/// Columns and lines.
pub type Size = (u16, u16);

/// A program on a terminal.
pub struct TestTerminal {
    /// The shell leads the session: its end hangs up the terminal, which ends the programs there.
    child: KillOnDrop,
    master: OwnedFd,
    slave: OwnedFd,
    before: Termios,
    emulator: vt100::Parser,
}

impl TestTerminal {
    /// Runs `program ARGS` on a terminal of this size.
    pub fn start(program: &std::path::Path, args: &[&str], size: Size) -> Result<Self> {
        Self::start_as("xterm-256color", program, args, size)
    }

    /// The same on a terminal of this type, as the environment has it.
    pub fn start_as(term: &str, program: &std::path::Path, args: &[&str], size: Size) -> Result<Self> {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("openpt()")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        tcsetwinsize(&slave, winsize(size))?;
        fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        let before = tcgetattr(&slave)?;
        let mut command = Command::new("setsid");
        command.args(["-c", "bash", "-c", SHELL]).arg(program).args(args);
        command.env("TERM", term).env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
        let child = command
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave.try_clone()?))
            .start();
        let child = match child {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(Skip("setsid is not here".into())),
            child => child.context("start setsid")?,
        };
        let (columns, lines) = nonzero(size)?;
        Ok(Self {
            master,
            slave,
            before,
            child: KillOnDrop(child),
            emulator: vt100::Parser::new(lines, columns, 0),
        })
    }

    /// The current screen.
    pub fn screen(&mut self) -> Result<&vt100::Screen> {
        let mut buffer = [0; 16 << 10];
        loop {
            match rustix::io::read(&self.master, &mut buffer) {
                // A closed terminal reads as an error after its last output.
                Ok(0) | Err(Errno::AGAIN | Errno::IO) => return Ok(self.emulator.screen()),
                Ok(length) => self.emulator.process(&buffer[..length]),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("read from the terminal"),
            }
        }
    }

    /// The process that leads the session: the shell that runs the program.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines on the screen now.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        let screen = self.screen()?;
        let (_, columns) = screen.size();
        Ok(screen.rows(0, columns.get()).collect())
    }

    /// Waits until `probe` returns a value; the error of a time-out shows the last screen.
    pub fn wait<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&[String]) -> Result<Option<T>>,
    ) -> Result<T> {
        let mut last = Vec::new();
        let found = wait_for(what, 3 * soon(), || {
            last = self.lines()?;
            probe(&last)
        });
        found.with_context(|| format!("on the screen:\n{}\n", last.join("\n")))
    }

    /// Waits until `text` is on the screen; returns its line.
    pub fn wait_text(&mut self, text: &str) -> Result<String> {
        self.wait(text, |lines| Ok(lines.iter().find(|line| line.contains(text)).cloned()))
    }

    /// Types.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        let mut rest = keys.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(&self.master, rest) {
                Ok(length) => rest = &rest[length..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error).context("write to the terminal"),
            }
        }
        Ok(())
    }

    /// Gives it another size.
    pub fn resize(&mut self, size: Size) -> Result<()> {
        // Earlier output was drawn for the old size.
        self.screen()?;
        let (columns, lines) = nonzero(size)?;
        self.emulator.set_size(lines, columns);
        tcsetwinsize(&self.slave, winsize(size)).context("TIOCSWINSZ")
    }

    /// Waits until the shell has the terminal, and it is as it was before the program.
    pub fn wait_shell(&mut self) -> Result<()> {
        self.wait_text("the shell has the terminal")?;
        self.is_given_back()
    }

    /// Whether everything a program may change about its terminal is as it was.
    fn is_given_back(&mut self) -> Result<()> {
        let screen = self.screen()?;
        ensure!(!screen.alternate_screen(), "the alternate screen is still there");
        ensure!(!screen.hide_cursor(), "the cursor is hidden");
        ensure!(
            screen.mouse_protocol_mode() == vt100::MouseProtocolMode::None,
            "the mouse is still reported"
        );
        let now = tcgetattr(&self.slave)?;
        let modes = |termios: &Termios| {
            (termios.input_modes, termios.output_modes, termios.control_modes, termios.local_modes)
        };
        ensure!(modes(&now) == modes(&self.before), "the line is {now:?}, was {:?}", self.before);
        Ok(())
    }

    /// Waits for the end; returns what is on the screen of the shell.
    pub fn wait_end(mut self) -> Result<(ExitStatus, String)> {
        let status = wait_for("the end of the program", 3 * soon(), || {
            // A program that exits waits until its output is read.
            self.screen()?;
            Ok(self.child.try_wait()?)
        })?;
        // The kernel passes output on later, in order (`flush_to_ldisc()`): after this text nothing of the program comes.
        rustix::io::write(&self.slave, END_OF_OUTPUT.as_bytes()).context("write after the program's end")?;
        self.wait_text(END_OF_OUTPUT.trim())?;
        self.is_given_back()?;
        Ok((status, self.screen()?.contents()))
    }
}

fn nonzero((columns, lines): Size) -> Result<(NonZeroU16, NonZeroU16)> {
    Ok((NonZeroU16::new(columns).context("no columns")?, NonZeroU16::new(lines).context("no lines")?))
}

fn winsize((columns, lines): Size) -> Winsize {
    Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
