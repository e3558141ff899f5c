//! Shared parts of all tracing commands: arguments, event loop, signal handling.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::names::NameArgs;
use crate::{
    filter::Filter,
    kernel::{Disabled, LoadError, Options, preflight::CannotTrace, preflight::Preflight},
    model::{Source, peer_names::PeerNames},
    pipeline::{PipelinePlan, StackPlan},
    privileges::{self, Work},
    source::{NameOptions, PollKind, live::Live, polling_source::PollingSource},
};

/// Arguments of every command that traces.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = None::<&str>)]
pub struct LiveArgs {
    /// Total size of the rings between kernel and tcptrace, in MiB: a power of two. By default 16, and at least 2 for each CPU
    #[arg(long, value_name = "MIB", value_parser = ring_mib, hide_short_help = true)]
    ring_size: Option<u32>,
    /// Trace without a hook, as on a kernel that lacks it (for tests): segment, entry-stamp, ends, kallsyms, cookies,
    /// mapped-rings.
    /// With `everything` the programs run and report nothing, which measures the overhead of the hooks
    #[arg(long, value_name = "HOOK", value_delimiter = ',', hide = true, value_parser = disabled_parser())]
    without: Vec<Disabled>,
    #[command(flatten)]
    names: NameArgs,
}

fn disabled_parser() -> impl TypedValueParser<Value = Disabled> {
    let names = PossibleValuesParser::new(Disabled::all().map(|(name, _)| name));
    names.try_map(|wanted| {
        let found = Disabled::all().find(|&(name, _)| name == wanted);
        found.map(|(_, part)| part).ok_or("no part of tracing has this name")
    })
}

fn ring_mib(text: &str) -> Result<u32, String> {
    let mib: u32 = text.parse().map_err(|_| format!("'{text}' is not a number"))?;
    if mib.is_power_of_two() && mib <= 1024 {
        Ok(mib)
    } else {
        Err("expected a power of two up to 1024".into())
    }
}

impl LiveArgs {
    /// Attaches the hooks, with the part of `filter` that the eBPF programs can test.
    pub fn open(&self, filter: &Filter, polls: PollKind, stacks: Option<StackPlan>) -> Result<Live> {
        let types = Preflight::run().types()?;
        // BTF takes some 10 MiB of memory and is freed when this returns.
        Live::start(&types, &self.options(filter, stacks), filter.to_string(), polls, &self.names.options())
    }

    /// The source of `plan`. If this host or user can't trace and the plan allows it, it only polls.
    pub fn source(&self, plan: &PipelinePlan) -> Result<Box<dyn Source>> {
        let filter = &plan.filter;
        let error = match self.open(filter, plan.polls, plan.stacks) {
            Ok(live) => return Ok(Box::new(live)),
            Err(error) => error,
        };
        if !plan.may_only_poll || !(error.is::<CannotTrace>() || error.is::<LoadError>()) {
            return Err(error);
        }
        let reasons = error.to_string();
        // One reason per line: what is missing, then what it is needed for.
        let reasons: Vec<&str> = reasons.lines().skip(1).filter_map(|line| line.strip_prefix("  ")).collect();
        let why = reasons.iter().filter_map(|reason| reason.split(':').next()).collect::<Vec<_>>().join(", ");
        let why = if why.is_empty() { error.to_string() } else { why };
        let names = self.names.options();
        Ok(Box::new(PollingSource::start(&filter.kernel_part(), filter.to_string(), &why, &names)?))
    }

    /// How names are read.
    pub fn name_options(&self) -> NameOptions {
        self.names.options()
    }

    /// Names of peers that the user gives.
    pub fn peer_names(&self) -> Result<Arc<PeerNames>> {
        self.names.peers()
    }

    fn options(&self, filter: &Filter, stacks: Option<StackPlan>) -> Options {
        Options {
            ring_bytes: self.ring_size.map(|mib| mib << 20),
            without: self.without.clone(),
            filter: filter.kernel_part(),
            stacks_per_second: stacks.map_or(0, |stacks| stacks.per_second),
            needs_accept: stacks.is_some_and(|stacks| stacks.needs_accept),
        }
    }
}

/// File descriptors that the event loop alone needs; the code that opens more reports its own failure.
const MIN_DESCRIPTORS: u64 = 20;

/// Raises the descriptor limit to the hard limit; fails if that is too low.
pub fn raise_descriptor_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // If raising fails, the old limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(
        now >= MIN_DESCRIPTORS,
        "Too many open files: the limit is {now}, and tracing needs about 40; raise `ulimit -n`"
    );
    Ok(())
}

/// The event loop of a command: one thread, with timers and signals.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    raise_descriptor_limit()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no event loop")
}

/// Completes after `duration`; never without one.
pub async fn time_is_up(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Catches Ctrl-C, SIGTERM and SIGHUP, which end a command cleanly. SIGHUP stays ignored if it was ignored at start, as
/// under `nohup`.
///
/// A separate thread catches them, so that a signal ends even a command that blocks in a write because nobody reads its
/// output.
pub struct Stop {
    /// Number of signals received.
    signals: watch::Receiver<u32>,
}

/// Which thread ends the process after a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterSignal {
    /// The thread that catches signals: on the second signal, or if output still blocks after [`SHUTDOWN_TIMEOUT`].
    ByThread,
    /// The command itself, which also receives the second signal; a third one ends the process.
    ByCommand,
}

/// How long a command may block on its output after a signal. Its own work may take longer, on a slow machine; a second
/// signal ends it at once.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

impl Stop {
    /// Starts to catch signals, for a command that only has output left to write after the first one.
    pub fn listen() -> Result<Self> {
        Self::listen_and(AfterSignal::ByThread)
    }

    /// As `listen`, for a command with more work at its end than output: it takes the time it needs.
    pub fn listen_until_done() -> Result<Self> {
        Self::listen_and(AfterSignal::ByCommand)
    }

    fn listen_and(then: AfterSignal) -> Result<Self> {
        let (sender, signals) = watch::channel(0);
        let (ready, is_ready) = mpsc::sync_channel(1);
        privileges::spawn("signals", Work::Nothing, move || watch_signals(then, &sender, &ready))
            .context("no thread for signals")?;
        is_ready.recv().context("the thread for signals ended")??;
        Ok(Self { signals })
    }

    /// Waits for the first signal.
    pub async fn signalled(&mut self) {
        self.wait_for_signals(1).await;
    }

    /// Waits for the second signal.
    pub async fn signalled_again(&mut self) {
        self.wait_for_signals(2).await;
    }

    async fn wait_for_signals(&mut self, times: u32) {
        if self.signals.wait_for(|&signals| signals >= times).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn watch_signals(then: AfterSignal, sender: &watch::Sender<u32>, ready: &mpsc::SyncSender<Result<()>>) {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        let mut signals = match Signals::catch() {
            Ok(signals) => signals,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let _ = ready.send(Ok(()));
        signals.next().await;
        // Fails if the command is already ending, which does no harm.
        let _ = sender.send(1);
        if then == AfterSignal::ByCommand {
            signals.next().await;
            let _ = sender.send(2);
        }
        let what = signals.forced_end().await;
        if !would_block(io::stderr()) {
            eprintln!("tcptrace: ended before {what}");
        }
        std::process::exit(1);
    });
}

/// The signals that end a command.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` if it stays ignored.
    hangup: Option<Signal>,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("signals can't be caught");
        let hangup = SignalKind::hangup();
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: if is_ignored(hangup) { None } else { Some(catch(hangup)?) },
        })
    }

    async fn next(&mut self) {
        let Self { interrupt, terminate, hangup } = self;
        let hangup = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup => {}
        }
    }

    /// Waits until a signalled command must be ended; returns what it had not finished.
    async fn forced_end(&mut self) -> &'static str {
        loop {
            let is_repeated = tokio::select! {
                () = self.next() => true,
                () = tokio::time::sleep(SHUTDOWN_TIMEOUT) => false,
            };
            match (would_block(io::stdout()) || would_block(io::stderr()), is_repeated) {
                (true, _) => return "all output was read: the reader is too slow",
                (false, true) => return "it was done: interrupted twice",
                (false, false) => {}
            }
        }
    }
}

/// Whether the process ignores a signal: one bit in `SigIgn` of /proc/self/status.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, signal)
}

fn ignores(status: &str, signal: SignalKind) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    u32::try_from(signal.as_raw_value() - 1).is_ok_and(|bit| mask >> bit & 1 == 1)
}

/// Whether a write to `out` would block now.
fn would_block(out: impl AsFd) -> bool {
    let mut ready = [PollFd::from_borrowed_fd(out.as_fd(), PollFlags::OUT)];
    // On an error, or if the reader has closed, a write returns at once.
    poll(&mut ready, Some(&Timespec::default())).is_ok_and(|ready| ready == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_detected() {
        let under_nohup = "Name:\tx\nSigBlk:\tffff\nSigIgn:\t0000000000001001\nSigCgt:\tffff\n";
        assert!(ignores(under_nohup, SignalKind::hangup()));
        assert!(!ignores(under_nohup, SignalKind::interrupt()));
        assert!(!ignores("", SignalKind::hangup()));
    }
}
