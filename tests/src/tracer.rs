//! A running `tcptrace events`: reads its lines, stops it, checks its exit.

use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::{soon, wait_for};
use crate::event::EventLine;
use crate::expect::{ExpectedSocket, ExpectedStep, SocketEvents, check_chains, check_steps};
use crate::precision::Precision;
use crate::process::{KillOnDrop, StartChild as _};

/// The tracer prints this on stderr once the hooks are attached and the seed is read.
const READY: &str = "tcptrace: tracing";
/// Loading can be slow where many tracers start at once.
fn start_bound() -> Duration {
    3 * soon()
}

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracerFormat {
    /// JSON lines, which are parsed.
    Json,
    /// Text lines, which are kept unparsed.
    Text,
}

#[derive(Default)]
struct CollectedOutput {
    lines: Vec<String>,
    events: Vec<EventLine>,
    undecodable: Vec<String>,
    ended: bool,
}

/// The output, as its threads share it.
#[derive(Default)]
struct TracerOutput {
    collected: Mutex<CollectedOutput>,
    changed: Condvar,
    /// Pieces that were read and are not decoded.
    undecoded: AtomicUsize,
}

impl TracerOutput {
    fn lock(&self) -> MutexGuard<'_, CollectedOutput> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a decoded piece.
    fn append(&self, decoded: CollectedOutput) {
        self.lock().append(decoded);
        self.changed.notify_all();
    }
}

/// A running tracer. In a traffic-only run there is none, and every expectation holds.
pub struct LiveTracer(Option<TracerProcess>);

struct TracerProcess {
    child: KillOnDrop,
    netns: u32,
    precision: Precision,
    output: Arc<TracerOutput>,
    stderr: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl LiveTracer {
    /// No tracer: only the traffic of the scenario is checked.
    pub const fn absent() -> Self {
        Self(None)
    }

    /// Starts `command` and waits until it traces. `netns` is the namespace whose events are its scenario's, `precision`
    /// what can be demanded.
    pub fn start(
        mut command: Command,
        format: TracerFormat,
        netns: u32,
        precision: Precision,
    ) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .start()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let stdout = child.stdout.take().context("its stdout")?;
        let stderr_pipe = child.stderr.take().context("its stderr")?;
        let output = Arc::<TracerOutput>::default();
        let stderr = Arc::new(Mutex::default());
        let readers = vec![
            std::thread::spawn({
                let output = Arc::clone(&output);
                move || read_output(stdout, format, &output)
            }),
            std::thread::spawn({
                let stderr = Arc::clone(&stderr);
                move || read_stderr(stderr_pipe, &stderr)
            }),
        ];
        let mut running =
            TracerProcess { child: KillOnDrop(child), netns, precision, output, stderr, readers };
        running.wait_ready()?;
        Ok(Self(Some(running)))
    }

    /// Checks that the socket has shown these transitions and no others, waiting a little for the last to be printed.
    pub fn expect(&self, socket: &ExpectedSocket, steps: &[ExpectedStep]) -> Result<()> {
        let Some(running) = &self.0 else { return Ok(()) };
        let seen = running.wait_socket(socket, |_| true, steps.len())?;
        check_steps(socket, steps, &seen, running.precision)
            .with_context(|| format!("stderr: {}", running.stderr().join("\n    ")))
    }

    /// The events for which `test` holds, once there are `count` of them; fewer when they don't come.
    pub fn events(&self, count: usize, test: impl Fn(&EventLine) -> bool) -> Result<Vec<EventLine>> {
        self.0.as_ref().map_or_else(|| Ok(Vec::new()), |running| running.wait_events(test, count))
    }

    /// The events of `socket` for which `test` holds, once there are `count` of them; fewer when they don't come.
    pub fn events_of(
        &self,
        socket: &ExpectedSocket,
        count: usize,
        test: impl Fn(&EventLine) -> bool,
    ) -> Result<Vec<EventLine>> {
        self.0.as_ref().map_or_else(|| Ok(Vec::new()), |running| running.wait_socket(socket, test, count))
    }

    /// How many events of a namespace meet `test`, once there are `count` of them or no more come. It may take its time.
    pub fn count(&self, netns: u32, count: usize, test: impl Fn(&EventLine) -> bool) -> Result<usize> {
        let Some(running) = &self.0 else { return Ok(0) };
        let mut before = 0;
        loop {
            let seen = running.wait_events(|event| event.netns == netns && test(event), count)?.len();
            if seen >= count || seen == before {
                return Ok(seen);
            }
            before = seen;
        }
    }

    /// Whether there is a tracer at all.
    pub const fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(running) = &self.0 else { return Ok(()) };
        Ok(kill_process(Pid::from_child(&running.child), signal)?)
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.0.as_ref().map(|running| running.child.id())
    }

    /// Every line so far that is meant for people, as printed.
    pub fn lines(&self) -> Vec<String> {
        self.0.as_ref().map(|running| running.output().lines.clone()).unwrap_or_default()
    }

    /// Waits until a line contains `text`.
    pub fn wait_line(&self, text: &str) -> Result<()> {
        let Some(running) = &self.0 else { return Ok(()) };
        wait_for(&format!("a line with {text:?}"), soon(), || {
            Ok(running.output().lines.iter().any(|line| line.contains(text)).then_some(()))
        })
    }

    /// Sends SIGTERM, and checks the exit status and all events of its namespace.
    pub fn finish(self) -> Result<()> {
        self.stop().map(drop)
    }

    /// The same; returns stderr with the summary.
    pub fn stop(self) -> Result<String> {
        let Some((running, stderr)) = self.end()? else { return Ok(String::new()) };
        check_chains(running.output().events.iter().filter(|event| event.netns == running.netns))
            .context(stderr.clone())?;
        Ok(stderr)
    }

    /// The same where records were lost on purpose: transitions are missing.
    pub fn stop_with_holes(self) -> Result<Option<String>> {
        Ok(self.end()?.map(|(_, stderr)| stderr))
    }

    fn end(mut self) -> Result<Option<(TracerProcess, String)>> {
        let Some(mut running) = self.0.take() else { return Ok(None) };
        kill_process(Pid::from_child(&running.child), Signal::TERM)?;
        let status = running.wait_exit()?;
        running.readers.drain(..).for_each(|reader| drop(reader.join()));
        let stderr = running.stderr().join("\n    ");
        ensure!(status.code() == Some(0), "SIGTERM ended it with {status}; stderr:\n    {stderr}");
        ensure!(running.stderr().len() > 1, "no summary on stderr");
        let undecodable = std::mem::take(&mut running.output().undecodable);
        ensure!(undecodable.is_empty(), "lines outside the contract: {undecodable:#?}");
        Ok(Some((running, stderr)))
    }
}

/// Whether a summary reports no loss but healed transitions, as many as the kernel hid from every BPF program: see
/// [`crate::hidden_events`].
pub fn nothing_is_lost(summary: &str, hidden: u64) -> bool {
    let line = summary.lines().last().unwrap_or_default().trim_start();
    let count = |number: &str| number.replace(',', "").parse::<u64>().ok();
    let is_explained = |cause: &str| match cause.rsplit_once(' ') {
        Some(("healed", healed)) => count(healed).is_some_and(|healed| healed <= hidden),
        _ => false,
    };
    line.contains("; nothing lost")
        || line
            .split_once("; lost ")
            .and_then(|(_, lost)| lost.split_once(": "))
            .is_some_and(|(_, causes)| causes.split(", ").all(is_explained))
}

impl TracerProcess {
    fn output(&self) -> MutexGuard<'_, CollectedOutput> {
        self.output.lock()
    }

    fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait_ready(&mut self) -> Result<()> {
        wait_for("the tracer to be ready", start_bound(), || {
            if self.stderr().iter().any(|line| line.starts_with(READY)) {
                return Ok(Some(()));
            }
            let Some(status) = self.child.try_wait()? else { return Ok(None) };
            self.readers.drain(..).for_each(|reader| drop(reader.join()));
            let stderr = self.stderr().join("\n    ");
            bail!("the tracer ended with {status}:\n    {stderr}");
        })
    }

    fn wait_exit(&mut self) -> Result<ExitStatus> {
        wait_for("the tracer to end", soon(), || Ok(self.child.try_wait()?))
    }

    fn wait_events(&self, test: impl Fn(&EventLine) -> bool, count: usize) -> Result<Vec<EventLine>> {
        let mut seen = Vec::new();
        self.wait_output(|added, _| {
            seen.extend(added.iter().filter(|event| test(event)).cloned());
            seen.len() >= count
        })?;
        Ok(seen)
    }

    fn wait_socket(
        &self,
        socket: &ExpectedSocket,
        test: impl Fn(&EventLine) -> bool,
        count: usize,
    ) -> Result<Vec<EventLine>> {
        let mut of_socket = SocketEvents::new(socket);
        let mut checked = 0;
        let mut seen = Vec::new();
        self.wait_output(|added, all| {
            for event in added {
                of_socket.add(checked, event);
                checked += 1;
            }
            let positions = of_socket.positions();
            seen = positions.iter().map(|&at| &all[at]).filter(|event| test(event)).cloned().collect();
            seen.len() >= count
        })?;
        Ok(seen)
    }

    /// Passes the events to `is_enough`, those that it has not seen and all, until it is or no more come: it checks every event
    /// once. A test that is behind with decoding catches up first: it is late then, not the tracer.
    fn wait_output(&self, mut is_enough: impl FnMut(&[EventLine], &[EventLine]) -> bool) -> Result<()> {
        let deadline = Instant::now() + soon();
        let mut checked = 0;
        let mut output = self.output();
        loop {
            ensure!(output.undecodable.is_empty(), "lines outside the contract: {:#?}", output.undecodable);
            let is_done = is_enough(&output.events[checked..], &output.events);
            checked = output.events.len();
            let left = deadline.saturating_duration_since(Instant::now());
            let is_late = left.is_zero() && self.output.undecoded.load(Ordering::SeqCst) == 0;
            if is_done || is_late || output.ended {
                return Ok(());
            }
            let wait = left.max(Duration::from_millis(10));
            let woken = self.output.changed.wait_timeout(output, wait);
            output = woken.map_or_else(|e| e.into_inner().0, |woken| woken.0);
        }
    }
}

/// The most that is read at once: what a pipe holds by default.
const PIPE_BYTES: usize = 1 << 16;

/// Decodes what [`read_pieces`] reads, a piece at a time. Decoding takes longer than printing, so a thread of its own reads:
/// the tracer never waits for a test.
fn read_output(stdout: impl Read + Send + 'static, format: TracerFormat, output: &Arc<TracerOutput>) {
    let (sender, pieces) = mpsc::channel();
    std::thread::spawn({
        let output = Arc::clone(output);
        move || read_pieces(stdout, &sender, &output.undecoded)
    });
    let mut line = Vec::new();
    for piece in pieces {
        let mut decoded = CollectedOutput::default();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                decoded.add(&line, format);
                line.clear();
            }
        }
        output.append(decoded);
        output.undecoded.fetch_sub(1, Ordering::SeqCst);
    }
    let mut last = CollectedOutput { ended: true, ..CollectedOutput::default() };
    if !line.is_empty() {
        last.add(&line, format);
    }
    output.append(last);
}

fn read_pieces(mut stdout: impl Read, pieces: &mpsc::Sender<Vec<u8>>, undecoded: &AtomicUsize) {
    let mut buffer = vec![0; PIPE_BYTES];
    while let Ok(length @ 1..) = stdout.read(&mut buffer) {
        undecoded.fetch_add(1, Ordering::SeqCst);
        if pieces.send(buffer[..length].to_vec()).is_err() {
            return;
        }
    }
}

impl CollectedOutput {
    fn add(&mut self, line: &[u8], format: TracerFormat) {
        let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)).into_owned();
        match format {
            TracerFormat::Text => self.lines.push(line),
            TracerFormat::Json => match serde_json::from_str(&line) {
                Ok(event) => self.events.push(event),
                Err(error) => self.undecodable.push(format!("{error}: {line}")),
            },
        }
    }

    fn append(&mut self, mut later: Self) {
        self.lines.append(&mut later.lines);
        self.events.append(&mut later.events);
        self.undecodable.append(&mut later.undecodable);
        self.ended |= later.ended;
    }
}

fn read_stderr(pipe: ChildStderr, lines: &Mutex<Vec<String>>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::nothing_is_lost;

    #[test]
    fn no_loss_is_allowed_but_what_the_kernel_hid() {
        let summary = |end: &str| format!("tcptrace: tracing\n    tcptrace: 12,070 records in 7.84s{end}");
        for (end, hidden, expected) in [
            ("; nothing lost", 0, true),
            (", filter: netns 1; nothing lost", 7, true),
            ("; lost 3: healed 3", 0, false),
            (", filter: netns 1; lost 3: healed 3", 3, true),
            ("; lost 1,003: healed 1,003", 1_002, false),
            ("; lost 1: recursion 1", 7, false),
            ("; lost 5: recursion 3, healed 2", 7, false),
            ("; lost 5: healed 3, ring full 2", 7, false),
        ] {
            assert_eq!(nothing_is_lost(&summary(end), hidden), expected, "{end}, {hidden} hidden");
        }
        assert!(!nothing_is_lost("", 7));
    }
}
