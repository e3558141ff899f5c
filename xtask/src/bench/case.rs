//! The measured tracers, a row each.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Bench;
use super::cost::CaseCost;
use super::load::Load;
use super::tracer::{BpfStats, MeasuredTracer, ReadySignal};

/// One tracer, with the arguments that make it trace everything.
pub struct BenchCase {
    pub name: &'static str,
    pub program: CaseProgram,
    args: &'static [&'static str],
    ready: ReadySignal,
    /// Where its output has the number of records.
    record_count: RecordCount,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CaseProgram {
    Tcptrace,
    /// Another program, which needs the kernel's trace file system.
    Peer(&'static str),
}

/// Source of the number of records.
#[derive(Clone, Copy)]
enum RecordCount {
    /// tcptrace's closing line: "N records".
    Summary,
    /// The lines of output, after one of headings.
    Lines,
    /// The sum of the counts that bpftrace prints: `@[n]: count`.
    Counts,
}

/// Programs that return at once, on every hook.
pub const EMPTY: &BenchCase =
    &tcptrace("empty program", &["events", "--without", "everything"], ReadySignal::Stderr("tracing"));

/// The peer whose cost is the unit of the others': it only counts.
pub const BASELINE: &str = "bpftrace, counting states";

/// Each traces everything, with output to a file.
pub const CASES: [&BenchCase; 9] = [
    EMPTY,
    &tcptrace("tcptrace events", &["events"], ReadySignal::Stderr("tracing")),
    &tcptrace("tcptrace top --batch", &["top", "--batch", "10000"], ReadySignal::Stdout),
    &tcptrace("tcptrace hist", &["hist"], ReadySignal::Stderr("tracing")),
    &tcptrace("tcptrace serve", &["serve", "--listen", "127.0.0.1:0"], ReadySignal::Stderr("serving")),
    &tcptrace("tcptrace record", &["record", "--force", "-o", RECORDING], ReadySignal::Stderr("recording")),
    &BenchCase {
        name: "libbpf-tools tcpstates",
        program: CaseProgram::Peer("tcpstates"),
        args: &[],
        ready: ReadySignal::Attached,
        record_count: RecordCount::Lines,
    },
    &BenchCase {
        name: BASELINE,
        program: CaseProgram::Peer("bpftrace"),
        args: &[
            "-e",
            "BEGIN { printf(\"ready\\n\"); } tracepoint:sock:inet_sock_set_state { @[args->newstate] = count(); }",
        ],
        ready: ReadySignal::Stdout,
        record_count: RecordCount::Counts,
    },
    // The least that counting in the kernel needs: a start time per socket, a histogram per state. Without services, owners, TIME_WAIT.
    &BenchCase {
        name: "bpftrace, dwells by state",
        program: CaseProgram::Peer("bpftrace"),
        args: &["-e", DWELLS_BY_STATE],
        ready: ReadySignal::Stdout,
        record_count: RecordCount::Counts,
    },
];

const DWELLS_BY_STATE: &str = "BEGIN { printf(\"ready\\n\"); } tracepoint:sock:inet_sock_set_state {
    @[args->newstate] = count();
    $since = @since[args->skaddr];
    if ($since) { @dwells[args->oldstate] = hist(nsecs - $since); }
    if (args->newstate == 7) { delete(@since[args->skaddr]); } else { @since[args->skaddr] = nsecs; }
} END { clear(@since); clear(@dwells); }";

/// The cost of user stacks: none, a sample, all.
pub const STACK_CASES: [&BenchCase; 5] = [
    EMPTY,
    &tcptrace("record", &["record", "--force", "-o", RECORDING], ReadySignal::Stderr("recording")),
    &tcptrace(
        "record --stacks",
        &["record", "--stacks", "--force", "-o", RECORDING],
        ReadySignal::Stderr("recording"),
    ),
    &tcptrace("stacks", &["stacks", "--duration", "10m"], ReadySignal::Stderr("tracing")),
    &tcptrace(
        "stacks --every-call",
        &["stacks", "--every-call", "--duration", "10m"],
        ReadySignal::Stderr("tracing"),
    ),
];

/// Placeholder for the path of the recording.
const RECORDING: &str = "RECORDING";

const fn tcptrace(name: &'static str, args: &'static [&'static str], ready: ReadySignal) -> BenchCase {
    BenchCase { name, program: CaseProgram::Tcptrace, args, ready, record_count: RecordCount::Summary }
}

/// Mounts the trace file system for the peer, in a private mount namespace.
const WITH_TRACEFS: &str = "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; \
     mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null; exec \"$@\"";
/// Excludes the start of a tracer and its last records from the cost of the load.
const PAUSE: Duration = Duration::from_millis(300);

impl BenchCase {
    fn command(&self, bench: &Bench) -> Command {
        let mut command = match self.program {
            CaseProgram::Tcptrace => Command::new(&bench.tcptrace),
            CaseProgram::Peer(name) => {
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
    pub fn run(&self, bench: &Bench) -> Result<CaseCost> {
        self.measure(bench).with_context(|| self.name)
    }

    fn measure(&self, bench: &Bench) -> Result<CaseCost> {
        let begun = Instant::now();
        let tracer = MeasuredTracer::start(self.command(bench), self.ready, &bench.scratch)?;
        let start = begun.elapsed();
        std::thread::sleep(PAUSE);
        let before = tracer.spent()?;
        let load = Load::run(bench, bench.seconds)?;
        std::thread::sleep(PAUSE);
        let spent = tracer.spent()?.since(&before);
        // Measuring the time in the kernel has a cost: a second, half-length load measures only that.
        let stats = BpfStats::on()?;
        let before = tracer.in_kernel()?;
        let counted = Load::run(bench, bench.seconds / 2.0)?;
        let in_kernel = tracer.in_kernel()?.since(&before);
        drop(stats);
        std::thread::sleep(PAUSE);
        let ended = tracer.end()?;
        let records = match self.record_count {
            RecordCount::Summary => ended.summary_records()?,
            RecordCount::Lines => ended.lines()?.saturating_sub(1),
            RecordCount::Counts => ended.counts()?,
        };
        let lost = match self.record_count {
            RecordCount::Summary => ended.summary_lost()?,
            // bpftrace counts transitions only, but those of the whole host.
            RecordCount::Lines | RecordCount::Counts => {
                (load.transitions + counted.transitions).saturating_sub(records)
            }
        };
        let written_bytes = if self.args.contains(&RECORDING) {
            Some(std::fs::metadata(bench.recording())?.len())
        } else {
            None
        };
        Ok(CaseCost { load, counted, start, spent, in_kernel, records, lost, written_bytes })
    }
}
