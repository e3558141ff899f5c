//! Injected faults, a scenario each: the fault of the tracer or the host, the loss, and how it is reported. docs/faults.md has
//! the table.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use serde_json::Value;
use tcptrace_common::state::TcpState::{
    Close, CloseWait, Established, FinWait1, FinWait2, LastAck, SynSent, TimeWait,
};

use super::storm::{SERVER_PORT, make_connections};
use crate::clock::{Span, WALL_OFFSET_NS, hold, is_emulated, late, now_ns, soon, wait_for};
use crate::event::{EventEndReason, EventLine};
use crate::lab::{Lab, Skip, run_to_end};
use crate::pair::{ConnectedPair, IpFamily};
use crate::process::StartChild as _;
use crate::tracer::{LiveTracer, TracerFormat};
use crate::{kernel, netns};

const SECOND_NS: u64 = 1_000_000_000;
/// Text that no exit may print.
const CRASHES: [&str; 2] = ["panicked", "RUST_BACKTRACE"];

/// Prints the row of docs/faults.md for this run.
fn print_fault(fault: &str, injected: &str, lost: &str, reported: &str) {
    println!("fault: {fault} | {injected} | {lost} | {reported}");
}

/// Connections that overflow the smallest ring while nobody reads it: ten records each at the least.
pub(super) fn too_many_for_the_ring() -> usize {
    (1 << 20) / 88 / 5
}

/// Room for many connections in this namespace.
pub(super) fn make_room() -> Result<()> {
    netns::sysctl("ip_local_port_range", "1024 65535")?;
    netns::sysctl("tcp_max_tw_buckets", "2000000")
}

/// The reader is stopped for seconds, with the smallest ring: lost records are counted, and later
/// events are exact.
pub fn stalled_reader(lab: &Lab) -> Result<()> {
    make_room()?;
    let number = lab.netns().to_string();
    let args = ["events", "--format", "json", "--ring-size", "1", "--netns", &number];
    let tracer = lab.trace_with(&args, TracerFormat::Json)?;
    tracer.signal(Signal::STOP)?;
    make_connections(IpFamily::V4, too_many_for_the_ring())?;
    hold(Duration::from_secs(2));
    tracer.signal(Signal::CONT)?;
    // Until the ring has been read, it has no room for new records. It keeps the order: once a later connection is reported,
    // so are all records that had room.
    wait_for("the tracer to have caught up", soon(), || {
        let pair = ConnectedPair::open(IpFamily::V4)?;
        hold(Duration::from_millis(100));
        let reported = tracer.events_of(&pair.client.expected, 0, |_| true)?;
        Ok((!tracer.is_present() || !reported.is_empty()).then_some(()))
    })?;
    let mut after = ConnectedPair::open(IpFamily::V4)?;
    let closing = after.close_client_first()?;
    tracer.expect(&after.client.expected, &after.client_steps(&closing.steps()))?;
    let netns = lab.netns();
    let is_dialled =
        |event: &EventLine| event.netns == netns && event.from == Close && event.dport == SERVER_PORT;
    let began = tracer.events(0, is_dialled)?.len();
    let Some(stderr) = tracer.stop_with_holes()? else { return Ok(()) };
    let lost = number_after(&stderr, "ring full ").context("no report of a full ring")?;
    ensure!(began < too_many_for_the_ring(), "nothing was lost: the ring was never full");
    let missing = too_many_for_the_ring() - began;
    ensure!(
        lost as usize >= missing,
        "{missing} beginnings are missing, and {lost} records reported as lost"
    );
    print_fault(
        "reader stalled, smallest ring",
        "SIGSTOP, 2 s, SIGCONT; ring of 1 MiB",
        &format!("{lost} records"),
        "ring full",
    );
    Ok(())
}

/// The number that follows `label`.
fn number_after(text: &str, label: &str) -> Option<u64> {
    let rest = &text[text.find(label)? + label.len()..];
    let digits: String =
        rest.chars().take_while(|c| c.is_ascii_digit() || *c == ',').filter(|c| *c != ',').collect();
    digits.parse().ok()
}

/// The binary with a shell around it: `"$0"` is the binary.
fn shell(lab: &Lab, script: &str) -> Result<Output> {
    let mut command = Command::new("bash");
    command.args(["-c", script]).arg(lab.binary()?);
    run_to_end(command)
}

fn is_clean(output: &Output, what: &str) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code().is_some(), "{what} was killed: {}: {stderr}", output.status);
    let crash = CRASHES.into_iter().find(|word| stderr.contains(word));
    ensure!(crash.is_none(), "{what} crashed: {stderr}");
    Ok(stderr)
}

/// stdout is a full disk: each command reports it and fails.
pub fn full_stdout(lab: &Lab) -> Result<()> {
    let _pair = ConnectedPair::open(IpFamily::V4)?;
    for args in ["states", "states --json", "top --once", "top --once --json", "check", "hist --duration 1s"]
    {
        let output = shell(lab, &format!("exec \"$0\" {args} >/dev/full"))?;
        let stderr = is_clean(&output, args)?;
        ensure!(output.status.code() == Some(1), "{args} ended with {}: {stderr}", output.status);
        ensure!(stderr.contains("No space left on device"), "{args} does not say why: {stderr}");
    }
    print_fault("stdout full", "`>/dev/full`", "the output", "\"No space left on device\", exit status 1");
    Ok(())
}

/// stderr is closed or a full disk: notes are lost, results are not.
pub fn no_stderr(lab: &Lab) -> Result<()> {
    for to in ["2>&-", "2>/dev/full"] {
        for args in ["top --once --json", "states --json"] {
            let output = shell(lab, &format!("exec \"$0\" {args} {to}"))?;
            ensure!(output.status.success(), "{args} {to} ended with {}", output.status);
            let document: Value = serde_json::from_slice(&output.stdout).context("one document")?;
            ensure!(document["states"].is_array(), "{args} {to}: {document}");
        }
        let output = shell(lab, &format!("exec \"$0\" top --once --nonsense {to}"))?;
        ensure!(output.status.code() == Some(2), "wrong usage {to} ended with {}", output.status);
    }
    print_fault(
        "stderr closed or full",
        "`2>&-`, `2>/dev/full`",
        "notes and the summary",
        "results and exit status stay",
    );
    Ok(())
}

/// Few descriptors: it works, or it reports that there are too few.
pub fn few_descriptors(lab: &Lab) -> Result<()> {
    let (mut refused, mut worked) = (0, None);
    for limit in [3, 6, 10, 16, 22, 26, 30, 34, 38, 48, 64] {
        let output = shell(lab, &format!("ulimit -n {limit} && exec \"$0\" top --once --json"))?;
        let stderr = is_clean(&output, &format!("top with {limit} descriptors"))?;
        if output.status.success() {
            let document: Value = serde_json::from_slice(&output.stdout).context("one document")?;
            ensure!(document["states"].is_array(), "{document}");
            worked.get_or_insert(limit);
        } else {
            ensure!(worked.is_none(), "it works with {worked:?} descriptors and not with {limit}: {stderr}");
            ensure!(
                stderr.contains("os error 24") || stderr.contains("Too many open files") || limit < 10,
                "with {limit} descriptors it says: {stderr}"
            );
            refused += 1;
        }
    }
    ensure!(refused > 0, "no limit was too low");
    let least = worked.context("no limit was high enough")?;
    print_fault(
        "few descriptors",
        "`ulimit -n`",
        "nothing",
        &format!("below about {least}: \"Too many open files\", exit status 1 or 3"),
    );
    Ok(())
}

/// A cgroup with little memory, removed on drop.
struct SmallCgroup(PathBuf);

impl SmallCgroup {
    fn new(name: &str, limit_bytes: u64) -> Result<Self> {
        const V1: &str = "/sys/fs/cgroup/memory";
        let (root, file) = if fs::exists(format!("{V1}/memory.limit_in_bytes"))? {
            (V1, "memory.limit_in_bytes")
        } else {
            ("/sys/fs/cgroup", "memory.max")
        };
        let path = PathBuf::from(format!("{root}/tcptrace-{}-{name}", std::process::id()));
        let unfit = |error: std::io::Error| Skip(format!("no cgroup whose memory can be limited: {error}"));
        fs::create_dir(&path).map_err(unfit)?;
        let cgroup = Self(path);
        fs::write(cgroup.0.join(file), limit_bytes.to_string()).map_err(unfit)?;
        // The same for swap; an error means that there is none.
        fs::write(cgroup.0.join("memory.swap.max"), "0").ok();
        Ok(cgroup)
    }

    fn script(&self, args: &str) -> String {
        format!("echo $$ >{}/cgroup.procs && exec \"$0\" {args}", self.0.display())
    }
}

impl Drop for SmallCgroup {
    fn drop(&mut self) {
        // The kernel takes a moment to see that it is empty.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            hold(Duration::from_millis(10));
        }
    }
}

/// Too little memory for the ring: it reports it. Enough for a small ring only: it works.
pub fn little_memory(lab: &Lab) -> Result<()> {
    const ROOM: u64 = 96 << 20;
    let cgroup = SmallCgroup::new("small", ROOM)?;
    let output = shell(lab, &cgroup.script("top --once --ring-size 512"))?;
    let stderr = is_clean(&output, "top with a ring of 512 MiB")?;
    ensure!(output.status.code() == Some(3), "it ended with {}: {stderr}", output.status);
    ensure!(stderr.contains("Cannot allocate memory"), "it does not say why: {stderr}");

    let output = shell(lab, &cgroup.script("top --once --json"))?;
    let stderr = is_clean(&output, "top in 96 MiB")?;
    ensure!(output.status.success(), "it ended with {}: {stderr}", output.status);

    // Too little: the kernel kills it, and its attachments are removed.
    let tiny = SmallCgroup::new("tiny", 4 << 20)?;
    let output = shell(lab, &tiny.script("top --once --json"))?;
    ensure!(!output.status.success(), "4 MiB are enough?");
    let states = lab.run(&["states"])?;
    ensure!(states.status.success(), "states afterwards ended with {}", states.status);
    print_fault(
        "out of memory in a small cgroup",
        "ring of 512 MiB in 96 MiB; then 4 MiB for all",
        "nothing; the trace",
        "\"Cannot allocate memory\", exit status 3; the kernel ends it, programs go with it",
    );
    Ok(())
}

/// Another process tries to detach the links: the kernel refuses, and tracing continues.
pub fn detached_from_outside(lab: &Lab) -> Result<()> {
    let tracer = lab.trace()?;
    let Some(pid) = tracer.pid() else { return Ok(()) };
    let mut links = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        links.extend(text.lines().find_map(|line| line.strip_prefix("link_id:")?.trim().parse::<u32>().ok()));
    }
    ensure!(links.len() >= 5, "{} links", links.len());
    for link in &links {
        let detach = Command::new("bpftool").args(["link", "detach", "id", &link.to_string()]).finish();
        let Ok(detach) = detach else { return Err(Skip("no bpftool here".into()).into()) };
        ensure!(
            !detach.status.success(),
            "link {link} was detached: what happens then is for a new scenario"
        );
    }
    let mut pair = ConnectedPair::open(IpFamily::V4)?;
    let closing = pair.close_client_first()?;
    tracer.expect(&pair.client.expected, &pair.client_steps(&closing.steps()))?;
    tracer.finish()?;
    print_fault(
        "links detached from outside",
        "`bpftool link detach` on each",
        "nothing",
        "the kernel refuses: not for tracing links",
    );
    Ok(())
}

/// A namespace is destroyed with all its sockets while connections are made as fast as they can be.
pub fn namespace_deleted_under_load(lab: &Lab) -> Result<()> {
    let connections = if is_emulated() { 200 } else { 2_000 };
    let tracer = lab.trace()?;
    let inside = || -> Result<(u32, usize)> {
        let number = netns::enter_new()?;
        make_room()?;
        make_connections(IpFamily::V4, connections)?;
        wait_for("the last to be closed", soon(), || {
            let mut open = [Established, FinWait1, FinWait2, CloseWait, LastAck].into_iter();
            Ok(open.all(|state| kernel::count(state).is_ok_and(|count| count == 0)).then_some(()))
        })?;
        Ok((number, kernel::count(TimeWait)?))
    };
    let (number, left) = std::thread::scope(|scope| {
        scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let began = tracer.count(number, connections, |event| event.from == Close)?;
    let entered = tracer.count(number, connections, |event| event.to == TimeWait)?;
    let purged = tracer.count(number, left, |event| event.end_reason == Some(EventEndReason::Purged))?;
    if !tracer.is_present() {
        return Ok(());
    }
    ensure!(
        began >= connections && entered == connections,
        "{began} began, {entered} in TIME_WAIT, of {connections}"
    );
    ensure!(purged == left, "{purged} purged of {left}");
    tracer.finish()?;
    print_fault(
        "namespace deleted under load",
        &format!("{left} TIME_WAIT in it"),
        "nothing",
        "every one ends `purged`",
    );
    Ok(())
}

/// The wall clock of this machine, so many seconds ahead of what it should be; restored on drop.
struct SteppedClock;

impl SteppedClock {
    fn ahead(seconds: u64) -> Result<Self> {
        set_wall_clock(seconds)?;
        Ok(Self)
    }
}

impl Drop for SteppedClock {
    fn drop(&mut self) {
        set_wall_clock(0).ok();
    }
}

/// Sets the wall clock by `CLOCK_MONOTONIC`, which nothing sets: as it was when the scenario began, and `ahead` seconds more.
fn set_wall_clock(ahead: u64) -> Result<()> {
    let wall_ns = *WALL_OFFSET_NS + now_ns() + ahead * SECOND_NS;
    let time = Timespec { tv_sec: (wall_ns / SECOND_NS) as i64, tv_nsec: (wall_ns % SECOND_NS) as i64 };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

/// Waits until new events have times `ahead` seconds ahead of the clock of the start.
fn wait_for_times(tracer: &LiveTracer, ahead: u64) -> Result<()> {
    wait_for("the tracer to notice that the clock was set", soon(), || {
        let probe = ConnectedPair::open(IpFamily::V4)?;
        let opened = tracer.events_of(&probe.client.expected, 1, |event| event.to == Established)?;
        let is_present =
            |event: &EventLine| event.ts_ns.abs_diff(now_ns() + ahead * SECOND_NS) < SECOND_NS * 1_800;
        Ok((!tracer.is_present() || opened.iter().any(is_present)).then_some(()))
    })
}

/// `CLOCK_REALTIME` now.
fn wall_now_ns() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec as u64 * SECOND_NS + time.tv_nsec as u64
}

/// The wall clock is set forward by an hour and back while a socket lives: its times follow the clock, its dwells
/// do not change.
pub fn clock_stepped(lab: &Lab) -> Result<()> {
    const HOUR: u64 = 3_600;
    if !is_emulated() {
        return Err(
            Skip("it would set the clock of this host; the guests of `cargo xtask vm` do it".into()).into()
        );
    }
    // Before the clock is set.
    LazyLock::force(&WALL_OFFSET_NS);
    let tracer = lab.trace()?;
    let born_ns = now_ns();
    let mut pair = ConnectedPair::open(IpFamily::V4)?;
    let opening = (born_ns, now_ns());
    let stepped = SteppedClock::ahead(HOUR)?;
    wait_for_times(&tracer, HOUR)?;
    let closed_ns = wall_now_ns();
    pair.close_client_first()?;
    let most_ns = now_ns() - born_ns;
    // Where segments are not seen, a sweep finds TIME_WAIT later, and that is its time.
    let seen = tracer.events_of(&pair.client.expected, 5, |_| true)?;
    let closing = (closed_ns - *WALL_OFFSET_NS, wall_now_ns() - *WALL_OFFSET_NS);
    drop(stepped);
    wait_for_times(&tracer, 0)?;
    // From here on nothing differs from an undisturbed run.
    let mut after = ConnectedPair::open(IpFamily::V4)?;
    let ended = after.close_client_first()?;
    tracer.expect(&after.client.expected, &after.client_steps(&ended.steps()))?;
    if !tracer.is_present() {
        return Ok(());
    }
    let spans = [
        (SynSent, opening),
        (Established, opening),
        (FinWait1, closing),
        (FinWait2, closing),
        (TimeWait, closing),
    ];
    ensure!(seen.iter().map(|event| event.to).eq(spans.map(|(to, _)| to)), "{seen:#?}");
    for (event, (_, (start_ns, end_ns))) in seen.iter().zip(spans) {
        let span = Span { start_ns, end_ns };
        ensure!(span.holds(event.ts_ns, late()), "{event}: not within {start_ns} .. {end_ns}");
    }
    let dwell_ns = seen[2].dwell_ns.context("no dwell in ESTABLISHED")?;
    ensure!(dwell_ns <= most_ns, "{dwell_ns} ns in ESTABLISHED, {most_ns} at the most");
    // Dwells are not the differences of these times.
    tracer.stop_with_holes()?;
    print_fault(
        "wall clock stepped",
        "one hour forward, one back",
        "nothing",
        "times are those of the clock, dwells stay what they are",
    );
    Ok(())
}

/// A CPU goes offline with the timers of timewait sockets on it: they move, and nothing ends.
pub fn cpu_offlined(lab: &Lab) -> Result<()> {
    const CPU: usize = 1;
    const PAIRS: usize = 20;
    if !is_emulated() {
        return Err(
            Skip("it would take a CPU of this host; the guests of `cargo xtask vm` do it".into()).into()
        );
    }
    let switch = format!("/sys/devices/system/cpu/cpu{CPU}/online");
    if !fs::exists(&switch)? {
        return Err(Skip("a machine with one CPU".into()).into());
    }
    let tracer = lab.trace()?;
    let all = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set(CPU);
    sched_setaffinity(None, &one)?;
    for _ in 0..PAIRS {
        ConnectedPair::open(IpFamily::V4)?.close_client_first()?;
    }
    sched_setaffinity(None, &all)?;
    fs::write(&switch, "0").context("take the CPU offline")?;
    hold(Duration::from_secs(1));
    fs::write(&switch, "1").context("bring it back")?;
    let mut after = ConnectedPair::open(IpFamily::V4)?;
    let closing = after.close_client_first()?;
    tracer.expect(&after.client.expected, &after.client_steps(&closing.steps()))?;
    let netns = lab.netns();
    let ended = tracer.events(0, |event| event.netns == netns && event.from == TimeWait)?;
    ensure!(ended.is_empty(), "reported as ended: {}", ended[0]);
    wait_for("the kernel to have them all", soon(), || {
        Ok((kernel::count(TimeWait)? == PAIRS + 1).then_some(()))
    })?;
    tracer.finish()?;
    print_fault(
        "CPU taken offline",
        &format!("with the timers of {PAIRS} TIME_WAIT on it"),
        "nothing",
        "none ends",
    );
    Ok(())
}
