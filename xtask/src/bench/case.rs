//! What is measured: a row per tracer.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Bench;
use super::cost::Cost;
use super::load::Load;
use super::tracer::{Ready, Stats, Tracer};

/// One tracer, and how it is asked to trace everything.
pub struct Case {
    pub name: &'static str,
    pub program: Program,
    args: &'static [&'static str],
    ready: Ready,
    /// What its output says was told.
    told: Told,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Tcptrace,
    /// Another program: it wants the kernel's trace file system.
    Peer(&'static str),
}

/// How the number of records is known.
#[derive(Clone, Copy)]
enum Told {
    /// tcptrace's closing line: "N records".
    Summary,
    /// A line of output each, below one of headings.
    Lines,
    /// The sum of the counts that bpftrace prints: `@[n]: count`.
    Counts,
}

/// The programs run on every hook and do nothing.
pub const EMPTY: &Case =
    &tcptrace("empty program", &["events", "--without", "everything"], Ready::Stderr("tracing"));

/// Output goes to a file; a trace of everything.
pub const CASES: [&Case; 7] = [
    EMPTY,
    &tcptrace("tcptrace events", &["events"], Ready::Stderr("tracing")),
    &tcptrace("tcptrace top --batch", &["top", "--batch", "10000"], Ready::Stdout),
    &tcptrace("tcptrace hist", &["hist"], Ready::Stderr("tracing")),
    &tcptrace("tcptrace record", &["record", "--force", "-o", RECORDING], Ready::Stderr("recording")),
    &Case {
        name: "libbpf-tools tcpstates",
        program: Program::Peer("tcpstates"),
        args: &[],
        ready: Ready::Attached,
        told: Told::Lines,
    },
    &Case {
        name: "bpftrace, counting states",
        program: Program::Peer("bpftrace"),
        args: &[
            "-e",
            "BEGIN { printf(\"ready\\n\"); } tracepoint:sock:inet_sock_set_state { @[args->newstate] = count(); }",
        ],
        ready: Ready::Stdout,
        told: Told::Counts,
    },
];

/// Stands for the path of the recording.
const RECORDING: &str = "RECORDING";

const fn tcptrace(name: &'static str, args: &'static [&'static str], ready: Ready) -> Case {
    Case { name, program: Program::Tcptrace, args, ready, told: Told::Summary }
}

/// Gives the peer the trace file system, in a mount namespace of its own.
const WITH_TRACEFS: &str = "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; \
     mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null; exec \"$@\"";
/// What a tracer does first, and the last records on their way, are no part of what the load costs.
const PAUSE: Duration = Duration::from_millis(300);

impl Case {
    fn command(&self, bench: &Bench) -> Command {
        let mut command = match self.program {
            Program::Tcptrace => Command::new(&bench.tcptrace),
            Program::Peer(name) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "private", "sh", "-c", WITH_TRACEFS, "sh", name]);
                command
            }
        };
        for &arg in self.args {
            if arg == RECORDING {
                command.arg(bench.recording());
            } else {
                command.arg(arg);
            }
        }
        command
    }

    /// Starts it, makes the load twice, and ends it.
    pub fn run(&self, bench: &Bench) -> Result<Cost> {
        self.measure(bench).with_context(|| self.name)
    }

    fn measure(&self, bench: &Bench) -> Result<Cost> {
        let begun = Instant::now();
        let tracer = Tracer::start(self.command(bench), self.ready, &bench.scratch)?;
        let start = begun.elapsed();
        std::thread::sleep(PAUSE);
        let before = tracer.spent()?;
        let load = Load::run(bench, bench.seconds)?;
        std::thread::sleep(PAUSE);
        let spent = tracer.spent()?.since(&before);
        // Counting the time in the kernel takes time: half a load more, for that alone.
        let stats = Stats::on()?;
        let before = tracer.in_kernel()?;
        let counted = Load::run(bench, bench.seconds / 2.0)?;
        let in_kernel = tracer.in_kernel()?.since(&before);
        drop(stats);
        std::thread::sleep(PAUSE);
        let ended = tracer.end()?;
        let told = match self.told {
            Told::Summary => ended.summary_records()?,
            Told::Lines => ended.lines()?.saturating_sub(1),
            Told::Counts => ended.counts()?,
        };
        let lost = match self.told {
            Told::Summary => ended.summary_lost()?,
            // Only transitions are told, each once, and those of the rest of the host as well.
            Told::Lines | Told::Counts => (load.transitions + counted.transitions).saturating_sub(told),
        };
        let written_bytes = if self.args.contains(&RECORDING) {
            Some(std::fs::metadata(bench.recording())?.len())
        } else {
            None
        };
        Ok(Cost { load, counted, start, spent, in_kernel, told, lost, written_bytes })
    }
}
