//! One boot: in, a kernel and an initramfs; out, every line of the guest's serial console, in bounded time.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::command;

const APPEND: &str = "loglevel=1 panic=-1 rdinit=/init";
/// Variables that the guest inherits: the kernel passes unknown parameters to the environment of `init`.
const INHERITED: [&str; 1] = ["TCPTRACE_FLOOD_SECONDS"];
/// Time limit; all tests on one kernel take four to six minutes.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(25 * 60);
/// Maximum time without output from a live test: one waits for the end of a TIME_WAIT.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The last line of the guest.
const END: &str = "vm: end";

/// An emulated machine.
struct Machine {
    emulator: &'static str,
    options: &'static [&'static str],
    console: &'static str,
}

impl Machine {
    const fn of(arch: Arch) -> Self {
        match arch {
            Arch::Amd64 => {
                Self { emulator: "qemu-system-x86_64", options: &["-cpu", "max"], console: "ttyS0" }
            }
            Arch::Arm64 => Self {
                emulator: "qemu-system-aarch64",
                // A server's CPU, with pages of 4, 16 and 64 KiB; pointer authentication of newer ones is slow to emulate.
                options: &["-machine", "virt", "-cpu", "neoverse-n1"],
                console: "ttyAMA0",
            },
        }
    }
}

/// Fails if the emulator is not installed.
pub fn can_boot(arch: Arch) -> Result<()> {
    command::output(Command::new(Machine::of(arch).emulator).arg("--version"))
        .map(drop)
        .context("no emulator here: run `cargo xtask setup --vm`")
}

/// Boots and passes each line to `see`; fails unless the guest printed its last line.
pub fn boot(arch: Arch, cpus: u8, image: &Path, initramfs: &Path, mut see: impl FnMut(&str)) -> Result<()> {
    let mut guest = Guest::start(&Machine::of(arch), cpus, image, initramfs)?;
    let deadline = Instant::now() + TOTAL_TIMEOUT;
    let mut ended = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(SILENCE_TIMEOUT);
        match guest.lines.recv_timeout(left) {
            Ok(line) => {
                ended |= line == END;
                see(&line);
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest printed nothing for {} s, and was stopped", left.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) if ended => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the guest ended before its tests did: {}", guest.child.wait()?)
            }
        }
    }
}

fn append(console: &str) -> String {
    let passed = INHERITED.iter().filter_map(|name| Some(format!(" {name}={}", std::env::var(name).ok()?)));
    passed.fold(format!("console={console} {APPEND}"), |line, variable| line + &variable)
}

/// A running emulator, killed on drop.
struct Guest {
    child: Child,
    lines: Receiver<String>,
}

impl Guest {
    fn start(machine: &Machine, cpus: u8, image: &Path, initramfs: &Path) -> Result<Self> {
        let mut command = Command::new(machine.emulator);
        command
            // Never KVM: test machines rarely have it, and a slow guest exposes races.
            .args(["-accel", "tcg", "-m", "1024", "-smp", &cpus.to_string(), "-no-reboot"])
            .args(machine.options)
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
            .args(["-append", &append(machine.console)])
            .args(["-net", "none", "-kernel"])
            .arg(image)
            .arg("-initrd")
            .arg(initramfs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}: run `cargo xtask setup --vm`", machine.emulator))?;
        let console = child.stdout.take().context("the guest has no console")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                // The firmware clears the screen, the console ends lines with a carriage return.
                let text = String::from_utf8_lossy(&line);
                let text = text.rsplit('\u{1b}').next().unwrap_or_default();
                if sender.send(text.trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // An error means that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
